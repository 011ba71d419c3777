//! The TLS policy that frontends are given, where an operator has set another than the shipped one.

use super::{Store, StoreError, keys};
use crate::domain::TlsPolicy;
use redis::cmd;

impl Store {
    /// The policy of all frontends.
    ///
    /// # Errors
    /// [`StoreError`], also for one that can't be read or was not set by this fleet: it is no default.
    pub async fn load_tls_policy(&self) -> Result<TlsPolicy, StoreError> {
        let stored: Option<String> = self.link.query(cmd("GET").arg(keys::TLS_POLICY)).await?;
        match stored {
            Some(stored) => {
                let policy: TlsPolicy = self.verified(keys::TLS_POLICY, &stored)?;
                policy.check().map_err(|e| StoreError::corrupt(keys::TLS_POLICY, e))?;
                Ok(policy)
            }
            None => Ok(TlsPolicy::default()),
        }
    }

    /// Frontends take it with their next question for changes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_tls_policy(&self, policy: &TlsPolicy) -> Result<(), StoreError> {
        let record = self.signed(keys::TLS_POLICY, policy).await?;
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(keys::TLS_POLICY).arg(record);
        self.confirmed.write(set).await.map(drop)
    }
}
