//! Names whose DNS has left: nothing is ordered for them, the reason is told, and they come back by themselves.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use harness::{
    daemon::{SOON, list, seconds},
    deadline::until_true,
    nginx::Nginx,
    signpost::Started,
    stage::{Fleet, Stage},
};
use serde_json::Value;

/// A customer's own server, and one of the frontends.
const ELSEWHERE: u8 = 9;
const PROXY: u8 = 7;
const FRONTEND: u8 = 1;

/// The frontends are known, looks are frequent, and the daemon runs.
async fn scene() -> Result<(Stage, Started)> {
    let mut stage = Stage::looking().await?;
    let net = &fleet(&stage)?.net;
    let ours: Vec<String> = [1, 2].map(|number| net.host(number).to_string()).to_vec();
    stage.signpost.set("frontends.addresses", ours)?;
    stage.signpost.set("frontends.cname_targets", vec!["edge.hoster.example"])?;
    stage.signpost.set("issuer.parked_seconds", seconds(&[0.5]))?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[0.5]))?;
    let daemon = stage.start_daemon()?;
    Ok((stage, daemon))
}

fn fleet(stage: &Stage) -> Result<&Fleet> {
    stage.fleet.as_ref().context("a fleet")
}

async fn lead_to(stage: &Stage, name: &str, host: u8) -> Result<()> {
    let address = fleet(stage)?.net.host(host);
    stage.pebble.dns().set_a(name, &[address]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_has_left_is_parked_and_comes_back_by_itself() -> Result<()> {
    let (stage, _daemon) = scene().await?;
    stage.json(&["site", "add", "warm.example"]).await?;
    stage.until_valid("warm.example").await?;
    stage.proxy.reset();
    lead_to(&stage, "gone.example", ELSEWHERE).await?;
    stage.json(&["site", "add", "gone.example"]).await?;
    let looked = |site: &Value| site["state"] == "parked" && site["parked"]["looks"].as_u64() >= Some(3);
    let site = stage.until_site("gone.example", "it is parked and looked at again", looked).await?;
    let parked = &site["parked"];
    let found = fleet(&stage)?.net.host(ELSEWHERE).to_string();
    ensure!(parked["reason"] == "departed" && site["failure"].is_null(), "{site:#}");
    ensure!(parked["what"].as_str().is_some_and(|what| what.contains(&found)), "{site:#}");
    ensure!(parked["what"].as_str().is_some_and(|what| what.contains("edge.hoster.example")), "{site:#}");
    ensure!(stage.proxy.requests().total() == 0, "the CA was asked: {}", stage.proxy.requests());
    let told = stage.events_of("gone.example", &["departed"]).await?;
    ensure!(told.len() == 1 && told[0]["remedy"].is_string(), "told once: {told:#?}");

    lead_to(&stage, "gone.example", FRONTEND).await?;
    let site = stage.until_valid("gone.example").await?;
    ensure!(site["parked"].is_null(), "{site:#}");
    stage.until_event("gone.example", "returned").await?;
    ensure!(stage.proxy.issued_for(&["gone.example"]).len() == 1);
    Ok(())
}

/// What is served of a site that has left is served on, and it is renewed once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_name_that_has_left_is_kept() -> Result<()> {
    let (stage, _daemon) = scene().await?;
    stage.json(&["site", "add", "moved.example"]).await?;
    stage.until_valid("moved.example").await?;
    let serial = stage.serial("moved.example").await?;
    lead_to(&stage, "moved.example", ELSEWHERE).await?;
    stage.proxy.reset();
    stage.json(&["site", "set", "moved.example", "--dual"]).await?;
    stage.until_site("moved.example", "it is parked", |site| site["state"] == "parked").await?;
    ensure!(stage.serial("moved.example").await? == serial);
    ensure!(stage.proxy.requests().total() == 0, "the CA was asked: {}", stage.proxy.requests());
    lead_to(&stage, "moved.example", FRONTEND).await?;
    let dual = |site: &Value| site["certificates"].as_array().is_some_and(|all| all.len() == 2);
    stage.until_site("moved.example", "both are there", dual).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dns_that_does_not_tell_parks_nobody() -> Result<()> {
    let (stage, _daemon) = scene().await?;
    stage.pebble.dns().set_servfail("dark.example").await?;
    stage.json(&["site", "add", "dark.example"]).await?;
    let failing = |site: &Value| site["failure"]["count"].as_u64() >= Some(2);
    let site = stage.until_site("dark.example", "it is tried, and fails", failing).await?;
    ensure!(site["parked"].is_null() && site["state"] == "failing", "{site:#}");
    ensure!(site["failure"]["class"] == "dns", "{site:#}");
    ensure!(stage.events_of("dark.example", &["departed"]).await?.is_empty());
    stage.pebble.dns().clear_servfail("dark.example").await?;
    stage.until_valid("dark.example").await?;
    Ok(())
}

/// Behind a customer's own proxy a name leads elsewhere, and its challenges reach us all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_behind_a_proxy_that_passes_challenges_on_is_not_parked() -> Result<()> {
    let (stage, _daemon) = scene().await?;
    let (net, port) = (&fleet(&stage)?.net, fleet(&stage)?.http_port);
    let address = SocketAddr::from((net.host(PROXY), port));
    let behind = SocketAddr::from((net.host(FRONTEND), port));
    let server = format!(
        "server {{ listen {address}; location / {{ proxy_pass http://{behind}; proxy_set_header Host $host; }} }}"
    );
    let _proxy = Nginx::start(&server, &[address], &[]).await?;
    lead_to(&stage, "proxied.example", PROXY).await?;
    stage.json(&["site", "add", "proxied.example"]).await?;
    stage.until_valid("proxied.example").await?;
    ensure!(stage.events_of("proxied.example", &["departed"]).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_an_alias_of_ours_is_here() -> Result<()> {
    let (stage, _daemon) = scene().await?;
    stage.pebble.dns().set_cname("alias.example", "edge.hoster.example").await?;
    lead_to(&stage, "edge.hoster.example", FRONTEND).await?;
    stage.json(&["site", "add", "alias.example"]).await?;
    stage.until_valid("alias.example").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_group_only_the_name_that_has_left_is_left_out() -> Result<()> {
    let (stage, _daemon) = scene().await?;
    lead_to(&stage, "b.example", ELSEWHERE).await?;
    stage.json(&["site", "add", "--san", "grouped", "a.example", "b.example", "c.example"]).await?;
    let site =
        stage.until_site("a.example", "the others are issued", |site| site["state"] == "degraded").await?;
    ensure!(list(&site["certificates"][0]["names"]) == ["a.example", "c.example"], "{site:#}");
    ensure!(site["left_out"]["b.example"]["class"] == "not-pointing-here", "{site:#}");
    ensure!(stage.proxy.orders().iter().all(|order| order.names == ["a.example", "c.example"]));
    // Looked at again, it costs no order.
    let looked = |site: &Value| site["left_out"]["b.example"]["count"].as_u64() >= Some(2);
    stage.until_site("a.example", "it is looked at again", looked).await?;
    ensure!(stage.proxy.orders().len() == 1, "{:?}", stage.proxy.orders());
    lead_to(&stage, "b.example", FRONTEND).await?;
    let joined = |site: &Value| list(&site["certificates"][0]["names"]).len() == 3;
    stage.until_site("a.example", "it has joined", joined).await?;
    until_true("it is told", SOON, || async {
        stage.events_of("b.example", &["name-rejoined"]).await.is_ok_and(|told| told.len() == 1)
    })
    .await
}
