//! The store is put back from a copy that is older than some of what frontends serve: every name is served on.

use anyhow::{Context as _, Result, ensure};
use harness::deadline::until_true;

use super::{SERVED, SHOP, Scene, nginx};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_out_of_service_with_an_older_store() -> Result<()> {
    let mut scene = Scene::new(&["nginx"]).await?;
    let _nginx = nginx::start(&mut scene).await?;
    scene.start_agent()?;
    let known = ["k1.example.com", "k2.example.com"];
    for name in known {
        scene.renew(&[name], super::ECDSA).await?;
        scene.until_served(name).await?;
    }
    let copy = scene.fleet.redis.copy_data()?;

    // What the copy lacks: three sites, and a renewal.
    let later = ["n1.example.com", "n2.example.com", "n3.example.com"];
    for name in later {
        scene.renew(&[name], super::ECDSA).await?;
        scene.until_served(name).await?;
    }
    scene.renew(&[SHOP], super::ECDSA).await?;
    let renewed = scene.until_served(SHOP).await?;
    scene.fleet.redis.kill9().await?;
    scene.fleet.redis.restore_data(&copy)?;
    scene.fleet.redis.start_again().await?;
    let issuer = scene.fleet.signpost.start_issuer().await?;
    let status = scene.of_agent("status.json");
    let status = || std::fs::read_to_string(&status).unwrap_or_default();
    until_true("the agent has seen the older store", SERVED, || {
        std::future::ready(later.iter().all(|name| status().contains(&format!("\"{name}\""))))
    })
    .await
    .with_context(|| scene.agent.as_ref().and_then(|agent| agent.stderr().ok()).unwrap_or_default())?;
    for name in known.iter().chain(&later) {
        ensure!(scene.served(name, &[]).is_some(), "{name} is out of service: {}", status());
    }
    ensure!(scene.served(SHOP, &[]) == Some(renewed), "an older certificate took its place");
    let fleet = scene.fleet.signpost.issuer_json(&["status", "--fleet"]).await?;
    ensure!(fleet["frontends"][0]["standing"] != "converged", "{fleet:#}");

    // What the older store knows can be removed as ever; what it lacks goes once somebody says so.
    let id =
        shared::domain::SiteId::of(&shared::domain::NameSet::one(shared::domain::DnsName::parse(known[0])?));
    scene.fleet.retire_site(&id).await?;
    until_true("a removal is a removal", SERVED, || {
        std::future::ready(scene.served(known[0], &[]).is_none())
    })
    .await?;
    ensure!(scene.served(later[0], &[]).is_some());
    scene.fleet.signpost.agent(&["sync", "--confirm-removals"]).await?;
    until_true("confirmed", SERVED, || std::future::ready(scene.served(later[0], &[]).is_none())).await?;
    ensure!(scene.served(known[1], &[]).is_some());
    drop(issuer);
    Ok(())
}
