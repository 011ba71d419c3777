//! How many renewals each hour has: what a moment is chosen by, and what a forecast begins with.
//!
//! The scripts that move a group in the schedule keep the numbers with the same stroke (`scripts/schedule.lua`).

use super::{Store, StoreError, keys};
use crate::domain::Partition;
use futures_util::future::try_join_all;
use redis::cmd;
use std::collections::BTreeMap;

/// The hour in which the year 9999 ends.
const LAST_HOUR: i64 = 70_389_528;

/// What a partition has planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlannedRenewals {
    /// In the order of the hours that were asked for.
    pub per_hour: Vec<u64>,
    /// All groups that are wanted, whether they have a certificate or not.
    pub groups: u64,
}

impl Store {
    /// How many groups of a partition have their next renewal in each of these hours, as [`hour_of`](crate::domain::hour_of)
    /// counts them. One round trip.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renewals_in(
        &self,
        partition: Partition,
        hours: &[i64],
    ) -> Result<PlannedRenewals, StoreError> {
        let mut questions = vec![cmd("ZCARD").arg(keys::sites(partition)).clone()];
        if !hours.is_empty() {
            questions.push(cmd("HMGET").arg(keys::renewals(partition)).arg(hours).clone());
        }
        let mut answers = self.read_each::<redis::Value>(&questions).await?.into_iter();
        // A moment that is chosen without them is one all the same.
        let groups =
            answers.next().and_then(Result::ok).and_then(|count| redis::from_redis_value(count).ok());
        let counts = answers.next().and_then(Result::ok).and_then(|all| redis::from_redis_value(all).ok());
        let counts: Vec<Option<String>> = counts.unwrap_or_else(|| vec![None; hours.len()]);
        let counts = counts.into_iter().map(|count| of_field(count.and_then(|count| count.parse().ok())));
        Ok(PlannedRenewals { per_hour: counts.collect(), groups: groups.unwrap_or(0) })
    }

    /// How many groups have their next renewal in each hour, in all partitions; hours with none are left out. Those that
    /// have passed are overdue. Costs the hours, not the groups.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renewals_by_hour(&self) -> Result<BTreeMap<i64, u64>, StoreError> {
        let asked = Partition::all().map(async |partition| {
            let planned = self.link.query(cmd("HGETALL").arg(keys::renewals(partition))).await;
            match planned {
                Err(error) if error.is_of_its_keys() => Ok(Vec::new()),
                planned => planned,
            }
        });
        let planned: Vec<Vec<(String, String)>> = try_join_all(asked).await?;
        let mut sum: BTreeMap<i64, u64> = BTreeMap::new();
        for (hour, count) in planned.into_iter().flatten() {
            // What is no hour, or none that there will be, was not written by us.
            let Some(hour) = hour.parse().ok().filter(|hour| (0..=LAST_HOUR).contains(hour)) else {
                continue;
            };
            let of_hour = sum.entry(hour).or_default();
            *of_hour = of_hour.saturating_add(of_field(count.parse().ok()));
        }
        Ok(sum)
    }
}

fn of_field(count: Option<i64>) -> u64 {
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default()
}
