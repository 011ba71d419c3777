//! What a server answered, or why it did not, and which one that was.

use super::error::first_of_pipeline;
use redis::RedisError;
use std::{error::Error, fmt, ops::Deref};

/// An error of the Redis library, with the server that it is of where that is known.
#[derive(Debug)]
pub struct ServerError {
    error: RedisError,
    /// What follows the word "store": ` at HOST:PORT, as store.url names it`.
    at: String,
}

impl ServerError {
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    #[must_use]
    pub(super) fn located(self, at: &str) -> Self {
        if self.at.is_empty() { Self { at: at.to_owned(), ..self } } else { self }
    }

    /// Whether it is the login that was refused.
    pub(super) fn is_of_login(&self) -> bool {
        let first = first_of_pipeline(self.error.clone());
        matches!(first.code(), Some("NOAUTH" | "WRONGPASS"))
            || self.error.kind() == redis::ErrorKind::AuthenticationFailed
    }
}

impl From<RedisError> for ServerError {
    fn from(error: RedisError) -> Self {
        Self { error, at: String::new() }
    }
}

impl Deref for ServerError {
    type Target = RedisError;

    fn deref(&self) -> &RedisError {
        &self.error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for ServerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}
