//! CAs' directories as they were last fetched, so that a short-lived program needn't ask again.

use super::{Store, StoreError, keys};
use crate::domain::Slot;
use redis::cmd;
use std::time::Duration;

impl Store {
    /// # Errors
    /// [`StoreError`]; none, or one that is too old, is `None`.
    pub async fn load_directory(&self, ca: &str) -> Result<Option<String>, StoreError> {
        self.link.query(cmd("GET").arg(keys::directory(ca))).await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn store_directory(&self, ca: &str, directory: &str, keep: Duration) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(keys::directory(ca)).arg(directory).arg("PX").arg(keep.as_millis().to_string());
        self.link.query(&set).await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn forget_directory(&self, ca: &str) -> Result<(), StoreError> {
        let _: i64 = self.link.query(cmd("DEL").arg(keys::directory(ca))).await?;
        Ok(())
    }

    /// The directory as it was known last, for ever.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_known_directory(&self, ca: &str) -> Result<Option<String>, StoreError> {
        self.link.query(cmd("GET").arg(keys::known_directory(ca))).await
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn store_known_directory(&self, ca: &str, directory: &str) -> Result<(), StoreError> {
        self.link.query(cmd("SET").arg(keys::known_directory(ca)).arg(directory)).await
    }

    /// Learns where the chain of a certificate ends. `true`: none of this slot came from there before, but from elsewhere.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn learn_chain_top(&self, ca: &str, slot: Slot, top: &str) -> Result<bool, StoreError> {
        let key = keys::chain_tops(ca, slot);
        let mut pipeline = redis::Pipeline::new();
        pipeline.cmd("SADD").arg(&key).arg(top);
        pipeline.cmd("SCARD").arg(&key);
        let (added, all): (u64, u64) = self.link.pipe(&pipeline).await?;
        Ok(added == 1 && all > 1)
    }
}
