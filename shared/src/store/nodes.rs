//! The nodes that hold key-encryption keys: each says again and again which ones. Who falls silent is no longer counted.

use super::{Damage, Listing, Store, StoreError, follow_vault, keys};
use crate::{error::chain, vault::Vault};
use jiff::Timestamp;
use redis::cmd;
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, time::Duration};

/// How long a report counts.
pub const NODE_TTL: Duration = Duration::from_secs(15);
/// Pause between two looks at the store and at the ring's file.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A report is repeated after so many looks, or when something has changed.
const LOOKS_PER_REPORT: u32 = 2;
/// A node that has been silent for this long is forgotten.
const FORGOTTEN_AFTER_MS: i64 = 3_600_000;

/// What a long-running program says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// One of its kind among those that run: host, role, process.
    pub name: String,
    pub role: String,
    pub version: String,
    /// The ids of the key-encryption keys that it holds.
    pub keys: Vec<String>,
    /// The one that it seals with.
    pub current: String,
    pub started: Timestamp,
}

/// A node whose last report still counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveNode {
    #[serde(flatten)]
    pub report: NodeReport,
    /// By the store's clock.
    pub seen: Timestamp,
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    report: NodeReport,
    /// Unix time of the store, ms.
    seen_ms: i64,
    ttl_ms: i64,
}

impl NodeReport {
    /// What this process says, begun at `started`, in this role.
    pub fn of_this_process(role: &str, started: Timestamp, vault: &Vault) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            name: format!("{}/{role}/{}", host.trim().replace('/', "_"), std::process::id()),
            role: role.to_owned(),
            version: crate::VERSION.to_owned(),
            keys: vault.ring().ids().into_iter().map(str::to_owned).collect(),
            current: vault.current_id(),
            started,
        }
    }
}

impl Store {
    /// Says which keys this node holds; counts for `ttl`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn report_node(&self, report: &NodeReport, ttl: Duration) -> Result<(), StoreError> {
        let record = Record {
            report: report.clone(),
            seen_ms: self.time_ms().await?,
            ttl_ms: i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX),
        };
        let text = serde_json::to_string(&record).map_err(|e| StoreError::corrupt(keys::NODES, e))?;
        let _: i64 = self.link.query(cmd("HSET").arg(keys::NODES).arg(&report.name).arg(text)).await?;
        Ok(())
    }

    /// The nodes that live, by name, for whoever must know all of them.
    ///
    /// # Errors
    /// [`StoreError`], also where a report can't be read that could be just now.
    pub async fn all_nodes(&self) -> Result<Vec<LiveNode>, StoreError> {
        let first = self.list_nodes().await?;
        if first.damaged.is_empty() {
            return Ok(first.found);
        }
        // A node that lives has put another report in the place of what can't be read by then: what stays so is of none.
        tokio::time::sleep(LOOK_EVERY * (LOOKS_PER_REPORT + 1)).await;
        let mut again = self.list_nodes().await?;
        again.damaged.retain(|damage| damage.key == keys::NODES || !first.damaged.contains(damage));
        again.whole()
    }

    /// The nodes that live, by name.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_nodes(&self) -> Result<Listing<LiveNode>, StoreError> {
        let Listing { found: records, mut damaged } = self.read_hash(keys::NODES).await?;
        let now_ms = self.time_ms().await?;
        let mut live = Vec::new();
        for (name, text) in records {
            let read = serde_json::from_str(&text).map_err(|e: serde_json::Error| e.to_string());
            let read = read.and_then(|record: Record| {
                let seen = Timestamp::from_millisecond(record.seen_ms).map_err(|e| e.to_string())?;
                Ok((record, seen))
            });
            let (record, seen) = match read {
                Ok(read) => read,
                Err(what) => {
                    damaged.push(Damage::of_member(keys::NODES, &name, what));
                    continue;
                }
            };
            let silent_ms = now_ms.saturating_sub(record.seen_ms);
            if silent_ms > record.ttl_ms.max(FORGOTTEN_AFTER_MS) {
                // It may come back in this moment: then its next report lists it again. A store that takes no writes is
                // looked at all the same.
                let _: Result<i64, StoreError> =
                    self.link.query(cmd("HDEL").arg(keys::NODES).arg(&name)).await;
            } else if silent_ms <= record.ttl_ms {
                live.push(LiveNode { report: record.report, seen });
            }
        }
        live.sort_by(|one, two| one.report.name.cmp(&two.report.name));
        Ok(Listing { found: live, damaged })
    }

    /// Forgets what can't be read of nodes for long: none that lives has left it so.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_report(&self, damage: &Damage) -> Result<(), StoreError> {
        let name = damage.key.strip_prefix(keys::NODES).and_then(|rest| rest.strip_prefix(' '));
        let Some(name) = name else { return Ok(()) };
        self.link.query::<i64>(cmd("HDEL").arg(keys::NODES).arg(name)).await.map(drop)
    }

    /// The store's own clock.
    async fn time_ms(&self) -> Result<i64, StoreError> {
        let (seconds, micros): (i64, i64) = self.link.query(&cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }
}

/// Keeps a vault up to date with its file and with the store, and reports what it holds. Every long-running program that
/// holds the ring runs it beside its work.
pub async fn report_forever(store: Store, vault: &Vault, role: &str) -> Infallible {
    let started = Timestamp::now();
    let mut reported: Option<NodeReport> = None;
    let mut looks = 0;
    let mut was_told = false;
    loop {
        let outcome = async {
            follow_vault(&store, vault).await?;
            let report = NodeReport::of_this_process(role, started, vault);
            if reported.as_ref() != Some(&report) || looks >= LOOKS_PER_REPORT {
                store.report_node(&report, NODE_TTL).await?;
                reported = Some(report);
                looks = 0;
            }
            Ok::<_, StoreError>(())
        };
        match outcome.await {
            Ok(()) => was_told = false,
            Err(error) => {
                // Somebody else may have been told in between that this node is gone.
                reported = None;
                if !std::mem::replace(&mut was_told, true) {
                    tracing::warn!(
                        error = chain(&error),
                        "the key-encryption keys can't be followed or reported"
                    );
                }
            }
        }
        looks += 1;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
