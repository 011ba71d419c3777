//! One daemon of the fleet, and everything that its workers share.

use super::{Counters, renewal_info::Known, trouble::Troubles};
use crate::{
    ca::Ca,
    dns::{Resolver, ResolverError},
    issuance::{Issuance, SetupError, are_all_public, reach},
    preflight::{Departure, Reach},
    sites::Registry,
};
use jiff::SignedDuration;
use shared::{
    config::Config,
    domain::{Backoff, Brake, Partition},
    store::{Owner, Store, StoreError},
    vault::Vault,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A loop that has not come round for so long has stopped.
const SWEEP_OVERDUE: Duration = Duration::from_secs(60);
/// How long brakes that were read are taken for those that are on.
const BRAKES_KEPT: Duration = Duration::from_millis(500);

/// One daemon of the fleet.
pub struct Node {
    pub(super) store: Store,
    pub(super) config: Arc<Config>,
    pub(super) owner: Owner,
    pub(super) troubles: Troubles,
    pub(super) registry: Registry,
    pub(super) departure: Option<Departure>,
    pub(super) reach: Reach,
    pub(super) parked: Backoff,
    pub(super) counters: Counters,
    vault: Arc<Vault>,
    issuances: tokio::sync::Mutex<HashMap<(String, String), Opened>>,
    /// Those that are asked when to renew.
    pub(super) clients: tokio::sync::Mutex<HashMap<String, Known>>,
    brakes: Mutex<Option<(Instant, Arc<Vec<Brake>>)>>,
    /// Partitions that were worked on, each with why it can't be where it can't.
    pub(super) unusable_partitions: Mutex<HashMap<Partition, Option<String>>>,
    /// When the last sweep over what is due ended, in whichever way.
    pub(super) swept: Mutex<Instant>,
}

/// What came of opening an account.
enum Opened {
    There(Arc<Issuance>),
    /// It could not be opened, at that moment.
    InVain(Instant),
}

/// Why a site's CA or account can't be worked with.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnusableError {
    #[error(transparent)]
    Ca(#[from] crate::ca::CaError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("the account could not be opened a moment ago")]
    InVain,
}

impl Node {
    /// # Errors
    /// The resolvers of the configuration can't be used.
    pub fn new(
        store: Store,
        vault: Arc<Vault>,
        config: Arc<Config>,
        counters: Counters,
    ) -> Result<Self, ResolverError> {
        let resolver = Resolver::with_servers(&config.issuer.resolvers)?;
        Ok(Self {
            registry: Registry::new(store.clone(), Arc::clone(&config)),
            reach: reach(&config, are_all_public(&config))?,
            departure: Departure::of(&config.frontends, resolver),
            parked: config.issuer.parked_backoff(),
            store,
            vault,
            owner: Owner::this_process(),
            troubles: Troubles::default(),
            counters,
            config,
            issuances: tokio::sync::Mutex::default(),
            clients: tokio::sync::Mutex::default(),
            brakes: Mutex::default(),
            unusable_partitions: Mutex::default(),
            swept: Mutex::new(Instant::now()),
        })
    }

    /// What orders for this account of this CA; made when it is first needed.
    pub(super) async fn issuance(&self, ca: &str, account: &str) -> Result<Arc<Issuance>, UnusableError> {
        let key = (ca.to_owned(), account.to_owned());
        // One opens, the others wait for it: an account is made once, and a CA that is down is not asked by each in turn.
        let came = Instant::now();
        let mut known = self.issuances.lock().await;
        match known.get(&key) {
            Some(Opened::There(issuance)) => return Ok(Arc::clone(issuance)),
            Some(Opened::InVain(at)) if *at > came => return Err(UnusableError::InVain),
            _ => {}
        }
        let authority = Ca::of_site(&self.config, ca)?;
        let opened =
            Issuance::open_as(account, self.store.clone(), Arc::clone(&self.vault), authority, &self.config);
        match opened.await {
            Ok(issuance) => {
                let issuance = Arc::new(issuance);
                known.insert(key, Opened::There(Arc::clone(&issuance)));
                Ok(issuance)
            }
            Err(error) => {
                known.insert(key, Opened::InVain(Instant::now()));
                Err(error.into())
            }
        }
    }

    /// Opens an account anew the next time: its key may have been changed by another node.
    pub(super) async fn forget_issuance(&self, ca: &str, account: &str) {
        self.issuances.lock().await.remove(&(ca.to_owned(), account.to_owned()));
    }

    /// How much later it is by the clocks of the CAs that have answered.
    pub(super) async fn clocks_of_cas(&self) -> Vec<(String, SignedDuration)> {
        let mut clocks = std::collections::BTreeMap::new();
        for (ca, known) in self.clients.lock().await.iter() {
            clocks.extend(known.clock_offset_seconds().map(|seconds| (ca.clone(), seconds)));
        }
        for ((ca, _), opened) in self.issuances.lock().await.iter() {
            if let Opened::There(issuance) = opened {
                clocks.extend(issuance.clock_offset_seconds().map(|seconds| (ca.clone(), seconds)));
            }
        }
        clocks
            .into_iter()
            .map(|(ca, seconds)| (format!("the CA {ca}"), SignedDuration::from_secs(seconds)))
            .collect()
    }

    /// The brakes that are on.
    pub(super) async fn brakes(&self) -> Result<Arc<Vec<Brake>>, StoreError> {
        let kept = self.brakes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, brakes)) = kept
            && at.elapsed() < BRAKES_KEPT
        {
            return Ok(brakes);
        }
        let brakes = Arc::new(self.store.load_brakes().await?);
        let fresh = (Instant::now(), Arc::clone(&brakes));
        *self.brakes.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        Ok(brakes)
    }

    /// Whether what is due is being looked for; with every worker busy it needn't be.
    pub fn is_sweeping(&self) -> bool {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < SWEEP_OVERDUE
    }

    /// What there is trouble with, in words.
    pub fn troubles(&self) -> Vec<String> {
        let said = |(subject, what): (super::trouble::Subject, String)| match subject.account {
            Some(account) => format!("the account {account:?} of {}: {what}", subject.ca),
            None => format!("{}: {what}", subject.ca),
        };
        self.troubles.list().into_iter().map(said).collect()
    }
}
