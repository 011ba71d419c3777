//! Race and murder: several daemons on one store, killed and frozen at random, and the store's primary too. At the end every
//! site has exactly its certificates, the CA has issued none twice, and nothing is left over.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    signpost::Started,
    stage::{Stage, StageOptions},
};
use serde_json::json;

const DAEMONS: usize = 4;
const LEASE_SECONDS: f64 = 1.5;
const EVERY: Duration = Duration::from_secs(2);
/// Longer than a lease.
const FROZEN: Duration = Duration::from_millis(2500);
const LIMIT: Duration = Duration::from_secs(240);

/// A daemon, and until when it is frozen.
struct Victim {
    running: Started,
    frozen_until: Option<Instant>,
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
            .map(|_| Ok(Victim { running: start(stage)?, frozen_until: None }))
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

    async fn act(&mut self, stage: &Stage) -> Result<()> {
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
            *victim = Victim { running: start(stage)?, frozen_until: None };
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

fn start(stage: &Stage) -> Result<Started> {
    stage.signpost.start_run("issuer", &["run"])
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

async fn race(mut stage: Stage, sites: usize, seed: u64) -> Result<()> {
    stage.signpost.set("issuer.lease_seconds", LEASE_SECONDS)?;
    stage.signpost.set("issuer.slots", 16)?;
    stage.signpost.set("issuer.self_check", "off")?;
    stage.signpost.set("issuer.retry_seconds", toml_floats(&[1.0, 2.0, 3.0, 5.0]))?;
    stage.signpost.issuer(&["account", "create"]).await?.success()?;
    let file = stage.signpost.write("sites.ndjson", sites_file(sites))?;
    let file = file.to_str().context("a temporary path is text")?;
    stage.signpost.issuer(&["apply", file]).await?.success()?;
    let mut murderer = Murderer::new(&stage, seed)?;
    let began = Instant::now();
    let mut looked = Instant::now();
    loop {
        murderer.act(&stage).await?;
        if looked.elapsed() > Duration::from_secs(1) {
            looked = Instant::now();
            let finalized: u64 = stage.proxy.orders().iter().map(|order| order.finalized).sum();
            if finalized as usize >= 2 * sites {
                break;
            }
        }
        ensure!(
            began.elapsed() < LIMIT,
            "{} certificates after {LIMIT:?}\n{}",
            stage.proxy.orders().iter().map(|order| order.finalized).sum::<u64>(),
            murderer.daemons[0].running.stderr()?
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    murderer.relent()?;
    settled(&stage, sites).await?;
    for victim in &mut murderer.daemons {
        victim.running.process.terminate(Duration::from_secs(20)).await?;
    }
    eprintln!(
        "{sites} dual sites in {:?}: {} kills, {} freezes, {} orders",
        began.elapsed(),
        murderer.kills,
        murderer.freezes,
        stage.proxy.orders().len()
    );
    none_twice(&stage, sites, murderer.kills + murderer.freezes)?;
    everything_served(&stage, sites).await?;
    no_orphan(&stage, sites).await
}

fn toml_floats(values: &[f64]) -> Vec<toml::Value> {
    values.iter().map(|value| (*value).into()).collect()
}

/// Nothing is due, nothing fails, no order is open.
async fn settled(stage: &Stage, sites: usize) -> Result<()> {
    until_true("every site is settled", Duration::from_secs(60), || async {
        let Ok(status) = stage.signpost.issuer_json(&["status", "--limit", "1"]).await else { return false };
        let load = &status["fleet"]["load"];
        let idle = load["ready"].as_object().is_some_and(|ready| ready.values().all(|count| count == 0));
        load["groups"] == sites
            && load["failing"] == 0
            && load["overdue"] == 0
            && idle
            && open_orders(stage).await == 0
    })
    .await
}

async fn open_orders(stage: &Stage) -> usize {
    keys(stage, "sp:{p*}:order:*").await.map_or(usize::MAX, |keys| keys.len())
}

/// `KEYS`, which a test may use.
async fn keys(stage: &Stage, pattern: &str) -> Result<Vec<String>> {
    Ok(redis::from_redis_value(stage.redis.command(&["KEYS", pattern]).await?)?)
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
async fn no_orphan(stage: &Stage, sites: usize) -> Result<()> {
    for (pattern, expected) in [
        ("sp:{p*}:site:*", sites),
        ("sp:{p*}:cert:*", 2 * sites),
        ("sp:{p*}:order:*", 0),
        ("sp:name:*", sites),
        ("sp:{p*}:ready:*", 0),
    ] {
        let found = keys(stage, pattern).await?;
        ensure!(found.len() == expected, "{} keys {pattern} instead of {expected}", found.len());
    }
    for key in keys(stage, "sp:{p*}:site:*").await? {
        let held: Option<String> =
            redis::from_redis_value(stage.redis.command(&["HGET", &key, "lease_owner"]).await?)?;
        ensure!(held.is_none(), "{key} is still held by {held:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn four_daemons_five_hundred_dual_sites() -> Result<()> {
    race(Stage::trusting_with(StageOptions::default()).await?, 500, 0x5EED).await
}
