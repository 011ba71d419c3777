//! A request as handlers see it: its body read within bounds, everything else parsed when it is asked for.

use super::{
    Api,
    refusal::{Code, Refusal},
};
use actix_web::{
    HttpRequest,
    http::{Method, header::CONTENT_TYPE},
    web::{Bytes, Payload, Query},
};
use serde::de::DeserializeOwned;
use shared::digest::hex;

/// The largest body.
pub(super) const MOST_BYTES: usize = 256 << 10;
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const LONGEST_KEY: usize = 255;

/// A request.
pub(super) struct Asked {
    pub(super) api: Api,
    request: HttpRequest,
    body: Bytes,
}

impl Asked {
    /// # Errors
    /// A body that is too large, that breaks off, or that isn't JSON by its type.
    pub(super) async fn read(api: Api, request: HttpRequest, payload: Payload) -> Result<Self, Refusal> {
        let too_large = || Refusal::new(Code::TooLarge, format!("the body has more than {MOST_BYTES} bytes"));
        let body = payload.to_bytes_limited(MOST_BYTES).await.map_err(|_| too_large())?;
        let body =
            body.map_err(|e| Refusal::new(Code::BadRequest, format!("the body can't be read: {e}")))?;
        if !body.is_empty() && !is_json(&request) {
            return Err(Refusal::new(Code::NotJson, "the body must be application/json"));
        }
        Ok(Self { api, request, body })
    }

    /// A part of the path, such as `site`.
    pub(super) fn part(&self, name: &str) -> String {
        // Decoded: actix has done so where it is not ambiguous.
        self.request.match_info().query(name).to_owned()
    }

    /// # Errors
    /// 400: a parameter is unknown, or can't be read.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let parsed = Query::<T>::from_query(self.request.query_string());
        parsed
            .map(Query::into_inner)
            .map_err(|e| Refusal::new(Code::BadRequest, format!("the query can't be read: {e}")))
    }

    /// # Errors
    /// 400: it is no JSON, or has fields that are unknown, missing or of another type.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body)
            .map_err(|e| Refusal::new(Code::BadRequest, format!("the body can't be read: {e}")))
    }

    /// The body, or the default where there is none.
    ///
    /// # Errors
    /// As [`Asked::json`].
    pub(super) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Refusal> {
        if self.body.is_empty() { Ok(T::default()) } else { self.json() }
    }

    /// The key that a repetition is known by; questions have none.
    ///
    /// # Errors
    /// 400: it is longer than 255 characters, or not printable.
    pub(super) fn idempotency_key(&self) -> Result<Option<String>, Refusal> {
        let Some(header) = self.request.headers().get(IDEMPOTENCY_KEY) else { return Ok(None) };
        if self.request.method() == Method::GET {
            return Ok(None);
        }
        let key = header.to_str().ok().map(str::trim).unwrap_or_default();
        if !(1..=LONGEST_KEY).contains(&key.len()) {
            let message = format!("{IDEMPOTENCY_KEY}: 1 to {LONGEST_KEY} printable characters of ASCII");
            return Err(Refusal::new(Code::BadRequest, message));
        }
        Ok(Some(key.to_owned()))
    }

    /// Identifies what is asked: method, path, query and body.
    pub(super) fn digest(&self) -> String {
        let mut digest = openssl::sha::Sha256::new();
        let line = format!("{} {}\n", self.request.method(), self.request.uri());
        digest.update(line.as_bytes());
        digest.update(&self.body);
        hex(&digest.finish())
    }
}

fn is_json(request: &HttpRequest) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}
