//! Targets that customers' names are to be delegated to, so that their proofs can be written into a zone of ours.

use super::{Damage, Listing, Store, StoreError, keys};
use crate::{domain::DnsName, error::chain};
use jiff::Timestamp;
use redis::cmd;
use serde::{Deserialize, Serialize};

/// What a customer was told to create: `_acme-challenge.NAME CNAME target`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// Version of this record.
    pub v: u32,
    /// The section of the configuration, as in `[dns.NAME]`.
    pub provider: String,
    /// Without the dot of the root.
    pub target: String,
    pub created: Timestamp,
}

impl Delegation {
    pub const VERSION: u32 = 1;
}

impl Store {
    /// # Errors
    /// [`StoreError`].
    pub async fn store_delegation(&self, name: &DnsName, delegation: &Delegation) -> Result<(), StoreError> {
        let record = serde_json::to_string(delegation).map_err(|e| StoreError::corrupt("delegation", e))?;
        let mut pipeline = redis::Pipeline::new();
        pipeline.cmd("HSET").arg(keys::delegations()).arg(name.as_str()).arg(record);
        self.confirmed.write(pipeline).await.map(drop)
    }

    /// # Errors
    /// [`StoreError`]; none is `None`.
    pub async fn load_delegation(&self, name: &DnsName) -> Result<Option<Delegation>, StoreError> {
        let record: Option<String> =
            self.link.query(cmd("HGET").arg(keys::delegations()).arg(name.as_str())).await?;
        record.map(|record| parse(&record)).transpose()
    }

    /// All of them, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_delegations(&self) -> Result<Listing<(DnsName, Delegation)>, StoreError> {
        let key = keys::delegations();
        let read = |(name, record): (String, String)| {
            let delegation = parse(&record).map_err(|e| Damage::of_member(&key, &name, chain(&e)))?;
            let damage = Damage::of_member(&key, &name, "this is no name");
            Ok((DnsName::try_from(name).map_err(|_| damage)?, delegation))
        };
        let mut all = self.read_hash(&key).await?.and_then(read);
        all.found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(all)
    }

    /// `false`: there was none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_delegation(&self, name: &DnsName) -> Result<bool, StoreError> {
        let gone: i64 = self.link.query(cmd("HDEL").arg(keys::delegations()).arg(name.as_str())).await?;
        Ok(gone > 0)
    }
}

fn parse(record: &str) -> Result<Delegation, StoreError> {
    let delegation: Delegation =
        serde_json::from_str(record).map_err(|e| StoreError::corrupt(keys::delegations(), e))?;
    if delegation.v > Delegation::VERSION {
        return Err(StoreError::NewerSchema { found: delegation.v, known: Delegation::VERSION });
    }
    Ok(delegation)
}
