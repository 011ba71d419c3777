//! `issuer events`: the newest, those that are wanted, and what comes; also when the store goes away or forgets.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    redis::{Redis, RedisOptions},
    signpost::Signpost,
};
use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use serde_json::Value;
use shared::{
    config::Config,
    domain::{DnsName, Event, EventKind, Failure, FailureClass, NameSet, Partition, SiteId},
    error::Fault,
    store::{EventFilter, Role, Store},
};

const LIMIT: Duration = Duration::from_secs(30);

struct Scene {
    store: Store,
    signpost: Signpost,
    redis: Redis,
}

impl Scene {
    async fn set_up() -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_store(&redis.url())?;
        let config = Config::load(Some(signpost.config_path()))?;
        let store = Store::open(&config.store, Role::Issuer).await?;
        Ok(Self { store, signpost, redis })
    }

    /// Events of the same millisecond in different partitions have no order: the next one comes in a later one.
    async fn append(&self, event: &Event) -> Result<()> {
        let id = self.store.append_event(event).await?;
        while Timestamp::now() <= id.time() + SignedDuration::from_millis(1) {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn events(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let line = [&["--json", "events"], arguments].concat();
        let run = self.signpost.issuer(&line).await?.success()?;
        run.stdout.lines().map(|line| serde_json::from_str(line).context("NDJSON")).collect()
    }
}

fn event(kind: EventKind, name: &str, ago_minutes: i64) -> Result<Event> {
    let names = NameSet::one(DnsName::parse(name)?);
    let at = Timestamp::now() - SignedDuration::from_mins(ago_minutes);
    Ok(Event::new(kind, at, format!("{name}: {kind}.")).for_site(&SiteId::of(&names)).names(names.iter()))
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["names"][0].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_are_shown_oldest_first_and_filters_hold() -> Result<()> {
    let scene = Scene::set_up().await?;
    ensure!(scene.events(&[]).await?.is_empty());
    let mut order = Vec::new();
    for number in 0..120 {
        let name = format!("n{number}.example");
        scene.append(&event(EventKind::Issued, &name, 180 - number)?).await?;
        order.push(name);
    }
    let failure = Failure {
        at: Timestamp::now(),
        count: 2,
        fault: Fault::Customer,
        class: FailureClass::Caa,
        what: "CAA".into(),
        remedy: "Allow the CA\nin the CAA record.".into(),
        not_before: None,
        since: None,
        next: None,
        waits: false,
        remembered: false,
    };
    let failed = event(EventKind::Failed, "bücher.example", 1)?.because(&failure);
    scene.append(&failed).await?;
    scene.append(&Event::new(EventKind::StoreBack, Timestamp::now(), "The store answers again.")).await?;

    let all = scene.events(&["--limit", "1000"]).await?;
    ensure!(names(&all)[..120] == order[..], "{:?}", names(&all));
    ensure!(all.len() == 122 && all[121]["kind"] == "store-back", "{}", all.len());
    ensure!(scene.events(&[]).await?.len() == 50);
    let last = scene.events(&["--limit", "3"]).await?;
    ensure!(names(&last) == ["n119.example", "xn--bcher-kva.example"] && last.len() == 3, "{last:#?}");
    let recent = scene.events(&["--since", "90m"]).await?;
    ensure!(names(&recent)[0] == "n91.example" || names(&recent)[0] == "n90.example", "{:?}", names(&recent));
    let some = scene.events(&["--kind", "failed", "--kind", "store-back"]).await?;
    ensure!(some.len() == 2 && some[0]["failure"]["class"] == "caa" && some[0]["v"] == 1, "{some:#?}");
    let one = scene.events(&["--site", "n7.example"]).await?;
    ensure!(names(&one) == ["n7.example"], "{one:#?}");
    let id = one[0]["site"].as_str().context("a site")?;
    ensure!(scene.events(&["--site", id]).await? == one);

    let text = scene.signpost.issuer(&["events", "--kind", "failed"]).await?.success()?.stdout;
    ensure!(text.contains("  warning   failed           bücher.example  "), "{text}");
    ensure!(text.lines().nth(1) == Some("    what to do: Allow the CA in the CAA record."), "{text}");
    scene.signpost.issuer(&["events", "--kind", "fialed"]).await?.with_code(2)?;
    scene.signpost.issuer(&["events", "--since", "whenever"]).await?.with_code(2)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn following_goes_on_through_an_absence_of_the_store_until_ctrl_c() -> Result<()> {
    let mut scene = Scene::set_up().await?;
    scene.append(&event(EventKind::Issued, "before.example", 0)?).await?;
    let run = scene.signpost.start_run("issuer", &["--json", "events", "--follow", "--kind", "issued"])?;
    let shown = |what: &'static str| {
        let run = &run;
        until_true(what, LIMIT, move || async move { run.stdout().is_ok_and(|text| text.contains(what)) })
    };
    shown("before.example").await?;
    scene.append(&event(EventKind::Renewed, "unwanted.example", 0)?).await?;
    let appended = Instant::now();
    scene.append(&event(EventKind::Issued, "wanted.example", 0)?).await?;
    shown("wanted.example").await?;
    ensure!(appended.elapsed() < Duration::from_secs(2), "{:?}", appended.elapsed());
    scene.redis.stop().await?;
    let said = || async { run.stderr().is_ok_and(|text| text.contains("waiting for it")) };
    until_true("a word about the store", LIMIT, said).await?;
    scene.redis.start_again().await?;
    let back = || async { run.stderr().is_ok_and(|text| text.contains("the store answers again")) };
    until_true("a word about its return", LIMIT, back).await?;
    let after = event(EventKind::Issued, "after.example", 0)?;
    until_true("the store takes an event", LIMIT, || async { scene.append(&after).await.is_ok() }).await?;
    shown("after.example").await?;
    run.process.signal(Signal::INT)?;
    let run = run.wait(LIMIT).await?.success()?;
    ensure!(run.stderr.matches("waiting for it").count() == 1, "said once: {}", run.stderr);
    let events: Vec<Value> = run.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(names(&events) == ["before.example", "wanted.example", "after.example"], "{}", run.stdout);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_fell_behind_the_trimming_is_told_so() -> Result<()> {
    let scene = Scene::set_up().await?;
    let event = Event::new(EventKind::StoreBack, Timestamp::now(), "The store answers again.");
    scene.append(&event).await?;
    let cursor = scene.store.events_now().await?;
    let text = serde_json::to_string(&event)?;
    let mut connection = scene.redis.connection().await?;
    // As the store's scripts append, twice as many as are kept.
    let mut pipeline = redis::pipe();
    for _ in 0..4_000 {
        let add = pipeline.cmd("XADD").arg("sp:{p00}:events").arg("MAXLEN").arg("~").arg(20_000).arg("*");
        add.arg("e").arg(&text).ignore();
    }
    for _ in 0..10 {
        pipeline.query_async::<()>(&mut connection).await?;
    }
    let mut page = scene.store.events_after(&cursor, 1_000).await?;
    ensure!(page.lost.len() == 1 && page.lost[0].partition == Partition::FIRST, "{:?}", page.lost);
    ensure!(page.lost[0].after <= page.lost[0].before);
    let mut read = page.events.len();
    while page.more {
        page = scene.store.events_after(&page.cursor, 1_000).await?;
        ensure!(page.lost.is_empty(), "said once: {:?}", page.lost);
        read += page.events.len();
    }
    ensure!((20_000..20_200).contains(&read), "{read} are left");
    ensure!(scene.store.events_after(&page.cursor, 1_000).await?.events.is_empty());
    // The newest of many, within well under a second.
    let started = Instant::now();
    let newest = scene.store.latest_events(50, &EventFilter::default()).await?;
    ensure!(newest.len() == 50 && started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    Ok(())
}

#[test]
fn the_handbook_explains_every_kind() -> Result<()> {
    let page = std::fs::read_to_string("../deploy/handbook/notifications.md")?;
    let rows = EventKind::ALL
        .iter()
        .map(|kind| format!("| `{kind}` | {} | {} |\n", kind.severity(), kind.meaning()));
    let table: String = rows.collect();
    ensure!(page.ends_with(&table), "the table at the end of notifications.md is to be:\n{table}");
    Ok(())
}
