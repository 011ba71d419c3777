//! The TLS policy that frontends are given, where an operator has set another than the shipped one; and the one that the canaries
//! try before all get it.

use super::{Store, StoreError, keys, scripts};
use crate::domain::{StagedTlsPolicy, TlsPolicies, TlsPolicy};
use redis::cmd;

impl Store {
    /// The policy of all frontends.
    ///
    /// # Errors
    /// [`StoreError`], also for one that can't be read or was not set by this fleet: it is no default.
    pub async fn load_tls_policy(&self) -> Result<TlsPolicy, StoreError> {
        Ok(self.load_tls_policies().await?.all)
    }

    /// What frontends are given.
    ///
    /// # Errors
    /// As [`Store::load_tls_policy`].
    pub async fn load_tls_policies(&self) -> Result<TlsPolicies, StoreError> {
        Ok(self.load_stored_policies().await?.0)
    }

    /// Frontends take it with their next question for changes. What the canaries try is dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_tls_policy(&self, policy: &TlsPolicy) -> Result<(), StoreError> {
        let record = self.signed(keys::TLS_POLICY, policy).await?;
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(keys::TLS_POLICY).arg(record);
        self.confirmed.write(set).await.map(drop)
    }

    /// The canaries take it with their next question for changes, in the place of what they try.
    ///
    /// # Errors
    /// [`StoreError`], as [`Store::load_tls_policy`].
    pub async fn stage_tls_policy(&self, staged: &StagedTlsPolicy) -> Result<TlsPolicies, StoreError> {
        loop {
            let (policies, raw) = self.load_stored_policies().await?;
            let next = TlsPolicies { staged: Some(staged.clone()), ..policies };
            match self.replace_policies(&raw, &next).await {
                Err(StoreError::Conflict) => {}
                done => return done.map(|()| next),
            }
        }
    }

    /// Gives all frontends what the canaries have tried. Answers whether they were trying this one still.
    ///
    /// # Errors
    /// [`StoreError`], as [`Store::load_tls_policy`].
    pub async fn publish_tls_policy(&self, tried: &StagedTlsPolicy) -> Result<bool, StoreError> {
        let (policies, raw) = self.load_stored_policies().await?;
        if policies.staged.as_ref() != Some(tried) {
            return Ok(false);
        }
        let next = TlsPolicies { all: tried.policy.clone(), staged: None };
        match self.replace_policies(&raw, &next).await {
            Err(StoreError::Conflict) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// With the record as it is stored.
    async fn load_stored_policies(&self) -> Result<(TlsPolicies, String), StoreError> {
        let stored: Option<String> = self.link.query(cmd("GET").arg(keys::TLS_POLICY)).await?;
        let Some(stored) = stored else { return Ok((TlsPolicies::default(), String::new())) };
        let policies: TlsPolicies = self.verified(keys::TLS_POLICY, &stored)?;
        policies.check().map_err(|e| StoreError::corrupt(keys::TLS_POLICY, e))?;
        Ok((policies, stored))
    }

    async fn replace_policies(&self, raw: &str, next: &TlsPolicies) -> Result<(), StoreError> {
        let record = self.signed(keys::TLS_POLICY, next).await?;
        let (key, arguments) = (keys::TLS_POLICY.to_owned(), [raw.as_bytes(), record.as_bytes()]);
        self.confirmed.script::<i64>(&scripts::REPLACE_RECORD, &[key], &arguments).await.map(drop)
    }
}
