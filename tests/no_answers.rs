//! A success that is not what the protocol says one is, is no answer of the CA: what it has by then is asked for, and nothing is
//! concluded before.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Rule},
    daemon::seconds,
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(90);
const PAGE: &str = "<html>maintenance</html>";

fn page(status: u16) -> Action {
    Action::Answer(Answer::page(status, "text/html", PAGE))
}

/// Nobody has given the account a key, and nobody has revoked anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_changes_no_key_and_revokes_nothing() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let before = stage.json(&["account", "show"]).await?;
    for answer in [page(200), Action::Answer(Answer::page(200, "application/json", r#"{"status":"ok"}"#))] {
        stage.proxy.add_rule(Rule::on(Endpoint::KeyChange).does(answer));
        stage.signpost.issuer(&["account", "rollover"]).await?.with_code(1)?;
        stage.proxy.clear_rules();
        let after = stage.json(&["account", "show"]).await?;
        ensure!(after["at_ca"]["status"] == "valid", "the account is lost: {after:#}");
        ensure!(after["key_version"] == before["key_version"] && after["url"] == before["url"], "{after:#}");
    }
    // The CA has acted, and somebody else has answered.
    stage.proxy.add_rule(Rule::on(Endpoint::KeyChange).does(Action::ReplaceBody(PAGE.to_owned())));
    let rolled = stage.json(&["account", "rollover"]).await?;
    ensure!(rolled["url"] == before["url"] && rolled["key_version"] != before["key_version"], "{rolled:#}");
    stage.proxy.clear_rules();
    stage.issue(&["later.example"]).await?;

    stage.proxy.add_rule(Rule::on(Endpoint::Revoke).does(page(200)));
    stage.signpost.issuer(&["revoke", "warm.example"]).await?.with_code(1)?;
    ensure!(stage.events(&["revoked"]).await?.is_empty(), "it was said to be revoked");
    stage.proxy.clear_rules();
    // The first answer is somebody else's, and the second the CA's.
    stage.proxy.add_rule(Rule::on(Endpoint::Revoke).nth(1).does(page(200)));
    stage.signpost.issuer(&["revoke", "warm.example"]).await?.success()?;
    ensure!(stage.events(&["revoked"]).await?.len() == 1, "it was not said to be revoked");
    Ok(())
}

/// What the CA says so that it can be read less well costs neither a second order nor a second certificate.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_finished_whatever_answers_look_like() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let replaced = || Action::ReplaceBody(PAGE.to_owned());
    let with = |member: &'static str, value: serde_json::Value| {
        Action::change_object(move |object| object[member] = value.clone())
    };
    for (word, endpoint, action) in [
        ("challenge", Endpoint::Challenge, replaced()),
        ("finalize", Endpoint::Finalize, replaced()),
        ("placed", Endpoint::NewOrder, replaced()),
        ("mark", Endpoint::Order, Action::change(|body| format!("\u{feff}{body}"))),
        (
            "twice",
            Endpoint::NewOrder,
            Action::change(|body| body.replacen('{', r#"{"status":"invalid","#, 1)),
        ),
        ("nameless", Endpoint::Authorization, with("identifier", serde_json::Value::Null)),
        ("unencrypted", Endpoint::NewOrder, with("finalize", "http://127.0.0.1:1/f".into())),
        (
            "nowhere",
            Endpoint::NewOrder,
            with("authorizations", serde_json::json!(["http://127.0.0.1:1/a", 7])),
        ),
        (
            "path",
            Endpoint::NewOrder,
            Action::change_object(|object| {
                let finalize = object["finalize"].as_str().unwrap_or_default().to_owned();
                let path = finalize.splitn(4, '/').nth(3).unwrap_or_default();
                object["finalize"] = format!("/{path}").into();
            }),
        ),
        (
            "odd-token",
            Endpoint::Authorization,
            Action::change_object(|object| {
                let odd = serde_json::json!({
                    "type": "http-01", "url": "https://127.0.0.1:1/c", "token": "../../etc/passwd", "status": "pending",
                });
                if let Some(challenges) = object["challenges"].as_array_mut() {
                    challenges.insert(0, odd);
                }
            }),
        ),
    ] {
        let name = format!("{word}.example");
        let struck = stage.proxy.add_rule(Rule::on(endpoint).for_name(&name).does(action));
        let result = stage.issue(&[&name]).await.with_context(|| name.clone())?;
        ensure!(result["results"][0]["status"] == "issued", "{result:#}");
        ensure!(struck.count() > 0, "{word}: nothing was changed");
        let orders = stage.proxy.orders_for(&[&name]);
        let finalized: u64 = orders.iter().map(|order| order.finalized).sum();
        ensure!(orders.len() == 1 && finalized == 1, "{word}: {orders:#?}");
    }
    Ok(())
}

/// What single orders name is not laid to the CA.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_single_orders_name_hold_nobody_else() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[3600.0]))?;
    stage.signpost.set("issuer.slots", 16)?;
    let elsewhere = Action::change_object(|order| {
        order["authorizations"] = serde_json::json!(["https://127.0.0.1:1/authZ/x"]);
    });
    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).below("elsewhere.example").does(elsewhere));
    let _daemon = stage.start_daemon()?;
    let odd: Vec<String> = (0..6).map(|number| format!("n{number}.elsewhere.example")).collect();
    for name in &odd {
        stage.json(&["site", "add", name]).await?;
    }
    for name in &odd {
        stage.until_site_within(LIMIT, name, "it fails", |site| site["failure"]["class"] == "ca").await?;
    }
    stage.json(&["site", "add", "healthy.example"]).await?;
    stage
        .until_site_within(LIMIT, "healthy.example", "it is issued", |site| site["state"] == "valid")
        .await?;
    ensure!(stage.events(&["ca-trouble"]).await?.is_empty(), "the CA was blamed");
    Ok(())
}

/// A plain refusal of an order is one request, and a limit is one however it is said.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_not_ordered_again_at_once() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    for (word, action, code) in [
        ("firewall", page(403), 1),
        ("teapot", page(418), 1),
        ("redirect", page(307), 1),
        ("odd", Action::Answer(Answer::page(400, "application/problem+json", r#"{"problem":[]}"#)), 1),
        ("limit", Action::problem(400, "rateLimited", "too much"), 3),
    ] {
        let name = format!("{word}.example");
        let asked = stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).for_name(&name).does(action));
        let run = stage.run_issue(&[&name]).await?.with_code(code).with_context(|| name.clone())?;
        ensure!(asked.count() == 1, "{word}: asked {} times", asked.count());
        ensure!(code == 1 || run.stderr.contains(" UTC"), "{}", run.stderr);
    }
    // One kind of key is not to the CA's taste; the other is.
    let refusal = Action::problem(400, "badCSR", "no such keys here");
    stage.proxy.add_rule(Rule::on(Endpoint::Finalize).for_name("keys.example").nth(1).does(refusal));
    stage.run_issue(&["--dual", "keys.example"]).await?.with_code(1)?;
    let site = stage.site("keys.example").await?;
    ensure!(site["certificates"].as_array().is_some_and(|all| all.len() == 1), "{site:#}");
    ensure!(site["certificates"][0]["key_type"] == "rsa-2048", "{site:#}");
    Ok(())
}
