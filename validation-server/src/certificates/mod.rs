//! Role `certificates`: what frontends pull from, over HTTPS. Each request is answered for an identity that is looked up
//! anew, so that a frontend that was revoked is refused at once, also on a connection that it has kept open.
//!
//! - [`route`] reads a request line into what is wanted; [`identity`] says by whom; [`reader`] and [`scope`] what that one may.
//! - [`api`] answers: [`listing`] and [`item`] are the JSON, [`files`] the PEM, [`etag`] and [`refusal`] their frame.
//! - [`feed`] follows the store, [`changes`] are what of it a frontend sees; [`bundles`] are many keys at once, [`reports`] what
//!   frontends say of themselves. [`waiting`] counts those who wait.
//! - [`adapters`] speak what Traefik, Caddy, Envoy and HAProxy ask for by themselves.
//! - [`audit`] writes down who is given which keys, before they are; [`budget`] keeps a frontend from flooding it.
//! - [`enrolment`] gives a frontend its client certificate, for a key that [`signing_request`] finds strong.
//! - [`server`] speaks HTTPS with the context that [`tls`] holds and [`own_certificate`] keeps valid.
//! - [`counters`] counts.
//!
//! A certificate that is out of scope is answered byte for byte as one that does not exist.

mod adapters;
mod api;
mod audit;
mod budget;
mod bundles;
mod changes;
mod counters;
mod enrolment;
mod etag;
mod feed;
mod files;
mod identity;
mod item;
mod listing;
mod own_certificate;
mod reader;
mod refusal;
mod reports;
mod route;
mod scope;
mod server;
mod sightings;
mod signing_request;
mod tls;
mod waiting;

pub(crate) use server::serve;

use crate::{run::Failure, store_check};
use audit::Audit;
use counters::Counters;
use feed::Feed;
use own_certificate::OwnCertificate;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use serving::{Traffic, monitoring::NotReady};
use shared::{
    config::{Config, StoreSection},
    error::chain,
    store::{Role, Store, VaultError, open_vault, report_forever},
    tls::{AuthorityError, InternalCa},
    vault::Vault,
};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};
use tls::ServerTls;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use waiting::Waiting;

/// Denied requests that are being written to the audit at once; further ones are only counted.
const DENIALS_IN_FLIGHT: usize = 64;

/// The role: what every worker shares. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Certificates {
    store: Store,
    section: Arc<StoreSection>,
    /// Set once the keyring has opened the store's canary; nothing is served before.
    vault: Arc<OnceLock<Arc<Vault>>>,
    internal_ca: Arc<OnceLock<InternalCa>>,
    client_certificate_seconds: u64,
    caddy_config: Option<PathBuf>,
    tls: ServerTls,
    own: Arc<OwnCertificate>,
    counters: Arc<Counters>,
    traffic: Traffic,
    denials: Arc<Semaphore>,
    audit: Audit,
    feed: Feed,
    waiting: Waiting,
    /// Set when the program ends: who waits is answered then.
    stop: CancellationToken,
    store_up: Gauge,
}

/// Finds every mistake in the role's section that a value alone doesn't show.
///
/// # Errors
/// [`Failure::Configuration`].
pub(crate) fn check(config: &Config) -> Result<(), Failure> {
    let mut mistakes = Vec::new();
    if config.certificates.client_certificate_seconds == 0 {
        mistakes.push("certificates.client_certificate_seconds: at least 1".to_owned());
    }
    if let Some(file) = &config.certificates.caddy_config_file {
        mistakes.extend(adapters::read_config(file).err());
    }
    if config.certificates.listen.is_empty() {
        mistakes.push("certificates.listen: at least one address".to_owned());
    }
    match OwnCertificate::new(&config.certificates) {
        Ok(own) => mistakes.extend(own.check().err().map(|e| chain(&e))),
        Err(mistake) => mistakes.push(chain(&mistake)),
    }
    if mistakes.is_empty() { Ok(()) } else { Err(Failure::Configuration(mistakes.join("\n"))) }
}

impl Certificates {
    /// # Errors
    /// A name or a file of the role's section that can't be used.
    pub(crate) fn new(
        config: &Config,
        store: Store,
        registry: &mut Registry,
        stop: CancellationToken,
    ) -> Result<Self, Failure> {
        let own = OwnCertificate::new(&config.certificates).map_err(|e| Failure::configuration(&e))?;
        let store_up = Gauge::default();
        registry.register("store_up", "Whether the store answered last", store_up.clone());
        Ok(Self {
            audit: Audit::new(store.clone()),
            store,
            section: Arc::new(config.store.clone()),
            vault: Arc::default(),
            internal_ca: Arc::default(),
            client_certificate_seconds: config.certificates.client_certificate_seconds,
            caddy_config: config.certificates.caddy_config_file.clone(),
            tls: ServerTls::default(),
            own: Arc::new(own),
            counters: Arc::new(Counters::new(registry)),
            traffic: Traffic::new(registry),
            denials: Arc::new(Semaphore::new(DENIALS_IN_FLIGHT)),
            feed: Feed::new(),
            waiting: Waiting::new(registry),
            stop,
            store_up,
        })
    }

    /// Ready while the store is there, its keys can be opened, and there is a certificate to show.
    pub(crate) fn readiness(&self, stop: CancellationToken) -> impl Fn() -> Result<(), NotReady> + use<> {
        let role = self.clone();
        move || {
            let obstacle = role.store.obstacle();
            role.store_up.set(obstacle.is_none().into());
            if stop.is_cancelled() {
                Err("ending")
            } else if let Some(obstacle) = obstacle {
                Err(obstacle.to_words())
            } else if role.vault.get().is_none() {
                Err("no issuer has set the store up yet, or the keyring has not been checked against it")
            } else if !role.tls.is_set() {
                Err("there is no server certificate yet")
            } else {
                Ok(())
            }
        }
    }

    /// Waits for the store, opens the vault, and keeps both the vault and the server's certificate up to date from then on.
    /// The listeners are up meanwhile. Returns only with an error.
    ///
    /// # Errors
    /// A store, a keyring or a certificate that must not be used.
    pub(crate) async fn prepare(&self) -> Result<(), Failure> {
        // With files of its own it can answer from the first moment, if only that it isn't ready.
        self.own.begin(&self.tls).map_err(|e| Failure::configuration(&e))?;
        store_check::until_suitable(&self.store, self.section.confirm_replicas).await?;
        let vault = self.opened_vault().await?;
        let authority = self.authority(&vault).await?;
        let authority = self.internal_ca.get_or_init(|| authority);
        if self.vault.set(Arc::clone(&vault)).is_err() {
            tracing::warn!("the vault was opened twice");
        }
        tokio::select! {
            ended = self.own.keep(&self.tls, authority) => ended,
            never = report_forever(self.store.clone(), &vault, Role::Certificates.as_str()) => match never {},
            never = self.feed.follow(&self.store) => match never {},
        }
    }

    /// The last thing that the role does.
    pub(crate) async fn finish(&self) {
        self.audit.finish().await;
    }

    /// A store that no issuer has set up yet is waited for: the role has no right to do so, and is refused until then.
    async fn opened_vault(&self) -> Result<Arc<Vault>, Failure> {
        let mut told = false;
        loop {
            match open_vault(&self.store, &self.section).await {
                Ok((vault, made)) => {
                    if let Some(path) = made {
                        tracing::warn!(
                            ?path,
                            "a key-encryption key was made: back it up, without it no stored key can be opened"
                        );
                    }
                    return Ok(vault);
                }
                Err(VaultError::Store(error)) if !store_check::is_final(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(
                            error = chain(&error),
                            "the store is not set up yet, or does not answer: waiting for it"
                        );
                    }
                    tokio::time::sleep(store_check::PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn authority(&self, vault: &Vault) -> Result<InternalCa, Failure> {
        let opened = store_check::until_reachable("the internal CA can't be read", async || {
            match InternalCa::of(&self.store, vault).await {
                Ok(authority) => Ok(Ok(authority)),
                Err(AuthorityError::Store(error)) => Err(error),
                Err(error) => Ok(Err(error)),
            }
        })
        .await?;
        opened.map_err(|e| Failure::configuration(&e))
    }
}
