//! What the preflight means for orders: a name that will fail is not ordered and costs nothing, and a false alarm keeps no
//! renewal from its certificate.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use harness::{ca_proxy::Endpoint, daemon::seconds, stage::Stage};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_will_fail_is_not_ordered_and_goes_into_backoff() -> Result<()> {
    let mut stage = Stage::looking().await?;
    stage.signpost.unset("issuer.self_check")?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[1.0, 2.0, 3600.0]))?;
    let dns = stage.pebble.dns();
    dns.set_caa("closed.example", &[("issue", "other.example")]).await?;
    let limits = stage.signpost.write("limits.toml", "caa_identities = [\"ca.example\"]\n")?;
    stage.signpost.set("ca.pebble.limits_file", limits.display().to_string())?;
    // The account, and one that goes well.
    stage.issue(&["well.example"]).await?;
    stage.proxy.reset();

    let document = stage.issue_ending(1, &["closed.example"]).await?;
    let failure = &document["results"][0]["failure"];
    ensure!(failure["class"] == "caa" && failure["fault"] == "customer", "{failure:#}");
    let remedy = failure["remedy"].as_str().unwrap_or_default();
    ensure!(remedy.contains("closed.example CAA 0 issue \"ca.example\""), "{remedy}");
    ensure!(document["results"][0]["requests"] == 0, "{document:#}");

    // The same by the daemon: it waits longer each time.
    let daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "shut.example"]).await?;
    dns.set_caa("shut.example", &[("issue", ";")]).await?;
    stage.json(&["retry", "shut.example"]).await?;
    stage.until_site("shut.example", "it has failed", |site| site["state"] == "failing").await?;
    let asked = stage.proxy.requests();
    ensure!(asked.of(Endpoint::NewOrder) == 0, "the CA was asked: {asked:?}");

    // Put right, it comes.
    dns.set_caa("shut.example", &[("issue", "ca.example")]).await?;
    stage.json(&["retry", "shut.example"]).await?;
    stage.until_valid("shut.example").await?;
    drop(daemon);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_that_will_fail_does_not_keep_the_others() -> Result<()> {
    let mut stage = Stage::looking().await?;
    stage.signpost.unset("issuer.self_check")?;
    stage.pebble.dns().set_servfail("broken.example").await?;
    let document =
        stage.issue_ending(0, &["--san", "fine.example", "broken.example", "well.example"]).await?;
    let names = &document["results"][0]["certificates"][0]["names"];
    ensure!(names.as_array().is_some_and(|names| names.len() == 2), "{document:#}");
    let orders = stage.proxy.orders();
    ensure!(orders.len() == 1 && orders[0].names.len() == 2, "{orders:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_alarm_costs_no_renewal() -> Result<()> {
    let mut stage = Stage::looking().await?;
    stage.signpost.unset("issuer.self_check")?;
    stage.issue(&["shop.example"]).await?;
    // What the issuer's resolver says is not what the CA sees: another address, at which nobody listens.
    let other = tempfile::tempdir()?;
    let liar = harness::mock_dns::MockDns::start(other.path(), Ipv4Addr::new(127, 255, 255, 1)).await?;
    stage.signpost.set("issuer.resolvers", vec![liar.address().to_string()])?;
    let check = stage.signpost.issuer(&["--json", "check", "shop.example"]).await?.with_code(1)?.json()?;
    ensure!(check["will_fail"] == 1, "{check:#}");
    let renewed = stage.signpost.issuer(&["--json", "renew", "--force", "shop.example"]).await?.success()?;
    let document = renewed.json()?;
    ensure!(document["results"][0]["status"] == "issued", "{document:#}");

    // Required, it is not ordered.
    stage.signpost.set("issuer.self_check", "required")?;
    let refused = stage.signpost.issuer(&["--json", "renew", "--force", "shop.example"]).await?;
    let document = refused.with_code(1)?.json()?;
    ensure!(document["results"][0]["requests"] == 0, "{document:#}");
    Ok(())
}
