//! One CA: its directory, its nonces, and the signed request that everything else is made of.

use super::{
    account_key::{AccountKey, KeyError},
    answer::Answer,
    directory::{Directory, are_on_one_server},
    jws::{self, Signatory},
    moments::Moment,
    nonce::{Nonce, NoncePool},
    pacing::{self, Pacer},
    problem::ProblemKind,
    reading::Wire,
    request_error::RequestError,
    transport::{Reply, RequestCounter, Send, Transport},
};
use openssl::x509::X509;
use serde::Serialize;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tracing::debug;

/// Refused nonces in a row that are answered with the nonce of the refusal (RFC 8555 section 6.5), before a last try
/// with a fresh one. A CA that refuses half of them, as test servers do, then fails one request in a million.
pub const MAX_REFUSED_NONCES: u32 = 20;
/// How long the answer to a new order may take: CAs have been seen to take most of a minute.
pub const NEW_ORDER_PATIENCE: Duration = Duration::from_secs(90);
/// No `Date` header was seen yet.
const NO_OFFSET: i64 = i64::MIN;

/// How a CA is reached.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    pub directory_url: String,
    /// Trusted beside the system's, for private CAs.
    pub trusted_roots: Vec<X509>,
    /// For one request, from connecting to the last byte.
    pub timeout: Duration,
    /// Absent where the CA's limits on requests are not known.
    pub pacer: Option<Arc<dyn Pacer>>,
}

/// A CA. Clones share connections, directory and nonces.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    counter: Option<RequestCounter>,
    /// Somebody waits for the answer.
    by_hand: bool,
}

#[derive(Debug)]
struct Inner {
    directory_url: String,
    transport: Transport,
    requests: RequestCounter,
    pacer: Option<Arc<dyn Pacer>>,
    /// And since when it is used.
    directory: Mutex<Option<(Arc<Directory>, Instant)>>,
    /// One fetches, the others wait for it.
    directory_fetch: tokio::sync::Mutex<()>,
    // A std Mutex: held for a push or a pop, never across an await.
    nonces: Mutex<NoncePool>,
    nonce_came: Notify,
    nonce_fetch: tokio::sync::Mutex<()>,
    clock_offset_seconds: AtomicI64,
}

impl Client {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// [`RequestError::Setup`] when TLS can't be set up with these roots.
    pub fn new(settings: ClientSettings) -> Result<Self, RequestError> {
        let inner = Inner {
            transport: Transport::new(&settings.trusted_roots, settings.timeout)?,
            directory_url: settings.directory_url,
            requests: RequestCounter::new(),
            pacer: settings.pacer,
            directory: Mutex::new(None),
            directory_fetch: tokio::sync::Mutex::new(()),
            nonces: Mutex::new(NoncePool::default()),
            nonce_came: Notify::new(),
            nonce_fetch: tokio::sync::Mutex::new(()),
            clock_offset_seconds: AtomicI64::new(NO_OFFSET),
        };
        Ok(Self { inner: Arc::new(inner), counter: None, by_hand: false })
    }

    pub fn directory_url(&self) -> &str {
        &self.inner.directory_url
    }

    /// The directory: kept from the first call on, or as [`Client::use_directory`] gave it.
    ///
    /// # Errors
    /// [`RequestError`] when it has to be fetched and can't be.
    pub async fn directory(&self) -> Result<Arc<Directory>, RequestError> {
        if let Some(known) = self.known_directory() {
            return Ok(known);
        }
        let _fetching = self.inner.directory_fetch.lock().await;
        if let Some(known) = self.known_directory() {
            return Ok(known);
        }
        let fetched = Arc::new(self.fetch_directory().await?);
        *held(&self.inner.directory) = Some((Arc::clone(&fetched), Instant::now()));
        Ok(fetched)
    }

    /// The directory as it is now; the one that is used stays the same.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn fetch_directory(&self) -> Result<Directory, RequestError> {
        Ok(self.fetch_object::<Directory>(&self.inner.directory_url).await?.value)
    }

    /// Since when the directory is used that is known; `None`: none is.
    pub fn directory_age(&self) -> Option<Duration> {
        held(&self.inner.directory).as_ref().map(|(_, since)| since.elapsed())
    }

    /// Uses a directory that was stored earlier: saves a request.
    pub fn use_directory(&self, directory: Directory) {
        *held(&self.inner.directory) = Some((Arc::new(directory), Instant::now()));
    }

    /// Uses the one that is known as if it had come now.
    pub fn keep_directory(&self) {
        if let Some((_, since)) = held(&self.inner.directory).as_mut() {
            *since = Instant::now();
        }
    }

    /// The right to fetch it anew: one at a time, the others go on with the one that is known.
    pub fn try_refresh(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.inner.directory_fetch.try_lock().ok()
    }

    /// HTTP requests sent to this CA, by all clones.
    pub fn requests(&self) -> u64 {
        self.inner.requests.count()
    }

    /// The same client, whose requests are counted by `counter` too.
    #[must_use]
    pub fn counted(&self, counter: RequestCounter) -> Self {
        Self { counter: Some(counter), ..self.clone() }
    }

    /// The same client, whose requests do not wait for the end of a pause that the CA has asked for.
    #[must_use]
    pub fn by_hand(&self) -> Self {
        Self { by_hand: true, ..self.clone() }
    }

    /// Seconds that the CA's clock was ahead of this machine's, by the last answer that had a `Date`.
    pub fn clock_offset_seconds(&self) -> Option<i64> {
        let offset = self.inner.clock_offset_seconds.load(Ordering::Relaxed);
        (offset != NO_OFFSET).then_some(offset)
    }

    /// The directory, where it is known already.
    pub fn known_directory(&self) -> Option<Arc<Directory>> {
        held(&self.inner.directory).as_ref().map(|(directory, _)| Arc::clone(directory))
    }

    /// An unsigned GET of an object: directory and renewal information only.
    pub(super) async fn fetch_object<T: Wire>(&self, url: &str) -> Result<Answer<T>, RequestError> {
        let reply = self.send(url, Send::Get).await?;
        let reply = self.keep_nonce(reply).success()?;
        Ok(Answer { value: reply.object()?, retry_after: reply.retry_after })
    }

    /// A signed POST of a JSON payload.
    pub(super) async fn post<T: Serialize>(
        &self,
        key: &AccountKey,
        signatory: Signatory<'_>,
        url: &str,
        payload: &T,
    ) -> Result<Reply, RequestError> {
        self.post_bytes(key, signatory, url, jws::json(payload), None).await
    }

    /// A signed POST, an empty payload being a POST-as-GET. Refused nonces are replaced; any other error is returned.
    pub(super) async fn post_bytes(
        &self,
        key: &AccountKey,
        signatory: Signatory<'_>,
        url: &str,
        payload: Vec<u8>,
        accept: Option<&'static str>,
    ) -> Result<Reply, RequestError> {
        let mut nonce = self.nonce().await?;
        let mut refused = 0;
        loop {
            let jws = signed(key, signatory, &nonce, url, &payload).await?;
            // A nonce whose request got no answer may have been used: it is not put back.
            let mut reply = self.send(url, Send::Post { jws, accept }).await?;
            let next = reply.nonce.take();
            let error = match reply.success() {
                Err(error)
                    if error.kind() == Some(ProblemKind::BadNonce) && refused <= MAX_REFUSED_NONCES =>
                {
                    error
                }
                outcome => {
                    self.put_nonce(next);
                    return outcome;
                }
            };
            refused += 1;
            debug!(url, refused, %error, "the CA refused a nonce");
            nonce = match next {
                Some(next) if refused <= MAX_REFUSED_NONCES => next,
                _ => self.fetch_nonce().await?,
            };
        }
    }

    /// Whether a URL is on a server of the CA: the directory's, or one that the directory names.
    pub(super) fn names_the_server_of(&self, url: &str) -> bool {
        are_on_one_server(&self.inner.directory_url, url)
            || self.known_directory().is_some_and(|directory| directory.names_the_server_of(url))
    }

    async fn send(&self, url: &str, what: Send) -> Result<Reply, RequestError> {
        let endpoint = pacing::endpoint_of(url, &self.inner.directory_url, self.known_directory().as_deref());
        let tries = match &self.inner.pacer {
            Some(pacer) => pacing::wait(&**pacer, endpoint, self.by_hand).await?,
            None => false,
        };
        self.inner.requests.add();
        if let Some(counter) = &self.counter {
            counter.add();
        }
        // An order that is asked for twice is made twice: it is waited for rather.
        let patience = (endpoint == "new-order").then_some(NEW_ORDER_PATIENCE);
        let reply = self.inner.transport.send(url, what, patience).await?;
        if let Some(offset) = reply.clock_offset_seconds {
            self.inner.clock_offset_seconds.store(offset, Ordering::Relaxed);
        }
        if let Some(said) = &reply.disbelieved {
            self.disbelieve(Moment::RetryAfter, said).await;
        }
        if let Some(pacer) = &self.inner.pacer {
            match (reply.status, reply.retry_after) {
                // What a single order names speaks for nobody else.
                (503, Some(pause)) if !pause.is_zero() && self.names_the_server_of(url) => {
                    pacer.pause(endpoint, pause).await;
                }
                (503, _) => {}
                _ if tries => pacer.resume(endpoint).await,
                _ => {}
            }
        }
        Ok(reply)
    }

    /// Tells that the CA has named a moment that is not believed.
    pub(super) async fn disbelieve(&self, kind: Moment, said: &str) {
        if let Some(pacer) = &self.inner.pacer {
            pacer.disbelieve(kind, said).await;
        }
    }

    fn keep_nonce(&self, mut reply: Reply) -> Reply {
        self.put_nonce(reply.nonce.take());
        reply
    }

    fn put_nonce(&self, nonce: Option<Nonce>) {
        if let Some(nonce) = nonce {
            held(&self.inner.nonces).put(nonce, Instant::now());
            self.inner.nonce_came.notify_one();
        }
    }

    /// Nonces that no request is waiting for: so many can be sent without asking for one first.
    pub(crate) fn spare_nonces(&self) -> usize {
        held(&self.inner.nonces).len()
    }

    fn take_nonce(&self) -> Option<Nonce> {
        held(&self.inner.nonces).take(Instant::now())
    }

    /// A nonce of the pool. When it is empty, one caller at a time fetches a new one (newNonce has the tightest limit
    /// of all), and those who wait take what comes back with other answers meanwhile.
    async fn nonce(&self) -> Result<Nonce, RequestError> {
        loop {
            if let Some(nonce) = self.take_nonce() {
                return Ok(nonce);
            }
            tokio::select! {
                () = self.inner.nonce_came.notified() => {}
                _fetching = self.inner.nonce_fetch.lock() => {
                    return match self.take_nonce() {
                        Some(nonce) => Ok(nonce),
                        None => self.fetch_nonce().await,
                    };
                }
            }
        }
    }

    /// RFC 8555 section 7.2.
    async fn fetch_nonce(&self) -> Result<Nonce, RequestError> {
        let directory = self.directory().await?;
        let mut reply = self.send(&directory.new_nonce, Send::Head).await?.success()?;
        let nonce = reply.nonce.take();
        nonce.ok_or_else(|| reply.malformed("no usable Replay-Nonce header".to_owned()))
    }
}

/// The JWS as JSON. Large RSA keys sign for milliseconds, beside the threads that serve others.
async fn signed(
    key: &AccountKey,
    signatory: Signatory<'_>,
    nonce: &Nonce,
    url: &str,
    payload: &[u8],
) -> Result<Vec<u8>, KeyError> {
    if !key.is_slow() {
        return Ok(jws::sign(key, signatory, Some(nonce.as_str()), url, payload)?.to_json());
    }
    let account = match signatory {
        Signatory::Jwk => None,
        Signatory::Account(account) => Some(account.to_owned()),
    };
    let (key, nonce, url, payload) = (key.clone(), nonce.clone(), url.to_owned(), payload.to_vec());
    let signing = tokio::task::spawn_blocking(move || {
        let signatory = account.as_deref().map_or(Signatory::Jwk, Signatory::Account);
        Ok(jws::sign(&key, signatory, Some(nonce.as_str()), &url, &payload)?.to_json())
    });
    signing.await.expect("signing does not panic, and is not aborted")
}

/// A panic elsewhere leaves a whole directory or a whole pool behind: neither is ever half written.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
