//! Moments that a CA names: believed within bounds, told once, kept by all, and ended by an operator.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Rule},
    daemon::SOON,
    deadline::until_true,
    stage::Stage,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

fn busy(retry_after: &str) -> Action {
    let page = Answer::page(503, "text/html", "<html>busy</html>");
    Action::Answer(page.header("retry-after", retry_after))
}

async fn pauses(stage: &Stage) -> Result<Vec<Value>> {
    let limits = stage.json(&["limits"]).await?;
    Ok(limits["cas"][0]["pauses"].as_array().cloned().unwrap_or_default())
}

/// A moment where seconds were meant.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_years_lasts_a_day_and_is_ended_by_hand() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let file =
        stage.signpost.write("limits.toml", "[requests.new-order]\nper_second = 100.0\nburst = 100\n")?;
    stage.signpost.set("ca.pebble.limits_file", file.to_str().context("a path is text")?)?;
    stage.issue(&["warm.example"]).await?;
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).nth(1).does(busy("1796000000")));
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "a.example"]).await?;
    let fails = |site: &Value| site["failure"]["class"] == "ca" || site["failure"]["class"] == "limit";
    stage.until_site("a.example", "the CA wants a pause", fails).await?;
    let shown = pauses(&stage).await?;
    ensure!(shown.len() == 1 && shown[0]["endpoint"] == "new-order", "{shown:?}");
    let from_now = |moment: &Value| -> Result<SignedDuration> {
        let moment: Timestamp = moment.as_str().unwrap_or_default().parse()?;
        Ok(moment.duration_since(Timestamp::now()))
    };
    let (lasts, tries) = (from_now(&shown[0]["until"])?, from_now(&shown[0]["next_try"])?);
    ensure!(lasts <= SignedDuration::from_hours(24) && lasts > SignedDuration::from_hours(23), "{shown:?}");
    ensure!(tries <= SignedDuration::from_hours(1), "{shown:?}");
    let status = stage.json(&["status"]).await?;
    ensure!(status["fleet"]["ca_pauses"][0]["ca"] == "pebble", "{status:#}");

    let asked = stage.proxy.requests().of(Endpoint::NewOrder);
    stage.json(&["site", "add", "b.example"]).await?;
    let site = stage.until_site("b.example", "it waits", |site| site["failure"]["class"] == "limit").await?;
    ensure!(from_now(&site["failure"]["not_before"])? <= SignedDuration::from_hours(1), "{site:#}");
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == asked, "the CA was asked all the same");
    let told = stage.events(&["ca-trouble"]).await?;
    let disbelieved: Vec<&Value> =
        told.iter().filter(|event| event["data"]["said"] == "1796000000").collect();
    ensure!(disbelieved.len() == 1, "{told:?}");

    // Those that wait are counted, and those of an earlier release, which had no list of them, once all were looked at.
    let counted = async || -> Result<Value> { Ok(stage.json(&["status"]).await?["fleet"]["load"].clone()) };
    let load = counted().await?;
    ensure!(load["waiting"] == 1, "{load:#}");
    ensure!(from_now(&load["waiting_until"])? <= SignedDuration::from_hours(1), "{load:#}");
    for key in stage.keys("sp:{p*}:waiting").await?.iter().map(String::as_str).chain(["sp:waiting-known"]) {
        stage.redis.command(&["DEL", key]).await?;
    }
    ensure!(counted().await?["waiting"] == 0);
    until_true("all were looked at", SOON, async || {
        let is_known = stage.redis.text_of("sp:waiting-known").await.is_ok();
        is_known && counted().await.is_ok_and(|load| load["waiting"] == 1)
    })
    .await?;

    // Who asks by hand goes through, and nobody else.
    stage.issue(&["c.example"]).await?;
    ensure!(pauses(&stage).await?.len() == 1);
    let retried = stage.json(&["retry", "--ca", "pebble"]).await?;
    ensure!(retried["pauses_ended"] == 1 && retried["retried"] == 2, "{retried:#}");
    for name in ["a.example", "b.example"] {
        stage.until_valid(name).await?;
    }
    ensure!(pauses(&stage).await?.is_empty());
    let load = counted().await?;
    ensure!(load["waiting"] == 0 && load["waiting_until"].is_null(), "{load:#}");
    Ok(())
}

/// The token is there when the CA looks, whatever the CA says of the order's end.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_has_ended_in_1970_is_worked_on() -> Result<()> {
    let stage = Stage::looking().await?;
    for endpoint in [Endpoint::NewOrder, Endpoint::Order, Endpoint::Authorization] {
        let words = ("\"expires\":".to_owned(), "\"expires\":\"1970-01-01T00:00:00Z\",\"was\":".to_owned());
        stage.proxy.add_rule(Rule::on(endpoint).does(Action::Rewrite(words.0, words.1)));
    }
    stage.issue(&["a.example"]).await?;
    stage.issue(&["b.example"]).await?;
    let told = stage.events(&["ca-trouble"]).await?;
    ensure!(told.len() == 1, "{told:?}");
    ensure!(told[0]["data"]["said"] == "1970-01-01T00:00:00Z", "{told:?}");
    Ok(())
}
