//! The certificate server's HTTP interface: the paged listing, and files.

use crate::{
    config::{AgentConfig, Credentials},
    listing::{BadItem, Item, ListingError, Page},
};
use openssl::pkey::PKey;
use reqwest::{Certificate, Identity, Response, StatusCode, header, redirect};
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use url::Url;
use zeroize::Zeroizing;

/// Items on one page.
const PAGE_ITEMS: usize = 500;
/// More pages are no listing but a server that goes round in circles.
const MOST_PAGES: usize = 10_000;
const PAGE_LIMIT_BYTES: usize = 16 * 1024 * 1024;
const FILE_LIMIT_BYTES: usize = 1024 * 1024;

/// Asks the certificate server. Remembers pages by their ETag for as long as it lives.
pub(crate) struct Client {
    files: FileClient,
    pages: HashMap<String, (String, Page)>,
}

/// The part that several tasks share.
#[derive(Clone)]
pub(crate) struct FileClient {
    http: reqwest::Client,
    server: Url,
    token: Option<Arc<Zeroizing<String>>>,
}

/// The whole listing, each page complete.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) items: Vec<Item>,
    pub(crate) bad: Vec<BadItem>,
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
    Listing(#[from] ListingError),
    #[error("the listing's pages go round in circles")]
    Circle,
    #[error("the listing links to {0:?}, which is not on the certificate server")]
    ForeignLink(String),
}

impl FetchError {
    /// How long the server wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl Client {
    /// # Errors
    /// [`ClientError`] when a file of the configuration cannot be used.
    pub(crate) fn new(config: &AgentConfig) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("signpost-frontend-agent/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .timeout(Duration::from_secs(60));
        if let Some(path) = &config.ca_file {
            let roots =
                Certificate::from_pem_bundle(&read(path)?).map_err(|_| ClientError::Tls(path.clone()))?;
            if roots.is_empty() {
                return Err(ClientError::Tls(path.clone()));
            }
            builder = builder.tls_certs_only(roots);
        }
        let mut token = None;
        match &config.credentials {
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
        }
        let http = builder.build().map_err(ClientError::Http)?;
        Ok(Self { files: FileClient { http, server: config.server.clone(), token }, pages: HashMap::new() })
    }

    /// Every page, or an error: half a listing is none.
    pub(crate) async fn list(&mut self) -> Result<Listing, FetchError> {
        let mut listing = Listing::default();
        let mut after: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let page = self.page(after.as_deref()).await?;
            listing.items.extend(page.items);
            listing.bad.extend(page.bad);
            match page.next {
                None => return Ok(listing),
                // The cursor is an identifier, and identifiers only go up.
                Some(next) if after.as_ref().is_some_and(|after| next <= *after) => {
                    return Err(FetchError::Circle);
                }
                Some(next) => after = Some(next),
            }
        }
        Err(FetchError::Circle)
    }

    pub(crate) fn files(&self) -> &FileClient {
        &self.files
    }

    async fn page(&mut self, after: Option<&str>) -> Result<Page, FetchError> {
        let mut url =
            self.files.server.join("/v1/certificates").map_err(|_| FetchError::ForeignLink(String::new()))?;
        url.query_pairs_mut().append_pair("limit", &PAGE_ITEMS.to_string());
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        let key = after.unwrap_or_default().to_owned();
        let known = self.pages.get(&key);
        let response = self.files.get(url, known.map(|(etag, _)| etag.as_str())).await?;
        if response.status() == StatusCode::NOT_MODIFIED
            && let Some((_, page)) = known
        {
            return Ok(page.clone());
        }
        if response.status() != StatusCode::OK {
            return Err(failure(&response));
        }
        let etag =
            response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let page = Page::parse(&read_body(response, PAGE_LIMIT_BYTES).await?)?;
        match etag {
            Some(etag) => self.pages.insert(key, (etag, page.clone())),
            None => self.pages.remove(&key),
        };
        Ok(page)
    }
}

impl FileClient {
    /// One file, by a link of the listing.
    pub(crate) async fn file(&self, link: &str) -> Result<Zeroizing<Vec<u8>>, FetchError> {
        let foreign = || FetchError::ForeignLink(link.to_owned());
        let url = self.server.join(link).map_err(|_| foreign())?;
        // The credentials go along: to nobody else.
        if url.origin() != self.server.origin() || !url.path().starts_with("/v1/") {
            return Err(foreign());
        }
        let response = self.get(url, None).await?;
        if response.status() != StatusCode::OK {
            return Err(failure(&response));
        }
        Ok(Zeroizing::new(read_body(response, FILE_LIMIT_BYTES).await?))
    }

    async fn get(&self, url: Url, etag: Option<&str>) -> Result<Response, FetchError> {
        let mut request = self.http.get(url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.as_str());
        }
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
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
    let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    FetchError::Status { status, retry_after: retry_after.and_then(parse_retry_after) }
}

/// Seconds, or a date (RFC 9110 section 10.2.3); at most an hour.
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
