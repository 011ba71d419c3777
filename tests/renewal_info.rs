//! Renewal information (RFC 9773): the CA says when a certificate is to be renewed, one node asks it for each at the CA's pace, the
//! moment is drawn once for each window, and what is no answer changes nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Manners, Rule},
    deadline::until_true,
    pebble::PebbleOptions,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::{
    domain::{Class, DnsName, Place, RenewalPlan},
    store::Field,
};

const NAME: &str = "shop.example";
const LIMIT: Duration = Duration::from_secs(60);
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// Changes what is planned for the certificate that a name is served with, and has its group looked at: as if time had passed.
async fn alter(stage: &Stage, class: Class, change: impl Fn(&mut RenewalPlan)) -> Result<()> {
    let Stored { store, .. } = Stored::open(stage.signpost.config_path()).await?;
    let id = store.site_of(&DnsName::parse(NAME)?).await?.context("a site")?;
    let site = store.load_site(&id).await?.context("its record")?;
    let mut plans = site.renewals.clone();
    for (slot, certificate) in &site.serving.current {
        let mut plan = site.renewals.get(*slot, certificate).context("a plan")?.clone();
        change(&mut plan);
        plans.set(*slot, plan);
    }
    let now = Timestamp::now();
    let place = Place { class, moment: now, deadline: now, urgent_from: None, renewal: None };
    let record = plans.to_record().context("a record")?;
    ensure!(store.nudge(&id, &place, &[(Field::Renewal, record)]).await?);
    Ok(())
}

async fn renewal(stage: &Stage) -> Result<Value> {
    Ok(stage.site(NAME).await?["certificates"][0]["renewal"].clone())
}

fn moment(value: &Value) -> Result<Timestamp> {
    Ok(value.as_str().with_context(|| format!("no moment: {value}"))?.parse()?)
}

/// How often the CA was asked when to renew.
fn questions(stage: &Stage) -> u64 {
    stage.proxy.requests().of(Endpoint::RenewalInfo)
}

/// The CA is asked once more, and what came of it is written.
async fn ask_again(stage: &Stage) -> Result<Value> {
    let before = questions(stage);
    alter(stage, Class::Check, |plan| plan.ask = Some(Timestamp::UNIX_EPOCH)).await?;
    until_true("the answer is written", LIMIT, || async {
        let asked = renewal(stage).await.ok().and_then(|renewal| moment(&renewal["asked_again"]).ok());
        questions(stage) > before && asked.is_some_and(|asked| asked > Timestamp::now())
    })
    .await?;
    ensure!(questions(stage) == before + 1, "asked {} times", questions(stage) - before);
    renewal(stage).await
}

fn window(start: Timestamp, end: Timestamp) -> Answer {
    let body = json!({ "suggestedWindow": { "start": start.to_string(), "end": end.to_string() } });
    Answer::page(200, "application/json", &body.to_string())
}

/// How long after this moment the CA is asked again, in hours.
fn pause_h(renewal: &Value) -> Result<f64> {
    Ok(moment(&renewal["asked_again"])?.duration_since(Timestamp::now()).as_secs_f64() / 3600.0)
}

fn is_within(renewal: &Value, start: Timestamp, end: Timestamp) -> Result<bool> {
    let moment = moment(&renewal["moment"])?;
    Ok(start <= moment && moment < end)
}

/// A daemon with one site that has its certificate, and has asked when to renew it.
async fn served() -> Result<(Stage, impl Sized)> {
    let pebble = PebbleOptions { validity_period_seconds: Some(90 * 86_400), ..PebbleOptions::default() };
    let manners = Manners { renewal_info: true, ..Manners::default() };
    let stage = Stage::trusting_with(StageOptions { pebble, manners, ..StageOptions::default() }).await?;
    let daemon = stage.start_daemon()?;
    stage.json(&["site", "add", NAME]).await?;
    stage.until_valid(NAME).await?;
    stage.until_idle().await?;
    Ok((stage, daemon))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_moment_is_drawn_once_for_each_window() -> Result<()> {
    let (stage, _daemon) = served().await?;
    // Asked once, at issuance; the window is a fiftieth of the lifetime.
    let first = renewal(&stage).await?;
    ensure!(questions(&stage) == 1 && first["by"] == "ca", "{first:#}");
    let (start, end) = (moment(&first["window"]["start"])?, moment(&first["window"]["end"])?);
    ensure!(end.duration_since(start).as_hours() == 43 && is_within(&first, start, end)?, "{first:#}");
    let pause = pause_h(&first)?;
    ensure!((5.9..=6.0).contains(&pause), "{pause} h");

    // Asked again, it stands.
    let second = ask_again(&stage).await?;
    ensure!(second["moment"] == first["moment"], "{first:#} {second:#}");

    // The window moves: so does the moment, once.
    let (start, end) = (start - HOUR * 240, end - HOUR * 240);
    let answer = window(start, end).header("retry-after", "7200");
    stage.proxy.add_rule(Rule::on(Endpoint::RenewalInfo).does(Action::Answer(answer)));
    let moved = ask_again(&stage).await?;
    ensure!(is_within(&moved, start, end)?, "{moved:#}");
    let pause = pause_h(&moved)?;
    ensure!((1.9..=2.0).contains(&pause), "{pause} h");
    let event = stage.until_event(NAME, "renewal-moved").await?;
    ensure!(event["severity"] == "warning", "{event:#}");
    let again = ask_again(&stage).await?;
    ensure!(again["moment"] == moved["moment"], "{moved:#} {again:#}");
    // Nothing was ordered by all that.
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == 1, "{}", stage.proxy.requests());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_has_passed_renews_soon_and_once_and_says_why() -> Result<()> {
    let (stage, _daemon) = served().await?;
    let before = stage.serial(NAME).await?;
    let now = Timestamp::now();
    let mut answer = window(now - HOUR, now - HOUR / 2).header("retry-after", "21600");
    answer.body = answer.body.replacen('{', r#"{"explanationURL":"https://ca.example/incident/7","#, 1);
    stage.proxy.add_rule(Rule::on(Endpoint::RenewalInfo).does(Action::Answer(answer)));
    let advised = ask_again(&stage).await?;
    let wait = moment(&advised["moment"])?.duration_since(Timestamp::now());
    ensure!(wait < SignedDuration::from_mins(5), "{advised:#}");
    let event = stage.until_event(NAME, "renewal-moved").await?;
    ensure!(event["data"]["explanation_url"] == "https://ca.example/incident/7", "{event:#}");
    ensure!(stage.site(NAME).await?["explanation_url"] == "https://ca.example/incident/7");

    // Its moment comes. That the CA says the same of the new certificate starts no circle.
    alter(&stage, Class::Renewal, |plan| plan.moment = Timestamp::UNIX_EPOCH).await?;
    until_true("another certificate is served", LIMIT, || async {
        stage.serial(NAME).await.is_ok_and(|serial| serial != before)
    })
    .await?;
    stage.until_idle().await?;
    let next = renewal(&stage).await?;
    ensure!(moment(&next["moment"])?.duration_since(Timestamp::now()) > HOUR * 2, "{next:#}");
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == 2, "{}", stage.proxy.requests());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_changes_nothing() -> Result<()> {
    let (stage, _daemon) = served().await?;
    let first = renewal(&stage).await?;
    let now = Timestamp::now();
    let page = |status, body: &str| Answer::page(status, "application/json", body);
    for (what, answer, hours) in [
        ("a window of no length", window(now, now).header("retry-after", "60"), 5.9..=6.0),
        ("a window that ends first", window(now, now - HOUR), 5.9..=6.0),
        ("no JSON", page(200, "<html>"), 5.9..=6.0),
        ("no dates", page(200, r#"{"suggestedWindow":{"start":"soon","end":"later"}}"#), 5.9..=6.0),
        ("not found", Answer::problem(404, "malformed", "unknown issuer"), 5.9..=6.0),
        // A try, and then further apart.
        ("out of order", page(500, "oops"), 0.01..=0.03),
        ("out of order again", page(500, "oops"), 0.06..=0.11),
        ("busy", page(503, "").header("retry-after", "1800"), 0.4..=0.5),
    ] {
        stage.proxy.clear_rules();
        stage.proxy.add_rule(Rule::on(Endpoint::RenewalInfo).does(Action::Answer(answer)));
        let found = ask_again(&stage).await?;
        ensure!(
            found["moment"] == first["moment"] && found["window"] == first["window"],
            "{what}: {found:#}"
        );
        let pause = pause_h(&found)?;
        ensure!(hours.contains(&pause), "{what}: {pause} h");
    }
    // Windows that are taken: how soon the CA is asked again is bounded.
    let (start, end) = (moment(&first["window"]["start"])?, moment(&first["window"]["end"])?);
    for (what, answer, hours) in [
        ("no word", window(start, end), 5.9..=6.0),
        ("nonsense", window(start, end).header("retry-after", "soon"), 5.9..=6.0),
        ("at once", window(start, end).header("retry-after", "0"), 0.001..=0.02),
        ("never", window(start, end).header("retry-after", "99999999"), 23.9..=24.0),
    ] {
        stage.proxy.clear_rules();
        stage.proxy.add_rule(Rule::on(Endpoint::RenewalInfo).does(Action::Answer(answer)));
        let found = ask_again(&stage).await?;
        ensure!(found["moment"] == first["moment"], "{what}: {found:#}");
        let pause = pause_h(&found)?;
        ensure!(hours.contains(&pause), "{what}: {pause} h");
    }
    // In thirty years it is no longer valid: one sixth of its life is left at the least.
    stage.proxy.clear_rules();
    let far = now + HOUR * 24 * 365 * 30;
    stage.proxy.add_rule(Rule::on(Endpoint::RenewalInfo).does(Action::Answer(window(far, far + HOUR))));
    let found = ask_again(&stage).await?;
    let certificate = stage.site(NAME).await?["certificates"][0].clone();
    let (from, until) = (moment(&certificate["not_before"])?, moment(&certificate["not_after"])?);
    let left = until.duration_since(moment(&found["moment"])?).as_secs_f64();
    ensure!((left / until.duration_since(from).as_secs_f64() - 1.0 / 6.0).abs() < 0.001, "{found:#}");
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == 1, "{}", stage.proxy.requests());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_replacement_is_ordered_once_more_without() -> Result<()> {
    let (stage, _daemon) = served().await?;
    for (status, kind) in [
        (409, "alreadyReplaced"),
        (409, "conflict"),
        (404, "malformed"),
        (400, "malformed"),
        (403, "unauthorized"),
        (400, "whatNobodyKnows"),
        (500, "serverInternal"),
    ] {
        let (before, asked) = (stage.serial(NAME).await?, stage.proxy.requests().of(Endpoint::NewOrder));
        let refusal = Action::problem(status, kind, "Could not validate ARI 'replaces' field");
        let hits = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).first(1).does(refusal));
        alter(&stage, Class::Renewal, |plan| plan.moment = Timestamp::UNIX_EPOCH).await?;
        until_true("another certificate is served", LIMIT, || async {
            stage.serial(NAME).await.is_ok_and(|serial| serial != before)
        })
        .await
        .with_context(|| format!("{status} {kind}"))?;
        stage.until_idle().await?;
        // A server's error is asked again as it was before it is laid to the field.
        let asked = stage.proxy.requests().of(Endpoint::NewOrder) - asked;
        ensure!(hits.count() == 1 && asked == 2, "{status} {kind}: {asked} orders");
        stage.proxy.clear_rules();
    }
    let failed = stage.events_of(NAME, &["failed"]).await?;
    ensure!(failed.is_empty(), "{failed:#?}");
    // That the CA stumbles twice is not about the field: the order is a renewal still.
    let before = stage.serial(NAME).await?;
    let says_it_replaces = Arc::new(AtomicBool::new(false));
    let (stumble, seen) =
        (Action::problem(500, "serverInternal", "try again"), Arc::clone(&says_it_replaces));
    let hits = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).first(2).does(stumble));
    let sees =
        Action::change_object(move |order| seen.store(order["replaces"].is_string(), Ordering::SeqCst));
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).nth(3).does(sees));
    alter(&stage, Class::Renewal, |plan| plan.moment = Timestamp::UNIX_EPOCH).await?;
    stage.until_event(NAME, "failed").await?;
    stage.json(&["retry", NAME]).await?;
    until_true("another certificate is served", LIMIT, || async {
        stage.serial(NAME).await.is_ok_and(|serial| serial != before)
    })
    .await?;
    ensure!(hits.count() == 2 && says_it_replaces.load(Ordering::SeqCst), "it was ordered as something new");
    Ok(())
}
