//! Everything that is not what was asked for. Each refusal has one body, whatever the request was, so that nothing can be
//! read from the difference.

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{ALLOW, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use serde::Serialize;
use shared::store::StoreError;

/// Why a request isn't answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// No identity, an unknown one, or one that was revoked: nobody learns which.
    #[error("a bearer token or a client certificate of a frontend is needed")]
    Unauthorized,
    /// It doesn't exist, or is not this frontend's.
    #[error("there is no such certificate")]
    NotFound,
    #[error("only GET and HEAD are answered")]
    Method,
    #[error("{0}")]
    Mistaken(&'static str),
    /// The store has not been reached since this program began.
    #[error("not ready yet, try again")]
    Starting,
    #[error("the store does not answer, try again")]
    Store(#[source] StoreError),
    /// A record that can't be read or a key that can't be opened.
    #[error("the record can't be read")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Refusal {
    pub(crate) fn response(&self) -> HttpResponse {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
            message: String,
        }
        let (status, error) = self.status();
        let mut response = HttpResponseBuilder::new(status);
        response.insert_header((CACHE_CONTROL, "no-store"));
        match self {
            Self::Unauthorized => response.insert_header((WWW_AUTHENTICATE, "Bearer")),
            Self::Method => response.insert_header((ALLOW, "GET, HEAD")),
            Self::Starting | Self::Store(_) => response.insert_header((RETRY_AFTER, "1")),
            Self::NotFound | Self::Mistaken(_) | Self::Damaged(_) => &mut response,
        };
        response.json(Body { error, message: self.to_string() })
    }

    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
            Self::Mistaken(_) => (StatusCode::BAD_REQUEST, "bad-request"),
            Self::Starting | Self::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
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
