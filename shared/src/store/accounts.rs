//! ACME accounts, with their sealed keys. A record is replaced only by who has read its latest version.

use super::{Damage, Listing, Store, StoreError, keys, scripts};
use crate::domain::KeyType;
use jiff::Timestamp;
use redis::cmd;
use serde::{Deserialize, Serialize};

/// The record of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub v: u32,
    pub ca: String,
    pub name: String,
    pub directory: String,
    pub status: AccountStatus,
    /// Known once the CA has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub key_type: KeyType,
    /// Sealed; base64.
    pub sealed_key: String,
    pub key_spki_sha256: String,
    /// A key that is about to take the place of the current one. Stored before the CA is told; the CA may or may not
    /// have accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateKey>,
    /// Candidates that the CA did not have when it was asked. A program that woke late may have told it of one afterwards:
    /// they are tried where the CA refuses the present key. Newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<CandidateKey>,
    #[serde(default)]
    pub contact: Vec<String>,
    /// The terms of service that were agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<String>,
    pub created: Timestamp,
    /// Grows with every key.
    pub key_version: u32,
}

/// A key that may become the account's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateKey {
    pub key_type: KeyType,
    pub sealed_key: String,
    pub key_spki_sha256: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountStatus {
    /// The key is stored; the CA may or may not know it.
    Planned,
    Valid,
    Deactivated,
}

/// An account as it was read, with the text it is stored as.
#[derive(Clone, Debug)]
pub struct StoredAccount {
    pub account: Account,
    raw: String,
}

impl Account {
    pub const VERSION: u32 = 1;
    /// Keys that are kept of those that were set aside.
    const MOST_SET_ASIDE: usize = 3;

    /// Makes a key the account's: its candidate, or one that was set aside.
    pub fn promote(&mut self, key: CandidateKey) {
        self.candidate = None;
        self.set_aside.clear();
        self.key_type = key.key_type;
        self.sealed_key = key.sealed_key;
        self.key_spki_sha256 = key.key_spki_sha256;
        self.key_version += 1;
    }

    /// Takes the candidate back: it is kept all the same.
    pub fn set_candidate_aside(&mut self) {
        self.set_aside.extend(self.candidate.take());
        let surplus = self.set_aside.len().saturating_sub(Self::MOST_SET_ASIDE);
        self.set_aside.drain(..surplus);
    }
}

impl Store {
    /// # Errors
    /// [`StoreError`]; an account that isn't there is `None`.
    pub async fn load_account(&self, ca: &str, name: &str) -> Result<Option<StoredAccount>, StoreError> {
        let key = keys::account(ca, name);
        let raw: Option<String> = self.link.query(cmd("GET").arg(&key)).await?;
        raw.map(|raw| parse(&key, raw)).transpose()
    }

    /// Writes an account in the place of what was read, or a new one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else has written it in the meantime.
    pub async fn write_account(
        &self,
        from: Option<&StoredAccount>,
        account: Account,
    ) -> Result<StoredAccount, StoreError> {
        let key = keys::account(&account.ca, &account.name);
        let raw = serde_json::to_string(&account).map_err(|e| StoreError::corrupt(&key, e))?;
        let before = from.map_or("", |stored| stored.raw.as_str());
        let arguments = [before.as_bytes(), raw.as_bytes()];
        // The index first: a record that it lacks would be left out when its key is sealed anew.
        let member = format!("{}:{}", account.ca, account.name);
        let _: i64 = self.link.query(cmd("SADD").arg(keys::ACCOUNTS).arg(member)).await?;
        self.confirmed.script::<i64>(&scripts::REPLACE_RECORD, &[key], &arguments).await?;
        Ok(StoredAccount { account, raw })
    }

    /// Forgets an account that is as it was read. Its keys are gone with it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else has written it in the meantime.
    pub async fn remove_account(&self, stored: &StoredAccount) -> Result<(), StoreError> {
        let key = keys::account(&stored.account.ca, &stored.account.name);
        self.confirmed.script(&scripts::REMOVE_RECORD, &[key], &[stored.raw.as_bytes()]).await
    }

    /// Every account.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_accounts(&self) -> Result<Listing<Account>, StoreError> {
        let members = self.read_members(cmd("SMEMBERS").arg(keys::ACCOUNTS)).await?;
        let of_account = |member: String| match member.split_once(':') {
            Some((ca, name)) => Ok(keys::account(ca, name)),
            None => Err(Damage::of_member(keys::ACCOUNTS, &member, "this names no account")),
        };
        let Listing { found: mut keys, damaged } = members.and_then(of_account);
        keys.sort();
        let mut accounts = Listing { found: Vec::new(), damaged };
        for (key, raw) in keys.iter().zip(self.read_texts(&keys).await?) {
            // The index comes first: a record that is not there was never written.
            if let Some(stored) = raw.and_then(|raw| raw.map(|raw| parse(key, raw)).transpose()).transpose() {
                accounts.add(key, stored.map(|stored| stored.account))?;
            }
        }
        Ok(accounts)
    }
}

fn parse(key: &str, raw: String) -> Result<StoredAccount, StoreError> {
    let account: Account = serde_json::from_str(&raw).map_err(|e| StoreError::corrupt(key, e))?;
    if account.v > Account::VERSION {
        return Err(StoreError::NewerSchema { found: account.v, known: Account::VERSION });
    }
    Ok(StoredAccount { account, raw })
}
