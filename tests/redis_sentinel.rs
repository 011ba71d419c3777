//! A store behind Sentinels: primaries are killed, and nothing that was confirmed is lost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    campaign::Campaign,
    deadline::{until, until_true},
    pebble::PebbleOptions,
    sentinel::{SentinelStore, in_step},
    signpost::Daemon,
    stage::{Stage, StageOptions},
};
use shared::{
    config::Config,
    store::{Role, Store},
};

const LIMIT: Duration = Duration::from_secs(60);
const NAMES: usize = 60;

/// `fleet_race` loses primaries in every run of the tests, too.
mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn three_primaries_are_killed_in_the_middle_of_a_run_and_nothing_is_lost() -> Result<()> {
        let mut store = SentinelStore::start().await?;
        let mut stage = Stage::trusting_with(on(&store)).await?;
        stage.signpost.set("store.confirm_replicas", 1)?;
        let campaign = Campaign::of(NAMES);
        let kill_three = async {
            for _ in 0..3 {
                campaign.issued_at_least(&stage, campaign.issued(&stage) + 3).await?;
                let dead = store.kill_primary().await?;
                store.successor_of(dead).await?;
                store.start_again(dead).await?;
            }
            Ok(())
        };
        tokio::try_join!(campaign.run(&stage), kill_three)?;
        campaign.is_complete(&stage).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_programs_follow_the_primary() -> Result<()> {
    let mut store = SentinelStore::start().await?;
    let stage = Stage::looking_with(on(&store)).await?;
    let certificates = stage.signpost.start_certificates().await?;
    let frontend = stage.signpost.issuer_json(&["frontend", "add", "web1", "--scope", "*"]).await?;
    stage.issue(&["before.example"]).await?;
    ensure!(listed(&certificates, &frontend).await? == ["before.example"]);

    let dead = store.kill_primary().await?;
    store.successor_of(dead).await?;
    // The CA asks the frontends, and these the role `challenge`, which has run all the time.
    stage.issue(&["after.example"]).await.context("after")?;
    until("the role `certificates` reads from the new primary", LIMIT, async || {
        let names = listed(&certificates, &frontend).await.ok()?;
        (names == ["after.example", "before.example"]).then_some(())
    })
    .await?;

    // What was the primary comes back as one, until a Sentinel tells it otherwise: nobody may fall for it.
    store.start_again(dead).await?;
    stage.issue(&["again.example"]).await.context("again")?;
    ensure!(listed(&certificates, &frontend).await?.len() == 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_replicas_nothing_is_ordered() -> Result<()> {
    let mut store = SentinelStore::start().await?;
    let mut stage = Stage::trusting_with(on(&store)).await?;
    stage.signpost.set("store.confirm_replicas", 2)?;
    stage.issue(&["both.example"]).await?;
    let primary = store.primary().await?;
    let replica = (primary + 1) % store.redis.len();
    store.redis[replica].kill9().await?;
    in_step(&store.redis[primary], 1).await?;
    stage.proxy.reset();
    let refused = stage.issue_ending(1, &["one.example"]).await?;
    let failure = &refused["results"][0]["failure"];
    ensure!(failure["what"].as_str().context("words")?.contains("1 replicas of the 2"), "{failure}");
    ensure!(stage.proxy.orders().is_empty(), "the CA was told of an order that one replica lacks");
    store.start_again(replica).await?;
    stage.issue(&["one.example"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_noticed_by_everyone_and_raises_the_epoch_once() -> Result<()> {
    let mut sentinels = SentinelStore::start().await?;
    let stage = Stage::trusting_with(on(&sentinels)).await?;
    let config = Config::load(Some(stage.signpost.config_path()))?;
    let (one, two) =
        (Store::open(&config.store, Role::Issuer).await?, Store::open(&config.store, Role::Issuer).await?);
    let watching = [&one, &two].map(|store| {
        let store = store.clone();
        tokio::spawn(async move { store.watch().await })
    });
    let primary = sentinels.primary().await?;
    until_true("the primary is remembered", LIMIT, async || {
        let known = sentinels.redis[primary].command(&["HLEN", "sp:epoch"]).await;
        known.is_ok_and(|known| known == redis::Value::Int(1))
    })
    .await?;
    in_step(&sentinels.redis[primary], 2).await?;
    ensure!(one.load_epoch().await? == 0 && *one.failovers().borrow() == 0);

    let dead = sentinels.kill_primary().await?;
    sentinels.successor_of(dead).await?;
    for store in [&one, &two] {
        let mut failovers = store.failovers();
        tokio::time::timeout(LIMIT, failovers.wait_for(|count| *count == 1)).await??;
    }
    until_true("the epoch is raised", LIMIT, async || one.load_epoch().await.is_ok_and(|epoch| epoch > 0))
        .await?;
    ensure!(two.load_epoch().await? == 1, "once, whoever noticed it first");
    watching.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_the_sentinels_do_not_know_is_named() -> Result<()> {
    let store = SentinelStore::start().await?;
    let url = store.url().replace(harness::sentinel::SERVICE, "other-service");
    let mut stage = Stage::trusting_with(on(&store)).await?;
    stage.signpost.use_store(&url)?;
    let refused = stage.run_issue(&["shop.example"]).await?;
    ensure!(refused.code()? == 2 && refused.stderr.contains("other-service"), "{}", refused.stderr);
    let sentinel = url.replace("redis+sentinel://", "redis://");
    let sentinel = sentinel.split(',').next().context("an address")?;
    stage.signpost.use_store(sentinel)?;
    let refused = stage.run_issue(&["shop.example"]).await?;
    ensure!(refused.code()? == 2 && refused.stderr.contains("redis+sentinel://"), "{}", refused.stderr);
    Ok(())
}

fn on(store: &SentinelStore) -> StageOptions {
    StageOptions { store_url: Some(store.url()), pebble: PebbleOptions::default(), ..StageOptions::default() }
}

/// What a frontend is shown of its certificates.
async fn listed(role: &Daemon, frontend: &serde_json::Value) -> Result<Vec<String>> {
    let text = |key: &str| frontend[key].as_str().context("text").map(str::to_owned);
    harness::stored::listed(role, &text("ca_certificate_pem")?, &text("token")?).await
}
