//! Records that can't be read: each is one record, noted until it is whole again or gone. All others go on.

use super::{Damage, Listing, Store, StoreError, keys, sites};
use crate::domain::{CertificateId, Partition, SiteId};
use jiff::Timestamp;
use redis::cmd;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// No more are noted: with so many it is the store that is damaged.
const MOST_NOTED: usize = 10_000;

/// A record that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRecord {
    /// The key in the store.
    #[serde(default)]
    pub key: String,
    pub since: Timestamp,
    /// What is wrong with it.
    pub what: String,
}

/// A group whose record can't be read, where others are read with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedSite {
    pub site: SiteId,
    /// What is wrong with it, with the key in the store.
    pub what: String,
}

impl Damage {
    /// As it is told where it was not noted yet.
    pub fn found(self, at: Timestamp) -> DamagedRecord {
        DamagedRecord { key: self.key, since: at, what: self.what }
    }
}

/// The records that were noted, and what was met just now.
pub fn with_damage(
    mut noted: Vec<DamagedRecord>,
    met: impl IntoIterator<Item = Damage>,
) -> Vec<DamagedRecord> {
    let now = Timestamp::now();
    for damage in met {
        if noted.iter().all(|known| known.key != damage.key) {
            noted.push(damage.found(now));
        }
    }
    noted
}

impl DamagedSite {
    pub(super) fn of(id: &SiteId, error: &StoreError) -> Self {
        Self { site: id.clone(), what: crate::error::chain(error) }
    }
}

/// What is wrong with a record, if anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRecord {
    pub key: String,
    pub site: SiteId,
    pub problem: Option<String>,
}

impl Store {
    /// Notes a record that can't be read; `false` where that is known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_damaged(&self, key: &str, what: &str) -> Result<bool, StoreError> {
        let noted: usize = self.link.query(cmd("HLEN").arg(keys::DAMAGED)).await?;
        if noted >= MOST_NOTED {
            return Ok(false);
        }
        let what: String = what.chars().take(500).collect();
        let record = DamagedRecord { key: String::new(), since: Timestamp::now(), what };
        let record = serde_json::to_string(&record).map_err(|e| StoreError::corrupt(keys::DAMAGED, e))?;
        let is_new: i64 = self.link.query(cmd("HSETNX").arg(keys::DAMAGED).arg(key).arg(record)).await?;
        Ok(is_new == 1)
    }

    /// A record that was noted can be read, or is gone; `false` where it was not noted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_damaged(&self, key: &str) -> Result<bool, StoreError> {
        let removed: i64 = self.link.query(cmd("HDEL").arg(keys::DAMAGED).arg(key)).await?;
        Ok(removed == 1)
    }

    /// The records that were found damaged, by their keys.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_damaged(&self) -> Result<Vec<DamagedRecord>, StoreError> {
        let Listing { found: mut noted, damaged } = self.read_hash(keys::DAMAGED).await?;
        noted.sort();
        let unreadable =
            || DamagedRecord { key: String::new(), since: Timestamp::UNIX_EPOCH, what: String::new() };
        let noted = noted.into_iter().map(|(key, text)| {
            let record: DamagedRecord = serde_json::from_str(&text).unwrap_or_else(|_| unreadable());
            DamagedRecord { key, ..record }
        });
        let damaged = damaged.into_iter().map(|damage| damage.found(Timestamp::now()));
        Ok(noted.chain(damaged).collect())
    }

    /// Whether there is a key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_record(&self, key: &str) -> Result<bool, StoreError> {
        let there: i64 = self.link.query(cmd("EXISTS").arg(key)).await?;
        Ok(there == 1)
    }

    /// The key of a group's record.
    pub fn key_of_group(partition: Partition, id: &str) -> String {
        keys::site_in(partition, id)
    }

    /// The key that stands for a partition's schedule.
    pub fn key_of_schedule(partition: Partition) -> String {
        keys::due(partition)
    }

    /// Reads groups and all their certificates, and says what is wrong with each record.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn check_records(&self, ids: &[SiteId]) -> Result<Vec<CheckedRecord>, StoreError> {
        let mut checked = Vec::new();
        let mut certificates: Vec<(SiteId, CertificateId)> = Vec::new();
        for (id, record) in ids.iter().zip(self.load_group_records(ids).await?) {
            let problem = match record.and_then(|fields| sites::parse(id, fields)) {
                Ok(Some(stored)) => {
                    let serving = &stored.serving;
                    let staged = serving.staged.iter().flat_map(|staged| staged.pointers.values());
                    let all = serving.current.values().chain(serving.previous.values());
                    let all = all.chain(serving.kept.values()).chain(staged);
                    certificates.extend(all.map(|certificate| (id.clone(), certificate.clone())));
                    None
                }
                Ok(None) => None,
                Err(error) => Some(crate::error::chain(&error)),
            };
            checked.push(CheckedRecord { key: keys::site(id), site: id.clone(), problem });
        }
        let read = self.load_certificates(&certificates).await?;
        for ((site, certificate), read) in certificates.into_iter().zip(read) {
            let key = keys::certificate(&site, &certificate);
            let problem = match read {
                Ok(certificate) => certificate.leaf().err().map(|error| crate::error::chain(&error)),
                Err(error) => Some(crate::error::chain(&error)),
            };
            // One that is gone by now was replaced in this moment.
            if problem.is_some() && !self.is_served(&site, &certificate).await? {
                continue;
            }
            checked.push(CheckedRecord { key, site, problem });
        }
        Ok(checked)
    }

    async fn is_served(&self, site: &SiteId, certificate: &CertificateId) -> Result<bool, StoreError> {
        let fields = self.read_hash(&keys::site(site)).await?.found;
        Ok(fields.iter().any(|(_, value)| value == certificate.as_str()))
    }

    /// The records of groups, in the order of `ids`: one that is none is an error of that one.
    pub(super) async fn load_group_records(
        &self,
        ids: &[SiteId],
    ) -> Result<Vec<Result<HashMap<String, String>, StoreError>>, StoreError> {
        let questions: Vec<redis::Cmd> =
            ids.iter().map(|id| cmd("HGETALL").arg(keys::site(id)).clone()).collect();
        self.read_each(&questions).await
    }
}
