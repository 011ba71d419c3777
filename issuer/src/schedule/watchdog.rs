//! What must always be true, looked at all the time: each group stands in one queue, every record can be read, and nobody waits for a
//! process that has ended.

use super::Node;
use jiff::Timestamp;
use shared::{
    domain::{Event, EventKind, Partition, SiteId},
    store::{Disorder, Mended, Store, StoreError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

/// Groups that are looked at in one step, and the pause between two steps: so a million take less than two hours, and the store has
/// better things to do.
const IN_ONE_STEP: usize = 100;
const BETWEEN_STEPS: Duration = Duration::from_millis(250);
/// What the keys of a partition's records begin with.
const OF_A_PARTITION: &str = "sp:{p";
/// Between two rounds over all partitions.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(5);
/// How long the store is left alone after an error.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// Sites that one event names.
const MOST_NAMED: usize = 20;
/// Between two looks at the fleet's own records: not sooner than that, and not more of the time than one in so many parts.
const BETWEEN_LOOKS_AT_FLEET: Duration = Duration::from_secs(10);
const PART_OF_THE_TIME: u32 = 50;
/// Between two looks for leases of processes that have ended.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

impl Node {
    /// Goes over the schedule and its records again and again. Never returns.
    pub async fn watch_records(self: Arc<Self>) {
        let mut next_of_fleet = Instant::now();
        loop {
            let round = self.watch_once(&mut next_of_fleet).await;
            let pause = match round {
                Ok(()) => BETWEEN_ROUNDS,
                Err(error) => {
                    tracing::debug!(
                        error = shared::error::chain(&error),
                        "the schedule can't be looked over"
                    );
                    STORE_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn watch_once(&self, next_of_fleet: &mut Instant) -> Result<(), StoreError> {
        let noted = self.noted().await?;
        let mut is_whole = true;
        for partition in Partition::all() {
            if Instant::now() >= *next_of_fleet {
                let began = Instant::now();
                self.watch_fleet().await?;
                let pause = BETWEEN_LOOKS_AT_FLEET.max(began.elapsed() * PART_OF_THE_TIME);
                *next_of_fleet = Instant::now() + pause;
            }
            self.watch_lists(partition, &noted).await?;
            match self.watch_partition(partition, &noted).await {
                Ok(()) => {}
                // The claims tell of a partition that can't be worked on.
                Err(error) if error.is_of_its_keys() => {
                    is_whole = false;
                    tracing::debug!(error = shared::error::chain(&error), %partition, "not looked over");
                }
                Err(error) => return Err(error),
            }
        }
        if is_whole && !self.store.is_waiting_known().await? {
            self.store.note_waiting_known().await?;
        }
        for key in noted.iter().filter(|key| key.starts_with(OF_A_PARTITION)) {
            let is_order = key.contains(":order:");
            if !self.store.has_record(key).await? || is_order && self.store.is_readable(key).await? {
                self.forget_damaged(key, None).await?;
            }
        }
        Ok(())
    }

    async fn noted(&self) -> Result<BTreeSet<String>, StoreError> {
        Ok(self.store.list_damaged().await?.into_iter().map(|record| record.key).collect())
    }

    /// Looks at what belongs to no partition.
    async fn watch_fleet(&self) -> Result<(), StoreError> {
        let noted = self.noted().await?;
        let found = self.store.damage_of_fleet(self.config.ca.keys()).await?;
        for damage in &found {
            if noted.contains(&damage.key) {
                self.store.forget_report(damage).await?;
            } else {
                self.note_damaged(&damage.key, None, &damage.what).await;
            }
        }
        let is_damaged = |key: &String| found.iter().any(|damage| damage.key == *key);
        for key in noted.iter().filter(|key| !key.starts_with(OF_A_PARTITION) && !is_damaged(key)) {
            if self.store.is_readable(key).await? {
                self.forget_damaged(key, None).await?;
            }
        }
        Ok(())
    }

    /// Looks at the lists of a partition themselves.
    async fn watch_lists(&self, partition: Partition, noted: &BTreeSet<String>) -> Result<(), StoreError> {
        let mut found = self.store.damage_of_lists(partition).await?;
        let feed = match self.store.damage_of_feed(partition).await {
            // That is told of below, or by whoever meets it.
            Err(error) if error.is_of_its_keys() => Default::default(),
            feed => feed?,
        };
        found.extend(feed.found.iter().cloned());
        for damage in found.iter().filter(|damage| !noted.contains(&damage.key)) {
            self.note_damaged(&damage.key, None, &damage.what).await;
        }
        if !feed.is_none() {
            match self.store.mend_feed(partition, &feed).await {
                Ok(()) => {
                    tracing::info!(%partition, "what frontends follow is put right: what it may have said is said again")
                }
                Err(error) if error.is_of_its_keys() => {
                    tracing::warn!(error = shared::error::chain(&error), %partition, "what frontends follow can't be put right");
                }
                Err(error) => return Err(error),
            }
        }
        let schedule = Store::key_of_schedule(partition);
        for key in noted.iter().filter(|key| Store::is_list(partition, key)) {
            // What can't be taken from the schedule may have another reason than the list itself.
            let is_well = *key != schedule || self.is_known_to_be_well(partition);
            if is_well && found.iter().all(|damage| damage.key != *key) {
                self.forget_damaged(key, None).await?;
            }
        }
        Ok(())
    }

    async fn watch_partition(
        &self,
        partition: Partition,
        noted: &BTreeSet<String>,
    ) -> Result<(), StoreError> {
        let mut mended: Vec<Mended> = Vec::new();
        for list in self.store.lists_of_groups(partition).await? {
            for first in (0..list.length).step_by(IN_ONE_STEP) {
                let places = first..(first + IN_ONE_STEP).min(list.length);
                let (found, ids) = self.store.mend_schedule(partition, &list, places).await?;
                mended.extend(found);
                let ids: Vec<SiteId> = ids.iter().filter_map(|id| SiteId::parse(id)).collect();
                for record in self.store.check_records(&ids).await? {
                    match record.problem {
                        Some(what) if !noted.contains(&record.key) => {
                            self.note_damaged(&record.key, Some(&record.site), &what).await;
                        }
                        None if noted.contains(&record.key) => {
                            self.forget_damaged(&record.key, Some(&record.site)).await?;
                        }
                        _ => {}
                    }
                }
                tokio::time::sleep(BETWEEN_STEPS).await;
            }
        }
        self.tell_of_mended(mended).await;
        Ok(())
    }

    async fn tell_of_mended(&self, mended: Vec<Mended>) {
        let mut by_disorder: BTreeMap<Disorder, Vec<String>> = BTreeMap::new();
        for Mended { id, what } in mended {
            by_disorder.entry(what).or_default().push(id);
        }
        for (disorder, ids) in by_disorder {
            // Of an earlier release, all that wait.
            if disorder == Disorder::Uncounted {
                tracing::info!(sites = ids.len(), "{disorder}: it is now");
                continue;
            }
            tracing::warn!(sites = ?ids, what = %disorder, "the schedule was not as it must be, and is again");
            // What is damaged is told record by record; what a queue had that is not there is lost by nobody.
            if matches!(disorder, Disorder::Damaged | Disorder::Empty) {
                continue;
            }
            let (count, first) = (ids.len(), ids.first().cloned().unwrap_or_default());
            let what = match count {
                1 => format!("the site {first}: {disorder}; it was put right"),
                _ => format!("{count} sites, {first} and others: {disorder}; they were put right"),
            };
            let mut event = Event::new(EventKind::ScheduleRepaired, Timestamp::now(), what)
                .remedy("nothing, if it stays at this; else look for what else writes into the store")
                .with("disorder", disorder.as_str())
                .with("count", count)
                .with("sites", ids.into_iter().take(MOST_NAMED).collect::<Vec<_>>());
            event.site = SiteId::parse(&first).filter(|_| count == 1);
            self.tell(event).await;
        }
    }

    /// Tells once of a record that can't be read, whichever node finds it.
    pub(super) async fn note_damaged(&self, key: &str, site: Option<&SiteId>, what: &str) {
        match self.store.note_damaged(key, what).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(
                    error = shared::error::chain(&error),
                    key,
                    what,
                    "a damaged record is not noted"
                );
                return;
            }
        }
        tracing::error!(key, what, "a record can't be read: it is left alone, all others go on");
        let mut event = Event::new(EventKind::RecordDamaged, Timestamp::now(), format!("{key}: {what}"))
            .remedy("look at the store's memory and disks; put the record back from a backup")
            .with("key", key);
        event.site = site.cloned();
        self.tell(event).await;
    }

    async fn forget_damaged(&self, key: &str, site: Option<&SiteId>) -> Result<(), StoreError> {
        if !self.store.forget_damaged(key).await? {
            return Ok(());
        }
        tracing::info!(key, "a record that could not be read can be read again, or is gone");
        let what = format!("{key}: the record can be read again, or is gone");
        let mut event = Event::new(EventKind::RecordRecovered, Timestamp::now(), what).with("key", key);
        event.site = site.cloned();
        self.tell(event).await;
        Ok(())
    }

    /// A partition that can't be worked on, while others can.
    pub(super) async fn partition_in_trouble(&self, partition: Partition, error: &StoreError) {
        let what = shared::error::chain(error);
        let known = {
            let mut all = self.unusable_partitions.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(partition, Some(what.clone())).flatten()
        };
        // A slot that is on the move passes.
        if known.is_some() || matches!(error, StoreError::Unavailable(_) | StoreError::Conflict) {
            if known.is_none() {
                tracing::warn!(%partition, error = what, "nothing of this part of the schedule is taken for now");
            }
            return;
        }
        let key = Store::key_of_schedule(partition);
        self.note_damaged(&key, None, &format!("nothing is taken from this part of the schedule: {what}"))
            .await;
    }

    pub(super) async fn partition_is_well(&self, partition: Partition) {
        let was_known = {
            let mut all = self.unusable_partitions.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(partition, None).flatten().is_some()
        };
        if was_known {
            let key = Store::key_of_schedule(partition);
            if let Err(error) = self.forget_damaged(&key, None).await {
                tracing::warn!(error = shared::error::chain(&error), key, "not noted that it is well again");
            }
        }
    }

    /// Whether something could be taken from it when it was last tried.
    fn is_known_to_be_well(&self, partition: Partition) -> bool {
        let all = self.unusable_partitions.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&partition).is_some_and(Option::is_none)
    }

    /// Takes over what processes of this machine held when they ended. Never returns.
    pub async fn watch_leases(self: Arc<Self>) {
        let length = self.config.issuer.lease_length();
        loop {
            match self.store.take_over_ended(&self.owner, length).await {
                Ok(0) => {}
                Ok(sites) => tracing::info!(sites, "taken over from a process that has ended"),
                Err(error) => {
                    tracing::debug!(error = shared::error::chain(&error), "leases can't be looked at")
                }
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}
