//! HTTPS to the CA (RFC 8555 section 6.1): verified, no redirects, bounded, every request counted.

use super::{
    link::Link,
    nonce::Nonce,
    problem::{Problem, printable},
    reading::{self, Wire},
    request_error::{Refusal, RequestError},
    retry_after,
};
use openssl::x509::X509;
use reqwest::{
    Certificate, Method, Request, Response, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use shared::domain::bounded;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tracing::debug;

/// No ACME object comes near it.
const LONGEST_BODY_BYTES: usize = 1024 * 1024;
const LONGEST_CONNECT: Duration = Duration::from_secs(10);
/// Shorter than common servers keep a connection: a request does not meet a closing one.
const IDLE_CONNECTION: Duration = Duration::from_secs(50);
const EXCERPT_CHARS: usize = 200;
const USER_AGENT: &str = concat!("signpost/", env!("CARGO_PKG_VERSION"), " (reqwest)");
const PROBLEM_DOCUMENT: &str = "application/problem+json";
/// Refusals that may as well be of a gateway, a firewall or a portal on the way.
const OF_THE_WAY: [u16; 7] = [401, 403, 404, 407, 410, 421, 451];
const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");

/// Counts HTTP requests. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct RequestCounter(Arc<AtomicU64>);

impl RequestCounter {
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests sent so far, refused and failed ones included.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The connections to one CA.
#[derive(Debug)]
pub(super) struct Transport {
    http: reqwest::Client,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Send {
    Get,
    Head,
    /// A JWS, as JSON. The server may be told which form of the object is wanted.
    Post {
        jws: Vec<u8>,
        accept: Option<&'static str>,
    },
}

/// An answer with its headers read.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) url: String,
    pub(super) status: u16,
    pub(super) nonce: Option<Nonce>,
    /// As far as it is believed.
    pub(super) retry_after: Option<Duration>,
    /// The header, where it is not.
    pub(super) disbelieved: Option<String>,
    /// Seconds that the server's clock is ahead of ours.
    pub(super) clock_offset_seconds: Option<i64>,
    pub(super) body: Vec<u8>,
    location: Option<String>,
    links: Vec<Link>,
    /// Whether it came with a nonce: what stands before a CA, or in its place, gives none.
    had_nonce: bool,
    /// The `Content-Type`, without its parameters.
    media_type: String,
}

impl Transport {
    pub(super) fn new(trusted_roots: &[X509], timeout: Duration) -> Result<Self, RequestError> {
        let mut roots = Vec::with_capacity(trusted_roots.len());
        for root in trusted_roots {
            let der = root.to_der().expect("a certificate that was parsed can be encoded");
            roots.push(Certificate::from_der(&der).map_err(RequestError::Setup)?);
        }
        let english = (header::ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
        let http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(HeaderMap::from_iter([english]))
            .https_only(true)
            .redirect(Policy::none())
            .referer(false)
            .http1_only()
            .no_gzip()
            .tcp_nodelay(true)
            .timeout(timeout)
            .connect_timeout(timeout.min(LONGEST_CONNECT))
            .pool_idle_timeout(IDLE_CONNECTION)
            .tls_certs_merge(roots)
            .build()
            .map_err(RequestError::Setup)?;
        Ok(Self { http })
    }

    /// Sends one request. An answer with an error status is an answer; see [`Reply::success`].
    ///
    /// `patience` is how long the answer may take, where that is longer than usual.
    pub(super) async fn send(
        &self,
        url: &str,
        what: Send,
        patience: Option<Duration>,
    ) -> Result<Reply, RequestError> {
        let failed = |source: reqwest::Error| RequestError::Transport {
            url: url.to_owned(),
            source: source.without_url(),
        };
        let parsed = Url::parse(url).map_err(|_| RequestError::Malformed {
            url: printable(url),
            what: "something that is no URL".to_owned(),
        })?;
        let method = match &what {
            Send::Get => Method::GET,
            Send::Head => Method::HEAD,
            Send::Post { .. } => Method::POST,
        };
        let started = Instant::now();
        let mut request = Request::new(method.clone(), parsed);
        *request.timeout_mut() = patience;
        if let Send::Post { jws, accept } = what {
            // Exactly this: Boulder compares the whole value (RFC 8555 section 6.2).
            let jose = HeaderValue::from_static("application/jose+json");
            request.headers_mut().insert(header::CONTENT_TYPE, jose);
            if let Some(accept) = accept {
                request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            *request.body_mut() = Some(jws.into());
        }
        let mut response = self.http.execute(request).await.map_err(failed)?;
        let mut reply = Reply::head(url, &response, SystemTime::now());
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if reply.body.len() + piece.len() > LONGEST_BODY_BYTES {
                return Err(RequestError::TooLong { url: url.to_owned(), limit_bytes: LONGEST_BODY_BYTES });
            }
            reply.body.extend_from_slice(&piece);
        }
        debug!(%method, url, status = reply.status, duration_ms = started.elapsed().as_millis() as u64, "CA answered");
        Ok(reply)
    }
}

impl Reply {
    fn head(url: &str, response: &Response, now: SystemTime) -> Self {
        let headers = response.headers();
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let date = text(header::DATE).and_then(|value| httpdate::parse_http_date(value).ok());
        let asked = text(header::RETRY_AFTER);
        let believed = asked.and_then(|value| retry_after::parse(value, date, now));
        let links = headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
        Self {
            url: url.to_owned(),
            status: response.status().as_u16(),
            nonce: text(REPLAY_NONCE).and_then(Nonce::parse),
            retry_after: believed.map(|believed| believed.value),
            disbelieved: asked.filter(|_| believed.is_some_and(|it| it.is_replaced)).map(printable),
            clock_offset_seconds: date.map(|date| seconds(date) - seconds(now)),
            body: Vec::new(),
            location: text(header::LOCATION)
                .map(|target| resolve(url, target))
                .filter(|location| location.len() <= reading::LONGEST_URL),
            links: links.flat_map(Link::parse).collect(),
            had_nonce: text(REPLAY_NONCE).and_then(Nonce::parse).is_some(),
            media_type: media_type(text(header::CONTENT_TYPE).unwrap_or_default()),
        }
    }

    /// The answer, if it was a success, else the refusal in it.
    pub(super) fn success(self) -> Result<Self, RequestError> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(self.refused()) }
    }

    /// The answer, where it must be the CA's own although it need not have a body: each success that a CA answers a POST with has a
    /// nonce (RFC 8555 section 6.5).
    pub(super) fn vouched_for(self) -> Result<Self, RequestError> {
        let what = || "a success that is none of the CA's: it has no Replay-Nonce header".to_owned();
        if self.had_nonce { Ok(self) } else { Err(self.malformed(what())) }
    }

    /// The object in the body.
    pub(super) fn object<T: Wire>(&self) -> Result<T, RequestError> {
        reading::object(&self.body).map_err(|error| {
            // It may repeat what it could not read.
            let error = bounded(&printable(&error.to_string()), EXCERPT_CHARS);
            self.malformed(format!("an object that can't be read ({error})"))
        })
    }

    /// The URL of the object that was made.
    pub(super) fn location(&self) -> Result<&str, RequestError> {
        self.location.as_deref().ok_or_else(|| self.malformed("no Location header".to_owned()))
    }

    /// Targets of all links with this relation.
    pub(super) fn links(&self, relation: &str) -> impl Iterator<Item = String> {
        self.links.iter().filter(move |link| link.is(relation)).map(|link| resolve(&self.url, &link.target))
    }

    pub(super) fn malformed(&self, what: String) -> RequestError {
        RequestError::Malformed { url: self.url.clone(), what: printable(&what) }
    }

    fn refused(self) -> RequestError {
        let link = |relation| self.links(relation).next();
        let problem = Problem::parse(&self.body);
        if let Some(problem) = problem.filter(|problem| self.is_of_the_ca(problem)) {
            return RequestError::Problem(Box::new(Refusal {
                status: self.status,
                problem,
                retry_after: self.retry_after,
                help: link("help"),
                terms_of_service: link("terms-of-service"),
                location: self.location,
            }));
        }
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(4 * EXCERPT_CHARS)]);
        RequestError::Body {
            url: self.url,
            status: self.status,
            excerpt: text.chars().take(EXCERPT_CHARS).collect(),
            retry_after: self.retry_after,
            from_ca: self.had_nonce,
        }
    }

    /// Whether a document is the CA's own word. Gateways and portals answer in JSON, too, and with a detail: where it neither
    /// says of itself that it is a problem document, nor names a type of ACME, nor came with a nonce, it is believed of
    /// what only a CA would say.
    fn is_of_the_ca(&self, problem: &Problem) -> bool {
        self.had_nonce
            || problem.is_of_acme()
            || self.media_type == PROBLEM_DOCUMENT
            || !OF_THE_WAY.contains(&self.status) && !(300..400).contains(&self.status)
    }
}

fn media_type(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// An absolute URL is used exactly as it was given: it goes into signatures (RFC 8555 section 6.4).
fn resolve(base: &str, target: &str) -> String {
    if target.contains("://") {
        return target.to_owned();
    }
    Url::parse(base).and_then(|base| base.join(target)).map_or_else(|_| target.to_owned(), String::from)
}

/// Where a member of an object leads that is a URL; `None` where it is of no use. RFC 8555 wants absolute ones, and some servers send paths.
pub(super) fn reachable(base: &str, target: &str) -> Option<String> {
    let url = resolve(base, target);
    is_reachable(&url).then_some(url)
}

/// Whether a request can be sent to it.
pub fn is_reachable(url: &str) -> bool {
    url.len() <= reading::LONGEST_URL
        && Url::parse(url).is_ok_and(|url| url.scheme() == "https" && url.host_str().is_some())
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            url: "https://ca.example/acme/order/1".to_owned(),
            status,
            nonce: None,
            retry_after: Some(Duration::from_secs(9)),
            disbelieved: None,
            clock_offset_seconds: None,
            body: body.as_bytes().to_vec(),
            location: Some("https://ca.example/acct/9".to_owned()),
            links: Link::parse("</docs>;rel=help, <https://ca.example/tos>;rel=\"terms-of-service\""),
            had_nonce: false,
            media_type: String::new(),
        }
    }

    #[test]
    fn absolute_urls_are_kept_byte_for_byte() {
        let base = "https://ca.example/acme/order/1";
        assert_eq!(resolve(base, "https://CA.example:443/a/../b"), "https://CA.example:443/a/../b");
        assert_eq!(resolve(base, "/cert/2"), "https://ca.example/cert/2");
        assert_eq!(resolve(base, "2"), "https://ca.example/acme/order/2");
        assert_eq!(reachable(base, "/f/2").as_deref(), Some("https://ca.example/f/2"));
        for useless in ["http://ca.example/f/2", "ftp://ca.example/f", "https://", "urn:a:b://c"] {
            assert_eq!(reachable(base, useless), None, "{useless}");
        }
    }

    #[test]
    fn an_error_answer_keeps_what_its_headers_said() {
        let body = r#"{"type":"urn:ietf:params:acme:error:userActionRequired","detail":"new terms","instance":"https://ca.example/agree"}"#;
        let error = reply(403, body).success().unwrap_err();
        let refusal = error.refusal().unwrap();
        assert_eq!(refusal.help.as_deref(), Some("https://ca.example/docs"));
        assert_eq!(refusal.terms_of_service.as_deref(), Some("https://ca.example/tos"));
        assert_eq!(refusal.problem.instance.as_deref(), Some("https://ca.example/agree"));
        assert_eq!(refusal.location.as_deref(), Some("https://ca.example/acct/9"));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
    }

    #[test]
    fn an_error_without_a_document_keeps_status_and_first_bytes() {
        let page = "é".repeat(1000);
        let RequestError::Body { status, excerpt, retry_after, .. } =
            reply(502, &page).success().unwrap_err()
        else {
            panic!("a page is no problem document")
        };
        assert_eq!((status, retry_after), (502, Some(Duration::from_secs(9))));
        assert_eq!(excerpt, "é".repeat(EXCERPT_CHARS));
        assert!(matches!(reply(302, "").success(), Err(RequestError::Body { status: 302, .. })));
    }

    /// Who is taken for the CA: a page is nobody, and JSON may be anybody's.
    #[test]
    fn what_stands_before_a_ca_is_not_taken_for_it() {
        let acme = r#"{"type":"urn:ietf:params:acme:error:malformed","detail":"No such order"}"#;
        let sloppy = r#"{"detail":"Not Found"}"#;
        let page = "<html><h1>Sign in</h1></html>";
        // Status, body, media type, nonce; whether it is a refusal, and whether the object is gone.
        for (status, body, media, had_nonce, is_refusal, is_gone) in [
            (404, acme, "application/problem+json", true, true, true),
            (404, acme, "text/plain", false, true, true),
            (410, sloppy, "application/problem+json", false, true, true),
            (404, sloppy, "application/json", true, true, true),
            (404, sloppy, "application/json", false, false, false),
            (403, sloppy, "application/json", false, false, false),
            (
                401,
                r#"{"type":"about:blank","detail":"who are you?"}"#,
                "application/json",
                false,
                false,
                false,
            ),
            (302, sloppy, "application/json", false, false, false),
            (400, sloppy, "application/json", false, true, false),
            (404, page, "text/html", false, false, false),
            (403, page, "text/html", false, false, false),
            (404, "", "", false, false, false),
            // As Pebble says it.
            (404, "", "", true, false, true),
            (410, "gone", "text/plain", true, false, true),
        ] {
            let reply = Reply { had_nonce, media_type: media_type(media), ..reply(status, body) };
            let error = reply.success().unwrap_err();
            let what = format!("{status} {media} {body}, nonce: {had_nonce}");
            assert_eq!((error.refusal().is_some(), error.is_gone()), (is_refusal, is_gone), "{what}");
            assert!(is_refusal || !error.is_final(), "{what}");
        }
        assert_eq!(media_type("Application/Problem+JSON; charset=utf-8"), PROBLEM_DOCUMENT);
    }

    #[test]
    fn a_success_that_is_no_object_is_malformed() {
        let error = reply(200, "<html>").object::<crate::acme::Directory>().unwrap_err();
        assert!(matches!(error, RequestError::Malformed { .. }), "{error}");
        let lost = Reply { location: None, ..reply(201, "{}") };
        assert!(matches!(lost.location(), Err(RequestError::Malformed { .. })));
        // Nobody else's page revokes a certificate, or changes a key.
        let page = reply(200, "<html>maintenance</html>").success().unwrap();
        assert!(page.vouched_for().unwrap_err().may_have_acted());
        assert!(Reply { had_nonce: true, ..reply(200, "") }.vouched_for().is_ok());
    }
}
