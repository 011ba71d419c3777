//! An HTTPS proxy in front of Pebble: what a test sees of the CA, and where it makes the CA misbehave.
//!
//! It is there for six reasons:
//! - **the gate**: Pebble deadlocks when `newOrder` runs beside other requests (it takes the lock of its database and the
//!   locks of authorizations in the other order than they do). Here `newOrder` runs alone, everything else shares.
//! - **the ledger** ([`OrderRecord`]): every request is counted and laid to the order that it was made for.
//! - **faults** ([`Rule`]): refused nonces, answers of a load balancer, resets before and after the CA acted, broken bodies,
//!   and closures that run at such a moment.
//! - **limits** ([`crate::ca_limits`]): orders are refused as Let's Encrypt would refuse them.
//! - **renewal information** (RFC 9773), which the packaged Pebble lacks.
//! - **manners** ([`Manners`]): what Let's Encrypt does and Pebble doesn't (`Retry-After`, the same open order again).
//!
//! Pebble builds its URLs from the Host header, which passes through: clients never see Pebble's own address.

mod endpoint;
mod fault;
mod jws;
mod ledger;
mod limits;
mod relay;
mod renewal;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use actix_web::{App, HttpServer, dev::ServerHandle, web};
use anyhow::{Context as _, Result, bail};
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use tokio::sync::RwLock;

pub use self::{
    endpoint::{Counts, Endpoint},
    fault::{Action, Answer, Callback, Changer, Hits, Rule, Seen, When},
    ledger::{LogLine, OrderRecord},
};
use self::{ledger::Ledger, relay::Upstream, renewal::RenewalInfo};
use crate::{
    ca_limits::{Limiter, Limits},
    pebble::Pebble,
    ports,
};

const WORKERS: usize = 2;
const BINDS: u32 = 5;

/// The header on a pending answer, in one of its two forms (RFC 9110 section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    Seconds(u64),
    /// An HTTP date this many seconds ahead.
    Date(u64),
}

/// Behaviours of Let's Encrypt that Pebble lacks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manners {
    /// Sent with authorizations that are pending and orders that are pending or processing.
    pub retry_after: Option<RetryAfter>,
    /// newOrder answers with the order that is open already for the same account and names, as Boulder does.
    pub same_open_order: bool,
    /// Renewal information (RFC 9773).
    pub renewal_info: bool,
    /// A lifetime counts as short below ten days divided by this.
    pub divisor: Option<u32>,
}

/// The running proxy. Dropping it closes its listener.
pub struct CaProxy {
    address: SocketAddr,
    trusted_roots_file: PathBuf,
    shared: Arc<Shared>,
    server: ServerHandle,
}

/// What the proxy's workers share.
pub(crate) struct Shared {
    upstream: String,
    gate: RwLock<()>,
    manners: Manners,
    ledger: Mutex<Ledger>,
    rules: Mutex<Vec<Rule>>,
    limits: Mutex<Option<Limiter>>,
    renewals: Mutex<Option<RenewalInfo>>,
    clock_ahead_seconds: AtomicI64,
    /// By how much shorter everything is than at Let's Encrypt.
    renewal_divisor: u32,
}

impl CaProxy {
    /// Stands before this Pebble, with Let's Encrypt's manners switched off.
    pub async fn start(pebble: &Pebble) -> Result<Self> {
        Self::start_with(pebble, Manners::default()).await
    }

    pub async fn start_with(pebble: &Pebble, manners: Manners) -> Result<Self> {
        let shared = Arc::new(Shared {
            upstream: format!("https://{}", pebble.address()),
            gate: RwLock::new(()),
            manners,
            ledger: Mutex::new(Ledger::new()),
            rules: Mutex::new(Vec::new()),
            limits: Mutex::new(None),
            clock_ahead_seconds: AtomicI64::new(0),
            renewals: Mutex::new(manners.renewal_info.then(RenewalInfo::default)),
            renewal_divisor: manners.divisor.unwrap_or(1),
        });
        let root = reqwest::Certificate::from_pem(&pebble.authority().pem()?)?;
        for _ in 0..BINDS {
            let address = ports::free_address()?;
            let (workers_share, root) = (Arc::clone(&shared), root.clone());
            let server = HttpServer::new(move || {
                // A client per worker: its connections live on the worker's own runtime.
                let client = upstream_client(root.clone())
                    .expect("a client with one root and no other setting can be built");
                App::new()
                    .app_data(web::Data::new(Upstream { client, shared: Arc::clone(&workers_share) }))
                    .app_data(web::PayloadConfig::new(4 << 20))
                    .default_service(web::to(relay::relay))
            })
            .workers(WORKERS)
            .keep_alive(Duration::from_secs(75))
            .tcp_nodelay(true)
            .shutdown_timeout(1)
            .disable_signals()
            .on_connect(relay::keep_socket)
            .bind_openssl(address, acceptor(pebble)?);
            let server = match server {
                Ok(server) => server.run(),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => continue,
                Err(error) => return Err(error).context("bind the proxy"),
            };
            let handle = server.handle();
            tokio::spawn(server);
            let trusted_roots_file = pebble.trusted_roots_file();
            return Ok(Self { address, trusted_roots_file, shared, server: handle });
        }
        bail!("no free port for the proxy after {BINDS} tries")
    }

    /// What goes into `[ca.NAME] directory`.
    pub fn directory_url(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What goes into `[ca.NAME] trusted_roots_file`.
    pub fn trusted_roots_file(&self) -> PathBuf {
        self.trusted_roots_file.clone()
    }

    /// Adds a fault; it sees requests from now on. The answer tells how often it struck.
    pub fn add_rule(&self, rule: Rule) -> Hits {
        let hits = rule.hits();
        self.shared.rules.lock().expect("no panic while held").push(rule);
        hits
    }

    /// Orders are refused as Let's Encrypt would from now on.
    pub fn limit(&self, limits: Limits) {
        *self.shared.limits.lock().expect("no panic while held") = Some(Limiter::new(limits));
    }

    /// The limiter, if there is one.
    pub fn limiter<T>(&self, read: impl FnOnce(&mut Limiter) -> T) -> Option<T> {
        self.shared.limits.lock().expect("no panic while held").as_mut().map(read)
    }

    /// The CA is well again.
    pub fn clear_rules(&self) {
        self.shared.rules.lock().expect("no panic while held").clear();
    }

    /// All requests since the start or the last reset.
    pub fn requests(&self) -> Counts {
        self.ledger(|ledger| ledger.totals().clone())
    }

    /// All orders that the CA made since the start or the last reset, in the order of their making.
    pub fn orders(&self) -> Vec<OrderRecord> {
        self.ledger(|ledger| ledger.orders().to_vec())
    }

    /// The orders for exactly these names.
    pub fn orders_for(&self, names: &[&str]) -> Vec<OrderRecord> {
        let mut wanted: Vec<&str> = names.to_vec();
        wanted.sort_unstable();
        self.ledger(|ledger| ledger.orders().iter().filter(|order| order.names == wanted).cloned().collect())
    }

    /// The key types of the certificates that the CA issued for exactly these names, one entry each.
    pub fn issued_for(&self, names: &[&str]) -> Vec<String> {
        let finalized = self.orders_for(names).into_iter().filter(|order| order.finalized > 0);
        finalized
            .flat_map(|order| {
                vec![order.key_type.unwrap_or_default(); usize::try_from(order.finalized).unwrap_or(1)]
            })
            .collect()
    }

    /// Every request, in the order of arrival.
    pub fn log(&self) -> Vec<LogLine> {
        self.ledger(|ledger| ledger.log().to_vec())
    }

    /// How far the CA's clock is ahead from now on, as its answers say.
    pub fn set_clock(&self, ahead_seconds: i64) {
        self.shared.clock_ahead_seconds.store(ahead_seconds, Ordering::SeqCst);
    }

    /// Forgets counters, orders and log (not the rules). Later requests for earlier orders count in the totals only.
    pub fn reset(&self) {
        *self.shared.ledger.lock().expect("no panic while held") = Ledger::new();
    }

    fn ledger<T>(&self, read: impl FnOnce(&Ledger) -> T) -> T {
        read(&self.shared.ledger.lock().expect("no panic while held"))
    }
}

impl Drop for CaProxy {
    fn drop(&mut self) {
        // The command is sent by the call; what it returns only waits for the end.
        drop(self.server.stop(false));
    }
}

fn acceptor(pebble: &Pebble) -> Result<openssl::ssl::SslAcceptorBuilder> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    acceptor.set_certificate_chain_file(&pebble.server_files().certificate)?;
    acceptor.set_private_key_file(&pebble.server_files().key, SslFiletype::PEM)?;
    Ok(acceptor)
}

fn upstream_client(root: reqwest::Certificate) -> reqwest::Result<reqwest::Client> {
    // HTTP/2 to Pebble costs about 40 ms a request on loopback (delayed acknowledgements).
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([root])
        .http1_only()
        .tcp_nodelay(true)
        .pool_idle_timeout(None)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(60))
        .build()
}
