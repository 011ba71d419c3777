//! Clocks that are hours apart: it is told, it is allowed for, and nobody waits because of it.

use anyhow::{Result, ensure};
use harness::{
    daemon::SOON,
    deadline::until,
    redis::RedisOptions,
    stage::{Stage, StageOptions},
};

const TWO_HOURS: i64 = 2 * 3600;

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_hours_apart_are_told_and_keep_nobody_waiting() -> Result<()> {
    let redis = RedisOptions { clock_ahead_seconds: -TWO_HOURS, ..RedisOptions::default() };
    let mut stage = Stage::trusting_with(StageOptions { redis, ..StageOptions::default() }).await?;
    stage.proxy.set_clock(TWO_HOURS);
    let daemon = stage.signpost.start_issuer().await?;
    stage.json(&["site", "add", "behind.example"]).await?;
    stage.until_valid("behind.example").await?;
    for (whose, ahead) in [("the store", -TWO_HOURS), ("the CA pebble", TWO_HOURS)] {
        let event = until(&format!("the clock of {whose} is told"), SOON, async || {
            let told = stage.events(&["clocks-differ"]).await.ok()?;
            told.into_iter().find(|event| event["data"]["whose"] == whose)
        })
        .await?;
        let seconds = event["data"]["ahead_seconds"].as_i64().unwrap_or_default();
        ensure!((seconds - ahead).abs() < 60, "{event:#}");
        ensure!(event["remedy"].as_str().is_some_and(|remedy| remedy.contains("NTP")), "{event:#}");
    }
    // By hand as well; and whoever asks beforehand hears of the CA's.
    stage.issue(&["hand.example"]).await?;
    let checked = stage.signpost.issuer(&["--json", "check", "new.example"]).await?.json()?;
    ensure!(checked["ca_remarks"].to_string().contains("clock"), "{checked:#}");

    // The store's clock is put right, and too far.
    stage.redis.stop().await?;
    stage.redis.set_clock(TWO_HOURS);
    stage.redis.start_again().await?;
    stage.json(&["site", "add", "ahead.example"]).await?;
    stage.until_valid("ahead.example").await?;
    daemon.process.assert_running()
}
