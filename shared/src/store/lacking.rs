//! What is wanted and not there yet.

use super::{Store, StoreError, keys};
use crate::domain::Slot;
use redis::{Cmd, cmd};

/// Groups that are asked about at once where all of them are counted.
const GROUPS_AT_ONCE: usize = 2_000;

impl Store {
    /// How many groups are wanted and serve no certificate, of those that can be read. Asks about every group, many at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_without_certificate(&self) -> Result<u64, StoreError> {
        let mut after = None;
        let mut lacking = 0;
        loop {
            let ids = self.list_readable_ids(after.as_ref(), GROUPS_AT_ONCE).await?.found;
            let Some(last) = ids.last() else { return Ok(lacking) };
            after = Some(last.clone());
            let question = |id| {
                let mut fields = cmd("HMGET");
                fields.arg(keys::site(id)).arg("spec");
                for slot in Slot::ALL {
                    fields.arg(format!("cert:{slot}"));
                }
                fields
            };
            let questions: Vec<Cmd> = ids.iter().map(question).collect();
            let stored = self.read_each::<Vec<Option<Vec<u8>>>>(&questions).await?;
            let lacks = |fields: &&Vec<Option<Vec<u8>>>| {
                fields.first().is_some_and(Option::is_some) && fields.iter().skip(1).all(Option::is_none)
            };
            lacking += stored.iter().flatten().filter(lacks).count() as u64;
        }
    }
}
