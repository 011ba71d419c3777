//! Tenants: customers who own sites, and what their new sites get where nothing else is said.

use super::{Listing, Store, StoreError, keys, scripts};
use jiff::Timestamp;
use redis::cmd;
use serde::{Deserialize, Serialize};

/// The record of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub v: u32,
    pub name: String,
    /// Whether frontends redirect plain HTTP to HTTPS for new sites: on for new tenants, off for those that were there
    /// before they came to Signpost.
    pub redirect: bool,
    /// An ACME account of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    pub created: Timestamp,
}

/// A tenant as it was read, with the text it is stored as.
#[derive(Clone, Debug)]
pub struct StoredTenant {
    pub tenant: Tenant,
    raw: String,
}

impl Tenant {
    pub const VERSION: u32 = 1;
}

impl Store {
    /// # Errors
    /// [`StoreError`]; a tenant that isn't there is `None`.
    pub async fn load_tenant(&self, name: &str) -> Result<Option<StoredTenant>, StoreError> {
        let key = keys::tenant(name);
        let raw: Option<String> = self.link.query(cmd("GET").arg(&key)).await?;
        raw.map(|raw| parse(&key, raw)).transpose()
    }

    /// Writes a tenant in the place of what was read, or a new one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else has written it in the meantime.
    pub async fn write_tenant(&self, from: Option<&StoredTenant>, tenant: &Tenant) -> Result<(), StoreError> {
        let key = keys::tenant(&tenant.name);
        let raw = serde_json::to_string(tenant).map_err(|e| StoreError::corrupt(&key, e))?;
        let before = from.map_or("", |stored| stored.raw.as_str());
        let arguments = [before.as_bytes(), raw.as_bytes()];
        self.confirmed.script::<i64>(&scripts::REPLACE_RECORD, &[key], &arguments).await?;
        let _: i64 = self.link.query(cmd("SADD").arg(keys::TENANTS).arg(&tenant.name)).await?;
        Ok(())
    }

    /// Removes a tenant that is still as it was read.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody has written it in the meantime.
    pub async fn remove_tenant(&self, stored: &StoredTenant) -> Result<(), StoreError> {
        let key = keys::tenant(&stored.tenant.name);
        // Its name stays in the list: without a record it is none.
        self.confirmed.script::<i64>(&scripts::REMOVE_RECORD, &[key], &[stored.raw.as_bytes()]).await?;
        Ok(())
    }

    /// Every tenant, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_tenants(&self) -> Result<Listing<Tenant>, StoreError> {
        let Listing { found: mut names, damaged } =
            self.read_members(cmd("SMEMBERS").arg(keys::TENANTS)).await?;
        names.sort();
        let keys: Vec<String> = names.iter().map(|name| keys::tenant(name)).collect();
        let mut tenants = Listing { found: Vec::new(), damaged };
        for (key, raw) in keys.iter().zip(self.read_texts(&keys).await?) {
            if let Some(stored) = raw.and_then(|raw| raw.map(|raw| parse(key, raw)).transpose()).transpose() {
                tenants.add(key, stored.map(|stored| stored.tenant))?;
            }
        }
        Ok(tenants)
    }
}

fn parse(key: &str, raw: String) -> Result<StoredTenant, StoreError> {
    let tenant: Tenant = serde_json::from_str(&raw).map_err(|e| StoreError::corrupt(key, e))?;
    if tenant.v > Tenant::VERSION {
        return Err(StoreError::NewerSchema { found: tenant.v, known: Tenant::VERSION });
    }
    Ok(StoredTenant { tenant, raw })
}
