//! Race and murder: several daemons on one store, killed and frozen at random, and the store's primary too. At the end every
//! site has exactly its certificates, the CA has issued none twice, and nothing is left over.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    cluster::Cluster,
    deadline::until_true,
    redis::Redis,
    sentinel::SentinelStore,
    signpost::{Signpost, Started},
    stage::{Stage, StageOptions},
};
use serde_json::json;

const DAEMONS: usize = 4;
const LEASE_SECONDS: f64 = 1.5;
const EVERY: Duration = Duration::from_secs(2);
/// Longer than a lease.
const FROZEN: Duration = Duration::from_millis(2500);
/// A slow machine takes its time: what counts is how it ends.
const LIMIT: Duration = Duration::from_secs(450);

/// A daemon on a node of its own, and until when it is frozen.
struct Victim {
    node: Signpost,
    running: Started,
    frozen_until: Option<Instant>,
}

/// What the store is made of, and how it is murdered.
enum Backing {
    Single,
    /// Its primary is killed three times.
    Sentinel(SentinelStore),
    /// One of its primaries is killed.
    Cluster(Cluster),
}

impl Backing {
    /// How often one of its primaries is killed, in equal parts of the work.
    fn deaths(&self) -> usize {
        match self {
            Self::Single => 0,
            Self::Sentinel(_) => 3,
            Self::Cluster(_) => 1,
        }
    }

    async fn kill_a_primary(&mut self) -> Result<()> {
        match self {
            Self::Single => Ok(()),
            Self::Sentinel(store) => {
                let dead = store.kill_primary().await?;
                store.successor_of(dead).await?;
                store.start_again(dead).await
            }
            Self::Cluster(cluster) => {
                let dead = cluster.primary_of("sp:{p00}:due").await?;
                cluster.kill(dead).await?;
                cluster.healed().await?;
                cluster.start_again(dead).await
            }
        }
    }

    /// Every Redis that holds records.
    async fn primaries<'a>(&'a self, stage: &'a Stage) -> Result<Vec<&'a Redis>> {
        Ok(match self {
            Self::Single => vec![&stage.redis],
            Self::Sentinel(store) => vec![&store.redis[store.primary().await?]],
            Self::Cluster(cluster) => {
                let mut found = Vec::new();
                for (number, node) in cluster.nodes.iter().enumerate() {
                    if cluster.is_primary(number).await? {
                        found.push(node);
                    }
                }
                found
            }
        })
    }

    /// `KEYS`, which a test may use.
    async fn keys(&self, stage: &Stage, pattern: &str) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for redis in self.primaries(stage).await? {
            let found: Vec<String> = redis::from_redis_value(redis.command(&["KEYS", pattern]).await?)?;
            all.extend(found);
        }
        Ok(all)
    }

    /// Groups that somebody holds.
    async fn held(&self, stage: &Stage) -> Result<Vec<String>> {
        let mut held = Vec::new();
        for redis in self.primaries(stage).await? {
            let keys: Vec<String> =
                redis::from_redis_value(redis.command(&["KEYS", "sp:{p*}:site:*"]).await?)?;
            for key in keys {
                let owner: Option<String> =
                    redis::from_redis_value(redis.command(&["HGET", &key, "lease_owner"]).await?)?;
                held.extend(owner.map(|owner| format!("{key} by {owner}")));
            }
        }
        Ok(held)
    }
}

/// Kills and freezes without mercy, the same way for the same seed.
struct Murderer {
    random: u64,
    daemons: Vec<Victim>,
    kills: usize,
    freezes: usize,
    next: Instant,
}

impl Murderer {
    fn new(stage: &Stage, seed: u64) -> Result<Self> {
        let daemons = (0..DAEMONS)
            .map(|_| {
                let node = node(stage)?;
                let running = start(&node)?;
                Ok(Victim { node, running, frozen_until: None })
            })
            .collect::<Result<_>>()?;
        Ok(Self { random: seed, daemons, kills: 0, freezes: 0, next: Instant::now() + EVERY })
    }

    /// xorshift
    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    async fn act(&mut self) -> Result<()> {
        let now = Instant::now();
        for victim in &mut self.daemons {
            if victim.frozen_until.is_some_and(|until| until <= now) {
                victim.running.process.resume()?;
                victim.frozen_until = None;
            }
        }
        if now < self.next {
            return Ok(());
        }
        self.next = now + EVERY;
        let chosen = self.draw(DAEMONS);
        let frozen = self.daemons.iter().filter(|victim| victim.frozen_until.is_some()).count();
        let freeze = self.draw(2) == 0 && frozen < 2 && self.daemons[chosen].frozen_until.is_none();
        let victim = &mut self.daemons[chosen];
        if freeze {
            victim.running.process.pause()?;
            victim.frozen_until = Some(now + FROZEN);
            self.freezes += 1;
        } else {
            victim.running.process.kill9().await?;
            victim.running = start(&victim.node)?;
            victim.frozen_until = None;
            self.kills += 1;
        }
        Ok(())
    }

    /// Everybody runs again.
    fn relent(&mut self) -> Result<()> {
        for victim in &mut self.daemons {
            if victim.frozen_until.take().is_some() {
                victim.running.process.resume()?;
            }
        }
        Ok(())
    }
}

/// The same fleet, with listeners of its own.
fn node(stage: &Stage) -> Result<Signpost> {
    let mut node = stage.signpost.another_node()?;
    settings(&mut node)?;
    Ok(node)
}

fn settings(node: &mut Signpost) -> Result<()> {
    node.set("issuer.lease_seconds", LEASE_SECONDS)?;
    node.set("issuer.slots", 16)?;
    node.set("issuer.self_check", "off")?;
    let pauses: Vec<toml::Value> = [1.0, 2.0, 3.0, 5.0].map(Into::into).to_vec();
    node.set("issuer.retry_seconds", pauses)
}

fn start(node: &Signpost) -> Result<Started> {
    node.start_run("issuer", &["run"])
}

fn sites_file(sites: usize) -> String {
    (0..sites)
        .map(|number| {
            let site = json!({"names": [name(number)], "key_types": ["ecdsa-p256", "rsa-2048"]});
            format!("{site}\n")
        })
        .collect()
}

fn name(number: usize) -> String {
    format!("r{number}.example")
}

async fn race(mut backing: Backing, options: StageOptions, sites: usize, seed: u64) -> Result<()> {
    let mut stage = Stage::trusting_with(options).await?;
    settings(&mut stage.signpost)?;
    // As many as there are: whichever replica takes over has what was confirmed.
    match backing {
        Backing::Single => {}
        Backing::Sentinel(_) => stage.signpost.set("store.confirm_replicas", 2)?,
        Backing::Cluster(_) => stage.signpost.set("store.confirm_replicas", 1)?,
    }
    stage.signpost.issuer(&["account", "create"]).await?.success()?;
    let file = stage.signpost.write("sites.ndjson", sites_file(sites))?;
    let file = file.to_str().context("a temporary path is text")?;
    stage.signpost.issuer(&["apply", file]).await?.success()?;
    let mut murderer = Murderer::new(&stage, seed)?;
    let began = Instant::now();
    let (mut looked, mut deaths) = (Instant::now(), 0);
    loop {
        murderer.act().await?;
        if looked.elapsed() > Duration::from_millis(500) {
            looked = Instant::now();
            let finalized = finalized(&stage);
            if deaths < backing.deaths() && finalized > (deaths + 1) * 2 * sites / (backing.deaths() + 2) {
                backing.kill_a_primary().await?;
                deaths += 1;
            }
            if finalized >= 2 * sites && deaths == backing.deaths() {
                break;
            }
        }
        ensure!(
            began.elapsed() < LIMIT,
            "{} certificates after {LIMIT:?}\n{}",
            finalized(&stage),
            murderer.daemons[0].running.stderr()?
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    murderer.relent()?;
    settled(&stage, &backing, sites).await?;
    for victim in &mut murderer.daemons {
        victim.running.process.terminate(Duration::from_secs(20)).await?;
    }
    eprintln!(
        "{sites} dual sites in {:?}: {} kills, {} freezes, {deaths} primaries lost, {} orders",
        began.elapsed(),
        murderer.kills,
        murderer.freezes,
        stage.proxy.orders().len()
    );
    none_twice(&stage, sites, murderer.kills + murderer.freezes + 16 * DAEMONS * deaths)?;
    everything_served(&stage, sites).await?;
    no_orphan(&stage, &backing, sites).await
}

fn finalized(stage: &Stage) -> usize {
    stage.proxy.orders().iter().map(|order| order.finalized as usize).sum()
}

/// Nothing is due, nothing fails, no order is open.
async fn settled(stage: &Stage, backing: &Backing, sites: usize) -> Result<()> {
    until_true("every site is settled", Duration::from_secs(90), || async {
        let Ok(status) = stage.signpost.issuer_json(&["status", "--limit", "1"]).await else { return false };
        let load = &status["fleet"]["load"];
        let idle = load["ready"].as_object().is_some_and(|ready| ready.values().all(|count| count == 0));
        load["groups"] == sites
            && load["failing"] == 0
            && load["overdue"] == 0
            && idle
            && backing.keys(stage, "sp:{p*}:order:*").await.is_ok_and(|open| open.is_empty())
            && backing.held(stage).await.is_ok_and(|held| held.is_empty())
    })
    .await
}

fn none_twice(stage: &Stage, sites: usize, murders: usize) -> Result<()> {
    let orders = stage.proxy.orders();
    let mut issued: BTreeMap<(Vec<String>, Option<String>), u64> = BTreeMap::new();
    for order in orders.iter().filter(|order| order.finalized > 0) {
        *issued.entry((order.names.clone(), order.key_type.clone())).or_default() += order.finalized;
    }
    ensure!(issued.len() == 2 * sites, "{} name sets and key types", issued.len());
    let twice: Vec<_> = issued.iter().filter(|(_, count)| **count != 1).collect();
    ensure!(twice.is_empty(), "issued more than once: {twice:?}");
    // Each murder may cost the orders that the victim was about to record, no more than one for each of its slots.
    let surplus = orders.len() - 2 * sites;
    ensure!(surplus <= murders, "{surplus} orders more than certificates, after {murders} murders");
    Ok(())
}

async fn everything_served(stage: &Stage, sites: usize) -> Result<()> {
    let stored = harness::stored::Stored::open(stage.signpost.config_path()).await?;
    for number in 0..sites {
        let name = name(number);
        let served = stored.served(&name).await?;
        let kinds: Vec<String> = served.iter().map(|served| served.key_type.to_string()).collect();
        ensure!(kinds == ["ecdsa-p256", "rsa-2048"], "{name} serves {kinds:?}");
        for served in &served {
            ensure!(served.leaf.public_key()?.public_eq(&served.key), "{name}: the key is another's");
        }
    }
    Ok(())
}

/// Exactly the records of these sites, and no other.
async fn no_orphan(stage: &Stage, backing: &Backing, sites: usize) -> Result<()> {
    for (pattern, expected) in [
        ("sp:{p*}:site:*", sites),
        ("sp:{p*}:cert:*", 2 * sites),
        ("sp:{p*}:order:*", 0),
        ("sp:name:*", sites),
    ] {
        let found = backing.keys(stage, pattern).await?;
        ensure!(found.len() == expected, "{} keys {pattern} instead of {expected}", found.len());
    }
    in_one_queue_each(stage, backing, sites).await?;
    let held = backing.held(stage).await?;
    ensure!(held.is_empty(), "still held: {held:?}");
    Ok(())
}

/// Each site stands in one queue. What became due when the last daemon had ended may stand in a `ready` set: whoever comes next takes
/// it from there.
async fn in_one_queue_each(stage: &Stage, backing: &Backing, sites: usize) -> Result<()> {
    let mut queues: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for redis in backing.primaries(stage).await? {
        for pattern in ["sp:{p*}:due", "sp:{p*}:ready:*"] {
            let keys: Vec<String> = redis::from_redis_value(redis.command(&["KEYS", pattern]).await?)?;
            for key in keys {
                let members: Vec<String> =
                    redis::from_redis_value(redis.command(&["ZRANGE", &key, "0", "-1"]).await?)?;
                for id in members {
                    queues.entry(id).or_default().push(key.clone());
                }
            }
        }
    }
    ensure!(queues.len() == sites, "{} of {sites} sites are in the schedule", queues.len());
    let odd: Vec<_> = queues.iter().filter(|(_, queues)| queues.len() != 1).collect();
    ensure!(odd.is_empty(), "in several queues: {odd:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn four_daemons_a_hundred_dual_sites() -> Result<()> {
    race(Backing::Single, StageOptions::default(), 100, 0x5EED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_dies_three_times_under_sentinel() -> Result<()> {
    under_sentinel(50).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_loses_a_primary() -> Result<()> {
    in_a_cluster(50).await
}

async fn under_sentinel(sites: usize) -> Result<()> {
    let store = SentinelStore::start().await?;
    let options = StageOptions { store_url: Some(store.url()), ..StageOptions::default() };
    race(Backing::Sentinel(store), options, sites, 0xDEAD).await
}

async fn in_a_cluster(sites: usize) -> Result<()> {
    let cluster = Cluster::start().await?;
    let options = StageOptions { store_url: Some(cluster.url()?), ..StageOptions::default() };
    race(Backing::Cluster(cluster), options, sites, 0xBEEF).await
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn four_daemons_five_hundred_dual_sites() -> Result<()> {
        race(Backing::Single, StageOptions::default(), 500, 0x5EED).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_primary_dies_three_times_under_sentinel() -> Result<()> {
        under_sentinel(120).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_loses_a_primary() -> Result<()> {
        in_a_cluster(120).await
    }
}
