//! What an order was given of the CA's limits, and what becomes of it.

use super::{
    Twin,
    buckets::Bucket,
    refusal::{Network, which_limit},
};
use crate::acme::RequestError;
use shared::{
    domain::{Counted, DnsName},
    store::{BucketUse, BucketWish, Settled, Spending},
};
use std::time::Duration;

/// The right to place one order. What is never settled counts as spent.
#[derive(Clone, Debug)]
pub struct Ticket {
    order: String,
    buckets: Vec<Bucket>,
    spending: Option<Spending>,
}

impl Ticket {
    pub(super) const fn new(order: String, buckets: Vec<Bucket>, spending: Option<Spending>) -> Self {
        Self { order, buckets, spending }
    }

    /// The CA has made the order, at the `sent`th request: those before it may have counted too.
    pub async fn placed(&self, twin: &Twin, sent: u32, at_us: Option<i64>) {
        let mut settled = Vec::new();
        for bucket in &self.buckets {
            match bucket.usage {
                Some(BucketUse::Spend) => {
                    settled.push((bucket.wish.clone(), Settled::Answered));
                    if sent > 1 {
                        settled.push((bucket.wish.clone(), Settled::Again(sent - 1)));
                    }
                }
                Some(BucketUse::Hold) => settled.push((bucket.wish.clone(), Settled::Answered)),
                _ => {}
            }
        }
        self.settle(twin, &settled, at_us).await;
    }

    /// The CA was not asked after all.
    pub async fn unused(&self, twin: &Twin) {
        let settled = self.buckets.iter().filter_map(|bucket| match bucket.usage {
            Some(BucketUse::Spend) => Some((bucket.wish.clone(), Settled::Refunded)),
            Some(BucketUse::Hold) => Some((bucket.wish.clone(), Settled::Released)),
            _ => None,
        });
        self.settle(twin, &settled.collect::<Vec<_>>(), None).await;
    }

    /// The CA has made no order of it, or none that is known of.
    pub async fn refused(&self, twin: &Twin, error: &RequestError, sent: u32, at_us: Option<i64>) {
        let limited = which_limit(error, &twin.ca.limits.limits);
        // What was not answered by the CA itself may have been counted.
        let is_sent = !matches!(error, RequestError::Paused { .. });
        let unknown = is_sent && limited.is_none() && error.problem().is_none();
        let hit = limited.as_ref().and_then(|(limit, wait)| {
            let of_limit = |bucket: &&Bucket| limit.as_ref().is_some_and(|limit| bucket.limit == *limit);
            let detail = error.problem().and_then(|problem| problem.detail.as_deref()).unwrap_or_default();
            let found = self.buckets.iter().filter(of_limit).find(|bucket| is_named(bucket, detail));
            // Where the text names nothing that was ordered, it is laid to the only thing that can be meant, or to none.
            let mut of_it = self.buckets.iter().filter(of_limit);
            let only = of_it.next().filter(|first| of_it.all(|other| other.names == first.names));
            // A refusal that can't be laid to a limit: the account waits.
            let orders = || self.buckets.iter().find(|bucket| bucket.counts == Counted::Orders);
            let found = found.or(only).or_else(|| limit.is_none().then(orders).flatten());
            found.map(|bucket| (bucket.wish.bucket.clone(), *wait))
        });
        let mut settled: Vec<(BucketWish, Settled)> = Vec::new();
        for bucket in &self.buckets {
            match bucket.usage {
                Some(BucketUse::Spend) if unknown => {
                    settled.push((bucket.wish.clone(), Settled::Answered));
                    if sent > 1 {
                        settled.push((bucket.wish.clone(), Settled::Again(sent - 1)));
                    }
                }
                Some(BucketUse::Spend) => settled.push((bucket.wish.clone(), Settled::Refunded)),
                Some(BucketUse::Hold) => settled.push((bucket.wish.clone(), Settled::Released)),
                _ => {}
            }
            if let Some((name, wait)) = &hit
                && *name == bucket.wish.bucket
            {
                settled.push((bucket.wish.clone(), Settled::Limited(*wait)));
            }
        }
        self.settle(twin, &settled, at_us).await;
    }

    /// The certificate was issued.
    pub async fn issued(&self, twin: &Twin, at_us: Option<i64>) {
        let settled = self.buckets.iter().filter_map(|bucket| match (bucket.counts, bucket.usage) {
            (Counted::Certificates, _) if !bucket.counts_certificate => {
                bucket.usage.map(|_| (bucket.wish.clone(), Settled::Released))
            }
            (Counted::Certificates, usage) => {
                Some((bucket.wish.clone(), Settled::Issued { always: usage.is_none() }))
            }
            (Counted::ConsecutiveFailures, _) => Some((bucket.wish.clone(), Settled::Reset)),
            _ => None,
        });
        self.settle(twin, &settled.collect::<Vec<_>>(), at_us).await;
    }

    /// Nothing will come of the order; the CA looked at these names in vain.
    pub async fn failed(&self, twin: &Twin, names: &[DnsName], at_us: Option<i64>) {
        let settled = self.buckets.iter().filter_map(|bucket| match bucket.counts {
            Counted::Certificates => bucket.usage.map(|_| (bucket.wish.clone(), Settled::Released)),
            Counted::FailedValidations | Counted::ConsecutiveFailures
                if bucket.names.iter().any(|name| names.contains(name)) =>
            {
                Some((bucket.wish.clone(), Settled::Failed(1)))
            }
            _ => None,
        });
        self.settle(twin, &settled.collect::<Vec<_>>(), at_us).await;
    }

    /// What can't be written stays spent or held until it expires: the twin is too careful then, never too bold.
    async fn settle(&self, twin: &Twin, settled: &[(BucketWish, Settled)], at_us: Option<i64>) {
        let spending = self.spending.as_ref();
        let written = twin.store.settle_limits(&twin.ca.name, &self.order, spending, settled, at_us).await;
        if let Err(error) = written {
            tracing::warn!(
                error = shared::error::chain(&error),
                order = self.order,
                "what became of it could not be told to the limits"
            );
        }
    }
}

/// Whether a CA's text names what the bucket is of: a domain or a name as it is, an address also by a network.
fn is_named(bucket: &Bucket, detail: &str) -> bool {
    let (_, of) = bucket.wish.bucket.split_once(':').unwrap_or_default();
    detail.split('"').skip(1).step_by(2).any(|quoted| {
        let network = Network::parse(quoted);
        let within = |name: &DnsName| {
            name.address().zip(network).is_some_and(|(address, network)| network.contains(address))
        };
        of == quoted
            || of.strip_suffix(quoted).is_some_and(|account| account.ends_with(':'))
            || bucket.names.iter().any(within)
    })
}

/// A refusal without a moment is taken for one of this length.
pub(crate) const UNKNOWN_WAIT: Duration = Duration::from_secs(3600);
