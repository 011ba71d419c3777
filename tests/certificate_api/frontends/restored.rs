//! The store is put back from a copy that is older than some of what frontends serve: every name is served on.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use harness::{
    deadline::until_true,
    signpost::{Signpost, Started},
};
use serde_json::Value;

use super::{SERVED, SHOP, Scene, nginx};
use crate::fleet::{Fleet, KEYS};

/// For thousands of items, on a machine that is compiling.
const MANY: Duration = Duration::from_secs(300);

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

/// An agent for the sites of one tag, on a machine of its own.
struct Edge {
    signpost: Signpost,
    tag: String,
    items: usize,
    /// Of them, what the copy of the store lacks.
    younger: usize,
    agent: Option<Started>,
}

impl Edge {
    async fn new(scene: &Scene, items: usize, younger: usize) -> Result<Self> {
        let fleet = &scene.fleet;
        let tag = format!("of-{items}");
        fleet.add_frontend(&tag, &[], &[&tag], KEYS).await?;
        let mut signpost = fleet.signpost.another_node()?;
        let token = signpost.write("agent-token", format!("{tag}-token-0123456789"))?;
        let ca = signpost.write("agent-ca.pem", fleet.internal_ca.certificate().to_pem()?)?;
        for (key, value) in [
            ("server", format!("https://127.0.0.1:{}", scene.centre()?.port())),
            ("ca_file", ca.display().to_string()),
            ("token_file", token.display().to_string()),
            ("directory", signpost.directory().join("agent").display().to_string()),
            ("probe", String::new()),
        ] {
            signpost.set(&format!("agent.{key}"), value)?;
        }
        for key in ["nginx.test", "nginx.reload"] {
            signpost.set(&format!("agent.{key}"), Vec::<toml::Value>::new())?;
        }
        signpost.set("agent.servers", vec!["nginx"])?;
        signpost.set("agent.poll_seconds", 1)?;
        Ok(Self { signpost, tag, items, younger, agent: None })
    }

    async fn add(&self, fleet: &Fleet, numbers: std::ops::Range<usize>) -> Result<()> {
        let add = |number| async move {
            let name = format!("n{number}.{}.example.com", self.tag);
            fleet.add_site(&[&name], &[&self.tag], super::ECDSA).await.map(drop)
        };
        stream::iter(numbers).map(add).buffer_unordered(32).try_collect().await
    }

    fn start(&mut self) -> Result<()> {
        self.agent = Some(self.signpost.start_run("frontend-agent", &["run"])?);
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        self.agent.take().context("it does not run")?.process.kill9().await.map(drop)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.signpost.directory().join("agent").join(path)
    }

    /// Names that its server serves.
    fn serves(&self) -> usize {
        std::fs::read_to_string(self.path("nginx/map.conf")).unwrap_or_default().lines().count()
    }

    /// Items that it serves though the store lacks them.
    fn keeps(&self) -> usize {
        let status = std::fs::read(self.path("status.json")).unwrap_or_default();
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        status["doubt"]["unconfirmed"].as_object().map_or(0, serde_json::Map::len)
    }

    fn words(&self) -> String {
        self.agent.as_ref().and_then(|agent| agent.stderr().ok()).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_small_and_large_serve_on_what_an_older_store_lacks() -> Result<()> {
    agents_serve_on_what_an_older_store_lacks(&[(6, 5), (300, 200)]).await
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn agents_of_every_size_serve_on_what_an_older_store_lacks() -> Result<()> {
        agents_serve_on_what_an_older_store_lacks(&[(6, 5), (300, 200), (5_000, 2_000)]).await
    }
}

async fn agents_serve_on_what_an_older_store_lacks(sizes: &[(usize, usize)]) -> Result<()> {
    let mut scene = Scene::new(&["nginx"]).await?;
    let mut edges = Vec::new();
    for &(items, younger) in sizes {
        edges.push(Edge::new(&scene, items, younger).await?);
    }
    for edge in &edges {
        edge.add(&scene.fleet, 0..edge.items - edge.younger).await?;
    }
    let copy = scene.fleet.redis.copy_data()?;
    for edge in &mut edges {
        edge.add(&scene.fleet, edge.items - edge.younger..edge.items).await?;
        edge.start()?;
    }
    for edge in &edges {
        until_true("everything is served", MANY, || std::future::ready(edge.serves() == edge.items))
            .await
            .with_context(|| edge.words())?;
    }
    scene.fleet.redis.kill9().await?;
    scene.fleet.redis.restore_data(&copy)?;
    scene.fleet.redis.start_again().await?;
    let issuer = scene.fleet.signpost.start_issuer().await?;
    let everything_is_served = async |edges: &[Edge], word: &str| -> Result<()> {
        for edge in edges {
            let has_seen = || edge.keeps() == edge.younger && edge.words().contains(word);
            until_true("it has seen the older store", MANY, || std::future::ready(has_seen()))
                .await
                .with_context(|| edge.words())?;
            ensure!(edge.serves() == edge.items, "{} of {}: {}", edge.serves(), edge.items, edge.words());
        }
        Ok(())
    };
    everything_is_served(&edges, "").await?;
    for edge in &mut edges {
        edge.end().await?;
        edge.start()?;
    }
    everything_is_served(&edges, "serving what is here").await?;
    drop(issuer);
    Ok(())
}
