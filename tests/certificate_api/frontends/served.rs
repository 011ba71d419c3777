//! What a web server really serves: the agent looks, the centre knows, and the operator is told.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, process::Process, signpost::Daemon};
use serde_json::{Value, json};
use shared::domain::KeyType;

use super::{SERVED, SHOP, Scene, nginx};

const LIMIT: Duration = Duration::from_secs(60);

async fn fleet(scene: &Scene) -> Result<Value> {
    scene.fleet.signpost.issuer_json(&["status", "--fleet"]).await
}

/// The daemon, once it has noted what the store is: until then every frontend is about to begin again.
async fn issuer(scene: &Scene) -> Result<Daemon> {
    let issuer = scene.fleet.signpost.start_issuer().await?;
    until_true("the epoch is known", LIMIT, async || {
        let known = scene.fleet.redis.command(&["HLEN", "sp:epoch"]).await;
        known.is_ok_and(|known| known != redis::Value::Int(0))
    })
    .await?;
    Ok(issuer)
}

/// How the only frontend stands.
async fn edge(scene: &Scene) -> Result<Value> {
    let fleet = fleet(scene).await?;
    let found = fleet["frontends"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "edge"));
    found.cloned().with_context(|| format!("{fleet:#}"))
}

async fn until_edge(scene: &Scene, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    let found = until_true(what, LIMIT, async || edge(scene).await.is_ok_and(|edge| is_it(&edge))).await;
    found.with_context(|| scene.agent.as_ref().and_then(|agent| agent.stderr().ok()).unwrap_or_default())?;
    edge(scene).await
}

async fn told(scene: &Scene, kind: &str) -> Result<Vec<String>> {
    let run = scene.fleet.signpost.issuer(&["--json", "events", "--kind", kind]).await?.success()?;
    let what = |event: &Value| event["what"].as_str().map(str::to_owned).context("no text");
    run.json_lines()?.iter().map(what).collect()
}

/// A server that shows a certificate of its own, whatever it is asked for.
async fn stranger(scene: &Scene) -> Result<(Process, String)> {
    let authority = harness::pki::Authority::new("Somebody else")?;
    let key = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048)?)?;
    let pair = authority.issue_server_for(&["elsewhere.example"], &key)?;
    let leaf = openssl::x509::X509::from_pem(&pair.certificate_pem)?;
    let print = crate::fleet::hex(&leaf.digest(openssl::hash::MessageDigest::sha256())?);
    let certificate = scene.write("stranger.pem", &String::from_utf8(pair.certificate_pem.clone())?)?;
    let key = scene.write("stranger-key.pem", &String::from_utf8(key.private_key_to_pem_pkcs8()?)?)?;
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-www", "-accept", &scene.address.to_string()]);
    command.arg("-cert").arg(certificate).arg("-key").arg(key);
    Ok((scene.start_server(command, "openssl").await?, print))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_looks_and_the_operator_is_told() -> Result<()> {
    let mut scene = Scene::with(&["nginx"], |signpost, address| {
        signpost.set("agent.probe", address.to_string())?;
        signpost.set("frontends.lag_minutes", 1.0)
    })
    .await?;
    let _issuer = issuer(&scene).await?;
    let nginx = nginx::start(&mut scene).await?;
    scene.start_agent()?;
    until_edge(&scene, "all is served", |edge| edge["standing"] == "converged" && edge["probes"] == true)
        .await?;

    // A renewal, and a site with both kinds of keys.
    scene.renew(&[SHOP], super::ECDSA).await?;
    scene.renew(&["dual.example.com"], &[KeyType::EcdsaP256, KeyType::Rsa2048]).await?;
    until_edge(&scene, "all three are", |edge| edge["standing"] == "converged" && edge["items"] == 2).await?;
    ensure!(scene.served(SHOP, &[]) == Some(scene.wanted(SHOP, "ecdsa")?));
    let document = fleet(&scene).await?;
    let live = &document["live_after_seconds"];
    ensure!(live["count"].as_u64() >= Some(1) && live["max"].as_i64() < Some(60), "{document:#}");
    ensure!(document["waiting"] == json!([]), "{document:#}");
    let site = scene.fleet.signpost.issuer_json(&["status", SHOP]).await?;
    let frontends = json!({ "served_by": ["edge"], "waiting": [], "unknown": [] });
    ensure!(site["sites"][0]["frontends"] == frontends, "{site:#}");
    let shown = scene.fleet.signpost.agent(&["status"]).await?.success()?;
    ensure!(shown.stdout.contains("serves 2 of 2 items as published"), "{}", shown.stdout);

    // Somebody else listens there: what was published is not what is served.
    drop(nginx);
    let (stranger, print) = stranger(&scene).await?;
    scene.renew(&[SHOP], super::ECDSA).await?;
    let edge = until_edge(&scene, "it is seen", |edge| edge["standing"] == "problems").await?;
    ensure!(edge["unknown_certificates"][0] == json!(print), "{edge:#}");
    until_true("the operator is told", LIMIT, async || {
        let told = told(&scene, "frontend-lags").await.unwrap_or_default();
        told.iter().any(|what| what.contains("edge") && what.contains(&print))
    })
    .await?;
    let site = scene.fleet.signpost.issuer_json(&["status", SHOP]).await?;
    ensure!(site["sites"][0]["frontends"]["waiting"] == json!(["edge"]), "{site:#}");
    let text = scene.fleet.signpost.issuer(&["status", "--fleet"]).await?.success()?.stdout;
    ensure!(text.contains("does not know") && text.contains(&print) && text.contains(SHOP), "{text}");
    let shown = scene.fleet.signpost.agent(&["status"]).await?.success()?;
    ensure!(shown.stdout.contains("NOT SERVED") && shown.stdout.contains(&print[..16]), "{}", shown.stdout);

    // The right one again.
    drop(stranger);
    let _nginx = nginx::start(&mut scene).await?;
    until_edge(&scene, "it is served", |edge| edge["standing"] == "converged").await?;
    until_true("the operator is told so", LIMIT, async || {
        told(&scene, "frontend-recovered").await.is_ok_and(|told| !told.is_empty())
    })
    .await?;
    ensure!(scene.served(SHOP, &[]) == Some(scene.wanted(SHOP, "ecdsa")?));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_silent_and_one_that_never_reports() -> Result<()> {
    let mut scene = Scene::with(&[], |signpost, _| {
        signpost.set("frontends.lag_minutes", 0.02)?;
        signpost.set("frontends.silent_minutes", 0.1)
    })
    .await?;
    let _issuer = issuer(&scene).await?;
    scene.fleet.add_frontend("pulls", &["*"], &[], super::KEYS).await?;
    scene.start_agent()?;
    let edge = until_edge(&scene, "it has reported", |edge| edge["standing"] == "converged").await?;
    ensure!(edge["probes"] == false, "nobody listens there: {edge:#}");
    if let Some(mut agent) = scene.agent.take() {
        agent.process.kill9().await?;
    }
    until_edge(&scene, "it is missed", |edge| edge["standing"] == "silent").await?;
    until_true("the operator is told", SERVED, async || {
        let told = told(&scene, "frontend-lags").await;
        told.is_ok_and(|told| told.iter().any(|what| what.contains("not reported")))
    })
    .await?;
    scene.renew(&["new.example.com"], super::ECDSA).await?;
    let fleet = fleet(&scene).await?;
    ensure!(fleet["waiting"][0]["frontends"] == json!(["edge"]), "{fleet:#}");
    ensure!(fleet["frontends"][1]["standing"] == "unknown", "{fleet:#}");
    let site = scene.fleet.signpost.issuer_json(&["status", "new.example.com"]).await?;
    let expected = json!({ "served_by": [], "waiting": ["edge"], "unknown": ["pulls"] });
    ensure!(site["sites"][0]["frontends"] == expected, "{site:#}");

    // Revoked, it is missed no more.
    scene.fleet.revoke("edge").await?;
    until_true("nothing is left of it", SERVED, async || {
        let left = scene.fleet.redis.command(&["HLEN", "sp:frontends-troubled"]).await;
        left.is_ok_and(|left| left == redis::Value::Int(0))
    })
    .await
}
