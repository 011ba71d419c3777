//! Names that visitors came with before anybody had said that they are hosted: which of them become sites.
//!
//! What costs least is asked first: whether a site has the name, the hosting system, what may come in an hour, the DNS. No
//! handshake waits for any of it, and none of it is asked of a CA. What is denied is left alone for longer each time.

mod panel;

pub use panel::PanelError;

use crate::{
    dns::Resolver,
    preflight::{Departure, Whereabouts},
    sites::{Registry, SiteError, SiteWish, WishError},
};
use jiff::{SignedDuration, Timestamp};
use panel::{Answer, Hosted, Panel};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as Metrics,
};
use shared::{
    config::Config,
    domain::{DnsName, Origin},
    error::chain,
    store::{Sighting, Store, StoreError},
};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// How often names that wait are looked for, and how many are decided at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const AT_ONCE: usize = 16;
/// How long a name that is not hosted is left alone at first, and at most.
const NOT_HOSTED: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
/// One whose DNS leads elsewhere: somebody may be about to move it here.
const ELSEWHERE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(3_600));
/// One that can be no site.
const IMPOSSIBLE: (Duration, Duration) = (Duration::from_secs(86_400), Duration::from_secs(86_400));
/// What could not be decided waits.
const LATER: SignedDuration = SignedDuration::from_secs(60);
const NEXT_BUDGET: SignedDuration = SignedDuration::from_mins(10);

/// Decides about names.
pub(crate) struct Sightings {
    store: Store,
    registry: Registry,
    config: Arc<Config>,
    panel: Panel,
    departure: Option<Departure>,
    counted: Family<OfVerdict, Counter>,
}

/// What became of a name.
enum Verdict {
    /// A site has it from now on.
    Added,
    Known,
    Denied(&'static str, (Duration, Duration), String),
    Later(&'static str, SignedDuration, String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerdict {
    verdict: &'static str,
}

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SightingsError {
    #[error(transparent)]
    Panel(#[from] PanelError),
    #[error("the resolver can't be made")]
    Resolver(#[from] crate::dns::ResolverError),
}

/// Whether who says what is hosted can be asked.
///
/// # Errors
/// [`PanelError`]: why not.
pub(crate) fn check(config: &shared::config::Sightings) -> Result<(), PanelError> {
    Panel::of(config).map(drop)
}

impl Sightings {
    /// `None` where nobody is configured to say what is hosted: then nothing is decided, and nothing ordered.
    ///
    /// # Errors
    /// [`SightingsError`].
    pub(crate) fn of(
        store: &Store,
        config: &Arc<Config>,
        metrics: &mut Metrics,
    ) -> Result<Option<Self>, SightingsError> {
        let Some(panel) = Panel::of(&config.sightings)? else { return Ok(None) };
        let resolver = Resolver::with_servers(&config.issuer.resolvers)?;
        let counted = Family::default();
        metrics.register(
            "sightings",
            "Names that visitors came with, by what became of them",
            counted.clone(),
        );
        Ok(Some(Self {
            store: store.clone(),
            registry: Registry::new(store.clone(), Arc::clone(config)),
            departure: Departure::of(&config.frontends, resolver),
            config: Arc::clone(config),
            panel,
            counted,
        }))
    }

    /// Decides for ever. Any number of nodes may: a name is one node's at a time.
    pub(crate) async fn run(self: Arc<Self>) {
        let this = self;
        loop {
            match this.store.claim_sightings(AT_ONCE).await {
                Ok(sightings) if !sightings.is_empty() => {
                    let mut decisions = JoinSet::new();
                    for sighting in sightings {
                        let this = Arc::clone(&this);
                        decisions.spawn(async move { this.decide(&sighting).await });
                    }
                    while decisions.join_next().await.is_some() {}
                }
                Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "names that were seen can't be read");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// What can't be written is decided again in a minute.
    async fn decide(&self, sighting: &Sighting) {
        let Sighting { name, frontend } = sighting;
        let verdict = match self.judge(name).await {
            Ok(verdict) => verdict,
            Err(error) => Verdict::Later("store", LATER, chain(&error)),
        };
        let (word, written) = match &verdict {
            Verdict::Added => ("added", self.store.end_sighting(name).await),
            Verdict::Known => ("known", self.store.end_sighting(name).await),
            Verdict::Denied(word, (first, longest), reason) => {
                (*word, self.store.deny_sighting(name, *first, *longest, reason).await)
            }
            Verdict::Later(word, pause, _) => {
                let until = Timestamp::now().saturating_add(*pause).unwrap_or(Timestamp::MAX);
                (*word, self.store.postpone_sighting(name, until).await)
            }
        };
        self.counted.get_or_create(&OfVerdict { verdict: word }).inc();
        match &verdict {
            Verdict::Added => {
                tracing::info!(%name, frontend, "a visitor's name is hosted: it gets a certificate")
            }
            Verdict::Known => {}
            Verdict::Denied(_, _, reason) => {
                tracing::info!(%name, frontend, reason, "a visitor's name gets none")
            }
            Verdict::Later(_, _, reason) => {
                tracing::warn!(%name, frontend, reason, "a visitor's name can't be decided about yet")
            }
        }
        if let Err(error) = written {
            tracing::debug!(error = chain(&error), %name, "decided again in a minute");
        }
    }

    async fn judge(&self, name: &DnsName) -> Result<Verdict, StoreError> {
        match self.registry.find(name).await {
            Ok(_) => return Ok(Verdict::Known),
            Err(SiteError::Store(error)) => return Err(error),
            Err(_) => {}
        }
        let hosted = match self.panel.ask(name).await {
            Answer::Hosted(hosted) => hosted,
            Answer::NotHosted => {
                return Ok(Verdict::Denied(
                    "not-hosted",
                    NOT_HOSTED,
                    "the hosting system does not know it".to_owned(),
                ));
            }
            Answer::Unknown(why) => {
                return Ok(Verdict::Later("unanswered", LATER, format!("the hosting system: {why}")));
            }
        };
        if let Some(departure) = &self.departure {
            match departure.look(name).await {
                Whereabouts::Here | Whereabouts::Partly { .. } => {}
                Whereabouts::Unknown(why) => return Ok(Verdict::Later("dns", LATER, why)),
                found => {
                    let why = found.explain(name, &self.config.frontends);
                    return Ok(Verdict::Denied("elsewhere", ELSEWHERE, why));
                }
            }
        }
        self.add(name, hosted).await
    }

    async fn add(&self, name: &DnsName, hosted: Hosted) -> Result<Verdict, StoreError> {
        let (now, limits) = (Timestamp::now(), &self.config.sightings);
        let tenant = hosted.tenant.as_deref().filter(|tenant| !tenant.is_empty());
        let budgets =
            [("of all", Some(""), limits.per_hour), ("of its tenant", tenant, limits.per_tenant_per_hour)];
        for (whose, of, most) in budgets {
            if let Some(of) = of
                && !self.store.spend_sighting(of, most, now).await?
            {
                // What waits for its tenant's turn takes nothing from the others.
                if !of.is_empty() {
                    self.store.give_back_sighting("", now).await?;
                }
                return Ok(Verdict::Later(
                    "budget",
                    NEXT_BUDGET,
                    format!("{most} new names in an hour {whose} have come"),
                ));
            }
        }
        let wish = SiteWish {
            tenant: hosted.tenant.clone(),
            tags: Some(hosted.tags),
            ..SiteWish::for_names(&[name.as_str().to_owned()])
        };
        let added = self.registry.add(&wish, Origin::Api).await;
        if added.is_err() {
            // Only what has become a site is counted.
            for of in budgets.iter().filter_map(|(_, of, _)| *of) {
                if let Err(error) = self.store.give_back_sighting(of, now).await {
                    tracing::debug!(error = chain(&error), "the hour has one name less than it may");
                }
            }
        }
        match added {
            Ok(_) => Ok(Verdict::Added),
            Err(SiteError::Store(error)) => Err(error),
            Err(SiteError::Changed) => {
                Ok(Verdict::Later("changed", LATER, "somebody else changes its site".to_owned()))
            }
            Err(SiteError::Taken { .. } | SiteError::Exists(..)) => Ok(Verdict::Known),
            Err(SiteError::Wish(wrong)) if is_of_the_name(&wrong) => {
                Ok(Verdict::Denied("impossible", IMPOSSIBLE, chain(&wrong)))
            }
            // Of this installation, or of what the hosting system says beside the name: no fault of the name.
            Err(error) => Ok(Verdict::Later("not-added", LATER, chain(&error))),
        }
    }
}

/// Whether it is the name itself that can't be had.
fn is_of_the_name(wrong: &WishError) -> bool {
    wrong.each().iter().all(|one| matches!(one, WishError::Name { .. }))
}
