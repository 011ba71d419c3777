//! What fails is tried again at its own pace, which the store remembers; what is served is kept; what only a person can put
//! right is left alone; and the operator is told of each turn.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Rule},
    daemon::{list, seconds},
    deadline::until_true,
    pebble::PebbleOptions,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use jiff::Timestamp;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// When orders were asked for, milliseconds.
fn asked_at(stage: &Stage) -> Vec<u64> {
    let log = stage.proxy.log();
    log.iter().filter(|line| line.endpoint == Endpoint::NewOrder).map(|line| line.at_ms).collect()
}

fn moment(value: &Value) -> Result<Timestamp> {
    Ok(value.as_str().with_context(|| format!("no moment: {value}"))?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_back_off_and_are_remembered_by_the_store() -> Result<()> {
    let mut stage = Stage::looking().await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[1.5, 4.0, 3600.0]))?;
    stage.signpost.set("issuer.lease_seconds", 1.5)?;
    let nowhere = stage.fleet.as_ref().context("a fleet")?.net.host(9);
    let names = ["moved.example", "left.example"];
    for name in names {
        stage.pebble.dns().set_a(name, &[nowhere]).await?;
    }
    let mut daemon = stage.start_daemon()?;
    stage.json(&["site", "add", names[0]]).await?;
    let failed = |count: u64| move |site: &Value| site["failure"]["count"] == count;
    stage.until_site(names[0], "it fails twice", failed(2)).await?;
    daemon.process.kill9().await?;
    let _daemon = stage.start_daemon()?;
    let third = stage.until_site(names[0], "it fails a third time", failed(3)).await?;
    let failure = &third["failure"];
    ensure!(third["state"] == "failing" && failure["class"] == "firewall", "{third:#}");
    let pause = moment(&failure["next"])?.duration_since(moment(&failure["at"])?).as_secs();
    ensure!((3000..=4200).contains(&pause), "{pause} s");
    ensure!(moment(&failure["since"])? < moment(&failure["at"])?, "{failure:#}");
    let asked = asked_at(&stage);
    ensure!(asked.len() == 3, "{asked:?}");
    ensure!(asked[1] - asked[0] >= 1500 && asked[2] - asked[1] >= 4000, "{asked:?}");
    let told = stage.events_of(names[0], &["failed"]).await?;
    ensure!(told.len() == 3 && told[2]["remedy"].is_string(), "{told:#?}");
    ensure!(told[2]["data"]["next_attempt"].is_string(), "{told:#?}");

    // Put right, it needs no patience.
    stage.pebble.dns().clear_a(names[0]).await?;
    stage.json(&["retry", names[0]]).await?;
    let site = stage.until_valid(names[0]).await?;
    ensure!(site["failure"].is_null(), "{site:#}");
    stage.until_event(names[0], "recovered").await?;

    // All that fails at once.
    stage.json(&["site", "add", names[1]]).await?;
    stage.until_site(names[1], "it fails", failed(3)).await?;
    stage.pebble.dns().clear_a(names[1]).await?;
    let retried = stage.json(&["retry", "--all"]).await?;
    ensure!(retried["retried"] == 1, "{retried:#}");
    stage.until_valid(names[1]).await?;
    stage.signpost.issuer(&["retry", "unheard-of.example"]).await?.with_code(4)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_renewed_is_served_to_its_last_second_and_after() -> Result<()> {
    let pebble = PebbleOptions { validity_period_seconds: Some(20), ..PebbleOptions::default() };
    let mut stage = Stage::trusting_with(StageOptions { pebble, ..StageOptions::default() }).await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[1.0, 3600.0]))?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "shop.example"]).await?;
    stage.until_valid("shop.example").await?;
    let first = stage.serial("shop.example").await?;
    let refusal = Action::problem(400, "rejectedIdentifier", "forbidden by policy");
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(refusal));
    let mut before = Timestamp::MIN;
    for kind in ["failed", "expiry-warning", "expiry-critical", "expired"] {
        let told = stage.until_event("shop.example", kind).await?;
        // The newest failure is as new as that.
        let at = if kind == "failed" { Timestamp::MIN } else { moment(&told["at"])? };
        ensure!(at >= before, "{kind}: {told:#}");
        before = at;
        ensure!(stage.serial("shop.example").await? == first, "{kind}: something else is served");
    }
    let stored = Stored::open(stage.signpost.config_path()).await?;
    ensure!(stored.served("shop.example").await?.len() == 1, "it is no longer served");
    let site = stage.site("shop.example").await?;
    ensure!(site["certificates"][0]["expiry"] == "expired" && site["state"] == "failing", "{site:#}");
    let warned = stage.events_of("shop.example", &["expiry-warning", "expiry-critical", "expired"]).await?;
    ensure!(warned.len() == 3, "each is told once: {warned:#?}");

    stage.proxy.clear_rules();
    stage.json(&["retry", "shop.example"]).await?;
    stage.until_valid("shop.example").await?;
    ensure!(stage.serial("shop.example").await? != first, "it was not renewed");
    stage.until_event("shop.example", "recovered").await?;
    stage.until_event("shop.example", "renewed").await?;
    Ok(())
}

const LINK: &str = "https://portal.ca.example/sfe/v1/unpause?jwt=abc.def";

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_ca_has_paused_is_shown_with_its_link_and_left_alone() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[0.2]))?;
    let detail = format!(
        "Your account is temporarily prevented from requesting certificates for paused.example and possibly others. \
         Please visit: {LINK}"
    );
    let refusal = || Action::Answer(Answer::problem(429, "rateLimited", &detail));
    let paused = Rule::on(Endpoint::NewOrder).for_name("paused.example").does(refusal());
    let asked = stage.proxy.add_rule(paused);
    let mut daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "paused.example"]).await?;
    let parked = |site: &Value| site["state"] == "parked";
    let site = stage.until_site("paused.example", "it is parked", parked).await?;
    ensure!(site["parked"]["reason"] == "paused-by-ca", "{site:#}");
    ensure!(site["parked"]["remedy"].as_str().is_some_and(|remedy| remedy.contains(LINK)), "{site:#}");
    let ahead = moment(&site["next"])?.duration_since(Timestamp::now()).as_hours();
    ensure!(ahead >= 10, "it is looked at again in {ahead} h");
    let told = stage.until_event("paused.example", "ca-paused").await?;
    ensure!(told["remedy"].as_str().is_some_and(|remedy| remedy.contains(LINK)), "{told:#}");

    // Neither others' work nor a restart wakes it.
    daemon.process.kill9().await?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "other.example"]).await?;
    stage.until_valid("other.example").await?;
    stage.until_idle().await?;
    ensure!(asked.count() == 1, "the CA was asked {} times", asked.count());
    ensure!(stage.site("paused.example").await?["state"] == "parked");

    // A person says that the pause is lifted, and is wrong the first time.
    stage.json(&["retry", "paused.example"]).await?;
    until_true("it is asked for", LIMIT, || async { asked.count() == 2 }).await?;
    stage.until_idle().await?;
    ensure!(asked.count() == 2 && stage.site("paused.example").await?["state"] == "parked");
    stage.proxy.clear_rules();
    stage.json(&["retry", "--all"]).await?;
    let site = stage.until_valid("paused.example").await?;
    ensure!(site["parked"].is_null() && site["failure"].is_null(), "{site:#}");
    stage.until_event("paused.example", "recovered").await?;
    ensure!(stage.events_of("paused.example", &["returned"]).await?.is_empty(), "it had not left");

    // One of several names is left out, and the others are not paused with it.
    let asked = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).for_name("p.example").does(
        Action::Answer(Answer::problem(429, "rateLimited", &detail.replace("paused.example", "p.example"))),
    ));
    stage.json(&["site", "add", "--san", "grouped", "o.example", "p.example", "q.example"]).await?;
    let site =
        stage.until_site("o.example", "the others are issued", |site| site["state"] == "degraded").await?;
    ensure!(site["left_out"]["p.example"]["class"] == "paused", "{site:#}");
    ensure!(site["left_out"]["p.example"]["next"].is_null(), "{site:#}");
    ensure!(list(&site["certificates"][0]["names"]) == ["o.example", "q.example"], "{site:#}");
    stage.until_idle().await?;
    ensure!(asked.count() == 1, "the CA was asked {} times", asked.count());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_waited_for_whoever_asks() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[0.2]))?;
    let limit = Answer::problem(429, "rateLimited", "too many new orders (300) from this account")
        .header("retry-after", "4");
    let asked = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).first(2).does(Action::Answer(limit)));
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "shop.example"]).await?;
    for turn in 1..=2 {
        until_true("the CA was asked", LIMIT, || async { asked.count() == turn }).await?;
        let waits = |site: &Value| {
            let not_before = site["failure"]["not_before"].as_str().and_then(|text| text.parse().ok());
            not_before.is_some_and(|not_before: Timestamp| not_before > Timestamp::now())
        };
        let site = stage.until_site("shop.example", "it waits", waits).await?;
        ensure!(site["failure"]["class"] == "limit" && site["failure"]["count"] == 1, "{site:#}");
        // A person's impatience changes nothing.
        stage.json(&["retry", "shop.example"]).await?;
        stage.until_idle().await?;
    }
    stage.until_valid("shop.example").await?;
    let asked = asked_at(&stage);
    ensure!(asked.len() == 3, "{asked:?}");
    ensure!(asked[1] - asked[0] >= 4000 && asked[2] - asked[1] >= 4000, "{asked:?}");
    ensure!(
        stage.events_of("shop.example", &["failed", "recovered"]).await?.is_empty(),
        "nothing has failed"
    );
    ensure!(stage.events_of("shop.example", &["waiting"]).await?.len() == 1, "a wait is told once");
    ensure!(stage.proxy.issued_for(&["shop.example"]).len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cas_policy_forbids_is_tried_again_the_next_day() -> Result<()> {
    let stage = Stage::trusting().await?;
    let refusal = Action::problem(400, "rejectedIdentifier", "the name is on a list of blocked names");
    let asked = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(refusal));
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "blocked.example"]).await?;
    let failing = |site: &Value| site["state"] == "failing";
    let site = stage.until_site("blocked.example", "it fails", failing).await?;
    let failure = &site["failure"];
    ensure!(failure["class"] == "policy" && failure["fault"] == "customer", "{site:#}");
    for next in [&failure["next"], &site["next"]] {
        let hours = moment(next)?.duration_since(Timestamp::now()).as_hours();
        ensure!((20..=27).contains(&hours), "{hours} h: {site:#}");
    }
    stage.until_idle().await?;
    ensure!(asked.count() == 1, "the CA was asked {} times", asked.count());
    Ok(())
}
