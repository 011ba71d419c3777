//! What stands between us and the CA answers in its place: the page of a load balancer, of a firewall, or of a portal. It says nothing
//! of an order, of a name or of an account: it is asked again, and nothing that the CA has issued is given up for it.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Rule},
    stage::Stage,
};

fn page(status: u16) -> Action {
    Action::Answer(Answer::page(status, "text/html", "<html><h1>Sign in</h1></html>"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_no_word_of_the_ca() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let json = Answer::page(404, "application/json", r#"{"detail":"Not Found"}"#);
    let faults = [
        ("authorization.page.example", Endpoint::Authorization, page(404)),
        ("challenge.page.example", Endpoint::Challenge, page(403)),
        ("order.page.example", Endpoint::Order, page(404)),
        ("finalize.page.example", Endpoint::Finalize, page(404)),
        ("forbidden.page.example", Endpoint::Finalize, page(403)),
        ("gateway.page.example", Endpoint::Finalize, Action::Answer(json)),
        ("moved.page.example", Endpoint::Certificate, page(302)),
        ("certificate.page.example", Endpoint::Certificate, page(410)),
        ("portal.page.example", Endpoint::Certificate, page(200)),
    ];
    let names: Vec<&str> = faults.iter().map(|(name, ..)| *name).collect();
    // Sites of their own: what `issue` makes is forgotten when it fails.
    stage.json(&[&["site", "add"][..], &names].concat()).await?;
    for (name, endpoint, action) in faults {
        stage.proxy.add_rule(Rule::on(endpoint).for_name(name).does(action));
    }
    let failed = stage.issue_ending(1, &names).await?;
    for issue in failed["results"].as_array().context("results")? {
        ensure!(issue["failure"]["class"] == "ca" && issue["failure"]["fault"] == "ca", "{issue:#}");
    }
    stage.proxy.clear_rules();
    let result = stage.issue(&names).await?;
    for issue in result["results"].as_array().context("results")? {
        ensure!(issue["status"] == "issued", "{issue:#}");
    }
    for name in names {
        let orders = stage.proxy.orders_for(&[name]).len();
        ensure!(orders == 1, "{name}: {orders} orders");
        ensure!(stage.proxy.issued_for(&[name]) == ["ecdsa-p256"], "{name}");
    }
    // Nor is the account lost because a page says so.
    let before = stage.json(&["account", "show"]).await?;
    stage.proxy.add_rule(Rule::on(Endpoint::Account).does(page(404)));
    let run = stage.signpost.issuer(&["account", "create", "--replace"]).await?.with_code(1)?;
    ensure!(run.stderr.contains("404") && run.stderr.contains("no problem document"), "{}", run.stderr);
    stage.proxy.clear_rules();
    let after = stage.json(&["account", "show"]).await?;
    ensure!(before["url"] == after["url"] && after["url"].is_string(), "{before:#} {after:#}");
    Ok(())
}

/// Pebble says it so: no document, and a nonce. It is the CA's word.
#[tokio::test(flavor = "multi_thread")]
async fn a_bare_answer_with_a_nonce_is_the_cas_own() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    stage.json(&["site", "add", "bare.example"]).await?;
    let bare = || Answer { with_nonce: true, ..Answer::page(404, "text/plain", "") };
    let rule = Rule::on(Endpoint::Authorization).for_name("bare.example").first(5);
    stage.proxy.add_rule(rule.does(Action::Answer(bare())));
    let result = stage.issue(&["bare.example"]).await?;
    ensure!(result["results"][0]["status"] == "issued", "{result:#}");
    ensure!(stage.proxy.orders_for(&["bare.example"]).len() == 2, "the order was gone: another one");
    // A certificate that is nowhere while its order is there is ordered anew after a few runs, whoever says so.
    stage.json(&["site", "add", "nowhere.example"]).await?;
    let nowhere = Rule::on(Endpoint::Certificate).for_name("nowhere.example");
    stage.proxy.add_rule(nowhere.does(page(404)));
    for _ in 0..3 {
        stage.issue_ending(1, &["nowhere.example"]).await?;
    }
    let orders = stage.proxy.orders_for(&["nowhere.example"]).len();
    ensure!(orders == 2, "{orders} orders");
    stage.proxy.clear_rules();
    stage.issue(&["nowhere.example"]).await?;
    ensure!(stage.proxy.orders_for(&["nowhere.example"]).len() == 2);
    Ok(())
}
