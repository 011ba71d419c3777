//! Tokens of the operators' API, all in one small hash by their SHA-256: one look-up for a request, and none that is valid
//! without being listed.

use super::{Store, StoreError, keys, scripts};
use crate::domain::ApiToken;
use jiff::Timestamp;
use redis::cmd;
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
        let record = serde_json::to_string(token).map_err(|e| StoreError::corrupt(keys::API_TOKENS, e))?;
        let touched = [keys::API_TOKENS.to_owned(), keys::API_TOKENS_USED.to_owned()];
        let arguments = [sha256_hex, &record, token.name.as_str(), change.as_str()].map(str::as_bytes);
        self.confirmed.script::<i64>(&scripts::PUT_API_TOKEN, &touched, &arguments).await.map(drop)
    }

    /// The token with this SHA-256 (hex), a revoked one too. Asked anew for each request, so that a revocation is effective
    /// with the next one.
    ///
    /// # Errors
    /// [`StoreError`]; one that isn't there is `None`.
    pub async fn load_api_token(&self, sha256_hex: &str) -> Result<Option<ApiToken>, StoreError> {
        let record: Option<String> =
            self.link.query(cmd("HGET").arg(keys::API_TOKENS).arg(sha256_hex)).await?;
        record.map(|record| parse(&record)).transpose()
    }

    /// Every token with its SHA-256 and when it was last used, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_api_tokens(&self) -> Result<Vec<(String, ApiToken, Option<Timestamp>)>, StoreError> {
        let records: HashMap<String, String> = self.link.query(cmd("HGETALL").arg(keys::API_TOKENS)).await?;
        let used: HashMap<String, i64> = self.link.query(cmd("HGETALL").arg(keys::API_TOKENS_USED)).await?;
        let mut found = Vec::new();
        for (sha256_hex, record) in records {
            let last = used.get(&sha256_hex).and_then(|seconds| Timestamp::from_second(*seconds).ok());
            found.push((sha256_hex, parse(&record)?, last));
        }
        found.sort_by(|(_, one, _), (_, other, _)| one.name.cmp(&other.name));
        Ok(found)
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

fn parse(record: &str) -> Result<ApiToken, StoreError> {
    let token: ApiToken =
        serde_json::from_str(record).map_err(|e| StoreError::corrupt(keys::API_TOKENS, e))?;
    if token.v > ApiToken::VERSION {
        return Err(StoreError::NewerSchema { found: token.v, known: ApiToken::VERSION });
    }
    Ok(token)
}
