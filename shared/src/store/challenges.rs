//! Tokens: what the CA's validators will ask for. They end by themselves.

use super::{Store, StoreError, keys};
use crate::domain::{KeyAuthorization, Token};
use jiff::Timestamp;
use redis::cmd;
use std::time::Duration;

/// Validators from other places of the world may still be on their way when the CA has made up its mind.
pub(super) const GRACE: Duration = Duration::from_secs(120);

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
        let mut pipeline = redis::Pipeline::new();
        for (token, answer) in tokens {
            pipeline
                .cmd("SET")
                .arg(keys::token(token.as_str()))
                .arg(answer.as_str())
                .arg("PXAT")
                .arg(until.as_millisecond());
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
