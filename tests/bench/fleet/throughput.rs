//! Many sites at once: `issuer issue` of all of them, and `issuer apply` to a daemon.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use shared::domain::DnsName;

use crate::{
    Arguments,
    scene::{Scene, pause, served},
};

const LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    series: &'static str,
    round: usize,
    certificates: usize,
    seconds: f64,
    per_second: f64,
    /// CPU of the issuer's process for each, ms.
    issuer_cpu_ms: f64,
}

pub(crate) async fn measure(arguments: &Arguments) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for round in 1..=arguments.rounds {
        eprintln!("measuring: round {round}, issuer issue");
        rows.push(one_shot(arguments, round).await?);
        eprintln!("measuring: round {round}, issuer run");
        rows.push(daemon(arguments, round).await?);
    }
    Ok(rows)
}

/// The daemon's best rate of the best one of `issuer issue`: what disturbs a round makes it slower, never faster.
pub(crate) fn ratio(rows: &[Row]) -> f64 {
    let best = |series: &str| {
        rows.iter().filter(|row| row.series == series).map(|row| row.per_second).fold(0.0, f64::max)
    };
    best(DAEMON) / best(ONE_SHOT)
}

pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<14} {:>5} {:>12} {:>8} {:>10} {:>11}\n",
        "series", "round", "certificates", "seconds", "per second", "CPU ms each"
    );
    for row in rows {
        text.push_str(&format!(
            "{:<14} {:>5} {:>12} {:>8.1} {:>10.1} {:>11.1}\n",
            row.series, row.round, row.certificates, row.seconds, row.per_second, row.issuer_cpu_ms
        ));
    }
    text
}

const ONE_SHOT: &str = "issuer issue";
const DAEMON: &str = "issuer run";

async fn one_shot(arguments: &Arguments, round: usize) -> Result<Row> {
    let scene = Scene::set(arguments.slots, arguments.retry_seconds).await?;
    let names = names(arguments.certificates);
    let slots = arguments.slots.to_string();
    let mut line = vec!["issue", "--slots", &slots];
    line.extend(names.iter().map(String::as_str));
    let began = Instant::now();
    let run = scene.signpost.run("issuer", &line, LIMIT).await?.success()?;
    finish(&scene, ONE_SHOT, round, names.len(), began.elapsed(), run.exit.cpu).await
}

async fn daemon(arguments: &Arguments, round: usize) -> Result<Row> {
    let scene = Scene::set(arguments.slots, arguments.retry_seconds).await?;
    let names = names(arguments.certificates);
    let mut daemon = scene.start_daemon().await?;
    let cpu = daemon.process.cpu_time()?;
    let store = scene.store().await?;
    let parsed: Vec<DnsName> = names.iter().map(|name| DnsName::parse(name)).collect::<Result<_, _>>()?;
    let began = Instant::now();
    scene.apply(&names).await?;
    while !served(&store, &parsed).await?.into_iter().all(|served| served) {
        ensure!(began.elapsed() < LIMIT, "not served after {LIMIT:?}\n{}", daemon.stderr()?);
        for _ in 0..5 {
            pause().await;
        }
    }
    let elapsed = began.elapsed();
    let cpu = daemon.process.cpu_time()? - cpu;
    daemon.process.terminate(Duration::from_secs(20)).await?;
    finish(&scene, DAEMON, round, names.len(), elapsed, cpu).await
}

/// Each name has exactly one certificate.
async fn finish(
    scene: &Scene,
    series: &'static str,
    round: usize,
    certificates: usize,
    elapsed: Duration,
    cpu: Duration,
) -> Result<Row> {
    let orders = scene.proxy.orders();
    let complete = orders.iter().filter(|order| order.finalized == 1).count();
    ensure!(
        complete == certificates && orders.len() == certificates,
        "{series}: {} orders, {complete} finished, {certificates} were wanted",
        orders.len()
    );
    let seconds = elapsed.as_secs_f64();
    Ok(Row {
        series,
        round,
        certificates,
        seconds,
        per_second: certificates as f64 / seconds,
        issuer_cpu_ms: cpu.as_secs_f64() * 1e3 / certificates as f64,
    })
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("n{number}.bench.example")).collect()
}
