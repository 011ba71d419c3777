//! Who read which key, and who asked for what isn't theirs.

use super::{Store, StoreError, keys};
use redis::cmd;

/// Entries that are kept, about.
const KEPT: u64 = 1_000_000;

/// One line of the audit.
#[derive(Clone, Copy, Debug)]
pub struct AuditEntry<'a> {
    /// A frontend's name, or empty where nobody was recognised.
    pub who: &'a str,
    pub from: &'a str,
    /// `read-key`, `denied`.
    pub action: &'a str,
    /// A site and certificate, or what was asked for.
    pub what: &'a str,
}

impl Store {
    /// # Errors
    /// [`StoreError`]: what was to be audited must not happen.
    pub async fn audit(&self, entry: AuditEntry<'_>) -> Result<(), StoreError> {
        let mut add = cmd("XADD");
        add.arg(keys::AUDIT).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
        add.arg("who").arg(entry.who).arg("from").arg(entry.from);
        add.arg("action").arg(entry.action).arg("what").arg(entry.what);
        let _: String = self.link.query(&add).await?;
        Ok(())
    }
}
