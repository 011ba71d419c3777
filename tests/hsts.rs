//! HSTS and a certificate that can't be renewed: it is lowered and told, never switched on meanwhile, and comes back.

use anyhow::{Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Rule},
    daemon::seconds,
    stage::Stage,
};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_lowered_while_the_certificate_fails() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[1.0, 3600.0]))?;
    let _daemon = stage.start_daemon()?;
    let added = stage.json(&["site", "add", "strict.example", "--hsts", "100"]).await?;
    let warnings = added["sites"][0]["warnings"].as_array().map_or(0, Vec::len);
    ensure!(warnings == 3, "{added:#}");
    let quiet = stage.json(&["site", "add", "late.example"]).await?;
    ensure!(quiet["sites"][0]["warnings"] == json!([]) && quiet["sites"][0]["wanted"]["hsts"].is_null(), "{quiet:#}");
    for name in ["strict.example", "late.example"] {
        stage.until_valid(name).await?;
    }
    let announces = |age: Option<u64>| move |site: &Value| site["hsts_seconds"].as_u64() == age;
    stage.until_site("strict.example", "it is announced with its certificate", announces(Some(100))).await?;

    stage.proxy.add_rule(Rule::on(Endpoint::NewOrder).does(Action::problem(400, "rejectedIdentifier", "forbidden")));
    for name in ["strict.example", "late.example"] {
        stage.json(&["renew", name, "--force"]).await?;
        stage.until_site(name, "it fails", |site| site["state"] == "failing").await?;
    }
    let site = stage.site("strict.example").await?;
    ensure!(site["hsts_seconds"] == 0, "{site:#}");
    let told = stage.until_event("strict.example", "hsts-lowered").await?;
    ensure!(told["data"]["max_age_seconds"] == 0, "{told:#}");
    stage.json(&["site", "set", "late.example", "--hsts", "100"]).await?;
    let site = stage.site("late.example").await?;
    ensure!(site["hsts_seconds"].is_null(), "switched on for what fails: {site:#}");
    // Off and on again while it fails: it waits as any other, and does not go on from what it was lowered to.
    stage.json(&["site", "set", "strict.example", "--hsts", "off"]).await?;
    stage.json(&["site", "set", "strict.example", "--hsts", "100"]).await?;
    let site = stage.site("strict.example").await?;
    ensure!(site["hsts_seconds"].is_null(), "switched on again for what fails: {site:#}");

    stage.proxy.clear_rules();
    for name in ["strict.example", "late.example"] {
        stage.json(&["retry", name]).await?;
        stage.until_valid(name).await?;
        stage.until_site(name, "it is announced again", announces(Some(100))).await?;
    }
    let told = stage.events_of("strict.example", &["hsts-lowered"]).await?;
    ensure!(told.len() == 1, "told once: {told:#?}");

    // Wound down for as long as somebody was told, and told again who removes it while it is on.
    let off = stage.json(&["site", "set", "strict.example", "--hsts", "off"]).await?;
    ensure!(off["sites"][0]["wanted"]["hsts"]["until"].is_string(), "{off:#}");
    ensure!(stage.site("strict.example").await?["hsts_seconds"] == 0);
    let removed = stage.json(&["site", "remove", "late.example"]).await?;
    ensure!(removed["sites"][0]["warnings"].as_array().is_some_and(|all| all.len() == 1), "{removed:#}");
    Ok(())
}
