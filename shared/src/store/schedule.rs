//! The schedule: what is due is taken under leases, and given back with what came of it and its next place.

use super::{
    Lease, LeaseAttempt, Store, StoreError,
    declared::{indexes, queues, wait_ms},
    keys, scripts,
};
use crate::domain::{CertificateId, Class, OrderState, Partition, Place, SiteId, Slot, hour_of};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use redis::cmd;
use std::time::Duration;

/// How many groups one claim makes ready at most: a long queue is not moved at once.
const MOVED_AT_ONCE: usize = 256;

/// A group that was due, and the right to work on it.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub lease: Lease,
    pub class: Class,
}

/// What one claim found.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    pub taken: Vec<Claimed>,
    /// How long until more is due in this partition; `None` when nothing is scheduled there.
    pub next: Option<Duration>,
    /// Classes of which more is ready than was taken.
    pub left: Vec<Class>,
    /// Groups whose record is none: they are put aside for a time.
    pub damaged: Vec<String>,
}

/// What came of the work on a group.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The revision of the group that was worked on: [`super::StoredSite::revision`].
    pub revision: u64,
    pub place: Place,
    /// Orders that are done, each with the certificate that it brought and that is served.
    pub done: Vec<(Slot, Option<CertificateId>)>,
    /// Fields of the group's record to write; `None` deletes.
    pub fields: Vec<(Field, Option<String>)>,
    /// Events, JSON.
    pub events: Vec<String>,
}

/// What a settlement may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Failure,
    Cut,
    Parked,
    /// The stage of expiry that was told last.
    Alert,
    /// Names that are cut out are tried again at once.
    Retry,
    /// Certificates issued before this moment (unix seconds) are renewed.
    Force,
    /// Until when what was rolled back to is left alone (unix seconds).
    Held,
    /// When each certificate is renewed: [`crate::domain::RenewalPlans`].
    Renewal,
    /// Where the CA explains why it wants a certificate renewed.
    Explanation,
    /// From when on the steps of HSTS count (unix seconds): [`crate::domain::HstsStanding`].
    HstsFrom,
    /// What HSTS was lowered to, seconds, for as long as the certificate fails.
    HstsHeld,
}

/// How much of each kind of work is due, and what is scheduled.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Load {
    pub groups: u64,
    pub scheduled: u64,
    pub overdue: u64,
    pub ready: std::collections::BTreeMap<Class, u64>,
    pub failing: u64,
    pub parked: u64,
    /// Those that wait for a moment: of a limit, of the CA's, of a certificate that is not valid yet.
    pub waiting: u64,
    /// The earliest of these moments, by our clock.
    pub waiting_until: Option<Timestamp>,
}

impl Field {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Cut => "cut",
            Self::Parked => "parked",
            Self::Alert => "alert",
            Self::Retry => "retry",
            Self::Force => "force",
            Self::Held => "held",
            Self::Renewal => "renewal",
            Self::Explanation => "explanation",
            Self::HstsFrom => "hsts_from",
            Self::HstsHeld => "hsts_held",
        }
    }
}

impl Store {
    /// Takes what is due in a partition, at most as many of each class (in the order of [`Class::ALL`]) and in all.
    ///
    /// # Errors
    /// [`StoreError`]. What was taken without an answer is due again when its lease ends.
    pub async fn claim(
        &self,
        partition: Partition,
        attempt: &LeaseAttempt,
        length: Duration,
        most: [usize; 6],
        in_all: usize,
    ) -> Result<Claim, StoreError> {
        let mut arguments = vec![
            attempt.owner.clone(),
            length.as_millis().to_string(),
            attempt.random.clone(),
            MOVED_AT_ONCE.to_string(),
            in_all.to_string(),
        ];
        for (class, most) in Class::ALL.into_iter().zip(most) {
            arguments.extend([class.letter().to_string(), most.to_string()]);
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        let answer: Vec<String> = self.whole_script(&scripts::CLAIM, queues(partition), &arguments).await?;
        let mut words = answer.into_iter();
        let next = words.next().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let left = words.next().unwrap_or_default();
        let left = Class::ALL.into_iter().filter(|class| left.contains(class.letter())).collect();
        let damaged = words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
        let mut damaged: Vec<String> = words.by_ref().take(damaged).collect();
        let mut taken = Vec::new();
        while let (Some(id), Some(token), Some(class)) = (words.next(), words.next(), words.next()) {
            match (SiteId::parse(&id), Class::of_letter(&class)) {
                (Some(site), Some(class)) => {
                    taken.push(Claimed { lease: Lease { site, token, length }, class })
                }
                // It waits for the end of its lease, as what nobody works on.
                _ => damaged.push(id),
            }
        }
        Ok(Claim { taken, next, left, damaged })
    }

    /// Those partitions in which nothing is due, each with how long until something is (`None`: nothing is scheduled there). Two
    /// round trips for all of them. One that can't be read is none of those.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_quiet(
        &self,
        partitions: &[Partition],
    ) -> Result<Vec<(Partition, Option<Duration>)>, StoreError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.now_ms().await?;
        let mut questions = Vec::with_capacity(2 * partitions.len());
        for partition in partitions {
            let ready: Vec<String> =
                Class::ALL.into_iter().map(|class| keys::ready(*partition, class)).collect();
            questions.push(cmd("EXISTS").arg(ready).clone());
            let mut first = cmd("ZRANGE");
            first.arg(keys::due(*partition)).arg(0).arg(0).arg("WITHSCORES");
            questions.push(first);
        }
        let answers = self.read_each::<redis::Value>(&questions).await?;
        let mut quiet = Vec::new();
        for (partition, answers) in partitions.iter().zip(answers.chunks_exact(2)) {
            let [Ok(ready), Ok(first)] = answers else { continue };
            let Ok(0) = redis::from_redis_value_ref::<u64>(ready) else { continue };
            let Ok(first) = redis::from_redis_value_ref::<Vec<(Vec<u8>, f64)>>(first) else { continue };
            match first.first() {
                None => quiet.push((*partition, None)),
                Some((_, at)) if *at as i64 > now => {
                    let wait = Duration::from_millis((*at as i64).saturating_sub(now).unsigned_abs());
                    quiet.push((*partition, Some(wait)));
                }
                Some(_) => {}
            }
        }
        Ok(quiet)
    }

    /// Gives a group back with what came of the work on it.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the lease was lost;
    /// [`StoreError::Conflict`] when a failover has lost what was published.
    pub async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<(), StoreError> {
        let mut touched = vec![keys::site(&lease.site)];
        touched.extend(settlement.done.iter().map(|(slot, _)| keys::order(&lease.site, *slot)));
        touched.extend(queues(lease.site.partition()));
        touched.extend(indexes(lease.site.partition()));
        let mut arguments = vec![
            lease.token.clone(),
            lease.site.to_string(),
            settlement.revision.to_string(),
            settlement.done.len().to_string(),
            to_record(&settlement.place),
            wait_ms(settlement.place.moment),
            settlement.fields.len().to_string(),
        ];
        for (field, value) in &settlement.fields {
            arguments.extend([field.as_str().to_owned(), value.clone().unwrap_or_default()]);
        }
        let served: Vec<(&Slot, &CertificateId)> =
            settlement.done.iter().filter_map(|(slot, id)| Some((slot, id.as_ref()?))).collect();
        arguments.push(served.len().to_string());
        for (slot, id) in served {
            arguments.extend([slot.to_string(), id.to_string()]);
        }
        arguments.extend(settlement.events.iter().cloned());
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        self.confirmed_whole_script(&scripts::SETTLE, touched, &arguments).await
    }

    /// Has a group looked at now, with fields that say what is wished for. `false` where there is no such group.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nudge(
        &self,
        id: &SiteId,
        place: &Place,
        fields: &[(Field, String)],
    ) -> Result<bool, StoreError> {
        let place = to_record(place);
        let mut arguments = vec![id.as_str().as_bytes(), place.as_bytes()];
        for (field, value) in fields {
            arguments.extend([field.as_str().as_bytes(), value.as_bytes()]);
        }
        let mut touched = vec![keys::site(id)];
        touched.extend(queues(id.partition()));
        touched.extend(indexes(id.partition()));
        let found: i64 = self.confirmed_whole_script(&scripts::NUDGE, touched, &arguments).await?;
        Ok(found == 1)
    }

    /// Deletes a retired group with everything of it; `false` where it is wanted again.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the lease was lost.
    pub async fn delete_group(&self, lease: &Lease) -> Result<bool, StoreError> {
        let mut touched = vec![keys::site(&lease.site)];
        for slot in Slot::ALL {
            touched.push(keys::order(&lease.site, slot));
            // Nothing else refers to what was issued and never published.
            if let Some(open) = self.load_order(&lease.site, slot).await?
                && let OrderState::Stored(stored) = open.order.state
            {
                touched.push(keys::certificate(&lease.site, &stored.certificate));
            }
        }
        let orders = (touched.len() - 1).to_string();
        let arguments = [lease.token.as_bytes(), lease.site.as_str().as_bytes(), orders.as_bytes()];
        touched.extend(queues(lease.site.partition()));
        touched.extend(indexes(lease.site.partition()));
        touched.push(keys::sites(lease.site.partition()));
        let deleted: i64 = self.confirmed_whole_script(&scripts::DELETE_GROUP, touched, &arguments).await?;
        Ok(deleted == 1)
    }

    /// What is scheduled and what is due. Costs the partitions, not the groups.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_of_schedule(&self) -> Result<Load, StoreError> {
        let clock = self.clock_offset().await?;
        let now = Timestamp::now();
        let now_ms = now.saturating_add(clock.ahead).unwrap_or(now).as_millisecond();
        // All at once: where the store is far away, one after the other would take as many times as long.
        let asked = Partition::all().map(async |partition| {
            let mut pipeline = redis::Pipeline::new();
            pipeline.cmd("ZCARD").arg(keys::sites(partition));
            pipeline.cmd("ZCARD").arg(keys::due(partition));
            pipeline.cmd("ZCOUNT").arg(keys::due(partition)).arg("-inf").arg(now_ms);
            pipeline.cmd("ZCARD").arg(keys::failing(partition));
            pipeline.cmd("ZCARD").arg(keys::parked(partition));
            pipeline.cmd("ZCARD").arg(keys::waiting(partition));
            for class in Class::ALL {
                pipeline.cmd("ZCARD").arg(keys::ready(partition, class));
            }
            // One that can't be counted is told by those who work on it (`sp:damaged`).
            pipeline.cmd("ZRANGE").arg(keys::waiting(partition)).arg(0).arg(0).arg("WITHSCORES");
            match self.link.pipe::<Vec<redis::Value>>(&pipeline).await {
                Err(error) if error.is_of_its_keys() => Ok(Err(error)),
                counts => counts.map(Ok),
            }
        });
        let mut load = Load::default();
        let (mut counted, mut refused) = (0, None);
        for (partition, counts) in Partition::all().zip(try_join_all(asked).await?) {
            let counts = match counts {
                Ok(counts) => counts,
                Err(error) => {
                    refused = Some(error);
                    continue;
                }
            };
            let missing = || StoreError::corrupt(keys::due(partition), "a count is missing");
            let (first, counts) = counts.split_last().ok_or_else(missing)?;
            let counts: Result<Vec<u64>, _> = counts.iter().map(redis::from_redis_value_ref).collect();
            let counts = counts.map_err(|e| StoreError::corrupt(keys::due(partition), e))?;
            let [groups, scheduled, overdue, failing, parked, waiting, ready @ ..] = counts.as_slice() else {
                return Err(missing());
            };
            let first: Vec<(Vec<u8>, f64)> = redis::from_redis_value_ref(first)
                .map_err(|e| StoreError::corrupt(keys::waiting(partition), e))?;
            let first = first.first().and_then(|(_, ms)| Timestamp::from_millisecond(*ms as i64).ok());
            load.waiting = load.waiting.saturating_add(*waiting);
            load.waiting_until =
                load.waiting_until.into_iter().chain(first.map(|moment| clock.to_ours(moment))).min();
            counted += 1;
            load.groups = load.groups.saturating_add(*groups);
            load.scheduled = load.scheduled.saturating_add(*scheduled);
            load.overdue = load.overdue.saturating_add(*overdue);
            load.failing = load.failing.saturating_add(*failing);
            load.parked = load.parked.saturating_add(*parked);
            for (class, count) in Class::ALL.into_iter().zip(ready) {
                let sum = load.ready.entry(class).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        // Where none of them can be, it is the store.
        match refused {
            Some(error) if counted == 0 => Err(error),
            _ => Ok(load),
        }
    }

    /// Groups that fail, or that are parked: those since the longest first in each partition.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_troubled(&self, parked: bool, limit: usize) -> Result<Vec<SiteId>, StoreError> {
        let asked = Partition::all().map(async |partition| {
            let key = if parked { keys::parked(partition) } else { keys::failing(partition) };
            let mut range = cmd("ZRANGEBYSCORE");
            range.arg(key).arg("-inf").arg("+inf").arg("LIMIT").arg(0).arg(limit);
            // One that can't be read is told by the watchdog.
            self.read_members(&range).await.map(|ids| ids.found)
        });
        let ids = try_join_all(asked).await?.into_iter().flatten();
        Ok(ids.filter_map(|id| SiteId::parse(&id)).take(limit).collect())
    }

    /// Groups that wait for a moment. What an earlier release has left may not be there yet: [`Store::is_waiting_known`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_waiting(&self) -> Result<Vec<SiteId>, StoreError> {
        let asked = Partition::all().map(async |partition| {
            let mut range = cmd("ZRANGE");
            range.arg(keys::waiting(partition)).arg(0).arg(-1);
            self.read_members(&range).await.map(|ids| ids.found)
        });
        let ids = try_join_all(asked).await?.into_iter().flatten();
        Ok(ids.filter_map(|id| SiteId::parse(&id)).collect())
    }

    /// Every group of a partition that fails, or that is parked: those since the longest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_troubled_in(
        &self,
        partition: Partition,
        parked: bool,
    ) -> Result<Vec<SiteId>, StoreError> {
        let key = if parked { keys::parked(partition) } else { keys::failing(partition) };
        let ids = self.read_members(cmd("ZRANGE").arg(&key).arg(0).arg(-1)).await?.found;
        // What is no site's id is no site.
        Ok(ids.iter().filter_map(|id| SiteId::parse(id)).collect())
    }
}

/// `CLASS DEADLINE [URGENT [HOUR]]`, times in seconds; URGENT is empty where there is an hour and no such moment.
pub(super) fn to_record(place: &Place) -> String {
    let seconds = |moment: Timestamp| moment.as_second().max(0);
    let urgent = place.urgent_from.map(|urgent| seconds(urgent).to_string());
    let hour = place.renewal.map(|renewal| hour_of(renewal).max(0));
    let (letter, deadline) = (place.class.letter(), seconds(place.deadline));
    match (urgent, hour) {
        (urgent, Some(hour)) => format!("{letter} {deadline} {} {hour}", urgent.unwrap_or_default()),
        (Some(urgent), None) => format!("{letter} {deadline} {urgent}"),
        (None, None) => format!("{letter} {deadline}"),
    }
}

/// The planned renewal in a record, to the hour.
pub(super) fn renewal_in(record: &str) -> Option<Timestamp> {
    let hour: i64 = record.split(' ').nth(3)?.parse().ok()?;
    Timestamp::from_second(hour.checked_mul(3600)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_say_no_more_than_they_must_and_old_ones_are_read() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let (deadline, urgent, renewal) = (at(1_806_537_600), at(1_805_241_600), at(1_803_947_400));
        let place = |urgent_from, renewal| {
            to_record(&Place { class: Class::Renewal, moment: deadline, deadline, urgent_from, renewal })
        };
        assert_eq!(place(None, None), "r 1806537600");
        assert_eq!(place(Some(urgent), None), "r 1806537600 1805241600");
        assert_eq!(place(Some(urgent), Some(renewal)), "r 1806537600 1805241600 501096");
        assert_eq!(place(None, Some(renewal)), "r 1806537600  501096");
        for record in ["r 1806537600 1805241600 501096", "r 1806537600  501096"] {
            assert_eq!(renewal_in(record), Some(at(501_096 * 3600)));
        }
        for record in ["r 1806537600", "r 1806537600 1805241600", "", "r 1 2 99999999999999999"] {
            assert_eq!(renewal_in(record), None, "{record:?}");
        }
    }
}
