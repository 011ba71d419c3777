//! How many records are sealed with which key-encryption key.

use super::{RotationError, sweep::PAGE};
use crate::issuance::patience::write;
use shared::store::{SealedRecord, Store};
use std::collections::BTreeMap;

/// The count.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Census {
    /// By id.
    pub sealed_with: BTreeMap<String, u64>,
    /// Records that can't be read: nobody knows what they are sealed with.
    pub unreadable: u64,
}

/// Counts everything that is sealed. Opens nothing, changes nothing.
///
/// # Errors
/// The store can't be asked.
pub async fn census(store: &Store) -> Result<Census, RotationError> {
    let mut found = Census::default();
    found.count(&write(|| store.load_sealed_of_fleet()).await?);
    let mut cursor = None;
    loop {
        let page = write(|| store.list_site_ids(cursor.as_ref(), PAGE)).await?;
        let Some(last) = page.last().cloned() else { return Ok(found) };
        for site in write(|| store.load_sealed_sites(&page, false)).await? {
            found.count(&site.records);
        }
        cursor = Some(last);
    }
}

impl Census {
    fn count(&mut self, records: &[SealedRecord]) {
        for record in records {
            match record.kek_ids() {
                Ok(mut ids) => {
                    ids.dedup();
                    for id in ids {
                        *self.sealed_with.entry(id).or_default() += 1;
                    }
                }
                Err(_) => self.unreadable += 1,
            }
        }
    }
}
