//! How long the CAs' limits will make many new orders take, before any of them is placed.

use super::buckets::{Subject, buckets_of};
use crate::ca::Terms;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use shared::{
    domain::{Counted, NameSet, OrderClass, PublicSuffixes, Rate},
    store::{BucketState, Store, StoreError},
};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

/// Buckets that are told of; what the others make wait is less.
const TOLD: usize = 10;

/// New orders, counted by what they spend from. A million of them cost some tens of megabytes.
#[derive(Debug, Default)]
pub struct Demand {
    by_ca: BTreeMap<String, OfCa>,
}

#[derive(Debug, Default)]
struct OfCa {
    /// By the digest of a bucket's name.
    counts: HashMap<u64, u64>,
    /// Buckets that are asked for at least half of what they hold; those that are half empty are known to the store.
    large: BTreeMap<String, Rate>,
}

/// What one bucket makes wait.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wait {
    pub ca: String,
    pub limit: String,
    pub of: String,
    /// Orders that spend from it.
    pub orders: u64,
    /// How long until the last of them may be placed.
    pub seconds: u64,
    pub until: Timestamp,
}

impl Demand {
    /// One order of new names.
    pub fn add(&mut self, terms: &Terms, suffixes: &PublicSuffixes, account: &str, names: &NameSet) {
        let subject = Subject { account, names, class: OrderClass::New, same_set: false };
        for bucket in buckets_of(&terms.limits, suffixes, &subject, 0.0) {
            if bucket.usage.is_none() || !matches!(bucket.counts, Counted::Orders | Counted::Certificates) {
                continue;
            }
            let of_ca = self.by_ca.entry(terms.name.clone()).or_default();
            let count = of_ca.counts.entry(digest(&bucket.wish.bucket)).or_default();
            *count += 1;
            if *count * 2 >= u64::from(bucket.wish.rate.burst) {
                of_ca.large.entry(bucket.wish.bucket).or_insert(bucket.wish.rate);
            }
        }
    }

    /// What has to wait, the longest first; nothing where all can be ordered at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waits(
        self,
        store: &Store,
        terms: impl Fn(&str) -> Option<Terms>,
    ) -> Result<Vec<Wait>, StoreError> {
        let mut waits = Vec::new();
        for (ca, of_ca) in self.by_ca {
            let Some(terms) = terms(&ca) else { continue };
            let mut states = store.list_tight_buckets(&ca).await?.found;
            states.retain(|state| of_ca.counts.contains_key(&digest(&state.bucket)));
            let known = |bucket: &String| states.iter().any(|state| state.bucket == *bucket);
            let others: Vec<String> = of_ca.large.keys().filter(|bucket| !known(bucket)).cloned().collect();
            states.extend(store.load_buckets(&ca, &others).await?.found);
            let now = Timestamp::now();
            for state in &states {
                let Some((name, of)) = state.bucket.split_once(':') else { continue };
                let Some(limit) = terms.limits.limits.get(name) else { continue };
                let rate = of_ca.large.get(&state.bucket).copied();
                let rate = rate.unwrap_or_else(|| terms.limits.rate_of_bucket(name, limit, of));
                let orders = of_ca.counts.get(&digest(&state.bucket)).copied().unwrap_or(0);
                let wait_us = wait_us(rate, state, orders, now.as_microsecond());
                if wait_us > 0 {
                    waits.push(Wait {
                        ca: ca.clone(),
                        limit: name.to_owned(),
                        of: of.to_owned(),
                        orders,
                        seconds: u64::try_from(wait_us).unwrap_or(0).div_ceil(1_000_000),
                        until: now
                            .saturating_add(SignedDuration::from_micros(wait_us))
                            .unwrap_or(Timestamp::MAX),
                    });
                }
            }
        }
        waits.sort_by(|one, two| two.seconds.cmp(&one.seconds).then_with(|| one.of.cmp(&two.of)));
        waits.truncate(TOLD);
        Ok(waits)
    }
}

/// Behind whatever holds or waits for it already.
fn wait_us(rate: Rate, state: &BucketState, orders: u64, now_us: i64) -> i64 {
    let open = i64::try_from(state.open).unwrap_or(i64::MAX).saturating_mul(rate.interval_us());
    let spent = state.tat_us.max(now_us).saturating_add(open);
    let queued =
        state.promised_us[0].map_or(spent, |last| spent.max(last.saturating_add(rate.full_after_us())));
    rate.time_for_us(orders, queued, now_us)
}

fn digest(bucket: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    bucket.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: Rate = Rate { burst: 300, count: 300, period_seconds: 10_800.0 };
    const S: i64 = 1_000_000;

    #[test]
    fn orders_wait_behind_those_that_wait_already() {
        let now = 1_000_000 * S;
        let mut state = BucketState {
            bucket: "new-orders-per-account:default".to_owned(),
            tat_us: 0,
            open: 0,
            promised_us: [None, None],
            shared_until_us: None,
        };
        assert_eq!(wait_us(ORDERS, &state, 300, now), 0);
        assert_eq!(wait_us(ORDERS, &state, 1000, now), 700 * 36 * S);
        state.tat_us = now + 10_800 * S;
        assert_eq!(wait_us(ORDERS, &state, 1, now), 36 * S);
        state.promised_us[0] = Some(now + 3_600 * S);
        assert_eq!(wait_us(ORDERS, &state, 2, now), (3_600 + 72) * S);
    }
}
