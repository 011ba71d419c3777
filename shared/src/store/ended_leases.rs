//! Leases of processes of this machine that have ended: nobody waits for them.

use super::{Owner, Store, StoreError, declared::queues, keys, scripts};
use crate::domain::{Partition, SiteId};
use redis::{Cmd, cmd};
use std::time::Duration;

/// Groups of a partition that are looked at in one go.
const AT_ONCE: usize = 500;

impl Store {
    /// Gives back what was held by processes that `owner` knows to have ended; `length` is that of the leases. Costs the
    /// partitions and what is held, not what exists. Answers how many groups it were.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_over_ended(&self, owner: &Owner, length: Duration) -> Result<u64, StoreError> {
        let now = self.now_ms().await?;
        let until = now.saturating_add(i64::try_from(length.as_millis()).unwrap_or(i64::MAX));
        let question = |partition| {
            // What is held is due when its lease ends.
            let mut range = cmd("ZRANGEBYSCORE");
            range.arg(keys::due(partition)).arg(now).arg(until).arg("LIMIT").arg(0).arg(AT_ONCE);
            range
        };
        let questions: Vec<Cmd> = Partition::all().map(question).collect();
        let of_partitions = self.read_each::<Vec<Vec<u8>>>(&questions).await?;
        let mut count = 0;
        for (partition, ids) in Partition::all().zip(of_partitions) {
            // One that can't be read is told by those who work on it.
            let ids = ids.unwrap_or_default();
            let ids = ids.iter().filter_map(|id| SiteId::parse(std::str::from_utf8(id).ok()?));
            let ids: Vec<SiteId> = ids.collect();
            if ids.is_empty() {
                continue;
            }
            match self.take_over_of(owner, partition, &ids).await {
                Err(error) if error.is_of_its_keys() => {
                    tracing::debug!(error = crate::error::chain(&error), %partition, "nothing of it is taken over");
                }
                taken => count += taken?,
            }
        }
        Ok(count)
    }

    async fn take_over_of(
        &self,
        owner: &Owner,
        partition: Partition,
        ids: &[SiteId],
    ) -> Result<u64, StoreError> {
        let question = |id| cmd("HMGET").arg(keys::site(id)).arg("lease").arg("lease_owner").clone();
        let questions: Vec<Cmd> = ids.iter().map(question).collect();
        let held = self.read_each::<(Option<String>, Option<String>)>(&questions).await?;
        let mut arguments = Vec::new();
        let mut touched = queues(partition);
        for (id, held) in ids.iter().zip(held) {
            if let Ok((Some(token), Some(holder))) = held
                && owner.knows_dead(&holder)
            {
                touched.push(keys::site(id));
                arguments.extend([id.to_string(), token]);
            }
        }
        if arguments.is_empty() {
            return Ok(0);
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        self.whole_script(&scripts::TAKE_OVER, touched, &arguments).await
    }
}
