//! Everything that is not what was asked for. Each refusal has one body, whatever the request was, so that nothing can be
//! read from the difference.

use super::audit::AuditError;
use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{ALLOW, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use serde::Serialize;
use serde_json::json;
use shared::store::{FollowedGroup, StoreError};

/// Why a request isn't answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// No identity, an unknown one, or one that was revoked: nobody learns which.
    #[error("a bearer token or a client certificate of a frontend is needed")]
    Unauthorized,
    /// It doesn't exist, or is not this frontend's.
    #[error("there is no such certificate")]
    NotFound,
    /// A document of everything would be empty, and whoever reads it would drop what it has.
    #[error("no certificate is in the scope of this frontend")]
    Nothing,
    /// The methods that are answered.
    #[error("only {0} is answered here")]
    Method(&'static str),
    #[error("{0}")]
    Mistaken(String),
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body took too long to come")]
    TooSlow,
    #[error("this frontend asks too much at once")]
    TooMany,
    /// Nothing can be said of what came after the cursor.
    #[error("begin again without a cursor")]
    Resync {
        why: Resync,
        /// When, so that not all do at once.
        in_seconds: u64,
    },
    /// The store has not been reached since this program began.
    #[error("not ready yet, try again")]
    Starting,
    /// It can't be said what is new.
    #[error("the store does not answer, try again")]
    Away,
    #[error("the store does not answer, try again")]
    Store(#[source] StoreError),
    /// What is given out could not be written down.
    #[error("what is given out can't be written to the audit now: see the log of the certificates' server")]
    Unaudited(#[source] AuditError),
    /// A record that can't be read or a key that can't be opened.
    #[error("the record can't be read")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a cursor counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resync {
    /// The store had a failover, or was restored.
    Epoch,
    /// The frontend may see other things now.
    Scope,
    /// It is older than what is remembered of deletions.
    Compacted,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resync: Option<Resync>,
}

/// What is said of a head that HTTP itself refuses.
pub(crate) fn of_head(status: u16) -> String {
    let (error, message) = match status {
        408 => ("too-slow", "the head of the request took too long to come"),
        431 => ("too-large", "the head of the request is too large"),
        _ => ("bad-request", "the head of the request can't be understood"),
    };
    json!(Body { error, message: message.to_owned(), resync: None }).to_string()
}

impl Refusal {
    /// Where nothing is wanted of a group, or what is can't be read: that is never said to be not there.
    pub(crate) fn absent(group: &FollowedGroup) -> Self {
        match &group.damaged {
            Some(why) => Self::Damaged(why.clone().into()),
            None => Self::NotFound,
        }
    }

    pub(crate) fn response(&self) -> HttpResponse {
        let (status, error) = self.status();
        let mut response = HttpResponseBuilder::new(status);
        response.insert_header((CACHE_CONTROL, "no-store"));
        match self {
            Self::Unauthorized => response.insert_header((WWW_AUTHENTICATE, "Bearer")),
            Self::Method(methods) => response.insert_header((ALLOW, *methods)),
            Self::Starting | Self::Store(_) | Self::Away => response.insert_header((RETRY_AFTER, "1")),
            Self::TooMany | Self::Unaudited(_) => response.insert_header((RETRY_AFTER, "10")),
            Self::Resync { in_seconds, .. } => response.insert_header((RETRY_AFTER, in_seconds.to_string())),
            // What is left of the body is not read.
            Self::TooLarge(_) | Self::TooSlow => response.force_close(),
            Self::NotFound | Self::Nothing | Self::Mistaken(_) | Self::Damaged(_) => &mut response,
        };
        let resync = if let Self::Resync { why, .. } = self { Some(*why) } else { None };
        response.json(Body { error, message: self.to_string(), resync })
    }

    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::NotFound | Self::Nothing => (StatusCode::NOT_FOUND, "not-found"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
            Self::Mistaken(_) => (StatusCode::BAD_REQUEST, "bad-request"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow"),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too-many"),
            Self::Resync { .. } => (StatusCode::GONE, "resync"),
            Self::Starting | Self::Store(_) | Self::Away | Self::Unaudited(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            Self::Damaged(_) => (StatusCode::INTERNAL_SERVER_ERROR, "damaged"),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. } | StoreError::NewerSchema { .. } => Self::Damaged(error.into()),
            other => Self::Store(other),
        }
    }
}

impl From<AuditError> for Refusal {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Store(error) => error.into(),
            AuditError::Full(_) => Self::Unaudited(error),
            AuditError::Line(error) => Self::Damaged(error),
        }
    }
}
