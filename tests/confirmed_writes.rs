//! What the CA is about to be told must be on a replica first, where the configuration says so.

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    redis::{Address, Redis, RedisOptions},
    stage::Stage,
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

    replica.stop().await?;
    connected(&stage, 0).await?;
    stage.proxy.reset();
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

async fn connected(stage: &Stage, wanted: usize) -> Result<()> {
    until_true("the replica is connected, or gone", Duration::from_secs(20), async || {
        let Ok(answer) = stage.redis.command(&["INFO", "replication"]).await else { return false };
        let Ok(text) = redis::from_redis_value::<String>(answer) else { return false };
        text.contains(&format!("connected_slaves:{wanted}")) && text.matches("state=online").count() == wanted
    })
    .await
}
