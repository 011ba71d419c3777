//! Tokens of the operators' API, all in one small hash by their SHA-256: one look-up for a request, and none that is valid
//! without being listed.

use super::{Listing, Store, StoreError, grants::next_generation, keys, scripts};
use crate::{
    domain::{ApiToken, TokenName},
    vault::unverified_text,
};
use jiff::Timestamp;
use redis::cmd;
use serde::Deserialize;
use std::collections::HashMap;

/// What the writing of a token may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenChange {
    /// Its name must be new.
    Add,
    /// A token that had the name ends.
    Replace,
    /// It must be there.
    Change,
}

impl TokenChange {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Change => "change",
        }
    }
}

/// A token that is listed.
#[derive(Debug)]
pub struct ListedToken {
    pub sha256: String,
    /// As its record says, whoever wrote it.
    pub name: Option<TokenName>,
    /// Or why its record grants nothing.
    pub token: Result<ApiToken, StoreError>,
    pub last_used: Option<Timestamp>,
}

impl Store {
    /// Writes the record of the token with this SHA-256 (hex).
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when what is there is not what `change` says.
    pub async fn put_api_token(
        &self,
        sha256_hex: &str,
        token: &ApiToken,
        change: TokenChange,
    ) -> Result<(), StoreError> {
        let generation = next_generation(token.generation);
        let token = &ApiToken { generation, ..token.clone() };
        let record = self.signed(&keys::api_token(sha256_hex), token).await?;
        let touched = [keys::API_TOKENS.to_owned(), keys::API_TOKENS_USED.to_owned()];
        let arguments = [sha256_hex, &record, token.name.as_str(), change.as_str()].map(str::as_bytes);
        self.confirmed.script::<i64>(&scripts::PUT_API_TOKEN, &touched, &arguments).await.map(drop)
    }

    /// The token with this SHA-256 (hex), a revoked one too. Asked anew for each request, so that a revocation is effective
    /// with the next one.
    ///
    /// # Errors
    /// [`StoreError`]; one that isn't there is `None`, and so is one whose record grants nothing.
    pub async fn load_api_token(&self, sha256_hex: &str) -> Result<Option<ApiToken>, StoreError> {
        let record: Option<String> =
            self.link.query(cmd("HGET").arg(keys::API_TOKENS).arg(sha256_hex)).await?;
        let Some(record) = record else { return Ok(None) };
        match self.verified_token(sha256_hex, &record) {
            // Told by now.
            Err(StoreError::Unverified { .. }) => Ok(None),
            known => known.map(Some),
        }
    }

    /// Every token, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_api_tokens(&self) -> Result<Listing<ListedToken>, StoreError> {
        let Listing { found: records, mut damaged } = self.read_hash(keys::API_TOKENS).await?;
        let used = self.read_hash(keys::API_TOKENS_USED).await?;
        damaged.extend(used.damaged);
        let used: HashMap<String, String> = used.found.into_iter().collect();
        let mut found = Vec::new();
        for (sha256, record) in records {
            let last_used =
                used.get(&sha256).and_then(|seconds| Timestamp::from_second(seconds.parse().ok()?).ok());
            let token = match self.verified_token(&sha256, &record) {
                Err(error @ StoreError::NoKeyring) => return Err(error),
                known => known,
            };
            let claims = || Some(serde_json::from_str::<Claims>(unverified_text(&record)).ok()?.name);
            let name = token.as_ref().ok().map(|token| token.name.clone()).or_else(claims);
            found.push(ListedToken { sha256, name, token, last_used });
        }
        found.sort_by(|one, other| (&one.name, &one.sha256).cmp(&(&other.name, &other.sha256)));
        Ok(Listing { found, damaged })
    }

    /// Takes a record out, whatever it says: nothing is left that could grant anything.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_api_token(&self, sha256_hex: &str) -> Result<(), StoreError> {
        let mut remove = redis::Pipeline::new();
        remove.cmd("HDEL").arg(keys::API_TOKENS).arg(sha256_hex);
        remove.cmd("HDEL").arg(keys::API_TOKENS_USED).arg(sha256_hex);
        self.confirmed.write(remove).await.map(drop)
    }

    fn verified_token(&self, sha256_hex: &str, record: &str) -> Result<ApiToken, StoreError> {
        let name = keys::api_token(sha256_hex);
        let token: ApiToken = self.verified(&name, record)?;
        if token.v > ApiToken::VERSION {
            return Err(StoreError::NewerSchema { found: token.v, known: ApiToken::VERSION });
        }
        match self.newer_seen(&name, token.generation, record) {
            Some(newer) => self.verified(&name, &newer),
            None => Ok(token),
        }
    }

    /// Notes that a token was used. May be lost.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_api_token_used(&self, sha256_hex: &str, at: Timestamp) -> Result<(), StoreError> {
        let mut note = cmd("HSET");
        note.arg(keys::API_TOKENS_USED).arg(sha256_hex).arg(at.as_second());
        self.link.query::<i64>(&note).await.map(drop)
    }
}

/// What can be read of a record that nobody vouches for.
#[derive(Deserialize)]
struct Claims {
    name: TokenName,
}
