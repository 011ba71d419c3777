//! The twin of the CA's limiter: what the CA will say is known before it is asked.
//!
//! - [`Twin`]: the way in. [`Twin::ask`] gives an order a [`Ticket`], or says when its turn is.
//! - `buckets`: which buckets an order touches, by the CA's profile.
//! - `ticket`: what became of the order, and so of what it was given.
//! - `registration`: new accounts, of which a CA takes few from one address. `pacer`: requests, which it counts by endpoint.
//! - `refusal`: which limit a CA means when it refuses all the same.
//! - [`overview`] and [`outlook`]: what is left, for operators. [`Demand`]: how long many new orders will take.
//!
//! The buckets are in the store, for the whole fleet (`shared/src/store/limits.rs`).

mod buckets;
mod demand;
mod gauge;
mod pacer;
mod refusal;
mod registration;
mod ticket;

pub use demand::{Demand, Wait};
pub use gauge::{Gauge, Outlook, Overview, outlook, overview};
pub(crate) use pacer::{FleetPacer, tell_of_moment};
pub(crate) use refusal::{Network, wait_in_text};
pub(crate) use registration::Registration;
pub use registration::TooManyAccounts;
pub use ticket::Ticket;
pub(crate) use ticket::UNKNOWN_WAIT;

use crate::{acme::CertificateId, ca::Ca, issuance::draw};
use buckets::{Bucket, Subject, buckets_of};
use jiff::Timestamp;
use shared::{
    domain::{DnsName, LimitScope, NameSet, OrderClass, PublicSuffixes},
    store::{BucketWish, Claimant, LimitAnswer, LimitWish, Store, StoreError},
};
use std::{sync::Arc, time::Duration};

/// How long a CA may take to answer a new order: with all its tries, no request of ours lives longer.
const ASKING: Duration = Duration::from_secs(240);
/// How long an order may be open: as long as a CA keeps one.
const OPEN: Duration = Duration::from_secs(7 * 86_400);

/// The public suffix list of the moment.
pub type SuffixSource = Arc<dyn Fn() -> Arc<PublicSuffixes> + Send + Sync>;

/// The limits of one CA, as one account meets them.
pub struct Twin {
    pub(super) store: Store,
    pub(super) ca: Ca,
    suffixes: SuffixSource,
    account: String,
    /// The share of a bucket that a file's new orders leave to others.
    reserve: f64,
}

/// An order that is about to be placed.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The same for every try of the same order.
    pub order: String,
    pub names: &'a NameSet,
    /// The certificate that it replaces.
    pub replaces: Option<CertificateId>,
    pub class: OrderClass,
    /// Exactly these names have had a certificate lately.
    pub same_set: bool,
    pub claimant: Claimant,
    /// It comes at the turn that it was given.
    pub promised: bool,
    /// Somebody asks: a pause that the CA has asked for does not hold it up.
    pub by_hand: bool,
}

impl Asked<'_> {
    /// The same order, without a word on what it replaces.
    #[must_use]
    pub fn without_replacing(&self) -> Self {
        Self { replaces: None, class: OrderClass::of_names(self.same_set), ..self.clone() }
    }
}

/// What the twin says.
pub enum Turn {
    /// The order may be placed now.
    Now(Ticket),
    /// The CA would refuse it before.
    Later(Later),
}

/// When an order may be placed, and what it waits for.
#[derive(Clone, Debug)]
pub struct Later {
    pub turn: Timestamp,
    pub wait: Duration,
    /// The name of the limit.
    pub limit: String,
    /// The names that it is about, where it is not about the whole order.
    pub names: Vec<DnsName>,
    /// In words.
    pub what: String,
}

impl Twin {
    pub fn new(store: Store, ca: Ca, account: &str, suffixes: SuffixSource, reserve: f64) -> Self {
        Self { store, ca, suffixes, account: account.to_owned(), reserve: reserve.clamp(0.0, 0.9) }
    }

    /// Asks for everything that the order will spend, at once. `at_us` moves the clock, for simulations.
    ///
    /// # Errors
    /// [`StoreError`]: without the store nothing is known, and nothing is ordered.
    pub async fn ask(&self, asked: &Asked<'_>, at_us: Option<i64>) -> Result<Turn, StoreError> {
        let buckets = self.buckets(asked);
        let wishes: Vec<BucketWish> = buckets
            .iter()
            .filter_map(|bucket| bucket.usage.map(|usage| BucketWish { usage, ..bucket.wish.clone() }))
            .collect();
        let wish = LimitWish {
            order: &asked.order,
            claimant: asked.claimant,
            promised: asked.promised,
            buckets: &wishes,
            asking: ASKING,
            open: OPEN,
            draw: draw(),
        };
        if wishes.is_empty() {
            return Ok(Turn::Now(Ticket::new(asked.order.clone(), buckets, None)));
        }
        match self.store.ask_limits(&self.ca.name, &wish, at_us).await? {
            LimitAnswer::Go(spending) => {
                Ok(Turn::Now(Ticket::new(asked.order.clone(), buckets, Some(spending))))
            }
            LimitAnswer::Wait { turn, bucket, wait } => {
                Ok(Turn::Later(self.later(&buckets, &bucket, turn, wait)))
            }
        }
    }

    /// The ticket of an order that was placed by another run: what it holds is still held.
    pub fn ticket_of(&self, asked: &Asked<'_>) -> Ticket {
        Ticket::new(asked.order.clone(), self.buckets(asked), None)
    }

    fn buckets(&self, asked: &Asked<'_>) -> Vec<Bucket> {
        let subject = Subject {
            account: &self.account,
            names: asked.names,
            class: asked.class,
            same_set: asked.same_set,
        };
        let reserve = if asked.claimant == Claimant::Operator { 0.0 } else { self.reserve };
        buckets_of(&self.ca.limits, &(self.suffixes)(), &subject, reserve)
    }

    fn later(&self, buckets: &[Bucket], name: &str, turn: Timestamp, wait: Duration) -> Later {
        let found = buckets.iter().find(|bucket| bucket.wish.bucket == name);
        let (limit, names) =
            found.map_or((name.to_owned(), Vec::new()), |found| (found.limit.clone(), found.names.clone()));
        let (what, scope) = match self.ca.limits.limits.get(&limit) {
            Some(known) => {
                let rate = found.map_or_else(|| known.rate(), |found| found.wish.rate);
                (of_rate(rate.burst, rate.period_seconds), Some(known.scope))
            }
            None => (String::new(), None),
        };
        let of = match (scope, name.split_once(':')) {
            (Some(LimitScope::RegisteredDomain | LimitScope::AccountAndIdentifier), Some((_, subject))) => {
                format!(" for {}", subject.rsplit(':').next().unwrap_or(subject))
            }
            _ => String::new(),
        };
        let what = format!(
            "the limit {limit:?} of {}{of}{what} is used up: it is ordered at {}",
            self.ca.title,
            turn.strftime("%F %T UTC")
        );
        Later { turn, wait, limit, names, what }
    }
}

fn of_rate(burst: u32, period_seconds: f64) -> String {
    let (count, unit) = match period_seconds / SECONDS_OF_AN_HOUR {
        hours if hours >= 48.0 => ((hours / 24.0).round(), "days"),
        hours if hours >= 1.0 => (hours.round(), "hours"),
        _ => ((period_seconds * 10.0).round() / 10.0, "seconds"),
    };
    format!(" ({burst} at once, and as many in {count} {unit})")
}

const SECONDS_OF_AN_HOUR: f64 = 3600.0;
