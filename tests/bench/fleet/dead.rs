//! A site that is added: how long until it is served, alone and among thousands that fail. They are refused by the proxy, so that
//! it is not Pebble that is measured.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::ca_proxy::{Action, Endpoint, Hits, Rule};
use serde::Serialize;
use shared::domain::DnsName;

use crate::{
    Arguments,
    scene::{Scene, pause, served},
};

const LIMIT: Duration = Duration::from_secs(900);

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Wait {
    dead: usize,
    good: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Orders of the dead that were refused while the good ones waited.
    refusals: u64,
    refusals_per_second: f64,
}

/// Without the dead, and among them.
pub(crate) async fn measure(arguments: &Arguments) -> Result<(Wait, Wait)> {
    eprintln!("measuring: {} sites, one after the other", arguments.good);
    let alone = wait(arguments, 0).await?;
    eprintln!("measuring: {} sites among {} that fail", arguments.good, arguments.dead);
    let among = wait(arguments, arguments.dead).await?;
    Ok((alone, among))
}

pub(crate) fn table(alone: &Wait, among: &Wait) -> String {
    let mut text = format!(
        "{:>8} {:>6} {:>8} {:>8} {:>9} {:>10}\n",
        "dead", "good", "p50 ms", "p99 ms", "refusals", "per second"
    );
    for row in [alone, among] {
        text.push_str(&format!(
            "{:>8} {:>6} {:>8.0} {:>8.0} {:>9} {:>10.0}\n",
            row.dead, row.good, row.p50_ms, row.p99_ms, row.refusals, row.refusals_per_second
        ));
    }
    text
}

async fn wait(arguments: &Arguments, dead: usize) -> Result<Wait> {
    let scene = Scene::set(arguments.slots, arguments.retry_seconds).await?;
    let refusal = Action::problem(400, "rejectedIdentifier", "the CA will not issue for this name");
    let hits = scene.proxy.add_rule(Rule::on(Endpoint::NewOrder).below("dead.example").does(refusal));
    let mut daemon = scene.start_daemon().await?;
    if dead > 0 {
        let names: Vec<String> = (0..dead).map(|number| format!("d{number}.dead.example")).collect();
        scene.apply(&names).await?;
        // Retries and first attempts, side by side.
        until_refused(&hits, dead as u64 * 6 / 10).await?;
    }
    let store = scene.store().await?;
    let (refused, began) = (hits.count(), Instant::now());
    let mut names: Vec<DnsName> = Vec::new();
    let mut added: Vec<Instant> = Vec::new();
    let mut waits: Vec<Option<Duration>> = Vec::new();
    while names.len() < arguments.good || waits.iter().any(Option::is_none) {
        ensure!(began.elapsed() < LIMIT, "not served after {LIMIT:?}\n{}", daemon.stderr()?);
        if names.len() < arguments.good {
            let name = format!("g{}.good.example", names.len());
            let adding = Instant::now();
            let add = ["site", "add", &name];
            let add = scene.signpost.issuer(&add);
            tokio::pin!(add);
            // The others are looked at meanwhile.
            loop {
                tokio::select! {
                    run = &mut add => { run?.success()?; break; }
                    () = pause() => note(&store, &names, &added, &mut waits).await?,
                }
            }
            names.push(DnsName::parse(&name)?);
            added.push(adding);
            waits.push(None);
        }
        note(&store, &names, &added, &mut waits).await?;
        pause().await;
    }
    let refusals = hits.count() - refused;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(dead == 0 || refusals > 0, "the dead were quiet");
    daemon.process.terminate(Duration::from_secs(30)).await?;
    let mut waits: Vec<f64> = waits.into_iter().flatten().map(|wait| wait.as_secs_f64() * 1e3).collect();
    waits.sort_unstable_by(f64::total_cmp);
    let quantile =
        |share: f64| waits[((waits.len() as f64 * share).ceil() as usize).clamp(1, waits.len()) - 1];
    Ok(Wait {
        dead,
        good: waits.len(),
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        refusals,
        refusals_per_second: refusals as f64 / seconds,
    })
}

async fn note(
    store: &shared::store::Store,
    names: &[DnsName],
    added: &[Instant],
    waits: &mut [Option<Duration>],
) -> Result<()> {
    for ((served, added), wait) in served(store, names).await?.into_iter().zip(added).zip(waits) {
        if served && wait.is_none() {
            *wait = Some(added.elapsed());
        }
    }
    Ok(())
}

async fn until_refused(hits: &Hits, count: u64) -> Result<()> {
    let began = Instant::now();
    while hits.count() < count {
        ensure!(began.elapsed() < LIMIT, "{} refusals after {LIMIT:?}", hits.count());
        pause().await;
    }
    Ok(())
}
