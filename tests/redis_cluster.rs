//! A store in a Redis Cluster: keys on three primaries, one of which is killed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    campaign::Campaign,
    cluster::Cluster,
    deadline::until_true,
    stage::{Stage, StageOptions},
    stored::listed,
};
use shared::{
    config::Config,
    store::{Role, Store, open_vault},
};

const LIMIT: Duration = Duration::from_secs(60);
const NAMES: usize = 40;

/// `fleet_race` loses primaries in every run of the tests, too.
mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_primary_is_killed_in_the_middle_of_a_run_and_nothing_is_lost() -> Result<()> {
        let mut cluster = Cluster::start().await?;
        let mut stage = Stage::trusting_with(on(&cluster)?).await?;
        stage.signpost.set("store.confirm_replicas", 1)?;
        let campaign = Campaign::of(NAMES);
        let kill_one = async {
            campaign.issued_at_least(&stage, 5).await?;
            // The one with the account, which every order needs.
            let number = cluster.primary_of("sp:account:pebble:default").await?;
            cluster.kill(number).await?;
            cluster.healed().await?;
            cluster.start_again(number).await
        };
        tokio::try_join!(campaign.run(&stage), kill_one)?;
        campaign.is_complete(&stage).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_programs_read_from_every_primary_and_from_a_successor() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let stage = Stage::looking_with(on(&cluster)?).await?;
    let certificates = stage.signpost.start_certificates().await?;
    let frontend = stage.signpost.issuer_json(&["frontend", "add", "web1", "--scope", "*"]).await?;
    let text = |key: &str| frontend[key].as_str().context("text").map(str::to_owned);
    let (ca, token) = (text("ca_certificate_pem")?, text("token")?);
    let names: Vec<String> = (0..12).map(|number| format!("c{number:02}.example")).collect();
    // A dozen names with tokens of their own: every primary has some of each kind of key.
    stage.issue(&names.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    // And one certificate of several names, whose tokens and pointers lie on several primaries.
    stage.issue(&["--san", "san1.example", "san2.example", "san3.example", "san4.example"]).await?;
    let mut wanted = names.clone();
    wanted.extend((1..=4).map(|number| format!("san{number}.example")));
    ensure!(listed(&certificates, &ca, &token).await? == wanted);
    for node in &cluster.nodes {
        let redis::Value::Int(keys) = node.command(&["DBSIZE"]).await? else { continue };
        ensure!(keys > 10, "every node has its share: {keys}");
    }

    let number = cluster.primary_of("sp:frontends").await?;
    cluster.kill(number).await?;
    cluster.healed().await?;
    stage.issue(&["after.example"]).await?;
    wanted.insert(0, "after.example".to_owned());
    until_true("the role `certificates` reads from the new primary", LIMIT, async || {
        listed(&certificates, &ca, &token).await.is_ok_and(|names| names == wanted)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_to_another_primary_are_followed() -> Result<()> {
    let cluster = Cluster::start().await?;
    let stage = Stage::trusting_with(on(&cluster)?).await?;
    let config = Config::load(Some(stage.signpost.config_path()))?;
    let store = Store::open(&config.store, Role::Issuer).await?;
    stage.issue(&["moving.example"]).await?;
    // It verifies what the records of frontends say.
    open_vault(&store, &config.store).await?;
    let from = cluster.primary_of("sp:frontends").await?;
    let to = cluster.primary_of("sp:accounts").await?;
    ensure!(from != to, "the two keys were chosen to lie apart");
    ensure!(store.list_frontends().await?.is_empty());
    stage.signpost.issuer_json(&["frontend", "add", "web1", "--scope", "*"]).await?;

    let moving = cluster.begin_move("sp:frontends", from, to).await?;
    // In the middle a missing key is asked of the new primary (ASK), one that is still there of the old one.
    ensure!(store.list_frontends().await.context("in the middle")?.len() == 1);
    cluster.move_keys(&moving).await?;
    ensure!(store.list_frontends().await.context("by ASK")?.len() == 1);
    stage.signpost.issuer_json(&["frontend", "add", "web2", "--scope", "*"]).await?;
    cluster.end_move(&moving).await?;
    ensure!(store.list_frontends().await.context("by MOVED")?.len() == 2);
    stage.signpost.issuer_json(&["frontend", "add", "web3", "--scope", "*"]).await?;
    ensure!(store.list_frontends().await?.len() == 3);
    Ok(())
}

/// Where a part of a slot's keys has gone already, nothing is taken from the schedule, and nothing is lost from it; others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_on_the_move_loses_nobody() -> Result<()> {
    let cluster = Cluster::start().await?;
    let stage = Stage::trusting_with(on(&cluster)?).await?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "moving.example"]).await?;
    let id = stage.until_valid("moving.example").await?["site"].as_str().context("an id")?.to_owned();
    stage.until_idle().await?;
    let partition = shared::domain::SiteId::parse(&id).context("an id")?.partition();
    let key = |name: &str| format!("sp:{{{partition}}}:{name}");
    let (due, site) = (key("due"), key(&format!("site:{id}")));
    let from = cluster.primary_of(&due).await?;
    let to = (0..cluster.nodes.len()).find(|number| *number != from);
    let mut to = to.context("another node")?;
    while to == from || !cluster.is_primary(to).await? {
        to = (to + 1) % cluster.nodes.len();
    }
    let leases = async |node: usize| -> Result<i64> {
        let count: String =
            redis::from_redis_value(cluster.nodes[node].command(&["HGET", &site, "lease_count"]).await?)?;
        // `N.` once it was settled.
        Ok(count.trim_end_matches('.').parse()?)
    };
    let before = leases(from).await?;
    let moving = cluster.begin_move(&due, from, to).await?;
    // The queue has gone, the group that stands in it has not; and it is due.
    cluster.nodes[from].command(&["ZADD", &due, "1", &id]).await?;
    cluster.move_key(&moving, &due).await?;
    let elsewhere = (0..).map(|number| format!("e{number}.example")).find(|name| {
        let name = shared::domain::DnsName::parse(name).expect("a name");
        shared::domain::SiteId::of(&shared::domain::NameSet::one(name)).partition() != partition
    });
    let elsewhere = elsewhere.context("a name elsewhere")?;
    stage.json(&["site", "add", &elsewhere]).await?;
    stage.until_valid(&elsewhere).await?;
    ensure!(leases(from).await? == before, "nothing is taken while a part has gone");
    cluster.move_keys(&moving).await?;
    cluster.end_move(&moving).await?;
    until_true("it is looked at again", LIMIT, async || leases(to).await.is_ok_and(|leases| leases > before))
        .await?;
    stage.until_idle().await?;
    let score = cluster.nodes[to].command(&["ZSCORE", &due, &id]).await?;
    ensure!(score != redis::Value::Nil, "it has its place in the schedule");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_replica_nothing_is_ordered() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut stage = Stage::trusting_with(on(&cluster)?).await?;
    stage.signpost.set("store.confirm_replicas", 1)?;
    stage.issue(&["there.example"]).await?;
    let primary = cluster.primary_of("sp:account:pebble:default").await?;
    for number in 0..cluster.nodes.len() {
        if !cluster.is_primary(number).await? {
            cluster.kill(number).await?;
        }
    }
    cluster.alone(primary).await?;
    stage.proxy.reset();
    let refused = stage.issue_ending(1, &["alone.example"]).await?;
    ensure!(refused["results"][0]["failure"]["class"] == "store", "{refused}");
    ensure!(stage.proxy.orders().is_empty(), "the CA was told of an order that no replica has");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_of_one_primary_is_noticed() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let stage = Stage::trusting_with(on(&cluster)?).await?;
    let config = Config::load(Some(stage.signpost.config_path()))?;
    let store = Store::open(&config.store, Role::Issuer).await?;
    let watching = store.clone();
    let watching = tokio::spawn(async move { watching.watch().await });
    let epoch = cluster.primary_of("sp:epoch").await?;
    until_true("three primaries are remembered", LIMIT, async || {
        let known = cluster.nodes[epoch].command(&["HLEN", "sp:epoch"]).await;
        known.is_ok_and(|known| known == redis::Value::Int(3))
    })
    .await?;
    let number = cluster.primary_of("sp:frontends").await?;
    cluster.kill(number).await?;
    let mut failovers = store.failovers();
    tokio::time::timeout(LIMIT, failovers.wait_for(|count| *count > 0)).await??;
    until_true("the epoch is raised", LIMIT, async || store.load_epoch().await.is_ok_and(|epoch| epoch == 1))
        .await?;
    watching.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_the_wrong_kind_is_named() -> Result<()> {
    let cluster = Cluster::start().await?;
    let mut stage = Stage::trusting_with(on(&cluster)?).await?;
    stage.signpost.use_store(&cluster.nodes[0].url())?;
    let refused = stage.run_issue(&["shop.example"]).await?;
    ensure!(refused.code()? == 2 && refused.stderr.contains("redis+cluster://"), "{}", refused.stderr);
    stage.signpost.use_store(&stage.redis.url().replace("redis://", "redis+cluster://"))?;
    let refused = stage.run_issue(&["shop.example"]).await?;
    ensure!(refused.code()? == 2 && refused.stderr.contains("no part of a Cluster"), "{}", refused.stderr);
    Ok(())
}

fn on(cluster: &Cluster) -> Result<StageOptions> {
    Ok(StageOptions { store_url: Some(cluster.url()?), ..StageOptions::default() })
}
