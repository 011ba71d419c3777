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
        header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH},
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
/// Header fields that are read, and that may stand once (RFC 9110 section 5.3).
const ONCE: [&str; 4] = ["authorization", "content-encoding", "content-type", "idempotency-key"];

/// A request.
pub(super) struct Asked {
    pub(super) api: Api,
    request: HttpRequest,
    preconditions: Preconditions,
    body: Body,
}

/// What the client demands of the state of what it changes (RFC 9110 section 13.1).
#[derive(Debug, Default)]
struct Preconditions {
    /// The entries of `If-Match`; absent: any state will do.
    states: Option<Vec<String>>,
    /// `If-None-Match: *`.
    only_creates: bool,
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
        check_once(request.headers())?;
        let preconditions = Preconditions::of(request.headers(), route)?;
        let kind = if route.described.takes_file { Code::NotAFile } else { Code::NotJson };
        check_encoding(&request, kind)?;
        if route.described.takes_file {
            if !matches!(type_of(&request).as_str(), "application/x-ndjson" | "application/toml") {
                let message = "the body must be application/x-ndjson or application/toml";
                return Err(Refusal::new(Code::NotAFile, message));
            }
            let body = to_disk(api.uploads.begin(token)?, payload).await?;
            return Ok(Self { api, request, preconditions, body });
        }
        let too_large = || Refusal::new(Code::TooLarge, format!("the body has more than {MOST_BYTES} bytes"));
        let body = payload.to_bytes_limited(MOST_BYTES).await.map_err(|_| too_large())?;
        let body =
            body.map_err(|e| Refusal::new(Code::BadRequest, format!("the body can't be read: {e}")))?;
        if !body.is_empty() && type_of(&request) != "application/json" {
            return Err(Refusal::new(Code::NotJson, "the body must be application/json"));
        }
        Ok(Self { api, request, preconditions, body: Body::Json(body) })
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

    /// Whether what is to be changed is still in the state that the client has seen, where it says so with `If-Match`; and
    /// whether it is not there, where it says so with `If-None-Match: *`.
    ///
    /// # Errors
    /// 412: it is not so.
    pub(super) fn check_match(&self, current: Option<&impl Serialize>) -> Result<(), Refusal> {
        self.preconditions.check(current.map(etag_of).as_deref())
    }

    /// Whether only what is not there yet is to be made.
    pub(super) fn only_creates(&self) -> bool {
        self.preconditions.only_creates
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

impl Preconditions {
    /// # Errors
    /// 400: one that can't be heeded is never passed over in silence.
    fn of(headers: &HeaderMap, route: &Route) -> Result<Self, Refusal> {
        // What is only looked at may be shown all the same.
        if !route.is_change() {
            return Ok(Self::default());
        }
        let refused = |message: &str| Err(Refusal::new(Code::BadRequest, message));
        let states = entries(headers, &IF_MATCH)?;
        if states.is_some() && !route.takes_if_match() {
            return refused("this route does not heed If-Match: what it does is not bound to a state");
        }
        if states.as_ref().is_some_and(|states| states.len() > 1 && states.iter().any(|one| one == "*")) {
            return refused("If-Match: either * or ETags");
        }
        let Some(absent) = entries(headers, &IF_NONE_MATCH)? else {
            return Ok(Self { states, only_creates: false });
        };
        if !route.takes_if_none_match() {
            return refused("this route does not heed If-None-Match: it makes nothing");
        }
        if absent != ["*"] {
            return refused("If-None-Match: only * is understood, which makes what is not there yet");
        }
        Ok(Self { states, only_creates: true })
    }

    fn check(&self, current: Option<&str>) -> Result<(), Refusal> {
        let refused = |message: &str| Err(Refusal::new(Code::PreconditionFailed, message));
        if let Some(states) = &self.states
            && !current.is_some_and(|current| states.iter().any(|one| one == "*" || one == current))
        {
            return refused("it is no longer in the state that If-Match names: nothing was written");
        }
        if self.only_creates && current.is_some() {
            return refused(
                "it is there already, and If-None-Match: * makes only what is not: nothing was written",
            );
        }
        Ok(())
    }
}

/// The entries of a field that is a list, of all its lines; `None` where it is absent.
fn entries(headers: &HeaderMap, field: &HeaderName) -> Result<Option<Vec<String>>, Refusal> {
    let mut all = Vec::new();
    for line in headers.get_all(field) {
        let line = line.to_str().map_err(|_| {
            Refusal::new(Code::BadRequest, format!("{field}: only printable characters of ASCII"))
        })?;
        all.extend(line.split(',').map(|one| one.trim().to_owned()));
    }
    Ok(headers.contains_key(field).then_some(all))
}

/// Which of two is meant nobody knows.
pub(super) fn check_once(headers: &HeaderMap) -> Result<(), Refusal> {
    match ONCE.iter().find(|field| headers.get_all(**field).count() > 1) {
        Some(field) => {
            Err(Refusal::new(Code::BadRequest, format!("the header field {field} stands more than once")))
        }
        None => Ok(()),
    }
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
        let put = route("PUT", "/tenants/{tenant}");
        let is_met = |header: &str, current: Option<&str>| {
            let request = TestRequest::put().insert_header((IF_MATCH, header)).to_http_request();
            Preconditions::of(request.headers(), put).unwrap().check(current).is_ok()
        };
        assert!(is_met(&one, Some(&one)) && is_met(&format!("{other}, {one}"), Some(&one)));
        assert!(is_met("*", Some(&one)) && !is_met("*", None));
        assert!(!is_met(&other, Some(&one)) && !is_met(&format!("W/{one}"), Some(&one)));
    }

    #[test]
    fn only_what_is_not_there_is_made_where_that_is_demanded() {
        let of = |route: &Route, lines: &[(&str, &str)]| {
            let mut request = TestRequest::put();
            for line in lines {
                request = request.append_header(*line);
            }
            Preconditions::of(request.to_http_request().headers(), route).map_err(|refused| refused.code)
        };
        let (none, some) = ("If-None-Match", "If-Match");
        let (put, patch) = (route("PUT", "/tenants/{tenant}"), route("PATCH", "/sites/{site}"));
        let (pause, show) = (route("POST", "/sites/{site}/pause"), route("GET", "/tenants/{tenant}"));
        let creates = of(put, &[(none, "*")]).unwrap();
        assert!(creates.only_creates && creates.check(None).is_ok());
        assert_eq!(creates.check(Some("\"a\"")).unwrap_err().code, Code::PreconditionFailed);
        for (route, lines) in [
            (put, &[(none, "\"a\"")][..]),
            (put, &[(none, "*, \"a\"")]),
            (put, &[(none, "*"), (none, "*")]),
            (put, &[(none, "")]),
            (put, &[(some, "*, \"a\"")]),
            (put, &[(some, "*"), (some, "\"a\"")]),
            (patch, &[(none, "*")]),
            (pause, &[(none, "*")]),
            (pause, &[(some, "\"a\"")]),
        ] {
            assert_eq!(of(route, lines).unwrap_err(), Code::BadRequest, "{} {lines:?}", route.path);
        }
        // Several lines are one list.
        assert!(of(put, &[(some, "\"b\""), (some, "\"a\"")]).unwrap().check(Some("\"a\"")).is_ok());
        assert!(!of(show, &[(none, "*")]).unwrap().only_creates, "looking changes nothing");
        assert!(of(route("POST", "/sites"), &[(none, "*")]).unwrap().only_creates);
    }

    #[test]
    fn a_field_that_may_stand_once_stands_once() {
        for field in ONCE {
            let once = TestRequest::put().append_header((field, "a"));
            assert!(check_once(once.to_http_request().headers()).is_ok());
            let twice = TestRequest::put().append_header((field, "a")).append_header((field, "a"));
            assert_eq!(check_once(twice.to_http_request().headers()).unwrap_err().code, Code::BadRequest);
        }
    }
}
