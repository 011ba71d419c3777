//! A CA that stumbles, falls, or refuses the account, before the daemon: what passes by itself is asked past, what doesn't
//! ends in the right class with the right wait and the right words; and once it is well, each certificate is issued once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Hits, Rule},
    daemon::seconds,
    deadline::{until, until_true},
    signpost::Started,
    stage::Stage,
};
use jiff::Timestamp;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

async fn started(stage: &mut Stage, slots: i64) -> Result<Started> {
    stage.signpost.set("issuer.retry_seconds", seconds(&[1.0]))?;
    stage.signpost.set("issuer.slots", slots)?;
    stage.start_daemon()
}

async fn valid(stage: &Stage, name: &str) -> Result<Value> {
    stage.until_site_within(LIMIT, name, "it is issued", |site| site["state"] == "valid").await
}

/// Issued once, whatever had to be asked twice.
fn once(stage: &Stage, name: &str, orders: usize) -> Result<()> {
    ensure!(
        stage.proxy.issued_for(&[name]) == ["ecdsa-p256"],
        "{name}: {:?}",
        stage.proxy.issued_for(&[name])
    );
    let placed = stage.proxy.orders_for(&[name]).len();
    ensure!(placed <= orders, "{name}: {placed} orders");
    Ok(())
}

fn page(status: u16) -> Answer {
    Answer::page(status, "text/html", "<html><h1>Sorry</h1></html>")
}

/// Each strikes one name, a few times in a row, at one step of its order.
#[tokio::test(flavor = "multi_thread")]
async fn what_passes_by_itself_is_asked_past() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let refused = |status, kind| Action::problem(status, kind, "try again");
    let faults = [
        ("internal", Endpoint::NewOrder, 1, refused(500, "serverInternal")),
        ("bad-gateway", Endpoint::Authorization, 2, Action::Answer(page(502))),
        ("unavailable", Endpoint::Challenge, 2, Action::Answer(page(503))),
        ("polite", Endpoint::Finalize, 1, Action::Answer(page(503).header("retry-after", "3"))),
        ("html", Endpoint::Order, 2, Action::ReplaceBody("<html>all is well</html>".to_owned())),
        ("reset", Endpoint::NewOrder, 1, Action::Reset),
        ("cut-off", Endpoint::Finalize, 1, Action::DropAnswer),
        ("half", Endpoint::Certificate, 2, Action::MalformedBody),
        ("half-order", Endpoint::NewOrder, 1, Action::MalformedBody),
        ("nonsense", Endpoint::Authorization, 2, Action::ReplaceBody("{\"status\": 7".to_owned())),
        ("slow", Endpoint::Finalize, 1, Action::Delay(Duration::from_secs(10))),
        ("conflict", Endpoint::Finalize, 2, refused(409, "conflict")),
        ("nonces", Endpoint::NewOrder, 3, Action::RefuseNonce),
    ];
    let mut struck: Vec<(String, Hits)> = Vec::new();
    for (what, endpoint, times, action) in faults {
        let name = format!("{what}.example");
        let rule = Rule::on(endpoint).for_name(&name).first(times).does(action);
        struck.push((name, stage.proxy.add_rule(rule)));
    }
    let _daemon = started(&mut stage, 64).await?;
    for (name, _) in &struck {
        stage.json(&["site", "add", name]).await?;
    }
    for (name, hits) in &struck {
        let site = valid(&stage, name).await?;
        ensure!(hits.count() > 0, "{name}: nothing struck it");
        ensure!(site["failure"].is_null(), "{site:#}");
        // Where the answer to newOrder was lost, the order is found.
        once(&stage, name, 1)?;
    }
    ensure!(stage.events(&["failed", "ca-trouble"]).await?.is_empty(), "somebody was told of a stumble");
    let log = stage.proxy.log();
    let polite = stage.proxy.orders().iter().position(|order| order.names == ["polite.example"]);
    let asked: Vec<u64> = log
        .iter()
        .filter(|line| line.endpoint == Endpoint::Finalize && line.order == polite)
        .map(|line| line.at_ms)
        .collect();
    ensure!(asked.len() == 2 && asked[1] - asked[0] >= 3000, "a pause that the CA asks for: {asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_nonce_is_refused_and_nothing_fails() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let storm = stage.proxy.add_rule(Rule::on_any().every_nth(2).does(Action::RefuseNonce));
    let names: Vec<String> = (0..10).map(|number| format!("n{number}.example")).collect();
    for name in &names {
        stage.json(&["site", "add", name]).await?;
    }
    // The directory and the nonces themselves carry none: those are refused in vain.
    let _daemon = started(&mut stage, 8).await?;
    for name in &names {
        valid(&stage, name).await?;
        once(&stage, name, 1)?;
    }
    ensure!(storm.count() > 50, "{} nonces were refused", storm.count());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_processed_for_a_while_is_watched_and_one_that_is_gone_is_placed_anew() -> Result<()>
{
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let gone = || Action::problem(404, "malformed", "No such order");
    for (name, endpoint) in [
        ("gone-1.example", Endpoint::Authorization),
        ("gone-2.example", Endpoint::Order),
        ("gone-3.example", Endpoint::Finalize),
    ] {
        // Longer than what was made a moment ago may take to be everywhere.
        stage.proxy.add_rule(Rule::on(endpoint).for_name(name).first(5).does(gone()));
    }
    let delay = Action::Delay(Duration::from_secs(1));
    let finalized = stage.proxy.add_rule(Rule::on(Endpoint::Finalize).for_name("slow.example").does(delay));
    let _daemon = started(&mut stage, 16).await?;
    for name in ["slow.example", "gone-1.example", "gone-2.example", "gone-3.example"] {
        stage.json(&["site", "add", name]).await?;
    }
    until_true("it is finalized", LIMIT, || async { finalized.count() == 1 }).await?;
    let processing =
        r#"{"status":"processing","identifiers":[],"authorizations":[],"finalize":"https://127.0.0.1/f"}"#;
    let watched = stage.proxy.add_rule(
        Rule::on(Endpoint::Order)
            .for_name("slow.example")
            .first(6)
            .does(Action::ReplaceBody(processing.to_owned())),
    );
    valid(&stage, "slow.example").await?;
    ensure!(watched.count() == 6, "looked at {} times while it was processed", watched.count());
    once(&stage, "slow.example", 1)?;
    for name in ["gone-1.example", "gone-2.example", "gone-3.example"] {
        let site = valid(&stage, name).await?;
        ensure!(site["failure"].is_null(), "{site:#}");
        once(&stage, name, 2)?;
        ensure!(stage.proxy.orders_for(&[name]).len() == 2, "{name}");
    }
    ensure!(stage.events(&["failed"]).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_processed_for_a_minute_is_asked_for_ever_more_rarely() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let delay = Action::Delay(Duration::from_secs(1));
    let finalized = stage.proxy.add_rule(Rule::on(Endpoint::Finalize).for_name("slow.example").does(delay));
    let _daemon = started(&mut stage, 4).await?;
    stage.json(&["site", "add", "slow.example"]).await?;
    until_true("it is finalized", LIMIT, || async { finalized.count() == 1 }).await?;
    let processing =
        r#"{"status":"processing","identifiers":[],"authorizations":[],"finalize":"https://127.0.0.1/f"}"#;
    let rule = Rule::on(Endpoint::Order).for_name("slow.example");
    let watched = stage.proxy.add_rule(rule.does(Action::ReplaceBody(processing.to_owned())));
    let began = Instant::now();
    until_true("a minute is over", LIMIT * 2, || async { began.elapsed() > Duration::from_secs(60) }).await?;
    let site = stage.site("slow.example").await?;
    ensure!(site["failure"].is_null() && site["order"]["ecdsa"] == "finalizing", "{site:#}");
    // Within seconds at first, then every 15 s.
    ensure!((8..=18).contains(&watched.count()), "asked for {} times", watched.count());
    stage.proxy.clear_rules();
    valid(&stage, "slow.example").await?;
    once(&stage, "slow.example", 1)?;
    ensure!(stage.events(&["failed", "ca-trouble"]).await?.is_empty());
    Ok(())
}

/// A pause longer than a worker can be held for is kept by the schedule.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_pause_that_the_ca_asks_for_is_kept() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let page = Action::Answer(page(503).header("retry-after", "120"));
    let struck = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).for_name("busy.example").does(page));
    let _daemon = started(&mut stage, 16).await?;
    stage.json(&["site", "add", "busy.example"]).await?;
    let site = stage.until_site("busy.example", "it fails", |site| site["state"] == "failing").await?;
    let failure = &site["failure"];
    ensure!(failure["class"] == "ca" && failure["fault"] == "ca", "{site:#}");
    ensure!(failure["remedy"].as_str().is_some_and(|remedy| remedy.contains("status page")), "{site:#}");
    for word in [&failure["not_before"], &failure["next"], &site["next"]] {
        let next: Timestamp = word.as_str().with_context(|| format!("{site:#}"))?.parse()?;
        let left = next.duration_since(Timestamp::now()).as_secs();
        ensure!((100..=122).contains(&left), "{left} s: {site:#}");
    }
    stage.json(&["site", "add", "other.example"]).await?;
    valid(&stage, "other.example").await?;
    ensure!(struck.count() == 1, "the CA was asked {} times", struck.count());
    Ok(())
}

/// The account is refused: one finds out, the others wait without a failure of their own.
async fn account_is_refused(answer: Answer, remedy: &str) -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let struck = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(Action::Answer(answer)));
    let _daemon = started(&mut stage, 1).await?;
    let names = ["a.example", "b.example", "c.example"];
    for name in names {
        stage.json(&["site", "add", name]).await?;
    }
    let told =
        until("trouble is told", LIMIT, || async { stage.events(&["ca-trouble"]).await.ok()?.pop() }).await?;
    ensure!(
        told["ca"] == "pebble" && told["remedy"].as_str().is_some_and(|r| r.contains(remedy)),
        "{told:#}"
    );
    stage.until_idle().await?;
    let mut failing = Vec::new();
    for name in names {
        let site = stage.site(name).await?;
        if site["failure"].is_null() {
            ensure!(site["state"] == "pending" && site["next"].is_string(), "{site:#}");
        } else {
            failing.push(site);
        }
    }
    ensure!(failing.len() == 1 && struck.count() == 1, "{failing:#?}, asked {} times", struck.count());
    let failure = &failing[0]["failure"];
    ensure!(failure["class"] == "account" && failure["fault"] == "operator", "{failure:#}");
    ensure!(failure["remedy"].as_str().is_some_and(|said| said.contains(remedy)), "{failure:#}");

    stage.proxy.clear_rules();
    for name in names {
        valid(&stage, name).await?;
        once(&stage, name, 1)?;
    }
    ensure!(stage.events(&["ca-recovered"]).await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_deactivated() -> Result<()> {
    let detail = "Account is not valid, has status \"deactivated\"";
    account_is_refused(Answer::problem(403, "unauthorized", detail), "issuer account show").await
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_of_service_that_have_changed() -> Result<()> {
    let refusal = Answer::problem(403, "userActionRequired", "Terms of service have changed")
        .header("link", "<https://ca.example/terms/v7>;rel=\"terms-of-service\"");
    account_is_refused(refusal, "https://ca.example/terms/v7").await
}

/// Down before the account could even be opened: one asks, the others wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_down_at_the_start() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.proxy.add_rule(Rule::on_any().does(Action::Reset));
    let _daemon = started(&mut stage, 8).await?;
    let names: Vec<String> = (0..8).map(|number| format!("n{number}.example")).collect();
    for name in &names {
        stage.json(&["site", "add", name]).await?;
    }
    let failing = async || -> Result<Vec<Value>> {
        let status = stage.json(&["status", "--troubled"]).await?;
        Ok(status["sites"].as_array().cloned().unwrap_or_default())
    };
    until_true("it is found out", LIMIT, || async { failing().await.is_ok_and(|sites| !sites.is_empty()) })
        .await?;
    let failing = failing().await?;
    ensure!(failing.len() == 1, "{failing:#?}");
    let failure = &failing[0]["failure"];
    ensure!(
        failure["class"] == "ca" && failure["what"].as_str().is_some_and(|w| w.contains("directory")),
        "{failure:#}"
    );
    stage.proxy.clear_rules();
    for name in &names {
        valid(&stage, name).await?;
        once(&stage, name, 1)?;
    }
    Ok(())
}

/// Down in the middle: those that were at it fail, the others wait without a failure of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_goes_down_makes_the_others_wait() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[60.0]))?;
    let struck = stage.proxy.add_rule(Rule::on_any().does(Action::problem(500, "serverInternal", "down")));
    stage.signpost.set("issuer.slots", 6)?;
    let names: Vec<String> = (0..30).map(|number| format!("n{number}.example")).collect();
    let lines: Vec<String> = names.iter().map(|name| format!("{{\"names\":[\"{name}\"]}}")).collect();
    let file = stage.signpost.write("sites.ndjson", lines.join("\n"))?;
    stage.json(&["apply", file.to_str().context("a path of text")?]).await?;
    let _daemon = stage.start_daemon()?;
    let told = || async { stage.events(&["ca-trouble"]).await.is_ok_and(|told| told.len() == 1) };
    until_true("trouble is told", LIMIT, told).await?;
    stage.until_idle().await?;
    let asked = struck.count();
    let status = stage.json(&["status", "--troubled"]).await?;
    let failing = status["sites"].as_array().context("sites")?.len();
    ensure!((5..=6).contains(&failing), "{failing} have failed");
    stage.proxy.clear_rules();
    stage.json(&["retry", "--all"]).await?;
    for name in &names {
        valid(&stage, name).await?;
        once(&stage, name, 1)?;
    }
    ensure!(asked < 60, "asked {asked} times while it was down");
    ensure!(stage.events(&["ca-recovered"]).await?.len() == 1);
    ensure!(stage.events(&["failed"]).await?.len() == failing, "the others have not failed");
    Ok(())
}
