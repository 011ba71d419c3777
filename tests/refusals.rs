//! A refusal is laid to what it is about: a site's own profile, its names, or words that only the account can tell hold nobody
//! else; and an error that the CA puts into a challenge alone is an answer.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Rule},
    daemon::seconds,
    stage::Stage,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn sites_that_are_refused_for_themselves_hold_nobody_else() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    stage.signpost.set("ca.pebble.profile_required", true)?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[1.0]))?;
    stage.signpost.set("issuer.slots", 4)?;
    let refused = |kind| Action::problem(400, kind, "not for you");
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).below("odd.example").does(refused("invalidProfile")));
    let denied =
        stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).for_name("denied.example").does(Action::problem(
            403,
            "unauthorized",
            "this may not be ordered",
        )));
    let _daemon = stage.start_daemon()?;
    let odd: Vec<String> = (0..8).map(|number| format!("n{number}.odd.example")).collect();
    for name in &odd {
        stage.json(&["site", "add", name, "--profile", "odd"]).await?;
    }
    stage.json(&["site", "add", "denied.example"]).await?;
    for name in odd.iter().map(String::as_str).chain(["denied.example"]) {
        let site = stage
            .until_site_within(LIMIT, name, "it fails", |site| site["failure"]["class"] == "policy")
            .await?;
        ensure!(site["failure"]["fault"] == "operator", "{site:#}");
    }
    // They go on failing each second; these are not held, and neither is a renewal.
    for name in ["healthy-1.example", "healthy-2.example"] {
        stage.json(&["site", "add", name]).await?;
        stage.until_site_within(LIMIT, name, "it is issued", |site| site["state"] == "valid").await?;
    }
    let before = stage.serial("warm.example").await?;
    stage.json(&["renew", "--force", "warm.example"]).await?;
    ensure!(stage.serial("warm.example").await? != before);
    ensure!(denied.count() > 0, "it was not denied");
    let account = stage.proxy.requests().of(Endpoint::Account);
    ensure!(account > 0, "the account was not asked for");
    ensure!(stage.events(&["ca-trouble"]).await?.is_empty(), "somebody else was held");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_preferred_is_done_without_and_told() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.json(&["site", "add", "preferred.example", "--profile", "odd"]).await?;
    let refused = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).nth(1).does(Action::problem(
        400,
        "invalidProfile",
        "no such profile",
    )));
    let result = stage.issue(&["preferred.example"]).await?;
    ensure!(refused.count() == 1 && has_step(&result, "profile"), "{result:#}");
    ensure!(stage.proxy.orders_for(&["preferred.example"]).len() == 1);
    let told = stage.events(&["ca-changed"]).await?;
    ensure!(
        told.len() == 1 && told[0]["what"].as_str().is_some_and(|what| what.contains("odd")),
        "{told:#?}"
    );
    Ok(())
}

/// As step-ca and Caddy's ACME server do it: order, authorization and challenge stay pending.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_a_challenge_that_stays_pending_is_an_answer() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let pending = |object: &mut Value| object["status"] = "pending".into();
    stage
        .proxy
        .add_rule(Rule::on(Endpoint::Order).for_name("closed.example").does(Action::change_object(pending)));
    let with_error = |object: &mut Value| {
        object["status"] = "pending".into();
        for challenge in object["challenges"].as_array_mut().into_iter().flatten() {
            challenge["status"] = "pending".into();
            if challenge["type"] == "http-01" {
                challenge["error"] = json!({
                    "type": "urn:ietf:params:acme:error:connection",
                    "detail": "The server could not connect to validation target",
                });
            }
        }
    };
    stage.proxy.add_rule(
        Rule::on(Endpoint::Authorization).for_name("closed.example").does(Action::change_object(with_error)),
    );
    let failed = stage.issue_ending(1, &["closed.example"]).await?;
    let failure = &failed["results"][0]["failure"];
    ensure!(failure["class"] == "firewall" && failure["fault"] == "customer", "{failed:#}");
    let what = failure["what"].as_str().context("what")?;
    ensure!(what.contains("closed.example") && what.contains("could not connect"), "{what}");
    let looks = stage.proxy.requests().of(Endpoint::Order);
    ensure!(looks < 12, "looked at {looks} times");
    // It is dead for us: the next run orders anew.
    stage.proxy.clear_rules();
    stage.issue(&["closed.example"]).await?;
    ensure!(stage.proxy.orders_for(&["closed.example"]).len() == 2);
    Ok(())
}

pub(crate) fn has_step(result: &Value, wanted: &str) -> bool {
    let steps = result["results"][0]["steps"].as_array().into_iter().flatten();
    steps.into_iter().any(|step| step["step"] == wanted)
}
