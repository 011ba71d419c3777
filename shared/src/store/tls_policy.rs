//! The TLS policy that frontends are given, where an operator has set another than the shipped one; and the one that the canaries
//! try before all get it.

use super::{Store, StoreError, grants::next_generation, keys, scripts};
use crate::domain::{StagedTlsPolicy, TlsPolicies, TlsPolicy};
use redis::cmd;
use serde_json::{Map, Value};

/// Grows with every policy that is set or tried.
const GENERATION: &str = "generation";

/// What was read, or was seen that is newer; and the record as it is stored.
struct StoredPolicies {
    policies: TlsPolicies,
    generation: u64,
    raw: String,
}

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
        Ok(self.load_stored_policies().await?.policies)
    }

    /// Frontends take it with their next question for changes. What the canaries try is dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_tls_policy(&self, policy: &TlsPolicy) -> Result<(), StoreError> {
        let before = match self.load_stored_policies().await {
            Ok(stored) => stored.generation,
            // It is replaced, whatever it is.
            Err(error) if error.is_of_the_record() => 0,
            Err(error) => return Err(error),
        };
        let next = TlsPolicies { all: policy.clone(), staged: None };
        let record = self.signed_policies(before, &next).await?;
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
            let stored = self.load_stored_policies().await?;
            let next = TlsPolicies { staged: Some(staged.clone()), ..stored.policies.clone() };
            match self.replace_policies(&stored, &next).await {
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
        let stored = self.load_stored_policies().await?;
        if stored.policies.staged.as_ref() != Some(tried) {
            return Ok(false);
        }
        let next = TlsPolicies { all: tried.policy.clone(), staged: None };
        match self.replace_policies(&stored, &next).await {
            Err(StoreError::Conflict) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// With the record as it is stored.
    async fn load_stored_policies(&self) -> Result<StoredPolicies, StoreError> {
        let stored: Option<String> = self.link.query(cmd("GET").arg(keys::TLS_POLICY)).await?;
        let raw = stored.unwrap_or_default();
        // None at all is older than each that was set: nobody takes one away.
        let (generation, policies) = match raw.as_str() {
            "" => (0, TlsPolicies::default()),
            stored => self.read_policies(stored)?,
        };
        let (generation, policies) = match self.newer_seen(keys::TLS_POLICY, generation, &raw) {
            Some(newer) => self.read_policies(&newer)?,
            None => (generation, policies),
        };
        Ok(StoredPolicies { policies, generation, raw })
    }

    /// A record's generation, and what it says. One that was written before there were any has the first.
    fn read_policies(&self, stored: &str) -> Result<(u64, TlsPolicies), StoreError> {
        let mut record: Map<String, Value> = self.verified(keys::TLS_POLICY, stored)?;
        let generation = record.remove(GENERATION).and_then(|number| number.as_u64()).unwrap_or(0);
        let policies: TlsPolicies = serde_json::from_value(Value::Object(record))
            .map_err(|e| StoreError::corrupt(keys::TLS_POLICY, e))?;
        policies.check().map_err(|e| StoreError::corrupt(keys::TLS_POLICY, e))?;
        Ok((generation, policies))
    }

    async fn replace_policies(&self, before: &StoredPolicies, next: &TlsPolicies) -> Result<(), StoreError> {
        let record = self.signed_policies(before.generation, next).await?;
        let (key, arguments) = (keys::TLS_POLICY.to_owned(), [before.raw.as_bytes(), record.as_bytes()]);
        self.confirmed.script::<i64>(&scripts::REPLACE_RECORD, &[key], &arguments).await.map(drop)
    }

    async fn signed_policies(&self, before: u64, next: &TlsPolicies) -> Result<String, StoreError> {
        let mut record = serde_json::to_value(next).map_err(|e| StoreError::corrupt(keys::TLS_POLICY, e))?;
        record[GENERATION] = next_generation(before).into();
        self.signed(keys::TLS_POLICY, &record).await
    }
}
