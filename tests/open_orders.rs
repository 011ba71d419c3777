//! An order that is open has an end, and a certificate that the CA has issued for it is fetched first. What is repeated after an
//! answer that was lost, late, or half of one is only what may be repeated.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Rule},
    daemon::seconds,
    stage::Stage,
    stored::Stored,
};
use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::PKey,
    x509::{X509, X509Builder, X509NameBuilder, extension::SubjectAlternativeName},
};
use serde_json::Value;

use crate::refusals::has_step;

const LIMIT: Duration = Duration::from_secs(90);

fn gone() -> Action {
    Action::problem(404, "malformed", "No such object")
}

fn without_certificate() -> Action {
    Action::change_object(|order| {
        if let Some(order) = order.as_object_mut() {
            order.remove("certificate");
        }
    })
}

/// Each strikes one name; all are issued in one run, with one order.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_for_a_moment_costs_neither_a_failure_nor_another_order() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let not_ready = || Action::problem(403, "orderNotReady", "Order's status is not ready");
    let too_late = "Unable to update challenge :: authorization must be pending";
    let upside_down = Action::change(|pem| {
        let blocks: Vec<&str> = pem.split_inclusive("-----END CERTIFICATE-----\n").collect();
        blocks.iter().rev().chain(&blocks).copied().collect()
    });
    let faults = [
        ("late-certificate.example", Rule::on(Endpoint::Order), Some(4), without_certificate()),
        ("late-certificate.example", Rule::on(Endpoint::Finalize), None, without_certificate()),
        ("young-order.example", Rule::on(Endpoint::Order), Some(2), gone()),
        ("young-authorization.example", Rule::on(Endpoint::Authorization), Some(2), gone()),
        ("young-challenge.example", Rule::on(Endpoint::Challenge), Some(2), gone()),
        ("young-finalize.example", Rule::on(Endpoint::Finalize), Some(2), gone()),
        ("young-certificate.example", Rule::on(Endpoint::Certificate), Some(2), gone()),
        ("not-ready.example", Rule::on(Endpoint::Finalize), Some(2), not_ready()),
        ("upside-down.example", Rule::on(Endpoint::Certificate), None, upside_down),
        (
            "no-location.example",
            Rule::on(Endpoint::NewOrder),
            Some(1),
            Action::WithoutHeader("location".into()),
        ),
        ("lost.example", Rule::on(Endpoint::NewOrder), Some(1), Action::DropAnswer),
        ("slow.example", Rule::on(Endpoint::NewOrder), Some(1), Action::Delay(Duration::from_secs(33))),
    ];
    let mut names = vec!["lost-post.example"];
    for (name, when, times, action) in faults {
        let when = when.for_name(name);
        let when = match times {
            Some(times) => when.first(times),
            None => when,
        };
        stage.proxy.add_rule(when.does(action));
        names.push(name);
    }
    let post = |nth| Rule::on(Endpoint::Challenge).for_name("lost-post.example").nth(nth);
    stage.proxy.add_rule(post(1).does(Action::DropAnswer));
    stage.proxy.add_rule(post(2).does(Action::problem(400, "malformed", too_late)));
    names.dedup();
    let result = stage.issue(&names).await?;
    for issue in result["results"].as_array().context("results")? {
        ensure!(issue["status"] == "issued", "{issue:#}");
    }
    for name in &names {
        let orders = stage.proxy.orders_for(&[name]).len();
        ensure!(orders == 1, "{name}: {orders} orders");
        ensure!(stage.proxy.issued_for(&[name]) == ["ecdsa-p256"], "{name}");
    }
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let root = stage.pebble.roots().await?.remove(0).root_pem;
    stored.served("upside-down.example").await?.remove(0).verify(&root, &["upside-down.example"])?;
    Ok(())
}

/// Where no list of orders tells, it is asked for once more, and not again.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_answer_is_lost_is_asked_for_once_more_in_a_run() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let no_list = |account: &mut Value| {
        if let Some(account) = account.as_object_mut() {
            account.remove("orders");
        }
    };
    stage.proxy.add_rule(Rule::on(Endpoint::Account).does(Action::change_object(no_list)));
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(Action::DropAnswer));
    let failed = stage.issue_ending(1, &["lost.example"]).await?;
    ensure!(failed["results"][0]["failure"]["class"] == "ca", "{failed:#}");
    let orders = stage.proxy.orders_for(&["lost.example"]).len();
    ensure!(orders == 2, "{orders} orders");
    // With the list, the next run finds what was made.
    stage.proxy.clear_rules();
    let found = stage.issue(&["lost.example"]).await?;
    ensure!(has_step(&found, "found"), "{found:#}");
    ensure!(stage.proxy.orders_for(&["lost.example"]).len() == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_the_ca_has_lost_is_ordered_anew() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[1.0]))?;
    let names = ["lost.gone.example", "asked.gone.example", "forced.gone.example", "kept.gone.example"];
    let [lost, asked, forced, kept] = names;
    stage.proxy.add_rule(Rule::on(Endpoint::Certificate).below("gone.example").does(gone()));
    // Sites of their own: what `issue` makes is forgotten when it fails.
    stage.json(&[&["site", "add"][..], &names].concat()).await?;
    let failed = stage.issue_ending(1, &names).await?;
    for issue in failed["results"].as_array().context("results")? {
        ensure!(issue["failure"]["class"] == "ca" && issue["failure"]["fault"] == "ca", "{issue:#}");
    }
    let log = stage.proxy.log();
    let orders = stage.proxy.orders();
    ensure!(orders.iter().filter(|order| order.finalized > 0).count() == 5, "{orders:#?}");
    stage.proxy.clear_rules();
    let mut paths: Vec<&str> = Vec::new();
    for line in log.iter().filter(|line| line.endpoint == Endpoint::Certificate) {
        let order = line.order.and_then(|order| orders.get(order)).context("an order")?;
        let is_lost = [lost, asked, forced].into_iter().any(|name| order.names == [name]);
        if is_lost && !paths.contains(&line.path.as_str()) {
            paths.push(&line.path);
        }
    }
    ensure!(paths.len() == 3, "{paths:?}");
    for path in paths {
        stage.proxy.add_rule(Rule::on(Endpoint::Certificate).at(path).does(gone()));
    }
    // Back again, it is fetched: nothing is ordered.
    let result = stage.issue(&[kept]).await?;
    ensure!(has_step(&result, "resumed"), "{result:#}");
    ensure!(stage.proxy.orders_for(&[kept]).len() == 1);
    // A person need not wait.
    let result = stage.json(&["renew", "--force", forced]).await?;
    ensure!(has_step(&result, "given-up") && result["results"][0]["status"] == "issued", "{result:#}");
    stage.json(&["retry", "--new-order", asked]).await?;
    let _daemon = stage.start_daemon()?;
    for name in [asked, lost] {
        let is_valid = |site: &Value| site["state"] == "valid";
        stage.until_site_within(LIMIT, name, "it is ordered anew", is_valid).await?;
    }
    for name in [lost, asked, forced] {
        let orders = stage.proxy.orders_for(&[name]).len();
        ensure!(orders == 2, "{name}: {orders} orders");
    }
    Ok(())
}

/// It was ready, and lacks something again: what it is, is said, and it is gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_pending_again_is_told_in_words() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let again = Arc::new(AtomicBool::new(false));
    let (set, is_set) = (Arc::clone(&again), again);
    let finalize = || Rule::on(Endpoint::Finalize).for_name("again.example");
    stage.proxy.add_rule(finalize().does(Action::call_before(move |_| set.store(true, Ordering::SeqCst))));
    stage.proxy.add_rule(finalize().does(Action::problem(403, "orderNotReady", "not ready")));
    let pending = Action::change_object(move |order| {
        if is_set.load(Ordering::SeqCst) {
            order["status"] = "pending".into();
        }
    });
    stage.proxy.add_rule(Rule::on(Endpoint::Order).for_name("again.example").does(pending));
    let failed = stage.issue_ending(1, &["again.example"]).await?;
    let failure = failed["results"][0]["failure"].to_string();
    ensure!(failure.contains("pending") && failure.contains("authorization"), "{failure}");
    ensure!(!failure.contains("report"), "{failure}");
    stage.proxy.clear_rules();
    stage.issue(&["again.example"]).await?;
    ensure!(stage.proxy.orders_for(&["again.example"]).len() == 1);
    Ok(())
}

/// The certificate is good, and this machine's clock is behind the CA's: it is kept, and nothing else is ordered.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_whose_time_has_not_come_is_kept() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let ahead =
        Action::change(|pem| beginning_later(pem, "ahead.example").unwrap_or_else(|_| pem.to_owned()));
    stage.proxy.add_rule(Rule::on(Endpoint::Certificate).for_name("ahead.example").does(ahead));
    let waiting = stage.issue_ending(3, &["ahead.example"]).await?;
    let failure = &waiting["results"][0]["failure"];
    let what = failure["what"].as_str().context("what")?;
    ensure!(what.contains("kept until then") && what.contains("clock"), "{waiting:#}");
    let until: jiff::Timestamp = failure["not_before"].as_str().context("until when")?.parse()?;
    let left = until.duration_since(jiff::Timestamp::now()).as_secs();
    ensure!((560..=602).contains(&left), "{left} s");
    stage.issue_ending(3, &["ahead.example"]).await?;
    ensure!(stage.site("ahead.example").await?["order"]["ecdsa"] == "issued");
    ensure!(stage.proxy.orders_for(&["ahead.example"]).len() == 1);
    Ok(())
}

/// A certificate for the same key that begins in ten minutes.
fn beginning_later(pem: &str, name: &str) -> Result<String> {
    let leaf_key = X509::from_pem(pem.as_bytes())?.public_key()?;
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut issuer = X509NameBuilder::new()?;
    issuer.append_entry_by_nid(Nid::COMMONNAME, "A CA that is ahead")?;
    let serial = BigNum::from_u32(0x1234_5678)?.to_asn1_integer()?;
    let now = jiff::Timestamp::now().as_second();
    let (from, until) = (Asn1Time::from_unix(now + 600)?, Asn1Time::from_unix(now + 90 * 86_400)?);
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_serial_number(&serial)?;
    builder.set_issuer_name(&issuer.build())?;
    builder.set_pubkey(&leaf_key)?;
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    let names = SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok(String::from_utf8(builder.build().to_pem()?)?)
}
