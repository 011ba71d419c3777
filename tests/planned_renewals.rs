//! How many renewals each hour has is true at every moment, whatever is done to the groups: each is counted once, in the hour that
//! its own record names, or not at all. Against a real Redis, by random steps, compared with a model and with a recount.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use harness::redis::{Redis, RedisOptions};
use jiff::{SignedDuration, Timestamp};
use shared::{
    config::Config,
    domain::{Class, DnsName, Groups, KeyType, NameSet, Partition, Place, Site, SiteId, hour_of},
    store::{Claim, Lease, LeaseAnswer, Owner, Role, Settlement, SiteChange, Store, StoreError},
};

const SITES: u64 = 4;
const STEPS: u64 = 4000;
const LONG: Duration = Duration::from_secs(60);
/// It has ended before the next step.
const SHORT: Duration = Duration::from_millis(1);

#[tokio::test]
async fn each_group_is_counted_once_or_not_at_all() -> Result<()> {
    let redis = Redis::start(RedisOptions { append_only: false, ..RedisOptions::default() }).await?;
    let mut scene = Scene::open(&redis).await?;
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    for step in 0..STEPS {
        let what = scene.step().await.with_context(|| format!("step {step}"))?;
        *done.entry(what).or_default() += 1;
        if step % 40 == 0 || step + 1 == STEPS {
            scene.compare(&redis).await.with_context(|| format!("after step {step}, {what}"))?;
        }
    }
    println!("{done:?}");
    for what in
        ["put", "nudged", "claimed", "settled", "settled late", "fenced", "released", "leased", "deleted"]
    {
        ensure!(done.get(what).is_some_and(|times| *times > 20), "{what} hardly ever: {done:?}");
    }
    Ok(())
}

#[tokio::test]
async fn places_of_older_programs_are_understood() -> Result<()> {
    let redis = Redis::start(RedisOptions { append_only: false, ..RedisOptions::default() }).await?;
    let mut scene = Scene::open(&redis).await?;
    let id = SiteId::of(&names(0, 0)?);
    let key = format!("sp:{{{}}}:site:{id}", id.partition());
    for record in ["r 1806537600", "r 1806537600 1805241600"] {
        scene.put(0, &[0]).await?;
        redis.command(&["HSET", &key, "sched", record]).await?;
        ensure!(scene.store.load_site(&id).await?.context("it is there")?.renewal.is_none());
        let taken = scene.claim(id.partition(), LONG).await?.taken;
        ensure!(taken.len() == 1 && scene.store.renewals_by_hour().await?.is_empty());
        let planned = Timestamp::from_second(1_803_947_400)?;
        scene.settle(&taken[0].lease, 1, Some(planned)).await?;
        let hour = hour_of(planned);
        ensure!(scene.store.renewals_by_hour().await? == BTreeMap::from([(hour, 1)]));
        let renewal = scene.store.load_site(&id).await?.context("it is there")?.renewal;
        ensure!(renewal == Some(Timestamp::from_second(hour * 3600)?), "{renewal:?}");
        // Gone, and made anew.
        scene.put(0, &[]).await?;
        ensure!(scene.store.renewals_by_hour().await?.is_empty(), "what is retired is not renewed");
        redis.command(&["FLUSHALL"]).await?;
    }
    Ok(())
}

/// A store, and what should be in it.
struct Scene {
    store: Store,
    owner: Owner,
    dice: u64,
    /// Groups that have a place in the schedule, with the hour of their renewal.
    expected: BTreeMap<SiteId, Option<i64>>,
    /// Leases, ended or not, each with the revision of its group and whether that was wanted.
    held: Vec<(Lease, u64, bool)>,
}

impl Scene {
    async fn open(redis: &Redis) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("signpost.toml");
        std::fs::write(&file, format!("[store]\nurl = {:?}\n", redis.url()))?;
        let config = Config::load(Some(&file))?;
        let store = Store::open(&config.store, Role::Issuer).await?;
        let dice = Timestamp::now().as_microsecond().unsigned_abs();
        println!("seed {dice}");
        let (owner, expected) = (Owner::this_process(), BTreeMap::new());
        Ok(Self { store, owner, dice, expected, held: Vec::new() })
    }

    /// Below that.
    fn roll(&mut self, below: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % below
    }

    async fn step(&mut self) -> Result<&'static str> {
        let site = self.roll(SITES);
        let group = SiteId::of(&names(site, 0)?).group(self.roll(3) as u16);
        match self.roll(16) {
            0 | 1 => {
                const GROUPS: [&[u16]; 4] = [&[], &[0], &[0, 1], &[0, 1, 2]];
                let groups = GROUPS[self.roll(4) as usize];
                self.put(site, groups).await
            }
            2 => {
                let is_wanted = self.store.load_site(&group).await?.is_some();
                ensure!(self.store.nudge(&group, &at_once(), &[]).await? == is_wanted);
                Ok(if is_wanted { "nudged" } else { "nothing to nudge" })
            }
            3..=6 => {
                let length = if self.roll(3) == 0 { SHORT } else { LONG };
                let claim = self.claim(group.partition(), length).await?;
                Ok(if claim.taken.is_empty() { "nothing was due" } else { "claimed" })
            }
            7 | 8 => self.acquire(&group).await,
            action => {
                if self.held.is_empty() {
                    return Ok("nothing is held");
                }
                let place = self.roll(self.held.len() as u64) as usize;
                let (lease, revision, is_wanted) = self.held.swap_remove(place);
                match action {
                    9 => {
                        self.store.release_lease(&lease).await?;
                        Ok("released")
                    }
                    10 | 11 => self.delete(lease).await,
                    _ => {
                        // Some of them in the past; what is not wanted is not renewed.
                        let hours = self.roll(6) as i64 - 1;
                        let moment = Timestamp::now() + SignedDuration::from_hours(hours);
                        let renewal = (is_wanted && self.roll(4) > 0).then_some(moment);
                        self.settle(&lease, revision, renewal).await
                    }
                }
            }
        }
    }

    /// A site with these groups.
    async fn put(&mut self, site: u64, groups: &[u16]) -> Result<&'static str> {
        let id = SiteId::of(&names(site, 0)?);
        let before = self.store.load_wanted(&id).await?;
        let known = before.as_ref().map(|before| before.groups.clone()).unwrap_or_default();
        if before.is_none() && groups.is_empty() {
            return Ok("nothing to remove");
        }
        let groups: Groups =
            groups.iter().map(|number| Ok((*number, names(site, *number)?))).collect::<Result<_>>()?;
        let touched =
            groups.keys().copied().filter(|number| !known.contains_key(number) || self.roll(2) == 0);
        let touched: Vec<u16> = touched.collect();
        let all = groups.values().flat_map(|names| names.iter().cloned());
        let all = NameSet::new(all).unwrap_or(names(site, 0)?);
        let grace = if self.roll(2) == 0 { 0 } else { 3600 };
        let deletion = Timestamp::now() + SignedDuration::from_secs(grace);
        let change = SiteChange {
            id: id.clone(),
            before,
            site: Site::new(all, &[KeyType::EcdsaP256], "ca", "default", Timestamp::now()),
            groups: groups.clone(),
            place: at_once(),
            touched,
            retired: Place { class: Class::Check, moment: deletion, deadline: deletion, ..at_once() },
            force: None,
            remembered: Default::default(),
            events: Vec::new(),
        };
        self.store.put_site(&change).await?;
        for number in known.keys().filter(|number| !groups.contains_key(number)) {
            self.expected.insert(id.group(*number), None);
        }
        for number in groups.keys() {
            self.expected.entry(id.group(*number)).or_insert(None);
        }
        Ok("put")
    }

    async fn claim(&mut self, partition: Partition, length: Duration) -> Result<Claim> {
        let claim = self.store.claim(partition, &self.owner.attempt(), length, [2; 6], 3).await?;
        for claimed in &claim.taken {
            self.hold(claimed.lease.clone()).await?;
        }
        Ok(claim)
    }

    async fn acquire(&mut self, group: &SiteId) -> Result<&'static str> {
        let length = if self.roll(3) == 0 { SHORT } else { LONG };
        let site = Site::new(names(0, 0)?, &[KeyType::EcdsaP256], "ca", "default", Timestamp::now());
        let attempt = self.owner.attempt();
        let answer = self.store.acquire_lease(group, &site, &self.owner, &attempt, length).await?;
        let LeaseAnswer::Acquired(lease) = answer else { return Ok("somebody has the lease") };
        self.expected.entry(group.clone()).or_insert(None);
        self.hold(lease).await?;
        Ok("leased")
    }

    async fn hold(&mut self, lease: Lease) -> Result<()> {
        let (revision, is_wanted) = match self.store.load_site(&lease.site).await? {
            Some(stored) => (stored.revision, true),
            None => {
                (self.store.load_retired(&lease.site).await?.map_or(0, |retired| retired.revision), false)
            }
        };
        self.held.push((lease, revision, is_wanted));
        Ok(())
    }

    async fn settle(
        &mut self,
        lease: &Lease,
        revision: u64,
        renewal: Option<Timestamp>,
    ) -> Result<&'static str> {
        let id = &lease.site;
        let now = Timestamp::now();
        let later = now + SignedDuration::from_millis(self.roll(3) as i64);
        let urgent_from = (self.roll(2) == 0).then_some(later + SignedDuration::from_hours(1));
        let class = Class::ALL[self.roll(6) as usize];
        let place = Place { class, moment: later, deadline: later, urgent_from, renewal };
        let stored = self.store.load_site(id).await?;
        let is_wanted = stored.is_some();
        let is_late = stored.is_some_and(|stored| stored.revision != revision);
        let settlement =
            Settlement { revision, place, done: Vec::new(), fields: Vec::new(), events: Vec::new() };
        match self.store.settle(lease, &settlement).await {
            Ok(()) => {
                let hour = renewal.filter(|_| is_wanted).map(hour_of);
                self.expected.insert(id.clone(), hour);
                Ok(if is_late { "settled late" } else { "settled" })
            }
            Err(StoreError::Fenced) => Ok("fenced"),
            Err(error) => bail!(error),
        }
    }

    async fn delete(&mut self, lease: Lease) -> Result<&'static str> {
        match self.store.delete_group(&lease).await {
            Ok(true) => {
                self.expected.remove(&lease.site);
                Ok("deleted")
            }
            Ok(false) => {
                self.hold(lease).await?;
                Ok("not deleted")
            }
            Err(StoreError::Fenced) => Ok("fenced"),
            Err(error) => bail!(error),
        }
    }

    /// The numbers, a recount of the records, and the model.
    async fn compare(&self, redis: &Redis) -> Result<()> {
        let mut connection = redis.connection().await?;
        let mut in_all: BTreeMap<i64, u64> = BTreeMap::new();
        for partition in Partition::all() {
            let found: BTreeMap<i64, u64> = redis::cmd("HGETALL")
                .arg(format!("sp:{{{partition}}}:renewals"))
                .query_async(&mut connection)
                .await?;
            let mut recounted = BTreeMap::new();
            let pattern = format!("sp:{{{partition}}}:site:*");
            let records: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await?;
            for record in records {
                let place: Option<String> =
                    redis::cmd("HGET").arg(record).arg("sched").query_async(&mut connection).await?;
                if let Some(hour) = place.as_deref().and_then(|place| place.split(' ').nth(3)) {
                    *recounted.entry(hour.parse()?).or_default() += 1;
                }
            }
            ensure!(found == recounted, "{partition}: {found:?}, the records say {recounted:?}");
            let mut expected = BTreeMap::new();
            for (_, hour) in self.expected.iter().filter(|(id, _)| id.partition() == partition) {
                if let Some(hour) = hour {
                    *expected.entry(*hour).or_default() += 1;
                }
            }
            ensure!(found == expected, "{partition}: {found:?}, expected {expected:?}");
            let hours: Vec<i64> = found.keys().copied().chain([0]).collect();
            let planned = self.store.renewals_in(partition, &hours).await?;
            let counts: Vec<u64> = found.values().copied().chain([0]).collect();
            ensure!(planned.per_hour == counts, "{planned:?}");
            for (hour, count) in found {
                *in_all.entry(hour).or_default() += count;
            }
        }
        ensure!(self.store.renewals_by_hour().await? == in_all);
        Ok(())
    }
}

fn at_once() -> Place {
    let now = Timestamp::now();
    Place { class: Class::Operator, moment: now, deadline: now, urgent_from: None, renewal: None }
}

/// Of a group.
fn names(site: u64, group: u16) -> Result<NameSet> {
    Ok(NameSet::one(DnsName::parse(&format!("g{group}.site{site}.example"))?))
}
