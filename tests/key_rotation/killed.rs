//! `kill -9` of `issuer key rotate` before and after each of its writes: the next run finishes.

use anyhow::{Context as _, Result, ensure};
use harness::{
    redis_proxy::{Moment, Then, Trigger},
    stage::{Fuse, Stage},
};

use crate::scene::{
    add_key, everything_is_sealed_with, everything_opens, is_rotated, killed, open_orders_are_finished, ring,
    rotate, stage,
};

const REWRAP: &str = include_str!("../../shared/src/store/scripts/rewrap_records.lua");
const REWRAP_ORDER: &str = include_str!("../../shared/src/store/scripts/rewrap_order.lua");
const LOOK: &str = include_str!("../../shared/src/store/scripts/sealed_sites.lua");
const SET: &str = "\r\nSET\r\n";
const DEL: &str = "\r\nDEL\r\n";

/// Every write of a rotation: a word for messages, the bytes that its command contains, and which of its kind.
fn writes() -> Vec<(&'static str, Vec<String>, u64)> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        ("begin", words(&["sp:vault:rotation", SET, "\r\nNX\r\n"]), 1),
        ("next canary", words(&["sp:vault:canary-next", SET]), 1),
        ("current key", words(&["sp:vault:current", "EVALSHA"]), 1),
        ("account", vec![sha1(REWRAP), "sp:account:".into()], 1),
        ("second account", vec![sha1(REWRAP), "sp:account:".into()], 2),
        ("internal CA", vec![sha1(REWRAP), "sp:internal-ca".into()], 1),
        ("certificates", vec![sha1(REWRAP), ":cert:".into()], 1),
        ("certificates of another partition", vec![sha1(REWRAP), ":cert:".into()], 2),
        ("order", vec![sha1(REWRAP_ORDER)], 1),
        ("second order", vec![sha1(REWRAP_ORDER)], 2),
        ("progress", words(&["sp:vault:rotation", "\"cursor\":", "\r\nXX\r\n"]), 1),
        ("all sealed anew", words(&["\"phase\":\"verify\"", "\r\nXX\r\n"]), 1),
        ("a look at leases", vec![sha1(LOOK), "\r\n$1\r\n1\r\n".into()], 1),
        ("canary", words(&["sp:vault:canary\r\n", SET]), 1),
        ("next canary goes", words(&["sp:vault:canary-next", DEL]), 1),
        ("end", words(&["sp:vault:rotation", DEL]), 1),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_write_reaches_the_store() -> Result<()> {
    killed_at_every_write(Moment::BeforeCommand).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_write_before_its_answer_arrives() -> Result<()> {
    killed_at_every_write(Moment::Answered).await
}

async fn killed_at_every_write(moment: Moment) -> Result<()> {
    let stage = stage().await?;
    let mut old = ring(&stage.signpost)?.remove(0);
    everything_is_sealed_with(&stage, &old).await?;
    // The scripts are known to the server from here on: each write is one command.
    let new = add_key(&stage.signpost).await?;
    rotate(&stage).await?;
    is_rotated(&stage, &old, &new).await?;
    stage.signpost.issuer(&["key", "retire", &old]).await?.success()?;
    old = new;
    for (word, containing, nth) in writes() {
        old = one_scene(&stage, &old, &containing, nth, moment).await.with_context(|| word)?;
    }
    open_orders_are_finished(&stage).await
}

/// From one key to the next, killed on the way. Answers with the new key.
async fn one_scene(
    stage: &Stage,
    old: &str,
    containing: &[String],
    nth: u64,
    moment: Moment,
) -> Result<String> {
    let new = add_key(&stage.signpost).await?;
    let fuse = Fuse::default();
    let kill = fuse.clone();
    let (first, others) = containing.split_first().context("a word")?;
    let trigger = Trigger::on(first, moment, move || {
        kill.kill9();
        Then::Cut
    });
    let trigger = others.iter().fold(trigger, |trigger, word| trigger.and(word)).nth(nth);
    stage.redis_proxy.add_trigger(trigger);
    killed(stage, &fuse, &["key", "rotate"]).await?;
    // Nothing is out of reach in between, with either ring that nodes may have.
    everything_opens(stage).await.context("in between")?;
    let rotated = rotate_to(stage, &new).await?;
    ensure!(rotated["to"] == new.as_str(), "{rotated:#}");
    is_rotated(stage, old, &new).await?;
    stage.signpost.issuer(&["key", "retire", old]).await?.success()?;
    ensure!(ring(&stage.signpost)? == [new.as_str()], "the ring has the new key alone");
    everything_opens(stage).await?;
    Ok(new)
}

/// The next run. Killed after its very last write there is nothing left to do: then the key is named.
async fn rotate_to(stage: &Stage, new: &str) -> Result<serde_json::Value> {
    stage.signpost.issuer_json(&["key", "rotate", "--to", new]).await
}

fn sha1(script: &str) -> String {
    openssl::sha::sha1(script.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
