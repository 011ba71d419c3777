//! A grouped certificate in which names fail: the others get theirs in the same run, the bad ones are left out, tried again
//! at their own pace, and join once they work.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Rule},
    daemon::{list, seconds},
    deadline::until_true,
    pull::Pull,
    signpost::Started,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const GOOD: [&str; 4] = ["a.example", "b.example", "c.example", "d.example"];
const BAD: [&str; 2] = ["bad1.example", "bad2.example"];
const ALL: [&str; 6] = ["a.example", "b.example", "bad1.example", "bad2.example", "c.example", "d.example"];

/// The six of them in one certificate, wanted of a daemon with short pauses.
async fn wanted(stage: &mut Stage) -> Result<Started> {
    stage.signpost.set("issuer.retry_seconds", seconds(&[1.0, 1.0, 1.0, 1.0]))?;
    stage.json(&[&["site", "add", "--san", "grouped"], &ALL[..]].concat()).await?;
    stage.start_daemon()
}

/// The good ones are issued, the bad ones are left out with this class, each with a pause of its own.
async fn left_out(stage: &Stage, bad: &[&str], class: &str, word: &str) -> Result<Value> {
    let good: Vec<&str> = ALL.into_iter().filter(|name| !bad.contains(name)).collect();
    // Names are cut as soon as they have spoilt an order; the others follow.
    let issued = |site: &Value| {
        site["state"] == "degraded"
            && list(&site["certificates"][0]["names"]) == good
            && site["order"] == json!({})
    };
    let site = stage.until_site("a.example", "the others are issued", issued).await?;
    ensure!(site["failure"].is_null(), "the group itself has not failed: {site:#}");
    let out = site["left_out"].as_object().context("left_out")?;
    ensure!(out.keys().eq(bad.iter()), "{site:#}");
    for failure in out.values() {
        ensure!(failure["class"] == class && failure["next"].is_string(), "{failure:#}");
        ensure!(failure["what"].as_str().is_some_and(|what| what.contains(word)), "{failure:#}");
        ensure!(failure["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{failure:#}");
    }
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let root = stage.pebble.roots().await?.remove(0).root_pem;
    for name in &good {
        stored.served(name).await?.first().with_context(|| (*name).to_owned())?.verify(&root, &good)?;
    }
    for name in bad {
        let told = stage.until_event(name, "name-cut").await?;
        ensure!(told["severity"] == "warning" && told["remedy"].is_string(), "{told:#}");
    }
    Ok(site)
}

/// The bad ones are tried again and again, and cost the others nothing.
async fn tried_without_cost(stage: &Stage, bad: &[&str]) -> Result<()> {
    let good: Vec<&str> = ALL.into_iter().filter(|name| !bad.contains(name)).collect();
    let count = |site: &Value, name: &str| site["left_out"][name]["count"].as_u64().unwrap_or(0);
    let tried = |site: &Value| bad.iter().all(|name| count(site, name) >= 3);
    stage.until_site_within(LIMIT, "a.example", "they are tried again", tried).await?;
    let issued = stage.proxy.issued_for(&good);
    ensure!(issued.len() == 1, "the others were issued {} times", issued.len());
    Ok(())
}

/// Put right, they join: one certificate with all of them.
async fn joined(stage: &Stage, bad: &[&str]) -> Result<()> {
    let all = |site: &Value| site["state"] == "valid" && list(&site["certificates"][0]["names"]) == ALL;
    let site = stage.until_site_within(LIMIT, "a.example", "they have joined", all).await?;
    ensure!(site["left_out"] == json!({}), "{site:#}");
    for name in bad {
        stage.until_event(name, "name-rejoined").await?;
    }
    ensure!(stage.proxy.issued_for(&ALL).len() == 1, "{:?}", stage.proxy.orders());
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let root = stage.pebble.roots().await?.remove(0).root_pem;
    for name in ALL {
        stored.served(name).await?.first().with_context(|| name.to_owned())?.verify(&root, &ALL)?;
    }
    Ok(())
}

/// A problem document with a subproblem for each of these names.
fn subproblems(status: u16, kind: &str, of_each: &str, bad: &[&str]) -> Action {
    let urn = |kind: &str| format!("urn:ietf:params:acme:error:{kind}");
    let each = bad.iter().map(|name| {
        json!({
            "type": urn(of_each), "detail": format!("{name} is out of the question"),
            "identifier": {"type": "dns", "value": name},
        })
    });
    let body = json!({"type": urn(kind), "detail": "several names", "subproblems": each.collect::<Vec<_>>()});
    let answer = Answer::page(status, "application/problem+json", &body.to_string());
    Action::Answer(Answer { with_nonce: true, ..answer })
}

/// Whatever has a bad name in it is answered so.
fn refusing(stage: &Stage, endpoint: Endpoint, bad: &[&str], action: &Action) {
    for name in bad {
        stage.proxy.add_rule(Rule::on(endpoint).for_name(name).does(action.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_the_ca_refuses_by_subproblems() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let refusal = subproblems(400, "malformed", "rejectedIdentifier", &BAD);
    refusing(&stage, Endpoint::NewOrder, &BAD, &refusal);
    let _daemon = wanted(&mut stage).await?;
    left_out(&stage, &BAD, "policy", "out of the question").await?;
    tried_without_cost(&stage, &BAD).await?;
    ensure!(stage.proxy.orders().len() == 1, "a refused order is none: {:?}", stage.proxy.orders());
    stage.proxy.clear_rules();
    joined(&stage, &BAD).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_name_that_the_ca_refuses_in_its_words() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let detail = "Cannot issue for \"bad1.example\": The ACME server refuses to issue a certificate for this domain \
                  name, because it is forbidden by policy";
    let refusal = Action::problem(400, "rejectedIdentifier", detail);
    refusing(&stage, Endpoint::NewOrder, &BAD[..1], &refusal);
    let _daemon = wanted(&mut stage).await?;
    left_out(&stage, &BAD[..1], "policy", "forbidden by policy").await?;
    tried_without_cost(&stage, &BAD[..1]).await?;
    stage.proxy.clear_rules();
    joined(&stage, &BAD[..1]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_the_ca_can_not_validate() -> Result<()> {
    let mut stage = Stage::looking().await?;
    let nowhere = stage.fleet.as_ref().context("a fleet")?.net.host(9);
    for name in BAD {
        stage.pebble.dns().set_a(name, &[nowhere]).await?;
    }
    let _daemon = wanted(&mut stage).await?;
    left_out(&stage, &BAD, "firewall", "bad").await?;
    tried_without_cost(&stage, &BAD).await?;
    // One of them works again: it joins, the other stays out.
    stage.pebble.dns().clear_a(BAD[0]).await?;
    let in_again = |site: &Value| list(&site["certificates"][0]["names"]).contains(&BAD[0]);
    let site = stage.until_site_within(LIMIT, "a.example", "it has joined", in_again).await?;
    ensure!(list(&site["certificates"][0]["names"]).len() == 5, "{site:#}");
    stage.pebble.dns().clear_a(BAD[1]).await?;
    joined(&stage, &BAD).await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_whose_caa_forbids_it_when_the_order_is_finalized() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    refusing(&stage, Endpoint::Finalize, &BAD, &subproblems(403, "caa", "caa", &BAD));
    let _daemon = wanted(&mut stage).await?;
    left_out(&stage, &BAD, "caa", "out of the question").await?;
    tried_without_cost(&stage, &BAD).await?;
    stage.proxy.clear_rules();
    joined(&stage, &BAD).await
}

/// A name that fails when the certificate is renewed is left out of it; what is served shares names with what was before.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_keeps_the_names_that_work() -> Result<()> {
    let mut stage = Stage::trusting_with(StageOptions::default()).await?;
    let _daemon = wanted(&mut stage).await?;
    stage.until_valid("a.example").await?;
    stage.until_idle().await?;
    stage.proxy.reset();
    let refusal = subproblems(400, "malformed", "rejectedIdentifier", &BAD);
    refusing(&stage, Endpoint::NewOrder, &BAD, &refusal);
    stage.json(&["renew", "--all", "--force"]).await?;
    let site = left_out(&stage, &BAD, "policy", "out of the question").await?;
    ensure!(list(&site["certificates"][0]["names"]) == GOOD, "{site:#}");
    tried_without_cost(&stage, &BAD).await?;
    let until =
        || async { stage.events_of("a.example", &["renewed"]).await.is_ok_and(|told| !told.is_empty()) };
    until_true("the renewal is told", LIMIT, until).await?;
    stage.proxy.clear_rules();
    joined(&stage, &BAD).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_fails_at_the_renewal_is_served_with_the_certificate_before() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let _daemon = wanted(&mut stage).await?;
    let site = stage.until_valid("a.example").await?;
    let first = site["certificates"][0]["serial"].clone();
    let pull = Pull::start(&stage, &["--scope", "*"]).await?;
    let old = pull.serial_in("bad1.example/ecdsa/cert.pem")?;
    refusing(&stage, Endpoint::NewOrder, &BAD, &subproblems(400, "malformed", "rejectedIdentifier", &BAD));
    stage.json(&["renew", "--all", "--force"]).await?;
    let site = left_out(&stage, &BAD, "policy", "out of the question").await?;
    ensure!(site["certificates"][0]["serial"] != first, "{site:#}");
    ensure!(site["kept"][0]["serial"] == first && list(&site["kept"][0]["names"]) == BAD, "{site:#}");
    // By name, each gets what is for it; in the listing the older one is an item of its own.
    let renewed = pull.serial_in("a.example/ecdsa/cert.pem")?;
    ensure!(renewed != old && pull.serial_in("bad1.example/ecdsa/fullchain.pem")? == old);
    let items = pull.items()?;
    let names: Vec<Vec<&str>> = items.iter().map(|item| list(&item["names"])).collect();
    ensure!(names == [&GOOD[..], &BAD[..]], "{items:#?}");
    let link = items[1]["lineages"]["ecdsa"]["links"]["cert"].as_str().context("a link")?;
    let path = link.strip_prefix("/v1/certificates/").context("a path")?;
    ensure!(path.contains("_kept/") && pull.serial_in(path)? == old, "{link}");
    ensure!(list(&pull.document("bad2.example")?["names"]) == BAD, "{items:#?}");
    // The agent takes both.
    pull.configure_agent(&mut stage)?;
    let synced = stage.signpost.agent(&["--json", "sync"]).await?.success()?.json()?;
    let published: Vec<Vec<&str>> =
        synced["published"].as_array().into_iter().flatten().map(|item| list(&item["names"])).collect();
    ensure!(published == [&GOOD[..], &BAD[..]] && synced["failed"] == json!([]), "{synced:#}");

    // Renewed once more, it is still the one that the bad names have.
    stage.json(&["renew", "--all", "--force"]).await?;
    until_true("the others are renewed", LIMIT, || async {
        pull.serial_in("a.example/ecdsa/cert.pem").is_ok_and(|serial| serial != renewed)
    })
    .await?;
    ensure!(pull.serial_in("bad1.example/ecdsa/cert.pem")? == old);
    stage.proxy.clear_rules();
    let all = |site: &Value| site["state"] == "valid" && list(&site["certificates"][0]["names"]) == ALL;
    stage.until_site_within(LIMIT, "a.example", "they have joined", all).await?;
    ensure!(pull.items()?.len() == 1 && pull.serial_in("bad1.example/ecdsa/cert.pem")? != old);
    let synced = stage.signpost.agent(&["--json", "sync"]).await?.success()?.json()?;
    ensure!(list(&synced["published"][0]["names"]) == ALL && synced["failed"] == json!([]), "{synced:#}");
    ensure!(synced["removed"].as_array().is_some_and(|all| all.len() == 1), "{synced:#}");
    stage.until_idle().await?;
    // The present one, and the one before.
    ensure!(stage.keys("sp:{p*}:cert:*").await?.len() == 2, "{:?}", stage.keys("sp:{p*}:cert:*").await?);
    Ok(())
}
