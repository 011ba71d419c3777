//! One damaged record is one damaged record: it is named, it is never "not there", and everything else goes on.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Rule},
    daemon::SOON,
    deadline::until_true,
    stage::Stage,
};
use serde_json::Value;
use std::time::Duration;

const SITES: [&str; 4] = ["one.example", "two.example", "three.example", "four.example"];

/// A daemon with some sites that are served.
struct Scene {
    stage: Stage,
    _daemon: harness::signpost::Started,
}

impl Scene {
    async fn set_up() -> Result<Self> {
        let stage = Stage::trusting().await?;
        let daemon = stage.start_daemon()?;
        for name in SITES {
            stage.json(&["site", "add", name]).await?;
        }
        for name in SITES {
            stage.until_valid(name).await?;
        }
        stage.until_idle().await?;
        Ok(Self { stage, _daemon: daemon })
    }

    async fn redis(&self, words: &[&str]) -> Result<redis::Value> {
        self.stage.redis.command(words).await
    }

    /// The id of a name's site, and the hash tag of its partition.
    async fn id_of(&self, name: &str) -> Result<(String, String)> {
        let id = self.stage.site(name).await?["site"].as_str().context("an id")?.to_owned();
        let partition = format!("{{{}}}", shared::domain::SiteId::parse(&id).context("an id")?.partition());
        Ok((id, partition))
    }

    async fn until_told(&self, kind: &str, about: &str) -> Result<()> {
        until_true(&format!("{kind} of {about}"), Duration::from_secs(60), || async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let told = self.stage.events(&[kind]).await.unwrap_or_default();
            told.iter().any(|event| event.to_string().contains(about))
        })
        .await
    }

    async fn state_of(&self, name: &str) -> Result<Value> {
        Ok(self.stage.site(name).await?["state"].clone())
    }

    /// In how many queues a site stands.
    async fn queues_of(&self, id: &str, partition: &str) -> Result<usize> {
        let mut queues = 0;
        for queue in ["due", "ready:u", "ready:o", "ready:n", "ready:r", "ready:t", "ready:c"] {
            let score = self.redis(&["ZSCORE", &format!("sp:{partition}:{queue}"), id]).await?;
            queues += usize::from(score != redis::Value::Nil);
        }
        Ok(queues)
    }

    async fn is_renewed(&self, name: &str, id: &str, partition: &str) -> Result<()> {
        let before = self.stage.serial(name).await?;
        self.stage.json(&["renew", "--all", "--force"]).await?;
        until_true(&format!("{name} is renewed"), SOON, || async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.stage.serial(name).await.is_ok_and(|serial| serial != before)
        })
        .await?;
        self.stage.until_idle().await?;
        ensure!(self.queues_of(id, partition).await? == 1, "{name} stands in one queue");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_is_put_right_and_stops_for_nobody() -> Result<()> {
    let scene = Scene::set_up().await?;
    let (garbled, garbled_in) = scene.id_of(SITES[0]).await?;
    let (lost, lost_in) = scene.id_of(SITES[1]).await?;
    let (bare, bare_in) = scene.id_of(SITES[2]).await?;
    let site = |partition: &str, id: &str| format!("sp:{partition}:site:{id}");
    let due = |partition: &str| format!("sp:{partition}:due");
    // A place that can't be read, and is due; one that is in no queue; one that has no place at all; an id of nothing; a garbled lease.
    scene.redis(&["HSET", &site(&garbled_in, &garbled), "sched", "\u{1}rubbish"]).await?;
    scene.redis(&["ZADD", &due(&garbled_in), "1", &garbled]).await?;
    scene.redis(&["ZADD", &due(&garbled_in), "1", "no such id"]).await?;
    scene.redis(&["ZREM", &due(&lost_in), &lost]).await?;
    scene.redis(&["HDEL", &site(&bare_in, &bare), "sched"]).await?;
    scene.redis(&["HSET", &site(&bare_in, &bare), "lease_until", "soon"]).await?;
    scene.until_told("schedule-repaired", &lost).await?;
    scene.stage.json(&["site", "add", "five.example"]).await?;
    scene.stage.until_valid("five.example").await?;
    for (name, (id, partition)) in
        SITES.iter().zip([(&garbled, &garbled_in), (&lost, &lost_in), (&bare, &bare_in)])
    {
        scene.is_renewed(name, id, partition).await?;
    }

    // One that is no longer wanted, in no queue, and without a word of when its grace time is over: it is found, and keeps it.
    let (retired, retired_in) = scene.id_of(SITES[3]).await?;
    scene.stage.json(&["site", "remove", SITES[3]]).await?;
    let until: f64 = redis::from_redis_value(
        scene.redis(&["ZSCORE", &format!("sp:{retired_in}:retired"), &retired]).await?,
    )?;
    scene.redis(&["HSET", &site(&retired_in, &retired), "sched", "\u{1}rubbish"]).await?;
    scene.redis(&["ZREM", &due(&retired_in), &retired]).await?;
    until_true("it stands where it stood", Duration::from_secs(60), || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let score = scene.redis(&["ZSCORE", &due(&retired_in), &retired]).await;
        let score = score.ok().and_then(|score| redis::from_redis_value::<f64>(score).ok());
        let lease = scene.redis(&["HEXISTS", &site(&retired_in, &retired), "lease"]).await;
        matches!(lease, Ok(redis::Value::Int(0))) && score.is_some_and(|at| (at / 1000.0 - until).abs() < 5.0)
    })
    .await?;

    // A whole partition that can't be worked on.
    scene.redis(&["RENAME", &due(&garbled_in), "aside"]).await?;
    scene.redis(&["SET", &due(&garbled_in), "rubbish"]).await?;
    scene.until_told("record-damaged", &due(&garbled_in)).await?;
    let elsewhere = (6..).map(|number| format!("n{number}.example")).find(|name| {
        let name = shared::domain::DnsName::parse(name).expect("a name");
        let id = shared::domain::SiteId::of(&shared::domain::NameSet::one(name));
        format!("{{{}}}", id.partition()) != garbled_in
    });
    let elsewhere = elsewhere.context("a name elsewhere")?;
    scene.stage.json(&["site", "add", &elsewhere]).await?;
    scene.redis(&["DEL", &due(&garbled_in)]).await?;
    scene.stage.until_valid(&elsewhere).await?;
    scene.until_told("schedule-repaired", &garbled).await?;
    scene.is_renewed(SITES[0], &garbled, &garbled_in).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_named_and_the_rest_is_shown() -> Result<()> {
    let scene = Scene::set_up().await?;
    let (spoilt, spoilt_in) = scene.id_of(SITES[0]).await?;
    let (flipped, flipped_in) = scene.id_of(SITES[1]).await?;
    let record = format!("sp:{spoilt_in}:site:{spoilt}");
    let spec: String = redis::from_redis_value(scene.redis(&["HGET", &record, "spec"]).await?)?;
    scene.redis(&["HSET", &record, "spec", "{\"v\":"]).await?;
    let certificates = scene.redis(&["KEYS", &format!("sp:{flipped_in}:cert:{flipped}:*")]).await?;
    let certificate = redis::from_redis_value::<Vec<String>>(certificates)?.pop().context("a certificate")?;
    // A bit of the moment when it was issued, which no signature is over.
    let whole: Vec<u8> = redis::from_redis_value(scene.redis(&["GET", &certificate]).await?)?;
    let mut connection = scene.stage.redis.connection().await?;
    let mut set = redis::cmd("SETRANGE");
    let () = set.arg(&certificate).arg(30).arg(&[whole[30] ^ 0x10][..]).query_async(&mut connection).await?;

    for name in [SITES[0], SITES[1]] {
        let site = scene.stage.site(name).await?;
        ensure!(site["state"] == "damaged" && site["damaged"].is_string(), "{name}: {site:#}");
    }
    for name in [SITES[2], SITES[3]] {
        ensure!(scene.state_of(name).await? == "valid", "{name}");
    }
    let all = scene.stage.json(&["status"]).await?;
    let states: Vec<&Value> =
        all["sites"].as_array().context("sites")?.iter().map(|site| &site["state"]).collect();
    ensure!(states.len() == 4 && states.iter().filter(|state| **state == "valid").count() == 2, "{all:#}");
    let list = scene.stage.json(&["site", "list"]).await?;
    ensure!(list["sites"].as_array().is_some_and(|sites| sites.len() == 3), "{list:#}");
    ensure!(list["damaged"][0]["site"] == spoilt.as_str(), "{list:#}");
    let shown = scene.stage.signpost.issuer(&["status"]).await?.success()?;
    ensure!(shown.stdout.contains(&spoilt) && shown.stdout.contains("backup"), "{}", shown.stdout);

    scene.until_told("record-damaged", &record).await?;
    scene.until_told("record-damaged", &certificate).await?;
    let noted = scene.stage.json(&["status"]).await?;
    let keys: Vec<&str> = noted["fleet"]["damaged"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["key"].as_str())
        .collect();
    ensure!(keys.contains(&record.as_str()) && keys.contains(&certificate.as_str()), "{noted:#}");
    // Others are looked at and renewed meanwhile.
    let before = scene.stage.serial(SITES[2]).await?;
    scene.stage.json(&["renew", "--all", "--force"]).await?;
    until_true("the others are renewed", SOON, || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.stage.serial(SITES[2]).await.is_ok_and(|serial| serial != before)
    })
    .await?;

    scene.redis(&["HSET", &record, "spec", &spec]).await?;
    scene.until_told("record-recovered", &record).await?;
    scene.stage.until_valid(SITES[0]).await?;
    // Renewed by force, or ordered anew: what is served of it can be read again.
    scene.stage.until_valid(SITES[1]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_held_is_taken_over_at_once() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.lease_seconds", 600.0)?;
    let slow =
        stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(Action::Delay(Duration::from_secs(60))));
    let mut daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "held.example"]).await?;
    until_true("its order is under way", SOON, || async { slow.count() > 0 }).await?;
    daemon.process.kill9().await?;
    stage.proxy.clear_rules();
    let _next = stage.start_daemon()?;
    // Long before the lease is over.
    stage.until_valid("held.example").await.map(drop)
}
