//! What the CA is about to be told must be on a replica first, where the configuration says so.

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    redis::{Address, Redis, RedisOptions},
    stage::Stage,
};
use shared::{
    config::Config,
    domain::KeyType,
    store::{Account, AccountStatus, Role, Store, StoreError},
};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn without_the_replica_nothing_is_ordered_and_with_it_everything_is_there() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let Address::Tcp(primary) = *stage.redis.address() else { anyhow::bail!("the primary listens on TCP") };
    let mut replica =
        Redis::start(RedisOptions { replica_of: Some(primary), ..RedisOptions::default() }).await?;
    connected(&stage, 1).await?;
    stage.signpost.set("store.confirm_replicas", 1)?;

    stage.issue(&["there.example"]).await?;
    ensure!(replica.text_of("sp:name:there.example").await?.len() == 20, "the replica has the name");

    stage.signpost.issuer(&["frontend", "add", "web1", "--scope", "*"]).await?.success()?;

    replica.stop().await?;
    connected(&stage, 0).await?;
    stage.proxy.reset();
    let revoked = stage.signpost.issuer(&["frontend", "revoke", "web1"]).await?.with_code(1)?;
    ensure!(revoked.stderr.contains("0 replicas of the 1"), "{}", revoked.stderr);
    let refused = stage.issue_ending(1, &["alone.example"]).await?;
    let failure = &refused["results"][0]["failure"];
    ensure!(failure["class"] == "store", "{failure}");
    ensure!(failure["what"].as_str().context("words")?.contains("0 replicas of the 1"), "{failure}");
    ensure!(stage.proxy.orders().is_empty(), "the CA was told of an order that no replica has");

    replica.start_again().await?;
    connected(&stage, 1).await?;
    stage.issue(&["alone.example"]).await?;
    Ok(())
}

/// A write that is repeated must be confirmed anew: on a connection that has written nothing, Redis from 7.2 on takes every
/// replica for one that has it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_never_got_is_not_confirmed_by_repeating_it() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let Address::Tcp(primary) = *stage.redis.address() else { anyhow::bail!("the primary listens on TCP") };
    let replica = Redis::start(RedisOptions { replica_of: Some(primary), ..RedisOptions::default() }).await?;
    connected(&stage, 1).await?;
    stage.signpost.set("store.confirm_replicas", 1)?;
    let config = Config::load(Some(stage.signpost.config_path()))?;
    // A store of its own each time: as after kill -9, the connection is a new one.
    let store = || Store::open(&config.store, Role::Issuer);
    let (before, after) = (account(KeyType::EcdsaP256), account(KeyType::Rsa2048));
    let stored = store().await?.write_account(None, before).await?;

    replica.pause()?;
    for attempt in 1..=3 {
        let writes = changes(&stage).await?;
        let answer = store().await?.write_account(Some(&stored), after.clone()).await;
        ensure!(matches!(answer, Err(StoreError::Unconfirmed { .. })), "attempt {attempt}: {answer:?}");
        ensure!(changes(&stage).await? > writes, "attempt {attempt} wrote nothing that could be confirmed");
    }
    let there = store().await?.load_account("pebble", "default").await?.context("the account")?;
    ensure!(there.account == after, "the primary has it");
    replica.resume()?;
    let stored = store().await?.write_account(Some(&stored), after).await?;

    replica.pause()?;
    for attempt in 1..=3 {
        let writes = changes(&stage).await?;
        let answer = store().await?.remove_account(&stored).await;
        ensure!(matches!(answer, Err(StoreError::Unconfirmed { .. })), "removal {attempt}: {answer:?}");
        ensure!(changes(&stage).await? > writes, "removal {attempt} wrote nothing that could be confirmed");
    }
    replica.resume()?;
    store().await?.remove_account(&stored).await?;
    Ok(())
}

fn account(key_type: KeyType) -> Account {
    Account {
        v: Account::VERSION,
        ca: "pebble".into(),
        name: "default".into(),
        directory: "https://ca.example/directory".into(),
        status: AccountStatus::Planned,
        url: None,
        key_type,
        sealed_key: String::new(),
        key_spki_sha256: String::new(),
        candidate: None,
        set_aside: Vec::new(),
        contact: Vec::new(),
        terms: None,
        created: jiff::Timestamp::UNIX_EPOCH,
        key_version: 1,
    }
}

/// Changes of records since the primary started.
async fn changes(stage: &Stage) -> Result<u64> {
    let info: String = redis::from_redis_value(stage.redis.command(&["INFO", "persistence"]).await?)?;
    let count = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"));
    Ok(count.context("the count of changes")?.trim().parse()?)
}

async fn connected(stage: &Stage, wanted: usize) -> Result<()> {
    until_true("the replica is connected, or gone", Duration::from_secs(20), async || {
        let Ok(answer) = stage.redis.command(&["INFO", "replication"]).await else { return false };
        let Ok(text) = redis::from_redis_value::<String>(answer) else { return false };
        text.contains(&format!("connected_slaves:{wanted}")) && text.matches("state=online").count() == wanted
    })
    .await
}
