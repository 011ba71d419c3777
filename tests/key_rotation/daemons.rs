//! Two nodes run the daemon and order as fast as they can, while the key is replaced under them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, stage::Stage, stored::Stored};

use crate::scene::{LIMIT, add_key, copy_ring, node_with_ring, ring, sealed_with};

/// Sites of one file, and how many of them have their certificate when the key is replaced.
const SITES: usize = 150;
const BEFORE: usize = 20;

fn names(prefix: &str) -> Vec<String> {
    (0..SITES).map(|number| format!("{prefix}{number}.example")).collect()
}

async fn apply(stage: &Stage, names: &[String]) -> Result<()> {
    let mut lines = String::new();
    for name in names {
        writeln!(lines, "{{\"names\":[\"{name}\"]}}")?;
    }
    let file = stage.signpost.write("sites.ndjson", lines)?;
    stage.json(&["apply", file.to_str().context("a path of text")?]).await.map(drop)
}

async fn until_issued(stage: &Stage, count: usize) -> Result<()> {
    until_true("certificates are issued", LIMIT * 2, || async {
        stage.proxy.orders().iter().filter(|order| order.finalized > 0).count() >= count
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_go_on_under_load_and_nothing_is_left_of_the_old_key() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.lease_seconds", 30)?;
    stage.signpost.issuer(&["account", "create"]).await?.success()?;
    let old = ring(&stage.signpost)?.remove(0);
    let second = node_with_ring(&stage.signpost, |_| true)?;
    let daemons = [stage.start_daemon()?, second.start_run("issuer", &["run"])?];
    let first_sites = names("a");
    apply(&stage, &first_sites).await?;
    until_issued(&stage, BEFORE).await?;

    let new = add_key(&stage.signpost).await?;
    let held = stage.signpost.issuer(&["--json", "key", "rotate"]).await?.with_code(3)?.json()?;
    let lacking: Vec<&str> =
        held["nodes"].as_array().into_iter().flatten().filter_map(|node| node["name"].as_str()).collect();
    let of_second = format!("/issuer/{}", daemons[1].process.pid());
    ensure!(lacking.iter().any(|name| name.ends_with(&of_second)), "{held:#}");
    ensure!(sealed_with(&stage, &new).await?.is_empty(), "nothing has been sealed with the new key");
    let waiting = stage.signpost.start_run("issuer", &["--json", "key", "rotate", "--wait"])?;
    copy_ring(&stage.signpost.key_encryption_key_file(), &second.key_encryption_key_file())?;
    let rotated = waiting.wait(LIMIT * 2).await?.success()?.json()?;
    ensure!(rotated["to"] == new.as_str(), "{rotated:#}");

    // The daemons let go of the old key while they work on what comes next.
    let mut all = first_sites;
    all.extend(names("b"));
    apply(&stage, &all).await?;
    for node in [&stage.signpost, &second] {
        node.issuer(&["key", "retire", &old]).await?.success()?;
    }
    until_issued(&stage, all.len()).await?;
    stage.until_idle().await?;
    let left = sealed_with(&stage, &old).await?;
    ensure!(left.is_empty(), "sealed with the old key: {left:#?}");
    for daemon in &daemons {
        daemon.process.assert_running()?;
    }
    let root = stage.pebble.roots().await?.remove(0).root_pem;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    for (number, name) in all.iter().enumerate() {
        ensure!(stage.proxy.orders_for(&[name]).len() == 1, "{name}: one order");
        let served = stored.served(name).await?;
        ensure!(served.len() == 1, "{name} is served");
        // `openssl verify` is a program: of each tenth.
        if number % 10 == 0 {
            served[0].verify(&root, &[name])?;
        }
        ensure!(served[0].leaf.public_key()?.public_eq(&served[0].key), "{name}: the key is another one's");
    }
    let failed = stage.events(&["failed"]).await?;
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}
