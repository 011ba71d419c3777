//! The issuance benchmark: how fast, how dear and how chatty an issuer is, beside the ACME clients that Debian ships.
//!
//! Each series has a Pebble of its own (it slows down as it grows) without random sleeps, behind the harness' proxy, which
//! keeps Pebble from deadlocking and counts the requests. Every challenge is asked for over HTTP for real: ours are answered
//! by `validation-server challenge` out of the embedded store, the peers' by an nginx that serves their webroot.
//! Everything runs on this machine: the CA and the proxy take their share of the same processors, which is shown as well.

mod bare;
mod cpu;
mod ours;
mod peers;
mod row;
mod stage;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use peers::Peer;
use row::Row;

/// What is to be reached: ours one after the other, seconds a certificate.
const SEQUENTIAL_SECONDS: f64 = 0.1;
/// Ours with this many orders at once, certificates a second.
const AT_ONCE: usize = 64;
const PER_SECOND: f64 = 100.0;
/// For one name with a fresh authorization, the median.
const REQUESTS: u64 = 7;
/// More than this share of the machine in the hands of other programs is told.
const DISTURBED: f64 = 0.1;

/// Benchmark of issuing certificates against Pebble, beside lego, certbot and dehydrated.
#[derive(Parser)]
#[command(name = "tests/bench/issuance/run")]
struct Arguments {
    /// Certificates in each series of ours
    #[arg(short = 'n', long, default_value_t = 300)]
    certificates: usize,
    /// Certificates in each series of a peer (they take seconds each)
    #[arg(long, default_value_t = 5)]
    peer_certificates: usize,
    /// Orders that one process of ours works on at once, a series each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, AT_ONCE])]
    slots: Vec<usize>,
    /// Only these series: bare, ours, each (a process of ours for each certificate), lego, certbot, dehydrated
    #[arg(long, value_delimiter = ',', default_values_t = SERIES.map(str::to_owned))]
    only: Vec<String>,
}

const SERIES: [&str; 6] = ["bare", "ours", "each", "lego", "certbot", "dehydrated"];

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.certificates > 0 && arguments.peer_certificates > 0,
        "no certificates, nothing to measure"
    );
    if let Some(unknown) = arguments.only.iter().find(|name| !SERIES.contains(&name.as_str())) {
        bail!("there is no series {unknown}, only {}", SERIES.join(", "));
    }
    let processors = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!("{processors} processors; load before the start: {}", load.split(' ').next().unwrap_or("?"));

    let rows = measure(&arguments).await?;
    println!("\n{}", row::table(&rows));
    for row in rows.iter().filter(|row| !row.steps.is_empty()) {
        println!("{}, {} at once", row.client, row.at_once);
        println!("  ms a step, median (p99):  {}", row.step_times());
        println!("  CPU ms a certificate:     {}", row.cpu_parts());
    }
    println!();
    for line in goals(&rows) {
        println!("{line}");
    }
    let disturbed = rows.iter().map(Row::others_share).fold(0.0, f64::max);
    if disturbed > DISTURBED {
        println!(
            "Other programs used up to {:.0} % of this machine meanwhile: run it again when it is quiet.",
            disturbed * 100.0
        );
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Vec<Row>> {
    let wanted = |series: &str| arguments.only.iter().any(|name| name == series);
    let mut rows = Vec::new();
    if wanted("bare") {
        tell(format_args!("a client that stores nothing, {AT_ONCE} at once"));
        rows.push(bare::measure(arguments.certificates, AT_ONCE).await?);
    }
    if wanted("ours") {
        for slots in &arguments.slots {
            tell(format_args!("issuer, {slots} at once"));
            rows.push(ours::one_process(arguments.certificates, *slots).await?);
        }
    }
    if wanted("each") {
        tell(format_args!("issuer, a process for each certificate"));
        rows.push(ours::a_process_each(arguments.certificates.min(50)).await?);
    }
    for (series, peer, at_once) in [
        ("lego", Peer::Lego, 1),
        ("lego", Peer::Lego, 4),
        ("certbot", Peer::Certbot, 1),
        ("dehydrated", Peer::Dehydrated, 1),
    ] {
        if wanted(series) {
            tell(format_args!("{series}, {at_once} at once"));
            rows.push(peers::measure(peer, arguments.peer_certificates.max(at_once), at_once).await?);
        }
    }
    Ok(rows)
}

fn tell(series: std::fmt::Arguments<'_>) {
    eprintln!("measuring: {series}");
}

/// Each goal with what was measured, for the series that were run.
fn goals(rows: &[Row]) -> Vec<String> {
    let ours = |at_once| rows.iter().find(|row| row.client == ours::ONE_PROCESS && row.at_once == at_once);
    let verdict = |reached: bool| if reached { "reached    " } else { "NOT reached" };
    let mut lines = Vec::new();
    if let Some(row) = ours(1) {
        let seconds = row.seconds_each();
        lines.push(format!(
            "{}  one after the other, under {SEQUENTIAL_SECONDS} s a certificate: {seconds:.3} s",
            verdict(seconds < SEQUENTIAL_SECONDS)
        ));
    }
    if let Some(row) = ours(AT_ONCE) {
        let rate = row.per_second();
        lines.push(format!(
            "{}  {AT_ONCE} at once, at least {PER_SECOND} certificates a second: {rate:.1}",
            verdict(rate >= PER_SECOND)
        ));
    }
    for row in rows.iter().filter(|row| row.client == ours::ONE_PROCESS) {
        let median = row.median_requests();
        lines.push(format!(
            "{}  a median of {REQUESTS} requests a certificate, {} at once: {median}",
            verdict(median <= REQUESTS),
            row.at_once
        ));
    }
    lines
}
