//! Records that grant something: who may pull keys, who may use the API, what frontends speak. Each carries a MAC by the keyring
//! (see `vault`), over its own key as well: whoever can write to the store can neither make one up, nor change one, nor put it in
//! the place of another. What does not verify grants nothing, and is told.
//!
//! `sp:frontend-key:SHA256` needs none: it only says which frontend's record is looked at, and that names its keys itself.

use super::{Store, StoreError, keys};
use crate::{
    error::chain,
    vault::{Unverified, Vault},
};
use jiff::Timestamp;
use redis::cmd;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

/// Records that a process remembers having told of.
const MOST_TOLD: usize = 1_000;
/// How long what was read may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// What verifies the records of a store.
#[derive(Clone, Default)]
pub(super) struct Grants {
    vault: Arc<OnceLock<Arc<Vault>>>,
    told: Arc<Mutex<BTreeSet<String>>>,
    newest: Arc<Mutex<HashMap<String, Seen>>>,
}

/// The newest that was seen of a record.
struct Seen {
    generation: u64,
    stored: String,
    since: Instant,
}

/// A record that grants nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedRecord {
    /// In the store.
    pub key: String,
    pub reason: String,
}

impl Grants {
    /// The vault of this store; the first one stays.
    pub(super) fn hold(&self, vault: Vault) -> Arc<Vault> {
        Arc::clone(self.vault.get_or_init(|| Arc::new(vault)))
    }

    pub(super) fn vault(&self) -> Result<&Arc<Vault>, StoreError> {
        self.vault.get().ok_or(StoreError::NoKeyring)
    }

    /// The newest that was seen of a record, where this one is older.
    fn newer(&self, key: &str, generation: u64, stored: &str) -> Option<(String, Duration)> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match newest.get(key) {
            Some(seen) if seen.generation > generation => Some((seen.stored.clone(), seen.since.elapsed())),
            Some(seen) if seen.stored == stored => None,
            _ => {
                let seen = Seen { generation, stored: stored.to_owned(), since: Instant::now() };
                newest.insert(key.to_owned(), seen);
                None
            }
        }
    }

    /// Once for each record, until it is as it should be.
    fn tell(&self, error: StoreError) -> StoreError {
        let key = match &error {
            StoreError::Unverified { key, .. } | StoreError::Corrupt { key, .. } => key.clone(),
            _ => return error,
        };
        if self.is_first(key) {
            tracing::error!(error = chain(&error), "a record that should grant something grants nothing");
        }
        error
    }

    fn is_first(&self, what: String) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MOST_TOLD && told.insert(what)
    }

    fn forget(&self, key: &str) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Later than any before, also than one that was deleted behind our back.
pub(super) fn next_generation(before: u64) -> u64 {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
    now.max(before.saturating_add(1))
}

impl Store {
    /// A record as it is stored under `key`. `name` is what its MAC is bound to, where that is more than the key.
    pub(super) async fn signed(&self, name: &str, record: &impl Serialize) -> Result<String, StoreError> {
        let vault = self.grants.vault()?;
        self.learn_current_kek(vault).await?;
        let text = serde_json::to_string(record).map_err(|e| StoreError::corrupt(name, e))?;
        vault.sign(name, &text).map_err(|e| StoreError::Unsigned { key: name.to_owned(), source: e })
    }

    /// What a record says that the fleet has stored.
    ///
    /// # Errors
    /// [`StoreError::Unverified`] for any other.
    pub(super) fn verified<T: DeserializeOwned>(&self, name: &str, stored: &str) -> Result<T, StoreError> {
        let vault = self.grants.vault()?;
        let text = vault.verify(name, stored).map_err(|reason| self.unverified(name, reason))?;
        let record =
            serde_json::from_str(text).map_err(|e| self.grants.tell(StoreError::corrupt(name, e)))?;
        self.grants.forget(name);
        Ok(record)
    }

    /// What this process has seen of a record that is newer than the one that is stored now: that one was put back, or the store
    /// has lost a write. What was seen counts, so that nobody who was shut out is let in again.
    pub(super) fn newer_seen(&self, name: &str, generation: u64, stored: &str) -> Option<String> {
        let (newer, since) = self.grants.newer(name, generation, stored)?;
        // Or it was read just before somebody else in this program read the newer one.
        if since >= ON_ITS_WAY && self.grants.is_first(format!("{name}, put back")) {
            tracing::error!(
                record = name,
                "a record that grants something is older than it was before: it was put back, or the store has lost a write. What was seen last counts"
            );
        }
        Some(newer)
    }

    fn unverified(&self, name: &str, reason: Unverified) -> StoreError {
        self.grants.tell(StoreError::Unverified { key: name.to_owned(), reason })
    }

    /// Every record that should grant something and does not verify.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_unverified(&self) -> Result<Vec<UnverifiedRecord>, StoreError> {
        let mut found = Vec::new();
        let mut note = |error: Option<StoreError>| {
            if let Some(StoreError::Unverified { key, reason }) = error {
                found.push(UnverifiedRecord { key, reason: reason.to_string() });
            }
        };
        for listed in self.list_frontend_records().await?.found {
            note(listed.frontend.err());
        }
        for listed in self.list_api_tokens().await?.found {
            note(listed.token.err());
        }
        match self.load_tls_policy().await {
            Err(error @ StoreError::Unverified { .. }) => note(Some(error)),
            Err(StoreError::Corrupt { .. }) | Ok(_) => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }

    /// Notes which records do not verify, and answers with those that were not noted yet: whoever asks tells of them. Of several
    /// that ask at once, one gets each.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_unverified(
        &self,
        records: &[UnverifiedRecord],
    ) -> Result<Vec<UnverifiedRecord>, StoreError> {
        let known: BTreeMap<String, String> = self.link.query(cmd("HGETALL").arg(keys::UNVERIFIED)).await?;
        for key in known.keys().filter(|key| !records.iter().any(|record| record.key == **key)) {
            let _: i64 = self.link.query(cmd("HDEL").arg(keys::UNVERIFIED).arg(key)).await?;
        }
        let mut new = Vec::new();
        for record in records.iter().filter(|record| !known.contains_key(&record.key)) {
            let note = cmd("HSETNX").arg(keys::UNVERIFIED).arg(&record.key).arg(&record.reason).clone();
            if self.link.query::<i64>(&note).await? == 1 {
                new.push(record.clone());
            }
        }
        Ok(new)
    }
}
