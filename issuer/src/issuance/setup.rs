//! Everything that ordering needs, made once for a program.

use super::{
    AccountError, Verdict,
    check::Checker,
    directory::{kept_directory, know_directory},
    keeper::AccountKeeper,
    open_account,
    pace::Pace,
    profiles::RefusedProfiles,
};
use crate::{
    acme::{self, Client, ClientSettings, RequestError},
    ca::{Ca, Terms},
    dns::{Resolver, ResolverError},
    dns01::{self, Prover},
    limits::{FleetPacer, Twin},
    preflight::{Reach, Rules, Validator},
    suffixes,
};
use shared::{
    config::{Canary, Config},
    domain::{Backoff, KeyType},
    error::Fault,
    store::{AccountStatus, Owner, Store, StoreError},
    vault::{SealError, Vault},
};
use std::{sync::Arc, time::Duration};

/// For one request to a CA.
const CA_TIMEOUT: Duration = Duration::from_secs(30);
/// The account that is used where none is named.
pub(crate) const DEFAULT_ACCOUNT: &str = "default";

/// A CA, an account with it, a store and the keys to it: what it takes to issue.
pub struct Issuance {
    pub(super) store: Store,
    pub(super) vault: Arc<Vault>,
    pub(super) ca: Ca,
    pub(super) account: acme::Account,
    pub(super) account_name: String,
    pub(super) checker: Checker,
    pub(super) prover: Prover,
    pub(super) owner: Owner,
    pub(super) lease_length: Duration,
    pub(super) backoff: Backoff,
    pub(super) canary: Option<Canary>,
    pub(super) twin: Twin,
    pub(super) validation_pace: Pace,
    pub(super) issuing_pace: Pace,
    pub(super) refused_profiles: RefusedProfiles,
}

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the account can't be used")]
    Account(#[from] AccountError),
    #[error("the CA {name} can't be asked for its directory {url} ({})", to_setting(name, source))]
    Directory {
        name: String,
        url: String,
        #[source]
        source: RequestError,
    },
    #[error("the CA's client can't be set up")]
    Client(#[source] RequestError),
    #[error("the store can't be used")]
    Store(#[from] StoreError),
    #[error("the configuration can't be used")]
    Dns(#[from] dns01::SetupError),
    #[error("the resolvers of the self-check can't be used")]
    Resolver(#[from] ResolverError),
}

/// Where to look.
fn to_setting(name: &str, error: &RequestError) -> String {
    if error.is_untrusted() {
        return format!(
            "its certificate is of no CA that is trusted here: ca.{name}.trusted_roots_file names the roots of a CA of one's own"
        );
    }
    format!("as ca.{name}.directory in the configuration names it")
}

impl SetupError {
    /// Whether the store is the reason, or what this node lacks to open what is in it: no fault of a site, an account or a CA, and over
    /// as soon as that is put right, or on a node where it is otherwise.
    pub fn is_of_store(&self) -> bool {
        match self {
            Self::Account(AccountError::Open(error)) => error.is_of_this_node(),
            Self::Account(AccountError::Seal(SealError::Lacking { .. })) => true,
            Self::Store(error) | Self::Account(AccountError::Store(error)) => {
                error.may_pass()
                    || error.fault() == Fault::Store
                    || matches!(error, StoreError::Unsuitable(_))
            }
            _ => false,
        }
    }
}

impl Issuance {
    /// Seconds that the CA's clock is ahead of ours, where it is known.
    pub fn clock_offset_seconds(&self) -> Option<i64> {
        self.account.client().clock_offset_seconds()
    }

    /// Opens the CA's default account, which is made where there is none.
    ///
    /// # Errors
    /// [`SetupError`].
    pub async fn open(store: Store, vault: Arc<Vault>, ca: Ca, config: &Config) -> Result<Self, SetupError> {
        Self::open_as(DEFAULT_ACCOUNT, store, vault, ca, config).await
    }

    /// Opens an account, which is made where there is none.
    ///
    /// # Errors
    /// [`SetupError`].
    pub async fn open_as(
        account_name: &str,
        store: Store,
        vault: Arc<Vault>,
        ca: Ca,
        config: &Config,
    ) -> Result<Self, SetupError> {
        let client = client_with_kept_directory(&store, &ca).await?;
        // The store may have all that is wanted: then the CA is not asked for anything, and may be out of reach.
        if !is_registered(&store, &ca, account_name).await? {
            know_directory(&store, &ca, &client).await?;
        }
        let (_, account) =
            open_account(&store, &vault, &ca, &client, account_name, KeyType::EcdsaP256).await?;
        let keeper = AccountKeeper {
            store: store.clone(),
            vault: Arc::clone(&vault),
            ca: ca.clone(),
            client: client.clone(),
            name: account_name.to_owned(),
        };
        let account = account.kept_by(Arc::new(keeper));
        let of_suffixes = config.clone();
        let suffixes = Arc::new(move || suffixes::current(&of_suffixes));
        Ok(Self {
            twin: Twin::new(store.clone(), ca.clone(), account_name, suffixes, config.issuer.limit_reserve),
            checker: Checker::new(reach(config, ca.public)?, config.issuer.self_check),
            prover: Prover::open(config, store.clone(), Resolver::with_servers(&config.issuer.resolvers)?)?,
            validation_pace: Pace::new(ca.first_poll),
            issuing_pace: Pace::new(ca.first_poll),
            refused_profiles: RefusedProfiles::default(),
            store,
            vault,
            ca,
            account,
            account_name: account_name.to_owned(),
            owner: Owner::this_process(),
            lease_length: config.issuer.lease_length(),
            backoff: config.issuer.backoff(),
            canary: config.issuer.canary(),
        })
    }

    /// Before anything is ordered: the CA's directory and the account, as they are now.
    pub(super) async fn know_directory(&self) -> Result<(), Verdict> {
        let known = know_directory(&self.store, &self.ca, self.account.client()).await;
        known.map_err(|error| match error {
            SetupError::Directory { source, .. } => Verdict::from_request(&source),
            SetupError::Store(source) => Verdict::from_store(&source),
            other => Verdict::bug(shared::error::chain(&other)),
        })?;
        self.know_account().await
    }

    /// Removes records that a run before has left behind, where it was killed. What can't be is left to the next sweep.
    pub async fn sweep_proofs(&self) {
        if let Err(error) = self.prover.sweep(jiff::Timestamp::now()).await {
            tracing::debug!(
                error = shared::error::chain(&error),
                "left-over TXT records are looked for later"
            );
        }
    }

    /// Requests sent to the CA so far.
    pub fn requests(&self) -> u64 {
        self.account.client().requests()
    }

    pub fn account_url(&self) -> Arc<str> {
        self.account.url()
    }

    pub fn ca(&self) -> &Ca {
        &self.ca
    }
}

/// Looks at challenge paths as a CA will; one that is not public looks into private networks, too.
///
/// # Errors
/// The resolvers of the configuration can't be used.
pub(crate) fn reach(config: &Config, is_public: bool) -> Result<Reach, ResolverError> {
    Ok(Reach::new(validator(config, is_public)?))
}

/// Fetches as a CA will.
///
/// # Errors
/// The resolvers of the configuration can't be used.
pub(crate) fn validator(config: &Config, is_public: bool) -> Result<Validator, ResolverError> {
    let suffixes = suffixes::current(config);
    let rules = Rules::for_port(config.issuer.http_port, move |host| suffixes.ends_in_known_top_level(host));
    let rules = if is_public { rules } else { rules.of_private_ca() };
    let resolver = Resolver::with_servers(&config.issuer.resolvers)?;
    Ok(Validator::new(rules, resolver).with_frontends(config.frontends.addresses.clone()))
}

/// Whether every CA of the configuration is public: else nobody is told that a private address is none.
pub(crate) fn are_all_public(config: &Config) -> bool {
    config.ca.keys().all(|name| Terms::of(config, Some(name)).is_ok_and(|terms| terms.public))
}

/// A client that knows the CA's directory: the one that another program fetched within the hour, or a fresh one.
///
/// # Errors
/// [`SetupError`].
pub(crate) async fn client_for(store: &Store, ca: &Ca) -> Result<Client, SetupError> {
    let client = client_with_kept_directory(store, ca).await?;
    know_directory(store, ca, &client).await?;
    Ok(client)
}

/// A client that knows the directory only where another program fetched it within the hour.
async fn client_with_kept_directory(store: &Store, ca: &Ca) -> Result<Client, SetupError> {
    let client = Client::new(ClientSettings {
        directory_url: ca.directory.clone(),
        trusted_roots: ca.trusted_roots.clone(),
        timeout: CA_TIMEOUT,
        pacer: Some(FleetPacer::of(store, ca)),
    })
    .map_err(SetupError::Client)?;
    if let Some(directory) = kept_directory(store, ca).await? {
        client.use_directory(directory);
    }
    Ok(client)
}

/// Whether the account can be used as it is stored.
async fn is_registered(store: &Store, ca: &Ca, account: &str) -> Result<bool, StoreError> {
    let stored = store.load_account(&ca.name, account).await?;
    Ok(stored.is_some_and(|stored| {
        stored.account.status == AccountStatus::Valid && stored.account.candidate.is_none()
    }))
}
