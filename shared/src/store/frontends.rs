//! Frontends, and which of them a key or a token belongs to.

use super::{Store, StoreError, keys, scripts};
use crate::domain::{Frontend, FrontendName, StoredReport};
use redis::cmd;

impl Store {
    /// Adds a frontend, or replaces the one of its name. What identified the old one no longer does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn write_frontend(&self, frontend: &Frontend) -> Result<(), StoreError> {
        let key = keys::frontend(frontend.name.as_str());
        let record = serde_json::to_string(frontend).map_err(|e| StoreError::corrupt(&key, e))?;
        let old = self.load_frontend(&frontend.name).await?;
        // The record first: an identity without a record opens nothing.
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(&key).arg(&record);
        self.confirmed.write(set).await?;
        let name = frontend.name.as_str().as_bytes();
        self.confirmed.script::<i64>(&scripts::ADD_MEMBER, &[keys::FRONTENDS.to_owned()], &[name]).await?;
        let mut pipeline = redis::Pipeline::new();
        for identity in identities(frontend) {
            pipeline.cmd("SET").arg(keys::frontend_key(identity)).arg(frontend.name.as_str()).ignore();
        }
        for identity in
            old.iter().flat_map(identities).filter(|id| !identities(frontend).any(|new| new == *id))
        {
            pipeline.cmd("DEL").arg(keys::frontend_key(identity)).ignore();
        }
        self.confirmed.write(pipeline).await?;
        // Last: who waits for changes is looked at again once all of it is there.
        let mut tell = redis::Pipeline::new();
        tell.cmd("INCR").arg(keys::FRONTENDS_CHANGED);
        self.confirmed.write(tell).await.map(drop)
    }

    /// # Errors
    /// [`StoreError`]; one that isn't there is `None`.
    pub async fn load_frontend(&self, name: &FrontendName) -> Result<Option<Frontend>, StoreError> {
        let key = keys::frontend(name.as_str());
        let record: Option<String> = self.link.query(cmd("GET").arg(&key)).await?;
        record.map(|text| serde_json::from_str(&text).map_err(|e| StoreError::corrupt(key, e))).transpose()
    }

    /// The frontend that a token's or a public key's SHA-256 (hex) belongs to. Asked anew for each request, so that a
    /// revocation is effective with the next one.
    ///
    /// # Errors
    /// [`StoreError`]; an identity that nobody has is `None`.
    pub async fn frontend_of(&self, sha256_hex: &str) -> Result<Option<Frontend>, StoreError> {
        let name: Option<String> = self.link.query(cmd("GET").arg(keys::frontend_key(sha256_hex))).await?;
        let Some(name) = name else { return Ok(None) };
        let name = FrontendName::try_from(name).map_err(|e| StoreError::corrupt("frontend-key", e))?;
        let frontend = self.load_frontend(&name).await?;
        Ok(frontend.filter(|frontend| identities(frontend).any(|identity| identity == sha256_hex)))
    }

    /// Keeps what a frontend says of itself, in the place of what it said before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn write_report(&self, frontend: &str, report: &StoredReport) -> Result<(), StoreError> {
        let key = keys::frontend_report(frontend);
        let text = serde_json::to_string(report).map_err(|e| StoreError::corrupt(&key, e))?;
        self.link.query(cmd("SET").arg(key).arg(text)).await
    }

    /// What frontends said last, in the order of `names`; one that can't be read, or hasn't said anything, is `None`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_reports(
        &self,
        names: &[FrontendName],
    ) -> Result<Vec<Option<StoredReport>>, StoreError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut ask = redis::Pipeline::new();
        for name in names {
            ask.cmd("GET").arg(keys::frontend_report(name.as_str()));
        }
        let reports: Vec<Option<String>> = self.link.pipe(&ask).await?;
        Ok(reports.into_iter().map(|text| serde_json::from_str(&text?).ok()).collect())
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn list_frontends(&self) -> Result<Vec<Frontend>, StoreError> {
        let names: Vec<String> = self.link.query(cmd("ZRANGE").arg(keys::FRONTENDS).arg(0).arg(-1)).await?;
        let mut found = Vec::new();
        for name in names {
            let name = FrontendName::try_from(name).map_err(|e| StoreError::corrupt(keys::FRONTENDS, e))?;
            found.extend(self.load_frontend(&name).await?);
        }
        Ok(found)
    }
}

fn identities(frontend: &Frontend) -> impl Iterator<Item = &String> {
    frontend.token_sha256.iter().chain(&frontend.spki_sha256)
}
