//! The audit on its way to the issuers' disks: a stream that the role `certificates` writes and every issuer copies. What all
//! of them have is taken out of it, so that the store does not grow with it.

use super::{Store, StoreError, keys, scripts};
use redis::{cmd, pipe};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, str::FromStr, time::Duration};

/// Of [`keys::AUDIT_COPIES`]: the last line that was taken out.
const REMOVED: &str = "removed";
/// A copy that is silent is waited for this long; while there is little to keep for it.
const PATIENCE: Duration = Duration::from_secs(3600);
const LITTLE: u64 = 10_000;
const LITTLE_PATIENCE: Duration = Duration::from_secs(60);

/// The place of a line in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditId {
    /// By the store's clock, unix time in ms.
    pub ms: u64,
    pub number: u64,
}

/// How far an issuer has copied.
#[derive(Serialize, Deserialize)]
struct Copied {
    to: String,
    /// By the store's clock, ms.
    seen_ms: i64,
}

/// Some lines, and how they stand in the stream.
#[derive(Debug)]
pub struct AuditPage {
    pub lines: Vec<(AuditId, String)>,
    /// The last one that was taken out of the stream.
    pub removed: AuditId,
    /// The last one that was ever put into it.
    pub last: AuditId,
}

impl Store {
    /// Puts a line into the stream; answers how many are in it.
    ///
    /// # Errors
    /// [`StoreError`]: what was to be audited must not happen. The line may have been written all the same.
    pub async fn append_audit(&self, line: &str) -> Result<u64, StoreError> {
        let mut both = pipe();
        both.cmd("XADD").arg(keys::AUDIT).arg("*").arg("line").arg(line).ignore();
        both.cmd("XLEN").arg(keys::AUDIT);
        let (length,): (u64,) = self.link.pipe(&both).await?;
        Ok(length)
    }

    /// How many lines the issuers have not taken out yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn audit_length(&self) -> Result<u64, StoreError> {
        self.link.query(cmd("XLEN").arg(keys::AUDIT)).await
    }

    /// The lines after one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_audit(&self, after: AuditId, limit: usize) -> Result<AuditPage, StoreError> {
        // What is taken out is noted first: where the note is the same before and after, the lines are all that there were.
        let mut removed = self.audit_removed().await?;
        loop {
            let mut both = pipe();
            both.cmd("XRANGE").arg(keys::AUDIT).arg(format!("({after}")).arg("+").arg("COUNT").arg(limit);
            both.cmd("XREVRANGE").arg(keys::AUDIT).arg("+").arg("-").arg("COUNT").arg(1);
            type Entry = (String, HashMap<String, String>);
            let (entries, newest): (Vec<Entry>, Vec<Entry>) = self.link.pipe(&both).await?;
            let still = self.audit_removed().await?;
            if still != removed {
                removed = still;
                continue;
            }
            let corrupt = |e: NotAnId| StoreError::corrupt(keys::AUDIT, e);
            let lines = entries.into_iter().map(|(id, mut fields)| {
                // Before there were chains, the parts of a line were fields of their own.
                let line = fields.remove("line").unwrap_or_else(|| serde_json::json!(fields).to_string());
                Ok((id.parse()?, line))
            });
            let lines = lines.collect::<Result<_, NotAnId>>().map_err(corrupt)?;
            let newest = newest.first().map(|(id, _)| id.parse()).transpose().map_err(corrupt)?;
            return Ok(AuditPage { lines, removed, last: newest.unwrap_or(removed) });
        }
    }

    /// The last line that was taken out, or is about to be.
    async fn audit_removed(&self) -> Result<AuditId, StoreError> {
        let removed: Option<String> =
            self.link.query(cmd("HGET").arg(keys::AUDIT_COPIES).arg(REMOVED)).await?;
        // Where it can't be read, the next one that is taken out is noted in its place.
        Ok(removed.and_then(|id| id.parse().ok()).unwrap_or_default())
    }

    /// Says that `copy` has everything up to `to` on disk. What every copy has is taken out of the stream.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn report_audit_copy(&self, copy: &str, to: AuditId) -> Result<(), StoreError> {
        let (seconds, micros): (i64, i64) = self.link.query(&cmd("TIME")).await?;
        let now_ms = seconds * 1000 + micros / 1000;
        let own = Copied { to: to.to_string(), seen_ms: now_ms };
        let own = serde_json::to_string(&own).map_err(|e| StoreError::corrupt(keys::AUDIT_COPIES, e))?;
        let _: i64 = self.link.query(cmd("HSET").arg(keys::AUDIT_COPIES).arg(copy).arg(own)).await?;
        let read = self.read_hash(keys::AUDIT_COPIES).await?;
        let mut unread: Vec<String> = read.damaged.iter().filter_map(copy_of).collect();
        let mut copies: HashMap<String, String> = read.found.into_iter().collect();
        let removed: AuditId = copies.remove(REMOVED).and_then(|id| id.parse().ok()).unwrap_or_default();
        let patience = if self.audit_length().await? > LITTLE { LITTLE_PATIENCE } else { PATIENCE };
        let mut all_have = to;
        for (name, text) in copies {
            let copied = serde_json::from_str(&text).ok();
            let copied =
                copied.and_then(|copied: Copied| Some((copied.to.parse::<AuditId>().ok()?, copied.seen_ms)));
            let Some((to, seen_ms)) = copied else {
                unread.push(name);
                continue;
            };
            let silent_ms = u128::try_from(now_ms.saturating_sub(seen_ms)).unwrap_or_default();
            if silent_ms <= patience.as_millis() {
                all_have = all_have.min(to);
            } else if silent_ms > PATIENCE.as_millis() {
                let _: i64 = self.link.query(cmd("HDEL").arg(keys::AUDIT_COPIES).arg(&name)).await?;
            }
        }
        // A copy that lives says again how far it has come; until then nothing is taken out.
        for name in &unread {
            tracing::warn!(
                copy = name,
                "how far a copy of the audit has come can't be read: it is asked again"
            );
            let _: i64 = self.link.query(cmd("HDEL").arg(keys::AUDIT_COPIES).arg(name)).await?;
        }
        if all_have <= removed || !unread.is_empty() {
            return Ok(());
        }
        // First that they will be gone: whoever comes later knows that something is missing.
        let (ms, number) = (all_have.ms.to_string(), all_have.number.to_string());
        let arguments = [ms.as_bytes(), number.as_bytes()];
        let copies = [keys::AUDIT_COPIES.to_owned()];
        let _: i64 = self.link.script(&scripts::NOTE_AUDIT_REMOVED, &copies, &arguments).await?;
        let next = AuditId { number: all_have.number.saturating_add(1), ..all_have };
        let trim = cmd("XTRIM").arg(keys::AUDIT).arg("MINID").arg(next.to_string()).to_owned();
        let _: redis::Value = self.link.query(&trim).await?;
        Ok(())
    }
}

fn copy_of(damage: &super::Damage) -> Option<String> {
    damage.key.strip_prefix(keys::AUDIT_COPIES)?.strip_prefix(' ').map(str::to_owned)
}

impl fmt::Display for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

/// A text is no place in a stream.
#[derive(Debug, thiserror::Error)]
#[error("not an id of a stream")]
pub struct NotAnId;

impl FromStr for AuditId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let (ms, number) = text.split_once('-').ok_or(NotAnId)?;
        let parse = |text: &str| text.parse().map_err(|_| NotAnId);
        Ok(Self { ms: parse(ms)?, number: parse(number)? })
    }
}
