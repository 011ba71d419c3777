//! A request as handlers see it: its body read within bounds, everything else parsed when it is asked for.

use super::{
    Api,
    answer::etag_of,
    refusal::{Code, Refusal},
    routes::Route,
    uploads::Upload,
};
use crate::sites::in_words;
use actix_web::{
    HttpRequest,
    http::{
        Method,
        header::{CONTENT_ENCODING, CONTENT_TYPE, IF_MATCH},
    },
    web::{Bytes, Payload, Query},
};
use futures_util::StreamExt;
use openssl::sha::Sha256;
use serde::{Serialize, de::DeserializeOwned};
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
        check_query(request.query_string(), route)?;
        let kind = if route.described.takes_file { Code::NotAFile } else { Code::NotJson };
        check_encoding(&request, kind)?;
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
        // The fields of an object can be read from a list, too, by their places, which nobody means.
        if self.json_body().trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(Refusal::new(Code::BadRequest, "the body must be a JSON object"));
        }
        serde_json::from_slice(self.json_body())
            .map_err(|e| Refusal::new(Code::BadRequest, format!("the body can't be read: {}", in_words(&e))))
    }

    /// The body, or the default where there is none.
    ///
    /// # Errors
    /// As [`Asked::json`].
    pub(super) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Refusal> {
        if self.json_body().is_empty() { Ok(T::default()) } else { self.json() }
    }

    /// Whether what is to be changed is still in the state that the client has seen, where it says so with `If-Match`.
    ///
    /// # Errors
    /// 412: it is not.
    pub(super) fn check_match(&self, current: Option<&impl Serialize>) -> Result<(), Refusal> {
        let mut wanted = self.request.headers().get_all(IF_MATCH).peekable();
        if wanted.peek().is_none() {
            return Ok(());
        }
        let current = current.map(etag_of);
        let listed = wanted.filter_map(|header| header.to_str().ok()).flat_map(|header| header.split(','));
        if matches(listed, current.as_deref()) {
            return Ok(());
        }
        let message = "it is no longer in the state that If-Match names: nothing was written";
        Err(Refusal::new(Code::PreconditionFailed, message))
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

fn matches<'a>(listed: impl Iterator<Item = &'a str>, current: Option<&str>) -> bool {
    let Some(current) = current else { return false };
    listed.map(str::trim).any(|one| one == "*" || one == current)
}

/// On every route, whether its handler reads the query or not: what is not understood would be done otherwise than meant.
fn check_query(query: &str, route: &Route) -> Result<(), Refusal> {
    let unreadable = |error| Refusal::new(Code::BadRequest, format!("the query can't be read: {error}"));
    let given = Query::<Vec<(String, String)>>::from_query(query).map_err(unreadable)?.into_inner();
    let known = route.described.query;
    let Some((unknown, _)) = given.iter().find(|(name, _)| !known.iter().any(|(known, _)| known == name))
    else {
        return Ok(());
    };
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let message = if names.is_empty() {
        format!("unknown parameter {unknown:?}: this route has none")
    } else {
        format!("unknown parameter {unknown:?}: this route has {}", names.join(", "))
    };
    Err(Refusal::new(Code::BadRequest, message))
}

/// Bodies are plain UTF-8.
fn check_encoding(request: &HttpRequest, code: Code) -> Result<(), Refusal> {
    let text = |header| {
        request.headers().get(header).map(|value| value.to_str().unwrap_or("?").to_ascii_lowercase())
    };
    if let Some(encoding) = text(CONTENT_ENCODING).filter(|encoding| encoding.trim() != "identity") {
        let message = format!("Content-Encoding {encoding:?} is not understood: send the body as it is");
        return Err(Refusal::new(code, message));
    }
    let kind = text(CONTENT_TYPE).unwrap_or_default();
    let charset = kind.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("charset="));
    match charset.map(|charset| charset.trim_matches('"')) {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(()),
        Some(other) => Err(Refusal::new(code, format!("charset {other:?} is not understood: send UTF-8"))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ROUTES;
    use actix_web::test::TestRequest;

    fn route(method: &str, path: &str) -> &'static Route {
        ROUTES.iter().find(|route| route.method == method && route.path == path).unwrap()
    }

    #[test]
    fn unknown_parameters_are_refused_on_every_route() {
        for route in ROUTES {
            assert!(check_query("nonsense=1", route).is_err(), "{} {}", route.method, route.path);
            assert!(check_query("", route).is_ok());
            for (known, _) in route.described.query {
                assert!(check_query(&format!("{known}=1"), route).is_ok(), "{known}");
            }
        }
        let refused = check_query("tga=eu", route("GET", "/tokens")).unwrap_err();
        assert_eq!(refused.code, Code::BadRequest);
    }

    #[test]
    fn encodings_that_are_not_understood_are_refused() {
        let check = |name: &str, value: &str| {
            let request = TestRequest::post().insert_header((name, value)).to_http_request();
            check_encoding(&request, Code::NotJson)
        };
        assert!(check("content-encoding", "identity").is_ok());
        assert_eq!(check("content-encoding", "gzip").unwrap_err().code, Code::NotJson);
        assert!(check("content-type", "application/json; charset=UTF-8").is_ok());
        assert_eq!(
            check("content-type", "application/json; charset=latin1").unwrap_err().code,
            Code::NotJson
        );
    }

    #[test]
    fn a_state_matches_itself_alone() {
        let (one, other) = (etag_of(&1), etag_of(&2));
        let is_met = |header: &str, current: Option<&str>| matches(header.split(','), current);
        assert!(is_met(&one, Some(&one)) && is_met(&format!("{other}, {one}"), Some(&one)));
        assert!(is_met("*", Some(&one)) && !is_met("*", None));
        assert!(!is_met(&other, Some(&one)) && !is_met(&format!("W/{one}"), Some(&one)));
    }
}
