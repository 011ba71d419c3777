//! Failovers: a primary with another replication id may have lost what the one before it had.
//!
//! Each program notices them by itself. Issuers also raise the epoch that is kept in the store, once for each change,
//! whoever of them notices first, and also for one that happened while none of them ran. (A restart of a Redis without
//! replicas is such a change as well: what its disk lacks is lost.)

use super::{Role, Store, StoreError, keys, scripts};
use redis::cmd;
use std::collections::{HashMap, HashSet};
use tokio::sync::watch;

/// What the watchdog knows of the primaries, by the first slot that each serves.
#[derive(Default)]
pub(super) struct Seen {
    ids: HashMap<u16, String>,
    /// Those whose id is in the store.
    recorded: HashSet<u16>,
}

impl Seen {
    /// In a Cluster, slots may have gone to other primaries.
    pub(super) fn keep(&mut self, slots: &[u16]) {
        self.ids.retain(|slot, _| slots.contains(slot));
    }

    /// The store was emptied: nothing is in it any more.
    pub(super) fn forget_records(&mut self) {
        self.recorded.clear();
    }
}

impl Store {
    /// How many failovers this program has noticed. It changes as long as [`Store::watch`] runs.
    pub fn failovers(&self) -> watch::Receiver<u64> {
        self.failovers.subscribe()
    }

    /// How many failovers of the store there have been that any issuer has noticed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_epoch(&self) -> Result<u64, StoreError> {
        let epoch: Option<u64> = self.link.query(cmd("HGET").arg(keys::EPOCH).arg("n")).await?;
        Ok(epoch.unwrap_or(0))
    }

    /// The primary of a slot has this replication id.
    pub(super) async fn note(&self, seen: &mut Seen, slot: u16, id: &str) {
        let before = seen.ids.insert(slot, id.to_owned());
        let mut changed = before.as_deref().is_some_and(|before| before != id);
        if changed || before.is_none() {
            seen.recorded.remove(&slot);
        }
        if self.role == Role::Issuer && !seen.recorded.contains(&slot) {
            match self.record_primary(slot, id).await {
                Ok(raised) => {
                    seen.recorded.insert(slot);
                    changed |= raised;
                }
                // Tried again with the next question.
                Err(error) => {
                    tracing::debug!(error = crate::error::chain(&error), "the epoch was not raised")
                }
            }
        }
        if changed {
            tracing::warn!(
                first_slot = slot,
                "the store has another primary, or it was restarted: what it had not confirmed may be lost"
            );
            self.failovers.send_modify(|count| *count += 1);
        }
    }

    /// Whether the epoch was raised: the store knew another primary.
    async fn record_primary(&self, slot: u16, id: &str) -> Result<bool, StoreError> {
        let field = format!("primary:{slot}");
        let keys = [keys::EPOCH.to_owned()];
        self.link.script(&scripts::RAISE_EPOCH, &keys, &[field.as_bytes(), id.as_bytes()]).await
    }
}
