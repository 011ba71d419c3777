//! What is left of a CA's limits, as operators see it.

use super::buckets::{Subject, buckets_of};
use crate::ca::{CaLimits, Terms};
use jiff::Timestamp;
use serde::Serialize;
use shared::{
    domain::{LimitScope, NameSet, OrderClass, PublicSuffixes},
    store::{BucketState, CaPause, Damage, Listing, Store, StoreError},
};
use std::collections::BTreeSet;

/// A bucket of a limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gauge {
    pub limit: String,
    /// The account, the registered domain, the account and the name, or the digest of the names that it is of.
    pub of: String,
    pub burst: u32,
    pub count: u32,
    pub period_seconds: f64,
    /// Orders that it does not hold for.
    pub exempt: Vec<OrderClass>,
    /// What may be spent now. Orders that are under way are taken off.
    pub left: i64,
    /// When one more may be spent; absent: now.
    pub next: Option<Timestamp>,
    /// When all is there again, if nothing more is spent; absent: it is.
    pub full: Option<Timestamp>,
    /// Orders that wait for it, about.
    pub waiting: u64,
    /// The last turn that was promised to one of them.
    pub waiting_until: Option<Timestamp>,
    /// Somebody beside this fleet spends from it, as the CA has shown: until then, orders go one by one.
    pub others_until: Option<Timestamp>,
}

/// The limits of one CA.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    pub ca: String,
    pub title: String,
    /// Since when it is counted; absent: nothing was ordered yet.
    pub since: Option<Timestamp>,
    /// The names of the limits that are known.
    pub limits: Vec<String>,
    /// What the CA wants no requests for.
    pub pauses: Vec<CaPause>,
    /// Those of the accounts, and each that is half empty; the emptiest first.
    pub buckets: Vec<Gauge>,
    /// What can't be read of all this.
    pub damaged: Vec<Damage>,
}

/// What an order of some names would meet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outlook {
    pub ca: String,
    pub account: String,
    pub names: NameSet,
    pub buckets: Vec<Gauge>,
    /// When an order may be placed; absent: now. By what it is: new names, the same names again, or a renewal within the CA's window.
    pub next_new: Option<Timestamp>,
    pub next_same_set: Option<Timestamp>,
    pub next_ari: Option<Timestamp>,
    /// What can't be read of them.
    pub damaged: Vec<Damage>,
}

/// The buckets that are near their edge, and those of the accounts.
///
/// # Errors
/// [`StoreError`].
pub async fn overview(store: &Store, terms: &Terms) -> Result<Overview, StoreError> {
    let now = Timestamp::now();
    let limits = &terms.limits;
    let Listing { found: mut states, mut damaged } = store.list_tight_buckets(&terms.name).await?;
    let tight: BTreeSet<String> = states.iter().map(|state| state.bucket.clone()).collect();
    let accounts = store.list_accounts().await?;
    damaged.extend(accounts.damaged);
    let accounts = accounts.found;
    let of_accounts = limits.limits.iter().filter(|(_, limit)| limit.scope == LimitScope::Account);
    let others: Vec<String> = of_accounts
        .flat_map(|(name, _)| {
            let ours = accounts.iter().filter(|account| account.ca == terms.name);
            ours.map(move |account| format!("{name}:{}", account.name))
        })
        .filter(|bucket| !tight.contains(bucket))
        .collect();
    let others = store.load_buckets(&terms.name, &others).await?;
    states.extend(others.found);
    damaged.extend(others.damaged);
    let since = match store.limits_since(&terms.name).await {
        Err(StoreError::Corrupt { key, source }) => {
            damaged.push(Damage { key, what: shared::error::chain(source.as_ref()) });
            None
        }
        since => since?,
    };
    let pauses = store.list_pauses(&terms.name).await?;
    damaged.extend(pauses.damaged);
    let mut buckets: Vec<Gauge> = states.iter().filter_map(|state| gauge(limits, state, now)).collect();
    buckets.sort_by(|one, two| one.share().total_cmp(&two.share()).then(two.waiting.cmp(&one.waiting)));
    Ok(Overview {
        ca: terms.name.clone(),
        title: terms.title.clone(),
        since,
        limits: limits.limits.keys().cloned().collect(),
        pauses: pauses.found,
        buckets,
        damaged,
    })
}

/// Every bucket that an order of these names touches.
///
/// # Errors
/// [`StoreError`].
pub async fn outlook(
    store: &Store,
    terms: &Terms,
    suffixes: &PublicSuffixes,
    account: &str,
    names: NameSet,
) -> Result<Outlook, StoreError> {
    let now = Timestamp::now();
    let subject = Subject { account, names: &names, class: OrderClass::New, same_set: false };
    let touched: Vec<String> = buckets_of(&terms.limits, suffixes, &subject, 0.0)
        .into_iter()
        .filter(|bucket| bucket.usage.is_some())
        .map(|bucket| bucket.wish.bucket)
        .collect();
    let Listing { found: states, damaged } = store.load_buckets(&terms.name, &touched).await?;
    let buckets: Vec<Gauge> = states.iter().filter_map(|state| gauge(&terms.limits, state, now)).collect();
    let next = |class| {
        let asked = buckets.iter().filter(|gauge| !gauge.exempt.contains(&class));
        asked.filter_map(|gauge| gauge.next).max()
    };
    Ok(Outlook {
        ca: terms.name.clone(),
        account: account.to_owned(),
        next_new: next(OrderClass::New),
        next_same_set: next(OrderClass::SameSet),
        next_ari: next(OrderClass::Ari),
        names,
        buckets,
        damaged,
    })
}

/// `None`: the profile of the CA has no such limit any more.
fn gauge(limits: &CaLimits, state: &BucketState, now: Timestamp) -> Option<Gauge> {
    let (name, of) = state.bucket.split_once(':')?;
    let limit = limits.limits.get(name)?;
    let rate = limits.rate_of_bucket(name, limit, of);
    let (now_us, interval) = (now.as_microsecond(), rate.interval_us());
    let open = i64::try_from(state.open).unwrap_or(i64::MAX);
    let held = interval.saturating_mul(open);
    let next_us =
        state.tat_us.max(now_us).saturating_add(held + interval).saturating_sub(rate.full_after_us());
    let begin = next_us.max(now_us);
    let queued = |last: i64| u64::try_from((last - begin) / interval + 1).unwrap_or(1);
    let later = |time_us: i64| Timestamp::from_microsecond(time_us).ok().filter(|time| *time > now);
    Some(Gauge {
        limit: name.to_owned(),
        of: of.to_owned(),
        burst: rate.burst,
        count: rate.count,
        period_seconds: rate.period_seconds,
        exempt: limit.exempt.clone(),
        left: rate.remaining(state.tat_us, now_us).saturating_sub(open).max(0),
        next: later(next_us),
        full: later(state.tat_us),
        waiting: state.promised_us.into_iter().flatten().map(queued).sum(),
        waiting_until: state.promised_us.into_iter().flatten().max().and_then(later),
        others_until: state.shared_until_us.and_then(later),
    })
}

impl Gauge {
    /// What is left, as a share.
    fn share(&self) -> f64 {
        self.left as f64 / f64::from(self.burst.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::config::Config;
    use std::path::Path;

    fn terms() -> Terms {
        let config = Config::parse("[ca.letsencrypt]\n", Path::new("x"), &[]).unwrap();
        Terms::of(&config, None).unwrap()
    }

    fn state(bucket: &str, tat_us: i64) -> BucketState {
        BucketState {
            bucket: bucket.to_owned(),
            tat_us,
            open: 0,
            promised_us: [None, None],
            shared_until_us: None,
        }
    }

    #[test]
    fn a_bucket_nobody_has_touched_is_full() {
        let now = Timestamp::now();
        let shown = gauge(&terms().limits, &state("new-orders-per-account:default", 0), now).unwrap();
        assert_eq!((shown.left, shown.next, shown.full, shown.waiting), (300, None, None, 0));
        assert_eq!(gauge(&terms().limits, &state("sheep-per-shepherd:x", 0), now), None);
    }

    #[test]
    fn an_empty_one_says_when_the_next_goes_and_how_many_wait() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let us = now.as_microsecond();
        let after = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let mut bucket = state("new-orders-per-account:default", us + 10_800 * 1_000_000);
        bucket.promised_us = [Some(us + 36 * 10 * 1_000_000), Some(us + 36_000_000)];
        let shown = gauge(&terms().limits, &bucket, now).unwrap();
        assert_eq!((shown.left, shown.next, shown.full), (0, Some(after(36)), Some(after(10_800))));
        assert_eq!((shown.waiting, shown.waiting_until), (11, Some(after(360))));
        // Orders under way are taken off.
        let mut domain =
            state("certificates-per-registered-domain:example.com", us + 40 * 12_096 * 1_000_000);
        domain.open = 9;
        assert_eq!(gauge(&terms().limits, &domain, now).unwrap().left, 1);
        domain.open = 10;
        let shown = gauge(&terms().limits, &domain, now).unwrap();
        assert_eq!((shown.left, shown.next), (0, Some(after(12_096))));
    }
}
