//! Tokens: what the CA's validators will ask for. They end by themselves.

use super::{Store, StoreError, keys};
use crate::domain::{KeyAuthorization, Token};
use jiff::Timestamp;
use redis::cmd;
use std::time::Duration;

/// Validators from other places of the world may still be on their way when the CA has made up its mind.
pub(super) const GRACE: Duration = Duration::from_secs(120);

/// Whoever publishes a token is about to have it looked for.
const LEAST_MS: i64 = 1_000;

impl Store {
    /// Publishes tokens until `until`. The CA may be told to look once this has returned.
    ///
    /// # Errors
    /// [`StoreError`]: they may not all be there; the CA must not be told.
    pub async fn publish_tokens(
        &self,
        tokens: &[(Token, KeyAuthorization)],
        until: Timestamp,
    ) -> Result<(), StoreError> {
        if tokens.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        let mut pipeline = redis::Pipeline::new();
        for (token, answer) in tokens {
            pipeline
                .cmd("SET")
                .arg(keys::token(token.as_str()))
                .arg(answer.as_str())
                // For so long by the store's own clock: it may be another than ours.
                .arg("PX")
                .arg(until.as_millisecond().saturating_sub(now.as_millisecond()).max(LEAST_MS));
        }
        self.confirmed.write(pipeline).await.map(drop)
    }

    /// Lets tokens end after [`GRACE`].
    ///
    /// # Errors
    /// [`StoreError`]; they then end at their own time.
    pub async fn withdraw_tokens<'a>(
        &self,
        tokens: impl Iterator<Item = &'a Token> + Send,
    ) -> Result<(), StoreError> {
        let mut pipeline = redis::Pipeline::new();
        for token in tokens {
            pipeline.cmd("PEXPIRE").arg(keys::token(token.as_str())).arg(GRACE.as_millis() as u64).ignore();
        }
        if pipeline.cmd_iter().next().is_none() {
            return Ok(());
        }
        self.link.pipe(&pipeline).await
    }

    /// The answer for a token.
    ///
    /// # Errors
    /// [`StoreError`]; a token that nobody published is `None`.
    pub async fn load_key_authorization(
        &self,
        token: &Token,
    ) -> Result<Option<KeyAuthorization>, StoreError> {
        let answer: Option<String> = self.link.query(cmd("GET").arg(keys::token(token.as_str()))).await?;
        Ok(answer.map(KeyAuthorization::from_stored))
    }
}
