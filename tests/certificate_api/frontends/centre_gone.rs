//! A centre that is gone: whoever has something serves it, whoever has nothing waits and says so; and when it comes back, all of
//! them come back without a storm.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    signpost::{Daemon, Started},
};

use super::{SERVED, SHOP, Scene};

const AGENTS: usize = 12;
/// How long the centre is away: long enough for pauses to have grown.
const AWAY: Duration = Duration::from_secs(8);

/// Requests that the role has answered so far.
async fn answered(daemon: &Daemon) -> Result<f64> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
    let text = client.get(format!("http://{}/metrics", daemon.telemetry)).send().await?.text().await?;
    let lines = text.lines().filter(|line| line.contains("certificate_requests_total{"));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_come_back_without_a_storm() -> Result<()> {
    let mut scene = Scene::new(&[]).await?;
    let mut agents: Vec<Started> = Vec::new();
    let directory = |number: usize| format!("agent-{number}");
    for number in 0..AGENTS {
        let own = scene.path(&directory(number)).display().to_string();
        scene.fleet.signpost.set_environment("SIGNPOST_AGENT__DIRECTORY", &own);
        agents.push(scene.fleet.signpost.start_run("frontend-agent", &["run"])?);
    }
    let root = scene.path("");
    let has = move |number: usize, wanted: &str| {
        let live = root.join(directory(number)).join("live");
        let found = live.read_dir().ok().and_then(|mut all| all.next()).and_then(Result::ok);
        found.and_then(|entry| std::fs::read(entry.path().join("fullchain.pem")).ok()).is_some_and(|pem| {
            let leaf = openssl::x509::X509::from_pem(&pem).ok();
            let digest = leaf.and_then(|leaf| leaf.digest(openssl::hash::MessageDigest::sha256()).ok());
            digest.is_some_and(|digest| crate::fleet::hex(&digest) == wanted)
        })
    };
    let wanted = scene.wanted(SHOP, "ecdsa")?;
    until_true("every agent has it", SERVED, || {
        std::future::ready((0..AGENTS).all(|number| has(number, &wanted)))
    })
    .await?;

    // The role and its store, and the CA was never there.
    let mut centre = scene.certificates.take().context("no centre")?;
    centre.process.kill9().await?;
    scene.fleet.redis.kill9().await?;
    let own = scene.path("empty").display().to_string();
    scene.fleet.signpost.set_environment("SIGNPOST_AGENT__DIRECTORY", &own);
    let empty = scene.fleet.signpost.start_run("frontend-agent", &["run"])?;
    until_true("one with nothing says what it waits for", SERVED, || {
        std::future::ready(
            empty
                .stderr()
                .is_ok_and(|text| text.contains("nothing here to serve yet: waiting for the centre")),
        )
    })
    .await?;
    // Another one with what an agent has: a container that was thrown away and made again.
    if let Some(mut agent) = agents.pop() {
        agent.process.kill9().await?;
    }
    let own = scene.path(&directory(AGENTS - 1)).display().to_string();
    scene.fleet.signpost.set_environment("SIGNPOST_AGENT__DIRECTORY", &own);
    let again = scene.fleet.signpost.start_run("frontend-agent", &["run"])?;
    until_true("one that has its store serves it", SERVED, || {
        std::future::ready(again.stderr().is_ok_and(|text| text.contains("serving what is here items=1")))
    })
    .await?;
    tokio::time::sleep(AWAY).await;
    ensure!((0..AGENTS).all(|number| has(number, &wanted)), "somebody has let go of it");
    for agent in agents.iter().chain([&again, &empty]) {
        agent.process.assert_running()?;
    }

    scene.fleet.redis.start_again().await?;
    let centre = scene.fleet.start().await?;
    let (began, mut before, mut busiest) = (Instant::now(), 0.0, 0.0_f64);
    let mut converged = None;
    while converged.is_none() || began.elapsed() < Duration::from_secs(5) {
        ensure!(began.elapsed() < Duration::from_secs(90), "not all have come back");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = answered(&centre).await?;
        busiest = busiest.max(now - before);
        before = now;
        let all = (0..AGENTS).all(|number| has(number, &wanted)) && {
            let live = scene.path("empty").join("live");
            live.read_dir().is_ok_and(|mut all| all.next().is_some())
        };
        converged = converged.or_else(|| all.then(|| began.elapsed()));
    }
    let frontends = AGENTS + 1;
    println!(
        "{frontends} frontends, {busiest} requests in the busiest second, converged after {converged:?}"
    );
    // A question each, a bundle for the new one, a report: with the pauses that have grown they do not all come at once.
    ensure!(busiest <= 3.0 * frontends as f64, "{busiest} requests in a second by {frontends} frontends");
    Ok(())
}
