//! An answer before it is bytes, so that it can be kept and given again.

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use serde::Serialize;
use shared::{digest::sha256_hex, store::KeptAnswer, text::to_document};

const REPLAYED: &str = "Idempotent-Replay";

/// A name for this state, as `ETag` and `If-Match` have it.
pub(super) fn etag_of(wanted: &impl Serialize) -> String {
    let text = serde_json::to_string(wanted).expect("answers are plain data");
    format!("\"{}\"", &sha256_hex(text.as_bytes())[..32])
}

/// What a request is answered with.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// JSON.
    pub(super) body: String,
    pub(super) location: Option<String>,
    /// Seconds.
    pub(super) retry_after: Option<u32>,
    pub(super) allow: Option<String>,
    /// Names this state of what is shown, for `If-Match`.
    pub(super) etag: Option<String>,
    pub(super) replayed: bool,
    /// Whether the same request can be answered otherwise a moment later: then it is not kept.
    pub(super) passing: bool,
}

impl Answer {
    pub(super) fn ok(document: &impl Serialize) -> Self {
        Self::new(StatusCode::OK, document)
    }

    pub(super) fn new(status: StatusCode, document: &impl Serialize) -> Self {
        Self::of_text(status, to_document(document).to_string())
    }

    pub(super) fn of_text(status: StatusCode, body: String) -> Self {
        Self {
            status,
            body,
            location: None,
            retry_after: None,
            allow: None,
            etag: None,
            replayed: false,
            passing: status.is_server_error(),
        }
    }

    #[must_use]
    pub(super) fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    /// With the name of the state of what can be changed.
    #[must_use]
    pub(super) fn tagged(mut self, wanted: &impl Serialize) -> Self {
        self.etag = Some(etag_of(wanted));
        self
    }

    /// What is kept of it under an idempotency key; `None` where it is better asked again.
    pub(super) fn to_keep(&self) -> Option<KeptAnswer> {
        (!self.passing).then(|| KeptAnswer {
            status: self.status.as_u16(),
            body: self.body.clone(),
            location: self.location.clone(),
        })
    }

    pub(super) fn of_kept(kept: KeptAnswer) -> Self {
        let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { location: kept.location, replayed: true, ..Self::of_text(status, kept.body) }
    }

    pub(super) fn response(self) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(self.status);
        response.insert_header((CONTENT_TYPE, "application/json"));
        response.insert_header((CACHE_CONTROL, "no-store"));
        response.insert_header(("X-Content-Type-Options", "nosniff"));
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(location) = self.location {
            response.insert_header((LOCATION, location));
        }
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        if let Some(allow) = self.allow {
            response.insert_header((ALLOW, allow));
        }
        if let Some(etag) = self.etag {
            response.insert_header((ETAG, etag));
        }
        if self.replayed {
            response.insert_header((REPLAYED, "true"));
        }
        response.body(self.body)
    }
}
