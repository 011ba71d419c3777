//! A request as handlers see it: its body read within bounds, everything else parsed when it is asked for.

use super::{
    Api,
    refusal::{Code, Refusal},
    routes::Route,
    uploads::Upload,
};
use actix_web::{
    HttpRequest,
    http::{Method, header::CONTENT_TYPE},
    web::{Bytes, Payload, Query},
};
use futures_util::StreamExt;
use openssl::sha::Sha256;
use serde::de::DeserializeOwned;
use shared::digest::hex;

/// The largest body that is no file.
const MOST_BYTES: usize = 256 << 10;
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const LONGEST_KEY: usize = 255;

/// A request.
pub(super) struct Asked {
    pub(super) api: Api,
    request: HttpRequest,
    body: Body,
}

enum Body {
    Json(Bytes),
    /// On disk, however large it is; with its digest.
    File(Upload, [u8; 32]),
}

impl Asked {
    /// Of whoever has the token of this name.
    ///
    /// # Errors
    /// A body that is too large, that breaks off, or that isn't JSON by its type, or a file where the route takes one.
    pub(super) async fn read(
        api: Api,
        token: &str,
        route: &Route,
        request: HttpRequest,
        payload: Payload,
    ) -> Result<Self, Refusal> {
        if route.described.takes_file {
            if !matches!(type_of(&request).as_str(), "application/x-ndjson" | "application/toml") {
                let message = "the body must be application/x-ndjson or application/toml";
                return Err(Refusal::new(Code::NotAFile, message));
            }
            let body = to_disk(api.uploads.begin(token)?, payload).await?;
            return Ok(Self { api, request, body });
        }
        let too_large = || Refusal::new(Code::TooLarge, format!("the body has more than {MOST_BYTES} bytes"));
        let body = payload.to_bytes_limited(MOST_BYTES).await.map_err(|_| too_large())?;
        let body =
            body.map_err(|e| Refusal::new(Code::BadRequest, format!("the body can't be read: {e}")))?;
        if !body.is_empty() && type_of(&request) != "application/json" {
            return Err(Refusal::new(Code::NotJson, "the body must be application/json"));
        }
        Ok(Self { api, request, body: Body::Json(body) })
    }

    /// The file that was sent.
    ///
    /// # Errors
    /// The route takes none.
    pub(super) fn into_file(self) -> Result<(Api, Upload), Refusal> {
        match self.body {
            Body::File(file, _) => Ok((self.api, file)),
            Body::Json(_) => Err(Refusal::new(Code::NotAFile, "the body is no file")),
        }
    }

    fn json_body(&self) -> &[u8] {
        match &self.body {
            Body::Json(body) => body,
            Body::File(..) => &[],
        }
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
        serde_json::from_slice(self.json_body())
            .map_err(|e| Refusal::new(Code::BadRequest, format!("the body can't be read: {e}")))
    }

    /// The body, or the default where there is none.
    ///
    /// # Errors
    /// As [`Asked::json`].
    pub(super) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Refusal> {
        if self.json_body().is_empty() { Ok(T::default()) } else { self.json() }
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
        let mut digest = Sha256::new();
        let line = format!("{} {}\n", self.request.method(), self.request.uri());
        digest.update(line.as_bytes());
        match &self.body {
            Body::Json(body) => digest.update(body),
            Body::File(_, content) => digest.update(content),
        }
        hex(&digest.finish())
    }
}

/// Without its parameters.
fn type_of(request: &HttpRequest) -> String {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

async fn to_disk(mut file: Upload, mut payload: Payload) -> Result<Body, Refusal> {
    let mut digest = Sha256::new();
    while let Some(part) = payload.next().await {
        let part =
            part.map_err(|e| Refusal::new(Code::BadRequest, format!("the body can't be read: {e}")))?;
        digest.update(&part);
        file.append(&part)?;
    }
    Ok(Body::File(file, digest.finish()))
}
