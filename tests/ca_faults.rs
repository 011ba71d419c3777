//! A CA that refuses, stumbles, forgets to answer or sends what was not ordered; and names that it can't validate. Nothing
//! is lost, nothing is issued twice, and what went wrong is said in words.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, LogLine, Manners, RetryAfter, Rule},
    pebble::PebbleOptions,
    pki::Authority,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use serde_json::Value;

/// What an order asks of the CA, in this order.
const OF_AN_ORDER: [Endpoint; 6] = [
    Endpoint::NewOrder,
    Endpoint::Authorization,
    Endpoint::Challenge,
    Endpoint::Order,
    Endpoint::Finalize,
    Endpoint::Certificate,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_remembered_until_it_ends() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let refusal = Answer::problem(429, "rateLimited", "too many certificates for this set of names")
        .header("retry-after", "3600");
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(Action::Answer(refusal)));
    let first = stage.issue_ending(3, &["limited.example"]).await?;
    let failure = &first["results"][0]["failure"];
    ensure!(first["results"][0]["status"] == "waiting" && failure["class"] == "limit", "{first:#}");
    let until: jiff::Timestamp = failure["not_before"].as_str().context("until when")?.parse()?;
    let left = until.duration_since(jiff::Timestamp::now()).as_secs();
    ensure!((3500..=3600).contains(&left), "{left} s");

    stage.proxy.reset();
    stage.proxy.clear_rules();
    let second = stage.issue_ending(3, &["limited.example"]).await?;
    ensure!(second["results"][0]["failure"]["not_before"] == failure["not_before"], "{second:#}");
    ensure!(stage.proxy.requests().total() == 0, "the CA was asked: {}", stage.proxy.requests());
    // Other names go on meanwhile.
    stage.issue(&["other.example"]).await?;
    let status = stage.signpost.issuer_json(&["status", "limited.example"]).await?;
    let site = &status["sites"][0];
    ensure!(site["state"] == "waiting" && site["waits_for"] == failure["what"], "{status:#}");
    ensure!(site["next"].is_string(), "{status:#}");
    // Waiting is not failing.
    let fleet = stage.signpost.issuer_json(&["status"]).await?;
    ensure!(
        fleet["fleet"]["load"]["failing"] == 0 && fleet["fleet"]["troubles"] == serde_json::json!([]),
        "{fleet:#}"
    );
    let troubled = stage.signpost.issuer_json(&["status", "--troubled"]).await?;
    ensure!(troubled["sites"] == serde_json::json!([]), "{troubled:#}");
    ensure!(stage.events(&["failed"]).await?.is_empty(), "a wait was told as a failure");
    ensure!(stage.events_of("limited.example", &["waiting"]).await?.len() == 1);
    let text = stage.signpost.issuer(&["status", "limited.example"]).await?.success()?.stdout;
    ensure!(text.contains("waits until") && !text.contains("in a row"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_shows_the_link_that_ends_it() -> Result<()> {
    const LINK: &str = "https://portal.ca.example/sfe/v1/unpause?jwt=abc.def";
    let stage = Stage::trusting().await?;
    let detail = format!(
        "Your account is temporarily prevented from requesting certificates for paused.example and possibly others. \
         Please visit: {LINK}"
    );
    let refusal = Action::Answer(Answer::problem(429, "rateLimited", &detail));
    let struck = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(refusal));
    let run = stage.run_issue(&["paused.example"]).await?.with_code(1)?;
    let failure = &run.json()?["results"][0]["failure"];
    ensure!(failure["class"] == "paused", "{failure:#}");
    ensure!(failure["remedy"].as_str().is_some_and(|remedy| remedy.contains(LINK)), "{failure:#}");
    ensure!(run.stderr.contains(LINK), "{}", run.stderr);
    ensure!(struck.count() == 1, "a pause has no end of its own: asked {} times", struck.count());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancers_page_is_asked_past() -> Result<()> {
    let stage = Stage::trusting().await?;
    let page = || Answer::page(503, "text/html", "<html><h1>503 Service Unavailable</h1></html>");
    let everywhere = [Endpoint::Directory, Endpoint::NewNonce, Endpoint::NewAccount];
    let mut struck = Vec::new();
    for endpoint in everywhere.into_iter().chain(OF_AN_ORDER) {
        let hits = stage.proxy.add_rule(Rule::on(endpoint).nth(1).does(Action::Answer(page())));
        struck.push((endpoint, hits));
    }
    let result = stage.issue(&["page.example"]).await?;
    ensure!(result["results"][0]["status"] == "issued", "{result:#}");
    for (endpoint, hits) in struck {
        ensure!(hits.count() == 1, "{endpoint:?}: {}", hits.count());
    }
    ensure!(stage.proxy.orders_for(&["page.example"]).len() == 1);
    ensure!(stage.proxy.issued_for(&["page.example"]) == ["ecdsa-p256"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_costs_no_second_certificate() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    for endpoint in OF_AN_ORDER {
        let name = format!("lost-{endpoint:?}.example").to_lowercase();
        stage.proxy.add_rule(Rule::on(endpoint).for_name(&name).nth(1).does(Action::DropAnswer));
        once(&stage, &name, endpoint).await.with_context(|| format!("{endpoint:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_short_costs_no_second_certificate() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    for endpoint in OF_AN_ORDER {
        let name = format!("cut-{endpoint:?}.example").to_lowercase();
        stage.proxy.add_rule(Rule::on(endpoint).for_name(&name).nth(1).does(Action::MalformedBody));
        once(&stage, &name, endpoint).await.with_context(|| format!("{endpoint:?}"))?;
    }
    Ok(())
}

/// In one run, with one order unless the answer to newOrder itself was lost.
async fn once(stage: &Stage, name: &str, lost: Endpoint) -> Result<()> {
    let result = stage.issue(&[name]).await?;
    ensure!(result["results"][0]["status"] == "issued", "{result:#}");
    let orders = stage.proxy.orders_for(&[name]).len();
    ensure!(orders <= if lost == Endpoint::NewOrder { 2 } else { 1 }, "{orders} orders");
    ensure!(stage.proxy.issued_for(&[name]) == ["ecdsa-p256"], "{:?}", stage.proxy.issued_for(&[name]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_not_asked_for_sooner_than_the_ca_wishes_in_seconds() -> Result<()> {
    polled_no_faster_than(RetryAfter::Seconds(2), Duration::from_secs(2)).await
}

/// A date has whole seconds: two of them ahead is more than one.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_not_asked_for_sooner_than_the_ca_wishes_as_a_date() -> Result<()> {
    polled_no_faster_than(RetryAfter::Date(3), Duration::from_secs(2)).await
}

async fn polled_no_faster_than(retry_after: RetryAfter, wished: Duration) -> Result<()> {
    let pebble = PebbleOptions { sleep: true, ..PebbleOptions::default() };
    let manners = Manners { retry_after: Some(retry_after), ..Manners::default() };
    let stage = Stage::trusting_with(StageOptions { pebble, manners, ..StageOptions::default() }).await?;
    stage.issue(&["slow.example"]).await?;
    let log = stage.proxy.log();
    let of = |wanted: Endpoint| log.iter().filter(move |line| line.endpoint == wanted).collect::<Vec<_>>();
    let finalize = of(Endpoint::Finalize).first().context("finalize")?.at_ms;
    let looks: Vec<&LogLine> = of(Endpoint::Order);
    let (before, after): (Vec<u64>, Vec<u64>) =
        looks.iter().map(|line| line.at_ms).partition(|at_ms| *at_ms < finalize);
    ensure!(!after.is_empty(), "finalize was asynchronous: {log:#?}");
    for gap in before.windows(2).map(|pair| pair[1] - pair[0]) {
        ensure!(u128::from(gap) >= wished.as_millis(), "{gap} ms between two looks: {before:?}");
    }
    let mut since = finalize;
    for at_ms in after {
        ensure!(u128::from(at_ms - since) >= wished.as_millis(), "{} ms after finalize", at_ms - since);
        since = at_ms;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_not_ordered_is_not_stored() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let forger = Authority::new("Some CA")?;
    let chain = |names: &[&str]| -> Result<String> {
        let leaf = String::from_utf8(forger.issue_server(names)?.certificate_pem)?;
        Ok(leaf + &String::from_utf8(forger.pem()?)?)
    };
    for (name, body) in [
        ("key.example", chain(&["key.example"])?),
        ("names.example", chain(&["somebody-else.example"])?),
        ("more.example", chain(&["more.example", "somebody-else.example"])?),
    ] {
        let forged = Action::ReplaceBody(body);
        stage.proxy.add_rule(Rule::on(Endpoint::Certificate).for_name(name).does(forged));
        let failed = stage.issue_ending(1, &[name]).await?;
        let failure = &failed["results"][0]["failure"];
        ensure!(failure["class"] == "bad-certificate", "{name}: {failed:#}");
        let stored = Stored::open(stage.signpost.config_path()).await?;
        ensure!(stored.served(name).await?.is_empty(), "{name}: it is served");

        stage.proxy.clear_rules();
        stage.issue(&[name]).await?;
        let root = stage.pebble.roots().await?.remove(0).root_pem;
        let served = stored.served(name).await?;
        served.first().context("one is served")?.verify(&root, &[name])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_nowhere_fails_in_words_and_leaves_what_is_served() -> Result<()> {
    let stage = Stage::looking().await?;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let fleet = stage.fleet.as_ref().context("a fleet")?;
    let mut found = None;
    // Pebble takes one proof in a hundred for the next order, too, whatever it is told: another name then.
    for name in ["moved.example", "moved-2.example", "moved-3.example"] {
        stage.issue(&[name]).await?;
        let before = stored.served(name).await?.remove(0).leaf.to_der()?;
        stage.pebble.dns().set_a(name, &[fleet.net.host(9)]).await?;
        stage.proxy.reset();
        let run = stage.run_issue(&["--key-type", "rsa-2048", name]).await?;
        if stage.proxy.requests().of(Endpoint::Challenge) > 0 {
            found = Some((name, before, run));
            break;
        }
    }
    let (moved, before, run) = found.context("the CA looks at no name")?;
    let run = run.with_code(1)?;
    let failure = run.json()?["results"][0]["failure"].clone();
    ensure!(failure["class"] == "firewall" && failure["fault"] == "customer", "{failure:#}");
    let remedy = failure["remedy"].as_str().context("a remedy")?;
    ensure!(remedy.contains("port 80") && run.stderr.contains(remedy), "{}", run.stderr);
    ensure!(failure["what"].as_str().is_some_and(|what| what.contains(moved)), "{failure:#}");

    let after = stored.served(moved).await?;
    ensure!(after.len() == 1 && after[0].leaf.to_der()? == before, "what is served was touched");
    let status = stage.signpost.issuer_json(&["status", moved]).await?;
    ensure!(status["sites"][0]["state"] == "failing", "{status:#}");
    ensure!(status["sites"][0]["order"] == serde_json::json!({}), "a dead order is left: {status:#}");
    tokens_end_soon(&stage).await?;

    // Put right, it works, and the failure is forgotten.
    stage.pebble.dns().clear_a(moved).await?;
    stage.issue(&["--key-type", "rsa-2048", moved]).await?;
    let status = stage.signpost.issuer_json(&["status", moved]).await?;
    ensure!(status["sites"][0]["state"] == "valid" && status["sites"][0]["failure"].is_null(), "{status:#}");
    Ok(())
}

/// Validators may still be on their way for a moment; after that no token answers.
async fn tokens_end_soon(stage: &Stage) -> Result<()> {
    let keys: Vec<String> = redis::from_redis_value(stage.redis.command(&["KEYS", "sp:token:*"]).await?)?;
    ensure!(!keys.is_empty(), "tokens were published");
    for key in keys {
        let left_ms: i64 = redis::from_redis_value(stage.redis.command(&["PTTL", &key]).await?)?;
        ensure!((0..=120_000).contains(&left_ms), "{key} lives on for {left_ms} ms");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_at_the_name_is_told_apart_from_a_closed_port() -> Result<()> {
    let stage = Stage::looking().await?;
    let fleet = stage.fleet.as_ref().context("a fleet")?;
    let address = std::net::SocketAddr::from((fleet.net.host(7), fleet.http_port));
    let server = format!("server {{ listen {address}; return 200 'the wrong place'; }}");
    let _stranger = harness::nginx::Nginx::start(&server, &[address], &[]).await?;
    stage.pebble.dns().set_a("elsewhere.example", &[fleet.net.host(7)]).await?;
    let failed = stage.issue_ending(1, &["elsewhere.example"]).await?;
    ensure!(failed["results"][0]["failure"]["class"] == "not-pointing-here", "{failed:#}");
    Ok(())
}

/// No quota of the CA is spent on what would fail, and nothing has to be begun again once it is put right.
#[tokio::test(flavor = "multi_thread")]
async fn a_required_self_check_keeps_the_ca_from_looking_in_vain() -> Result<()> {
    let mut stage = Stage::looking().await?;
    stage.signpost.set("issuer.self_check", "required")?;
    stage.issue(&["fine.example"]).await?;
    let fleet = stage.fleet.as_ref().context("a fleet")?;
    fleet.break_redirects().await?;
    stage.proxy.reset();
    let failed = stage.issue_ending(1, &["broken.example"]).await?;
    let failure = &failed["results"][0]["failure"];
    ensure!(failure["class"] == "redirect-rule" || failure["class"] == "not-pointing-here", "{failed:#}");
    ensure!(failure["what"].as_str().is_some_and(|what| what.contains("preflight")), "{failed:#}");
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == 0, "it was ordered");
    fleet.repair_redirects().await?;

    // What breaks after the order was placed: the order waits, and the CA is not told to look.
    let url = format!("http://{}/set-servfail", stage.pebble.dns().management());
    let breaks = move |_: &_| {
        let document = r#"{"host":"checked.example"}"#;
        let curl = std::process::Command::new("curl").args(["-sf", "-d", document, &url]).status();
        assert!(curl.is_ok_and(|status| status.success()), "the name could not be broken");
    };
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(Action::call_after(breaks)));
    let failed = stage.issue_ending(1, &["checked.example"]).await?;
    let failure = &failed["results"][0]["failure"];
    ensure!(failure["class"] == "dns", "{failed:#}");
    ensure!(failure["what"].as_str().is_some_and(|what| what.contains("self-check")), "{failed:#}");
    ensure!(stage.proxy.requests().of(Endpoint::Challenge) == 0, "the CA was told to look");

    stage.proxy.clear_rules();
    stage.pebble.dns().clear_servfail("checked.example").await?;
    let result = stage.issue(&["checked.example"]).await?;
    ensure!(steps(&result).first().is_some_and(|step| step == "resumed"), "{result:#}");
    ensure!(steps(&result).iter().any(|step| step == "self-check"), "{result:#}");
    ensure!(stage.proxy.orders_for(&["checked.example"]).len() == 1, "another order was placed");
    ensure!(stage.proxy.issued_for(&["checked.example"]) == ["ecdsa-p256"]);
    Ok(())
}

/// It is shown, and the CA has the last word.
#[tokio::test(flavor = "multi_thread")]
async fn an_advisory_self_check_warns_and_goes_on() -> Result<()> {
    let mut stage = Stage::looking().await?;
    stage.signpost.set("issuer.self_check", "advisory")?;
    let good = stage.issue(&["fine.example"]).await?;
    ensure!(steps(&good).iter().any(|step| step == "self-check"), "{good:#}");
    // The check asks another DNS than the CA does, and finds nothing there.
    stage.signpost.set("issuer.resolvers", vec![harness::ports::free_address()?.to_string()])?;
    let warned = stage.issue(&["odd.example"]).await?;
    let note = warned["results"][0]["steps"].as_array().context("steps")?.iter();
    let note = note.filter(|step| step["step"] == "self-check").map(|step| &step["note"]).next();
    ensure!(note.and_then(Value::as_str).is_some_and(|note| note.contains("odd.example")), "{warned:#}");
    // Where the checks are required nothing is ordered, and no customer is blamed for our resolvers.
    stage.signpost.set("issuer.self_check", "required")?;
    stage.proxy.reset();
    let blind = stage.issue_ending(1, &["blind.example"]).await?;
    let failure = &blind["results"][0]["failure"];
    ensure!(failure["fault"] == "operator" && failure["class"] == "dns", "{blind:#}");
    ensure!(failure["what"].as_str().is_some_and(|what| what.contains("resolvers")), "{blind:#}");
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == 0, "it was ordered");
    Ok(())
}

fn steps(result: &Value) -> Vec<String> {
    let steps = result["results"][0]["steps"].as_array().into_iter().flatten();
    steps.map(|step| step["step"].as_str().unwrap_or_default().to_owned()).collect()
}
