//! The certificate server's HTTP interface, as an agent uses it: changes, bundles, reports.

use crate::{
    config::{AgentConfig, Credentials},
    enrolment,
    wire::{Changes, ItemId, Line, WireError, parse_bundles},
};
use jiff::Timestamp;
use openssl::pkey::PKey;
use reqwest::{Certificate, Identity, RequestBuilder, Response, StatusCode, header, redirect};
use shared::domain::FrontendReport;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use url::Url;
use zeroize::Zeroizing;

/// Items in one answer.
const PAGE_ITEMS: usize = 500;
const PAGE_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// A certificate with its chain and key is some kilobytes.
const BUNDLES_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// How long an answer may take beyond what was asked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks the certificate server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: Url,
    token: Option<Arc<Zeroizing<String>>>,
}

/// The client cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{path} can't be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0} holds no usable token")]
    Token(PathBuf),
    #[error("{0} holds no usable certificate or key")]
    Tls(PathBuf),
    #[error("the HTTPS client can't be set up")]
    Http(#[source] reqwest::Error),
}

/// The server did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(
        "the certificate server refuses this frontend ({0}): its identity is unknown, revoked or out of scope"
    )]
    Refused(StatusCode),
    #[error("the certificate server answered {status}")]
    Status { status: StatusCode, retry_after: Option<Duration> },
    #[error("the certificate server can't be reached, or broke off")]
    Transport(#[source] reqwest::Error),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the certificate server has to be asked for everything again ({why})")]
    Resync {
        why: String,
        /// When: all frontends may have to.
        after: Duration,
    },
}

impl FetchError {
    /// How long the server wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Resync { after, .. } => Some(*after),
            _ => None,
        }
    }
}

impl Client {
    /// # Errors
    /// [`ClientError`] when a file of the configuration cannot be used.
    pub(crate) fn new(config: &AgentConfig, credentials: &Credentials) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("signpost-frontend-agent/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10));
        if let Some(path) = &config.ca_file {
            let roots =
                Certificate::from_pem_bundle(&read(path)?).map_err(|_| ClientError::Tls(path.clone()))?;
            if roots.is_empty() {
                return Err(ClientError::Tls(path.clone()));
            }
            builder = builder.tls_certs_only(roots);
        }
        let mut token = None;
        match credentials {
            Credentials::Token(path) => {
                let text = Zeroizing::new(String::from_utf8_lossy(&read(path)?).trim().to_owned());
                if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(ClientError::Token(path.clone()));
                }
                token = Some(Arc::new(text));
            }
            Credentials::Certificate { certificate_file, key_file } => {
                builder = builder.identity(identity(certificate_file, key_file)?);
            }
            Credentials::Enrolment { .. } => {
                let file = enrolment::file(&config.store.directory);
                builder = builder.identity(identity(&file, &file)?);
            }
        }
        let http = builder.build().map_err(ClientError::Http)?;
        Ok(Self { http, server: config.server.clone(), token })
    }

    /// What has changed since a cursor, or everything there is, page by page; where that is nothing, once there is something,
    /// or `wait` is over.
    ///
    /// # Errors
    /// [`FetchError::Resync`]: this cursor counts no more.
    pub(crate) async fn changes(&self, cursor: Option<&str>, wait: Duration) -> Result<Changes, FetchError> {
        let mut url = self.url("/v1/changes");
        let mut query = url.query_pairs_mut();
        query.append_pair("limit", &PAGE_ITEMS.to_string());
        if let Some(cursor) = cursor {
            query.append_pair("cursor", cursor);
        }
        if !wait.is_zero() {
            query.append_pair("wait", &wait.as_secs().to_string());
        }
        drop(query);
        let response = self.send(self.http.get(url).timeout(wait + PATIENCE)).await?;
        match response.status() {
            StatusCode::OK => {
                let date = date(&response);
                let changes = Changes::parse(&read_body(response, PAGE_LIMIT_BYTES).await?)?;
                Ok(Changes { date, ..changes })
            }
            StatusCode::GONE => {
                #[derive(serde::Deserialize)]
                struct Why {
                    resync: String,
                }
                let after = retry_after(&response).unwrap_or_default();
                let body = read_body(response, PAGE_LIMIT_BYTES).await?;
                let why = serde_json::from_slice(&body)
                    .map_or_else(|_| "unknown".to_owned(), |why: Why| why.resync);
                Err(FetchError::Resync { why, after })
            }
            _ => Err(failure(&response)),
        }
    }

    /// Certificates with their keys, a line for each id.
    ///
    /// # Errors
    /// [`FetchError`]: part of an answer is none.
    pub(crate) async fn bundles(&self, ids: &[ItemId]) -> Result<Vec<Line>, FetchError> {
        let body = serde_json::json!({ "ids": ids }).to_string();
        let request = self.http.post(self.url("/v1/bundles")).timeout(2 * PATIENCE);
        let response = self.send(request.header(header::CONTENT_TYPE, "application/json").body(body)).await?;
        if response.status() != StatusCode::OK {
            return Err(failure(&response));
        }
        let body = Zeroizing::new(read_body(response, BUNDLES_LIMIT_BYTES).await?);
        Ok(parse_bundles(&body, ids)?)
    }

    /// Tells the centre how this frontend is.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(crate) async fn report(&self, report: &FrontendReport) -> Result<(), FetchError> {
        let body = serde_json::to_vec(report).map_err(WireError::from)?;
        let request = self.http.post(self.url("/v1/frontends/self/status")).timeout(PATIENCE);
        let response = self.send(request.header(header::CONTENT_TYPE, "application/json").body(body)).await?;
        if response.status().is_success() { Ok(()) } else { Err(failure(&response)) }
    }

    /// Tells the centre of names that visitors came with.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(crate) async fn sight(&self, names: &[String]) -> Result<Vec<String>, FetchError> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Answer {
            verdicts: BTreeMap<String, String>,
        }
        let body = serde_json::json!({ "names": names }).to_string();
        let request = self.http.post(self.url("/v1/sightings")).timeout(PATIENCE);
        let response = self.send(request.header(header::CONTENT_TYPE, "application/json").body(body)).await?;
        if !response.status().is_success() {
            return Err(failure(&response));
        }
        let body = read_body(response, PAGE_LIMIT_BYTES).await?;
        // One that says something else has taken them all the same.
        let Answer { verdicts } = serde_json::from_slice(&body).unwrap_or_default();
        Ok(verdicts.into_iter().filter(|(_, verdict)| verdict == "full").map(|(name, _)| name).collect())
    }

    /// A client certificate, with its chain, for the key that has signed the request (PKCS #10, PEM).
    ///
    /// # Errors
    /// [`FetchError`].
    pub(crate) async fn certificate_for(&self, request: Vec<u8>) -> Result<String, FetchError> {
        #[derive(serde::Deserialize)]
        struct Issued {
            certificate_pem: String,
        }
        let post = self.http.post(self.url("/v1/frontends/self/certificate")).timeout(PATIENCE);
        let response =
            self.send(post.header(header::CONTENT_TYPE, "application/x-pem-file").body(request)).await?;
        if response.status() != StatusCode::OK {
            return Err(failure(&response));
        }
        let body = read_body(response, PAGE_LIMIT_BYTES).await?;
        let issued: Issued = serde_json::from_slice(&body).map_err(WireError::from)?;
        Ok(issued.certificate_pem)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.server.clone();
        url.set_path(path);
        url
    }

    async fn send(&self, mut request: RequestBuilder) -> Result<Response, FetchError> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.as_str());
        }
        request.send().await.map_err(transport)
    }
}

fn identity(certificate_file: &Path, key_file: &Path) -> Result<Identity, ClientError> {
    // reqwest takes PKCS#8 only; keys come in every form that OpenSSL writes.
    let key = PKey::private_key_from_pem(&Zeroizing::new(read(key_file)?))
        .and_then(|key| key.private_key_to_pem_pkcs8())
        .map_err(|_| ClientError::Tls(key_file.to_owned()))?;
    Identity::from_pkcs8_pem(&read(certificate_file)?, &Zeroizing::new(key))
        .map_err(|_| ClientError::Tls(certificate_file.to_owned()))
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(path).map_err(|source| ClientError::Unreadable { path: path.to_owned(), source })
}

fn transport(error: reqwest::Error) -> FetchError {
    FetchError::Transport(error.without_url())
}

fn failure(response: &Response) -> FetchError {
    let status = response.status();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return FetchError::Refused(status);
    }
    FetchError::Status { status, retry_after: retry_after(response) }
}

/// What the server's clock says (RFC 9110 section 6.6.1).
fn date(response: &Response) -> Option<Timestamp> {
    let date = httpdate::parse_http_date(response.headers().get(header::DATE)?.to_str().ok()?).ok()?;
    Timestamp::try_from(date).ok()
}

/// Seconds, or a date (RFC 9110 section 10.2.3); at most an hour.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?;
    parse_retry_after(value.to_str().ok()?)
}

fn parse_retry_after(text: &str) -> Option<Duration> {
    let pause = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()?,
    };
    Some(pause.min(Duration::from_secs(3600)))
}

async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > limit {
            return Err(FetchError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
