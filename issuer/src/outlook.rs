//! What the next 90 days bring, from what the store knows; for the fleet as it is, or as if it were another.
//!
//! Lifetimes are those of the certificates that are served, seen at a sample of the sites. Only where there are none, or where
//! it is asked what another profile would bring, the CA's data file is believed.

use crate::ca::{CaError, Terms};
use futures_util::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::{
    config::Config,
    domain::{Counted, FORECAST_HOURS, Fleet, Forecast, LimitScope, OrderClass, OrderLimit, Peak, hour_of},
    store::{Store, StoreError, StoredSite},
};
use std::collections::BTreeMap;

/// Sites of the sample: their ids are digests, so the first ones are as good as any.
const SAMPLE: usize = 200;
const READ_AT_ONCE: usize = 50;
/// Fewer certificates than this don't tell what one costs the store.
const ENOUGH_TO_MEASURE: f64 = 10_000.0;
/// What a certificate took at a million, with all that belongs to it: `tests/bench/scale/run`.
const BENCHMARKED_BYTES: u64 = 2_000;

/// What is to be different from what is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WhatIf {
    pub ca: Option<String>,
    pub profile: Option<String>,
    pub lifetime_hours: Option<f64>,
    /// Certificates: groups of names where a site has several.
    pub sites: Option<u64>,
    pub new_per_day: Option<f64>,
}

/// A forecast as it is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    pub ca: String,
    pub profile: Option<String>,
    /// Where the first hour begins.
    pub from: Timestamp,
    /// Groups of names: what is renewed at once.
    pub sites: u64,
    pub certificates_per_site: f64,
    pub lifetime_hours: f64,
    pub new_per_day: f64,
    pub renewals_per_hour: Vec<f64>,
    pub mean_per_hour: f64,
    pub busiest_hour: Peak,
    pub orders_per_day: Vec<f64>,
    pub mean_orders_per_day: f64,
    pub busiest_day: Peak,
    pub limits: Vec<Used>,
    /// What the store needs at the end of the 90 days.
    pub memory_bytes: u64,
    pub bytes_per_certificate: u64,
    /// Whether that was measured here, and not at the benchmark's million.
    pub is_measured: bool,
}

/// What the busiest day uses of a limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Used {
    pub limit: String,
    pub used_per_day: f64,
    pub allowed_per_day: f64,
    /// A share: more than 1.0 is more than the CA takes.
    pub used: f64,
    pub left_per_day: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum OutlookError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("the CA {ca:?} has no profile {name:?} that is known: {known}")]
    Profile { ca: String, name: String, known: String },
    #[error(
        "nothing is served yet, and the data file of the CA {0:?} names no lifetime: say --lifetime-hours"
    )]
    NoLifetime(String),
    #[error("{0} must be a number from {1} on")]
    Number(&'static str, f64),
}

/// What a sample of the sites shows.
#[derive(Debug, Default)]
struct Sample {
    lifetimes: Vec<SignedDuration>,
    certificates_per_site: Option<f64>,
    /// Sites by CA and profile.
    kinds: BTreeMap<(String, Option<String>), usize>,
}

/// The forecast for the fleet as it would be. `used_memory` is what the store takes now, bytes.
///
/// # Errors
/// [`OutlookError`].
pub async fn forecast(
    store: &Store,
    config: &Config,
    what_if: &WhatIf,
    used_memory: u64,
) -> Result<Told, OutlookError> {
    for (name, value, least) in
        [("lifetime_hours", what_if.lifetime_hours, 1.0), ("new_per_day", what_if.new_per_day, 0.0)]
    {
        if value.is_some_and(|value| !value.is_finite() || value < least || value > 1e9) {
            return Err(OutlookError::Number(name, least));
        }
    }
    let now = Timestamp::now();
    let (by_hour, load) = tokio::try_join!(store.renewals_by_hour(), store.load_of_schedule())?;
    let sample = Sample::take(store).await?;
    let usual = sample.kinds.iter().max_by_key(|(_, count)| **count).map(|(kind, _)| kind.clone());
    let (usual_ca, usual_profile) = usual.unzip();
    let terms = Terms::of(config, what_if.ca.as_deref().or(usual_ca.as_deref()))?;
    // The profile that is used, unless it is another CA's.
    let usual_profile = usual_profile.flatten().filter(|_| usual_ca.as_ref() == Some(&terms.name));
    let profile = what_if.profile.clone().or(usual_profile).or_else(|| terms.usual_profile());
    // Whatever lifetime is meant: one that is not there would be told of as if it were.
    if what_if.profile.is_some() && !terms.limits.profiles.is_empty() {
        lifetime_of(&terms, profile.as_deref())?;
    }
    let served = sample.median_lifetime();
    let is_other = what_if.profile.is_some() || usual_ca.as_ref().is_some_and(|ca| *ca != terms.name);
    let lifetime = match what_if.lifetime_hours {
        Some(hours) => of_hours(hours),
        None if is_other || served.is_none() => lifetime_of(&terms, profile.as_deref())?,
        None => served.unwrap_or_default(),
    };
    let present = Fleet {
        sites: load.groups,
        lifetime: served.unwrap_or(lifetime),
        profile: profile.clone(),
        certificates_per_site: sample.certificates_per_site.unwrap_or(1.0),
        new_sites_per_day: 0.0,
    };
    let other = Fleet {
        sites: what_if.sites.unwrap_or(load.groups),
        lifetime,
        new_sites_per_day: what_if.new_per_day.unwrap_or(0.0),
        ..present.clone()
    };
    let first = hour_of(now);
    let from = Timestamp::from_second(first * 3600).unwrap_or(now);
    let scheduled = scheduled(&by_hour, first);
    let forecast = Forecast::what_if(&scheduled, from, &present, other);
    let certificates = load.groups as f64 * present.certificates_per_site;
    let is_measured = certificates >= ENOUGH_TO_MEASURE;
    let bytes = if is_measured { (used_memory as f64 / certificates) as u64 } else { BENCHMARKED_BYTES };
    Ok(told(&terms, &forecast, bytes, is_measured))
}

fn told(terms: &Terms, forecast: &Forecast, bytes: u64, is_measured: bool) -> Told {
    let fleet = &forecast.fleet;
    let limits = terms.limits.limits.iter().filter(|(_, limit)| {
        limit.scope == LimitScope::Account && matches!(limit.counts, Counted::Orders | Counted::Certificates)
    });
    let limits = limits.map(|(name, limit)| {
        let exempt = |class| limit.exempt.contains(&class);
        let headroom = forecast.headroom(&OrderLimit {
            count: limit.count.into(),
            period: SignedDuration::try_from_secs_f64(limit.period_seconds).unwrap_or(SignedDuration::MAX),
            counts_renewals: !exempt(OrderClass::Ari) && !exempt(OrderClass::SameSet),
        });
        Used {
            limit: name.clone(),
            used_per_day: rounded(headroom.used_per_day),
            allowed_per_day: rounded(headroom.allowed_per_day),
            used: rounded(headroom.used()),
            left_per_day: rounded(headroom.left_per_day()),
        }
    });
    Told {
        ca: terms.name.clone(),
        profile: fleet.profile.clone(),
        from: forecast.from,
        sites: fleet.sites,
        certificates_per_site: rounded(fleet.certificates_per_site),
        lifetime_hours: rounded(fleet.lifetime.as_secs_f64() / 3600.0),
        new_per_day: fleet.new_sites_per_day,
        renewals_per_hour: forecast.renewals_per_hour.iter().copied().map(rounded).collect(),
        mean_per_hour: rounded(forecast.mean_per_hour()),
        busiest_hour: peak(forecast.busiest_hour()),
        orders_per_day: forecast.orders_per_day().into_iter().map(rounded).collect(),
        mean_orders_per_day: rounded(forecast.mean_orders_per_day()),
        busiest_day: peak(forecast.busiest_day()),
        limits: limits.collect(),
        memory_bytes: forecast.memory_bytes(bytes),
        bytes_per_certificate: bytes,
        is_measured,
    }
}

fn peak(peak: Peak) -> Peak {
    Peak { count: rounded(peak.count), ..peak }
}

/// What is overdue belongs into the first hour.
fn scheduled(by_hour: &BTreeMap<i64, u64>, first: i64) -> Vec<u64> {
    let last = by_hour.keys().next_back().map_or(first, |last| (*last).max(first));
    // A certificate of ten years is renewed beyond any forecast, whatever it is stretched by.
    let hours =
        usize::try_from(last.saturating_sub(first).saturating_add(1)).unwrap_or(1).min(FORECAST_HOURS * 50);
    let mut scheduled = vec![0; hours];
    for (hour, count) in by_hour {
        let place = usize::try_from(hour.saturating_sub(first).max(0)).unwrap_or(0);
        if let Some(sum) = scheduled.get_mut(place) {
            *sum = u64::saturating_add(*sum, *count);
        }
    }
    scheduled
}

fn lifetime_of(terms: &Terms, profile: Option<&str>) -> Result<SignedDuration, OutlookError> {
    let profiles = &terms.limits.profiles;
    let found = match profile {
        Some(name) => Some(profiles.get(name).ok_or_else(|| OutlookError::Profile {
            ca: terms.name.clone(),
            name: name.to_owned(),
            known: profiles.keys().cloned().collect::<Vec<_>>().join(", "),
        })?),
        // What a CA issues where no profile is asked for is its first choice: the one that takes the most names.
        None => profiles.values().max_by_key(|profile| profile.names),
    };
    let hours = found.map(|profile| profile.lifetime_hours);
    hours.map(of_hours).ok_or_else(|| OutlookError::NoLifetime(terms.name.clone()))
}

fn of_hours(hours: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(hours * 3600.0).unwrap_or(SignedDuration::MAX)
}

/// More digits than that are more than is known.
fn rounded(number: f64) -> f64 {
    (number * 10_000.0).round() / 10_000.0
}

impl Sample {
    async fn take(store: &Store) -> Result<Self, StoreError> {
        // Those that can't be read tell nothing.
        let sites = store.list_sites(None, SAMPLE).await?.sites;
        let mut sample = Self::default();
        let mut types = 0;
        for stored in &sites {
            types += stored.site.key_types.len();
            *sample.kinds.entry((stored.site.ca.clone(), stored.site.profile.clone())).or_default() += 1;
        }
        // Many at once: where the store is far away, one after the other would take as many times as long.
        for some in sites.chunks(READ_AT_ONCE) {
            let read = some.iter().map(async |StoredSite { id, serving, .. }| {
                let Some(current) = serving.current.values().next() else { return Ok(None) };
                match store.load_certificate(id, current).await {
                    Err(StoreError::Corrupt { .. }) => Ok(None),
                    read => read,
                }
            });
            let leaves = try_join_all(read).await?.into_iter().flatten();
            let leaves = leaves.filter_map(|certificate| certificate.leaf().ok());
            sample.lifetimes.extend(leaves.map(|leaf| leaf.not_after.duration_since(leaf.not_before)));
        }
        if !sites.is_empty() {
            sample.certificates_per_site = Some(types as f64 / sites.len() as f64);
        }
        Ok(sample)
    }

    fn median_lifetime(&self) -> Option<SignedDuration> {
        let mut sorted = self.lifetimes.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_overdue_comes_first_and_what_is_far_is_left_out() {
        let by_hour = BTreeMap::from([(90, 3), (99, 2), (100, 1), (103, 7), (10_000_000, 5)]);
        let scheduled = scheduled(&by_hour, 100);
        assert_eq!(&scheduled[..5], [6, 0, 0, 7, 0]);
        assert_eq!(scheduled.len(), FORECAST_HOURS * 50);
        assert_eq!(super::scheduled(&BTreeMap::new(), 100), [0]);
        let odd = BTreeMap::from([(i64::MIN, u64::MAX), (7, u64::MAX), (i64::MAX, 1)]);
        assert_eq!(super::scheduled(&odd, 100)[0], u64::MAX, "what no sum can hold is as much as can be");
    }

    #[test]
    fn lifetimes_of_profiles_are_those_of_the_cas_file() {
        let config = Config::parse("[ca.letsencrypt]\n[ca.pebble]\n", Path::new("x"), &[]).unwrap();
        let terms = |name| Terms::of(&config, Some(name)).unwrap();
        let hours = |profile| lifetime_of(&terms("letsencrypt"), profile).map(|found| found.as_hours());
        assert_eq!(hours(Some("shortlived")).unwrap(), 160);
        assert_eq!(hours(None).unwrap(), 2160);
        let unknown = hours(Some("eternal")).unwrap_err().to_string();
        assert!(unknown.contains("classic, shortlived, tlsserver"), "{unknown}");
        let none = lifetime_of(&terms("pebble"), None).unwrap_err().to_string();
        assert!(none.contains("--lifetime-hours"), "{none}");
    }
}
