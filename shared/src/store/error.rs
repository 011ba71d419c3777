//! What can go wrong with the store.

use super::{node::Node, server_error::ServerError};
use crate::{
    error::{Fault, Retry},
    vault::{SealError, Unverified},
};
use redis::RedisError;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store is not reachable{}", .0.at())]
    Unavailable(#[source] ServerError),
    #[error("the store did not answer within {} ms{}", .0.as_millis(), .1)]
    Timeout(Duration, String),
    #[error("the store refused the {}{}", if .0.is_of_login() { "login" } else { "command" }, .0.at())]
    Refused(#[source] ServerError),
    #[error("the embedded store can't be used")]
    Embedded(#[from] super::EmbeddedError),
    #[error("another issuer has taken over this site: nothing was written")]
    Fenced,
    #[error("the record was changed in the meantime: nothing was written")]
    Conflict,
    #[error("the write reached {got} replicas of the {wanted} that are required: the CA is not told")]
    Unconfirmed { wanted: u32, got: u32 },
    #[error("the record {key} can't be read")]
    Corrupt {
        key: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "the record {key} was not written by this fleet ({reason}): it grants nothing, and whoever wrote it can write to the store"
    )]
    Unverified { key: String, reason: Unverified },
    #[error("the record {key} can't be signed")]
    Unsigned {
        key: String,
        #[source]
        source: SealError,
    },
    /// A bug: whoever reads or writes what grants something opens the vault first.
    #[error("the keyring is needed for this, and was not opened")]
    NoKeyring,
    #[error(
        "the store's layout is version {found}, this program knows up to {known}: use a newer version of it"
    )]
    NewerSchema { found: u32, known: u32 },
    #[error("{0}")]
    Unsuitable(String),
    #[error(
        "the Redis user lacks a right that this program needs: {0}. deploy/handbook/durability.md lists the rights of each role"
    )]
    LacksRight(String),
    #[error("store.url can't be used")]
    Url(#[source] RedisError),
    #[error("{0}")]
    Credentials(String),
}

impl StoreError {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unavailable(_)
            | Self::Timeout(..)
            | Self::Unconfirmed { .. }
            | Self::Fenced
            | Self::Conflict => Fault::Store,
            Self::Corrupt { .. } | Self::NoKeyring => Fault::Bug,
            Self::Refused(_)
            | Self::Embedded(_)
            | Self::Unverified { .. }
            | Self::Unsigned { .. }
            | Self::NewerSchema { .. }
            | Self::Unsuitable(_)
            | Self::LacksRight(_)
            | Self::Url(_)
            | Self::Credentials(_) => Fault::Operator,
        }
    }

    /// What lists say of a record that can't be used.
    pub const fn record_state(&self) -> &'static str {
        match self {
            Self::Unverified { .. } => "unverified",
            Self::NewerSchema { .. } => "newer",
            _ => "damaged",
        }
    }

    pub fn retry(&self) -> Retry {
        match self {
            Self::Unavailable(_) | Self::Timeout(..) | Self::Unconfirmed { .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    /// Whether it may pass while a program waits: the store comes back, a login is let in again, a right is given, a file is
    /// put right. Not so what the configuration itself has wrong.
    pub fn may_pass(&self) -> bool {
        self.retry() == Retry::Backoff
            || matches!(self, Self::Refused(_) | Self::LacksRight(_) | Self::Credentials(_))
            || matches!(self, Self::Embedded(error) if error.may_pass())
    }

    /// Whether it is about the record that was read, and about no other.
    pub(super) const fn is_of_the_record(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::NewerSchema { .. } | Self::Unverified { .. })
    }

    /// Whether it is about the keys that were named, and not about the store: another key may do.
    pub fn is_of_its_keys(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Conflict => true,
            // A refusal of the program, its login or its rights, is about no key.
            Self::Refused(error) => {
                !error.is_of_login() && first_of_pipeline(RedisError::clone(error)).code() != Some("NOPERM")
            }
            // Some of the keys of a slot that is on the move have gone already.
            Self::Unavailable(error) => {
                first_of_pipeline(RedisError::clone(error)).code() == Some("TRYAGAIN")
            }
            _ => false,
        }
    }

    /// Which server it is of, and for a login, whose: where it is about a server, and that is not said yet.
    #[must_use]
    pub(super) fn of_node(self, node: &Node) -> Self {
        match self {
            Self::Unavailable(error) => Self::Unavailable(error.located(&node.at())),
            Self::Timeout(after, at) if at.is_empty() => Self::Timeout(after, node.at()),
            Self::Refused(error) if error.is_of_login() => {
                Self::Refused(error.located(&format!("{}, {}", node.at(), node.login())))
            }
            other => other,
        }
    }

    pub(super) fn corrupt(
        key: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Corrupt { key: key.into(), source: source.into() }
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        let error = first_of_pipeline(error);
        match error.code() {
            Some("FENCED") => Self::Fenced,
            Some("CONFLICT") => Self::Conflict,
            // A server that is loading, full, failing over or read-only answers so; it may be right again in a moment.
            Some(
                "LOADING" | "OOM" | "READONLY" | "MISCONF" | "MASTERDOWN" | "TRYAGAIN" | "CLUSTERDOWN"
                | "MOVED" | "ASK" | "NOREPLICAS" | "BUSY",
            ) => Self::Unavailable(error.into()),
            // It has room again in a moment.
            Some("ERR") if super::node::has_no_room(&error) => Self::Unavailable(error.into()),
            Some(_) => Self::Refused(error.into()),
            None if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() => {
                Self::Unavailable(error.into())
            }
            None => match error.kind() {
                redis::ErrorKind::AuthenticationFailed | redis::ErrorKind::Server(_) => {
                    Self::Refused(error.into())
                }
                redis::ErrorKind::UnexpectedReturnType | redis::ErrorKind::Parse => {
                    Self::corrupt("reply", error)
                }
                _ => Self::Unavailable(error.into()),
            },
        }
    }
}

/// A pipeline's error has no code; the first of its commands' errors has.
pub(super) fn first_of_pipeline(error: RedisError) -> RedisError {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, first), ..]) => first.clone().into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> StoreError {
        let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes());
        let error = match value {
            Ok(value) => value.extract_error().expect_err("it is an error"),
            Err(error) => error,
        };
        StoreError::from(error)
    }

    #[test]
    fn what_a_server_answers_is_asked_again_or_not() {
        for (text, retry, passes) in [
            ("LOADING Redis is loading the dataset in memory", Retry::Backoff, true),
            ("OOM command not allowed when used memory > 'maxmemory'.", Retry::Backoff, true),
            ("READONLY You can't write against a read only replica.", Retry::Backoff, true),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Retry::Backoff, true),
            ("NOPERM User has no permissions", Retry::Never, true),
            ("WRONGPASS invalid username-password pair or user is disabled.", Retry::Never, true),
            ("WRONGTYPE Operation against a key", Retry::Never, true),
            ("FENCED", Retry::Never, false),
            ("CONFLICT", Retry::Never, false),
        ] {
            let error = answered(text);
            assert_eq!((error.retry(), error.may_pass()), (retry, passes), "{text}: {error:?}");
        }
        assert!(matches!(answered("FENCED"), StoreError::Fenced));
        assert!(matches!(answered("CONFLICT"), StoreError::Conflict));
    }

    #[test]
    fn what_is_of_the_keys_is_told_from_what_is_of_the_login() {
        for (text, is_of_keys) in [
            ("WRONGTYPE Operation against a key", true),
            ("TRYAGAIN Multiple keys request during rehashing of slot", true),
            ("NOPERM User has no permissions", false),
            ("NOAUTH Authentication required.", false),
            ("LOADING Redis is loading the dataset in memory", false),
        ] {
            assert_eq!(answered(text).is_of_its_keys(), is_of_keys, "{text}");
        }
        assert!(StoreError::corrupt("k", "odd").is_of_its_keys());
        assert!(!StoreError::Timeout(Duration::from_secs(1), String::new()).is_of_its_keys());
    }

    #[test]
    fn each_says_who_acts_and_what_lists_say() {
        for (error, fault, state) in [
            (StoreError::Fenced, Fault::Store, "damaged"),
            (StoreError::Unconfirmed { wanted: 1, got: 0 }, Fault::Store, "damaged"),
            (StoreError::NewerSchema { found: 9, known: 1 }, Fault::Operator, "newer"),
            (StoreError::NoKeyring, Fault::Bug, "damaged"),
            (StoreError::LacksRight("get".to_owned()), Fault::Operator, "damaged"),
            (StoreError::corrupt("k", "odd"), Fault::Bug, "damaged"),
        ] {
            assert_eq!((error.fault(), error.record_state()), (fault, state), "{error}");
        }
    }
}
