//! Targets that customers' names are to be delegated to, so that their proofs can be written into a zone of ours.

use super::{Store, StoreError, keys};
use crate::domain::DnsName;
use jiff::Timestamp;
use redis::cmd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

    /// All of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_delegations(&self) -> Result<BTreeMap<DnsName, Delegation>, StoreError> {
        let records: BTreeMap<String, String> =
            self.link.query(cmd("HGETALL").arg(keys::delegations())).await?;
        let read = |(name, record): (String, String)| {
            let name = DnsName::try_from(name).map_err(|e| StoreError::corrupt(keys::delegations(), e))?;
            Ok((name, parse(&record)?))
        };
        records.into_iter().map(read).collect()
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
