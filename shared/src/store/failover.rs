//! Failovers: a primary with another replication id may have lost what the one before it had.
//!
//! Each program notices them by itself. Issuers also raise the epoch that is kept in the store, once for each change,
//! whoever of them notices first, and also for one that happened while none of them ran. (A restart of a Redis without
//! replicas is such a change as well: what its disk lacks is lost.)

use super::{Role, Store, StoreError, keys, scripts};
use redis::cmd;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::sync::watch;

/// Pause between two questions of the watchdog.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Questions after which who serves what is asked for again, whether there was a reason or not: a primary that was cut
/// off answers us as before.
const ASK_AGAIN_EVERY: u32 = 10;

/// What the watchdog knows of the primaries, by the first slot that each serves.
#[derive(Default)]
struct Seen {
    ids: HashMap<u16, String>,
    /// Those whose id is in the store.
    recorded: HashSet<u16>,
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

    /// Asks again and again, so that a silent store is noticed within three seconds while nothing else is asked, its
    /// connection replaced, and a failover noticed. Never returns.
    pub async fn watch(&self) {
        let mut seen = Seen::default();
        let mut was_healthy = true;
        for turn in 1_u32.. {
            tokio::time::sleep(WATCH_EVERY).await;
            if turn % ASK_AGAIN_EVERY == 0
                && let Ok(layout) = self.link.servers.layout().await
            {
                self.link.servers.doubt(&layout);
            }
            let answer = self.look(&mut seen).await;
            match (&answer, was_healthy) {
                (Err(error), true) => {
                    tracing::error!(error = crate::error::chain(error), "the store does not answer");
                }
                (Ok(()), false) => tracing::info!("the store answers again"),
                _ => {}
            }
            was_healthy = answer.is_ok();
        }
    }

    /// Asks every primary who it is.
    async fn look(&self, seen: &mut Seen) -> Result<(), StoreError> {
        let answers = self.link.ask_each::<String>(cmd("INFO").arg("replication")).await?;
        // In a Cluster, slots may have gone to other primaries.
        seen.ids.retain(|slot, _| answers.iter().any(|(known, _)| known == slot));
        let mut trouble = None;
        for (slot, answer) in answers {
            match answer {
                Ok(info) if field(&info, "role") == Some("slave") => {
                    if let Ok(layout) = self.link.servers.layout().await {
                        self.link.servers.doubt(&layout);
                    }
                }
                Ok(info) => {
                    if let Some(id) = field(&info, "master_replid") {
                        self.note(seen, slot, id).await;
                    }
                }
                // A user without this right has its answer all the same.
                Err(StoreError::Refused(_)) => {}
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn note(&self, seen: &mut Seen, slot: u16, id: &str) {
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

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
