//! Brakes: an operator stops issuance or publication, for everything, a CA or a tag, and goes back to what was served
//! before.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    daemon::list,
    deadline::until_true,
    pebble::PebbleOptions,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use jiff::Timestamp;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn moment(value: &Value) -> Result<Timestamp> {
    Ok(value.as_str().with_context(|| format!("no moment: {value}"))?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn issuance_is_stopped_for_everything() -> Result<()> {
    let stage = Stage::trusting().await?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "before.example"]).await?;
    stage.until_valid("before.example").await?;
    stage.json(&["pause", "issuance", "--reason", "the CA has an incident"]).await?;
    stage.proxy.reset();
    stage.json(&["site", "add", "stopped.example"]).await?;
    let status = stage.json(&["status"]).await?;
    let brake = &status["fleet"]["brakes"][0];
    ensure!(brake["what"] == "issuance" && brake["scope"] == "all", "{status:#}");
    let said = stage.signpost.issuer(&["status"]).await?.success()?.stdout;
    ensure!(said.contains("STOPPED: issuance") && said.contains("the CA has an incident"), "{said}");
    // Who asks by hand is stopped by it too, and told.
    let run = stage.run_issue(&["by-hand.example"]).await?.with_code(3)?;
    ensure!(run.stdout.contains("the CA has an incident"), "{}", run.stdout);
    ensure!(run.stdout.contains("`issuer resume issuance`"), "{}", run.stdout);
    // A plan says what would wait.
    let file = stage.signpost.write("sites.ndjson", "{\"names\":[\"planned.example\"]}\n")?;
    let planned = stage.json(&["plan", file.to_str().context("a path of text")?]).await?;
    ensure!(planned["waiting"] == 1, "{planned:#}");
    ensure!(
        planned["changes"][0]["waits_for"].as_str().is_some_and(|why| why.contains("incident")),
        "{planned:#}"
    );
    let site = stage.site("stopped.example").await?;
    ensure!(site["state"] == "pending" && site["failure"].is_null(), "{site:#}");
    ensure!(stage.proxy.orders().is_empty(), "{:?}", stage.proxy.orders());
    let stored = Stored::open(stage.signpost.config_path()).await?;
    ensure!(stored.served("before.example").await?.len() == 1, "what is served is served on");

    stage.json(&["resume", "issuance"]).await?;
    stage.until_valid("stopped.example").await?;
    stage.signpost.issuer(&["resume", "issuance"]).await?.with_code(4)?;
    let told: Vec<Value> = stage.events(&["brake-on", "brake-off"]).await?;
    ensure!(told.len() == 2 && told[0]["kind"] == "brake-on", "{told:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn issuance_is_stopped_for_a_tag_and_for_a_ca() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    // The same CA under another name.
    for (key, value) in [
        ("directory", stage.proxy.directory_url()),
        ("trusted_roots_file", stage.proxy.trusted_roots_file().display().to_string()),
    ] {
        stage.signpost.set(&format!("ca.second.{key}"), value)?;
    }
    stage.signpost.set("ca.second.agree_to_terms", true)?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["pause", "issuance", "--tag", "eu"]).await?;
    stage.json(&["pause", "issuance", "--ca", "second"]).await?;
    stage.json(&["site", "add", "eu.example", "--tag", "eu"]).await?;
    stage.json(&["site", "add", "us.example", "--tag", "us"]).await?;
    stage.json(&["site", "add", "second.example", "--ca", "second"]).await?;
    stage.until_valid("us.example").await?;
    stage.until_idle().await?;
    for name in ["eu.example", "second.example"] {
        let site = stage.site(name).await?;
        ensure!(site["state"] == "pending" && site["failure"].is_null(), "{site:#}");
        ensure!(stage.proxy.orders_for(&[name]).is_empty(), "{name} was ordered");
    }
    stage.json(&["resume", "issuance", "--tag", "eu"]).await?;
    stage.json(&["resume", "issuance", "--ca", "second"]).await?;
    for name in ["eu.example", "second.example"] {
        stage.until_site_within(LIMIT, name, "it goes on", |site| site["state"] == "valid").await?;
        ensure!(stage.proxy.issued_for(&[name]).len() == 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_issued_is_kept_back_until_publication_goes_on() -> Result<()> {
    let stage = Stage::trusting().await?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "served.example"]).await?;
    stage.until_valid("served.example").await?;
    let before = stage.serial("served.example").await?;
    stage.json(&["pause", "publication"]).await?;
    stage.json(&["site", "add", "--dual", "new.example"]).await?;
    stage.json(&["renew", "--all", "--force"]).await?;
    let kept = |site: &Value| site["order"]["ecdsa"] == "stored";
    for name in ["new.example", "served.example"] {
        stage.until_site(name, "it is issued and kept back", kept).await?;
    }
    stage.until_idle().await?;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    ensure!(stored.served("new.example").await?.is_empty(), "it is served");
    ensure!(stage.serial("served.example").await? == before, "the new one is served");
    // Asked again, nothing is ordered a second time.
    stage.json(&["retry", "new.example", "served.example"]).await?;
    stage.until_idle().await?;
    ensure!(stage.proxy.issued_for(&["new.example"]).len() == 2, "{:?}", stage.proxy.orders());
    ensure!(stage.proxy.issued_for(&["served.example"]).len() == 2, "{:?}", stage.proxy.orders());

    stage.json(&["resume", "publication"]).await?;
    stage.json(&["retry", "new.example", "served.example"]).await?;
    let site = stage.until_valid("new.example").await?;
    ensure!(site["certificates"].as_array().is_some_and(|all| all.len() == 2), "{site:#}");
    until_true("the renewed one is served", LIMIT, || async {
        stage.serial("served.example").await.is_ok_and(|serial| serial != before)
    })
    .await?;
    stage.until_idle().await?;
    ensure!(stage.proxy.orders().len() == 4, "{:?}", stage.proxy.orders());
    ensure!(stage.keys("sp:{p*}:order:*").await?.is_empty(), "an order is left over");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_goes_back_to_what_was_served_before_and_is_left_alone() -> Result<()> {
    // Due after 13 s, urgent after 21 s.
    let pebble = PebbleOptions { validity_period_seconds: Some(26), ..PebbleOptions::default() };
    let stage = Stage::trusting_with(StageOptions { pebble, ..StageOptions::default() }).await?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "shop.example"]).await?;
    let begun = stage.until_valid("shop.example").await?;
    let first = stage.serial("shop.example").await?;
    let none = stage.signpost.issuer(&["--json", "site", "rollback", "shop.example"]).await?.with_code(4)?;
    ensure!(none.json()?["error"] == "not-found", "{}", none.stdout);
    stage.json(&["renew", "--all", "--force"]).await?;
    until_true("it is renewed", LIMIT, || async {
        stage.serial("shop.example").await.is_ok_and(|serial| serial != first)
    })
    .await?;
    stage.until_idle().await?;
    let second = stage.serial("shop.example").await?;
    let back = stage.json(&["site", "rollback", "shop.example"]).await?;
    ensure!(back["rolled_back"][0]["serial"] == json!(first), "{back:#}");
    ensure!(stage.serial("shop.example").await? == first, "something else is served");
    // What was rolled back from does not come back.
    stage.signpost.issuer(&["site", "rollback", "shop.example"]).await?.with_code(4)?;
    ensure!(stage.serial("shop.example").await? == first, "rolled back twice, the bad one is back");
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let root = stage.pebble.roots().await?.remove(0).root_pem;
    stored.served("shop.example").await?.remove(0).verify(&root, &["shop.example"])?;
    let told = stage.until_event("shop.example", "rolled-back").await?;
    ensure!(list(&told["names"]) == ["shop.example"] && told["severity"] == "warning", "{told:#}");

    // Held for a day, but not until it expires.
    let third = |site: &Value| {
        let serial = &site["certificates"][0]["serial"];
        serial.is_string() && *serial != first.as_str() && *serial != second.as_str()
    };
    let site = stage.until_site_within(LIMIT, "shop.example", "it is renewed in the end", third).await?;
    let renewed = moment(&site["certificates"][0]["issued"])?;
    let age = renewed.duration_since(moment(&begun["certificates"][0]["not_before"])?).as_secs();
    ensure!((20..=26).contains(&age), "renewed {age} s after the beginning: {site:#}");
    ensure!(stage.events(&["expired"]).await?.is_empty(), "it was held until it expired");
    Ok(())
}
