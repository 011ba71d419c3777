//! CAs' directories as they were last fetched, so that a short-lived program needn't ask again.

use super::{Store, StoreError, keys};
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
}
