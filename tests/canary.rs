//! Renewed certificates reach the frontends of one tag first, and all others later, unless an operator steps in.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{daemon::SOON, deadline::until_true, pull::Pull, signpost::Started, stage::Stage};
use jiff::Timestamp;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const FILE: &str = "shop.example/ecdsa/fullchain.pem";

/// A site with both kinds of keys that two frontends have pulled: one of the canaries, and one of the others.
struct Scene {
    stage: Stage,
    canary: Pull,
    other: Pull,
    _daemon: Started,
}

impl Scene {
    async fn with(minutes: f64) -> Result<Self> {
        let mut stage = Stage::trusting().await?;
        stage.signpost.set("issuer.canary_tag", "canary")?;
        stage.signpost.set("issuer.canary_minutes", minutes)?;
        let _daemon = stage.start_daemon()?;
        let canary = Pull::start(&stage, &["--tag", "eu", "--tag", "canary"]).await?;
        let other = canary.beside(&stage, &["--tag", "eu"]).await?;
        stage.json(&["site", "add", "--dual", "--tag", "eu", "shop.example"]).await?;
        let site = stage.until_valid("shop.example").await?;
        ensure!(site["staged"].is_null(), "a first certificate waits for nobody: {site:#}");
        ensure!(canary.serial_in(FILE)? == other.serial_in(FILE)?);
        Ok(Self { stage, canary, other, _daemon })
    }

    /// The certificates are renewed, and the canaries alone have the new ones.
    async fn renewed(&self) -> Result<Value> {
        let before = self.other.serial_in(FILE)?;
        self.stage.json(&["renew", "--all", "--force"]).await?;
        let site = self
            .stage
            .until_site("shop.example", "the canaries have it", |site| !site["staged"].is_null())
            .await?;
        ensure!(self.other.serial_in(FILE)? == before, "the others have it too: {site:#}");
        ensure!(self.canary.serial_in(FILE)? != before, "the canaries don't have it: {site:#}");
        let of_item = |frontend: &Pull| -> Result<Value> {
            let items = frontend.items()?;
            ensure!(items.len() == 1, "{items:#?}");
            ensure!(items[0]["lineages"].as_object().is_some_and(|all| all.len() == 2), "{items:#?}");
            Ok(items[0]["lineages"].clone())
        };
        let (canary, other) = (of_item(&self.canary)?, of_item(&self.other)?);
        for slot in ["ecdsa", "rsa"] {
            ensure!(canary[slot]["serial"] != other[slot]["serial"], "{canary:#} {other:#}");
            ensure!(canary[slot]["serial"] == site["staged"]["certificates"][slot]["serial"], "{site:#}");
        }
        ensure!(site["staged"]["tag"] == "canary" && site["state"] == "valid", "{site:#}");
        Ok(site)
    }

    /// Every certificate in the store is one that the group refers to, and no order is open.
    async fn nothing_is_left_over(&self) -> Result<()> {
        self.stage.until_idle().await?;
        let groups = self.stage.keys("sp:{p*}:site:*").await?;
        let fields = self.stage.redis.command(&["HGETALL", &groups[0]]).await?;
        let fields: std::collections::BTreeMap<String, String> = redis::from_redis_value(fields)?;
        let referred =
            |kind: &str| ["cert:", "prev:", "next:", "kept:"].iter().any(|one| kind.starts_with(one));
        let mut named: Vec<&String> =
            fields.iter().filter(|(field, _)| referred(field)).map(|(_, id)| id).collect();
        named.sort();
        named.dedup();
        let mut there = self.stage.keys("sp:{p*}:cert:*").await?;
        there.sort();
        ensure!(there.len() == named.len(), "{there:#?} for {fields:#?}");
        ensure!(named.iter().all(|id| there.iter().any(|key| key.ends_with(id.as_str()))), "{there:#?}");
        ensure!(self.stage.keys("sp:{p*}:order:*").await?.is_empty(), "an order is left over");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canaries_get_it_first_and_the_others_when_their_time_is_over() -> Result<()> {
    let scene = Scene::with(0.1).await?;
    let (stage, before) = (&scene.stage, scene.other.serial_in(FILE)?);
    let site = scene.renewed().await?;
    // What the canaries have counts: nothing is ordered again. And an operator can keep it there.
    stage.json(&["pause", "publication"]).await?;
    let until: Timestamp = site["staged"]["until"].as_str().context("until")?.parse()?;
    until_true("the canaries' time is over", SOON, || async { Timestamp::now() > until }).await?;
    stage.json(&["retry", "shop.example"]).await?;
    stage.until_idle().await?;
    let kept = stage.site("shop.example").await?;
    ensure!(kept["staged"] == site["staged"], "{kept:#}");
    ensure!(scene.other.serial_in(FILE)? == before, "{kept:#}");
    let words = stage.signpost.issuer(&["status", "shop.example"]).await?.success()?.stdout;
    ensure!(words.contains("frontends of the tag canary"), "{words}");

    stage.json(&["resume", "publication"]).await?;
    stage.json(&["retry", "shop.example"]).await?;
    stage.until_event("shop.example", "promoted").await?;
    until_true("all have it", LIMIT, || async {
        let both = (scene.canary.serial_in(FILE), scene.other.serial_in(FILE));
        matches!(both, (Ok(canary), Ok(other)) if canary == other && other != before)
    })
    .await?;
    scene.nothing_is_left_over().await?;
    let site = stage.until_valid("shop.example").await?;
    ensure!(site["staged"].is_null(), "{site:#}");
    ensure!(stage.events(&["promoted"]).await?.len() == 1);
    ensure!(stage.proxy.orders().len() == 4, "{:?}", stage.proxy.orders());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reaches_the_others_by_itself() -> Result<()> {
    let scene = Scene::with(0.1).await?;
    let site = scene.renewed().await?;
    let until: Timestamp = site["staged"]["until"].as_str().context("until")?.parse()?;
    let promoted = scene.stage.until_event("shop.example", "promoted").await?;
    ensure!(promoted["at"].as_str().context("at")?.parse::<Timestamp>()? >= until, "{promoted:#}");
    ensure!(scene.canary.serial_in(FILE)? == scene.other.serial_in(FILE)?);
    ensure!(scene.stage.proxy.orders().len() == 4, "{:?}", scene.stage.proxy.orders());
    scene.nothing_is_left_over().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_takes_it_from_the_canaries() -> Result<()> {
    let scene = Scene::with(60.0).await?;
    let (stage, before) = (&scene.stage, scene.other.serial_in(FILE)?);
    scene.renewed().await?;
    let back = stage.json(&["site", "rollback", "shop.example"]).await?;
    ensure!(back["rolled_back"].as_array().is_some_and(|all| all.len() == 2), "{back:#}");
    ensure!(scene.canary.serial_in(FILE)? == before && scene.other.serial_in(FILE)? == before);
    scene.nothing_is_left_over().await?;
    let site = stage.site("shop.example").await?;
    ensure!(site["staged"].is_null() && site["state"] == "valid", "{site:#}");
    // It is left alone, although it was to be renewed.
    stage.json(&["retry", "shop.example"]).await?;
    stage.until_idle().await?;
    ensure!(stage.proxy.orders().len() == 4, "{:?}", stage.proxy.orders());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_is_replaced_for_all_at_once() -> Result<()> {
    let scene = Scene::with(60.0).await?;
    let (stage, before) = (&scene.stage, scene.other.serial_in(FILE)?);
    scene.renewed().await?;
    stage.json(&["revoke", "shop.example"]).await?;
    until_true("all have the new one", LIMIT, || async {
        scene.other.serial_in(FILE).is_ok_and(|serial| serial != before)
    })
    .await?;
    scene.nothing_is_left_over().await?;
    let site = stage.site("shop.example").await?;
    ensure!(site["certificates"][0]["revoked"] == json!(false), "{site:#}");
    ensure!(stage.proxy.orders().len() == 4, "nothing more is ordered: {:?}", stage.proxy.orders());
    stage.signpost.issuer(&["site", "rollback", "shop.example"]).await?.with_code(4)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_have_nothing_yet_do_not_wait() -> Result<()> {
    let scene = Scene::with(60.0).await?;
    let stage = &scene.stage;
    stage.json(&["site", "add", "--san", "grouped", "--tag", "eu", "a.example"]).await?;
    stage.until_valid("a.example").await?;
    stage.json(&["site", "set", "a.example", "--add-name", "b.example"]).await?;
    until_true("the new name is served", LIMIT, || async {
        scene.other.serial_in("b.example/ecdsa/cert.pem").is_ok()
    })
    .await?;
    ensure!(stage.site("a.example").await?["staged"].is_null());
    Ok(())
}
