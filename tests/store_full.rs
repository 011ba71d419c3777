//! A store that is full: nothing new is written, and what only removes still works.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Rule},
    daemon::SOON,
    deadline::until_true,
    stage::Stage,
    stored::Stored,
};
use shared::domain::DnsName;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn what_only_removes_works_in_a_full_store() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["a.example"]).await?;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let account = stored.store.load_account("pebble", "default").await?.context("an account")?;
    let names = [DnsName::parse("a.example")?];
    let pointers = stored.store.load_pointers(&names).await?;
    let site = pointers[0].owner().context("whose name it is")?;
    stage.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await?;
    let mut changed = account.account.clone();
    changed.key_version += 1;
    let refused = stored.store.write_account(Some(&account), changed).await;
    ensure!(refused.is_err(), "a full store took something new");
    stored.store.release_names(&names, &site, None).await?;
    stored.store.remove_account(&account).await?;
    ensure!(stored.store.load_account("pebble", "default").await?.is_none());
    Ok(())
}

/// An operator hears of it while something can be told still.
#[tokio::test(flavor = "multi_thread")]
async fn that_the_store_is_nearly_full_is_told_before_it_is() -> Result<()> {
    let stage = Stage::trusting().await?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "a.example"]).await?;
    stage.until_valid("a.example").await?;
    // So much that what comes and goes makes no difference.
    stage.redis.command(&["SETRANGE", "ballast", "30000000", "x"]).await?;
    let info: String = redis::from_redis_value(stage.redis.command(&["INFO", "memory"]).await?)?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).context("used_memory")?;
    let most = used.trim().parse::<u64>()? * 100 / 95;
    stage.redis.command(&["CONFIG", "SET", "maxmemory", &most.to_string()]).await?;
    let told = async |kind: &str| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        !stage.events(&[kind]).await.unwrap_or_default().is_empty()
    };
    until_true("it is told", SOON, async || told("store-nearly-full").await).await?;
    stage.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    until_true("it has room", SOON, async || told("store-has-room").await).await
}

/// A CA's text of nearly a megabyte is cut where it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_megabyte_does_not_fill_the_store() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let used = async || -> Result<u64> {
        let info: String = redis::from_redis_value(stage.redis.command(&["INFO", "memory"]).await?)?;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
        Ok(line.context("used_memory_dataset")?.trim().parse()?)
    };
    let before = used().await?;
    let long = "x".repeat(900_000);
    let refusal = Answer::problem(400, "malformed", &long);
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(Action::Answer(refusal)));
    for number in 0..8 {
        stage.issue_ending(1, &[&format!("n{number}.example")]).await?;
    }
    let grown = used().await?.saturating_sub(before);
    ensure!(grown < 1_000_000, "eight refusals have cost {grown} bytes");
    for event in stage.events(&["failed"]).await? {
        ensure!(event.to_string().len() < 10_000, "an event of {} bytes", event.to_string().len());
    }
    Ok(())
}
