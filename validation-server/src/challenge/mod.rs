//! Role `challenge`: what the CA's validators reach. `GET` or `HEAD` of a token's path is answered with its key
//! authorization (RFC 8555 section 8.3), anything else with an empty 404.
//!
//! - [`path`] decides, from a path alone, whether a token is asked for.
//! - [`cache`] keeps answers for a few seconds, and for an hour in case the store fails.
//! - [`answers`] joins them with the store.
//! - [`server`] speaks HTTP. No key, no keyring and no certificate is ever in this process.

mod answers;
mod cache;
mod path;
mod server;

pub(crate) use answers::Answers;
pub(crate) use server::serve;

use crate::{run::Failure, store_check};
use path::Paths;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use serving::{Traffic, monitoring::NotReady};
use shared::{
    config::{self, Config},
    store::{Store, StoreError},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The role, ready to be served.
#[derive(Clone)]
pub(crate) struct Challenge {
    answers: Arc<Answers>,
    traffic: Traffic,
    store: Store,
    suitable: Arc<AtomicBool>,
    store_up: Gauge,
    cached: Gauge,
}

/// Finds every mistake in the role's section that a value alone doesn't show.
///
/// # Errors
/// [`Failure::Configuration`].
pub(crate) fn check(config: &Config) -> Result<(), Failure> {
    let mut mistakes = Vec::new();
    if config.challenge.listen.is_empty() {
        mistakes.push("challenge.listen: at least one address".to_owned());
    }
    if let Some(prefix) = &config.challenge.second_prefix
        && let Err(mistake) = Paths::check_prefix(prefix)
    {
        mistakes.push(format!("challenge.second_prefix: {mistake}"));
    }
    if mistakes.is_empty() { Ok(()) } else { Err(Failure::Configuration(mistakes.join("\n"))) }
}

impl Challenge {
    pub(crate) fn new(section: &config::Challenge, store: Store, registry: &mut Registry) -> Self {
        let paths = Paths::new(section.second_prefix.as_deref());
        let fresh_for = Duration::from_secs(section.cache_seconds);
        let store_up = Gauge::default();
        registry.register("store_up", "Whether the store answered last", store_up.clone());
        let cached = Gauge::default();
        registry.register("challenge_cache_entries", "Answers kept in the process", cached.clone());
        let answers = Arc::new(Answers::new(paths, fresh_for, store.clone(), registry));
        Self { answers, traffic: Traffic::new(registry), store, suitable: Arc::default(), store_up, cached }
    }

    pub(crate) fn answers(&self) -> Arc<Answers> {
        Arc::clone(&self.answers)
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    /// Ready while the store is there and was found suitable.
    pub(crate) fn readiness(&self, stop: CancellationToken) -> impl Fn() -> Result<(), NotReady> + use<> {
        let role = self.clone();
        move || {
            let obstacle = role.store.obstacle();
            let is_suitable = role.suitable.load(Ordering::Relaxed);
            role.store_up.set((obstacle.is_none() && is_suitable).into());
            role.cached.set(i64::try_from(role.answers.cached()).unwrap_or(i64::MAX));
            match (stop.is_cancelled(), obstacle, is_suitable) {
                (true, ..) => Err("ending"),
                (false, Some(obstacle), _) => Err(obstacle.to_words()),
                (false, None, false) => Err("the store does not answer"),
                (false, None, true) => Ok(()),
            }
        }
    }

    /// Waits for a store that can be trusted. Requests are answered meanwhile, as far as they can be.
    ///
    /// # Errors
    /// A store that must not be used.
    pub(crate) async fn prepare(&self, confirm_replicas: u32) -> Result<(), StoreError> {
        store_check::until_suitable(&self.store, confirm_replicas).await?;
        self.suitable.store(true, Ordering::Relaxed);
        Ok(())
    }
}
