//! The fleet benchmark: the daemon beside `issuer issue` on the same work, and the living beside the dead.
//!
//! Each series has a Pebble of its own (it slows down as it grows) without random sleeps, behind the harness' proxy, and an
//! embedded store, each write on disk before it counts. Everything runs on this machine.

mod dead;
mod scene;
mod throughput;

use anyhow::{Result, bail};
use clap::Parser;
use serde_json::json;

/// What is to be reached: the daemon's certificates a second, as a part of those of `issuer issue`.
const THROUGHPUT: f64 = 0.9;
/// The 99th percentile of a new site's wait among the dead, as a multiple of that without them.
const DELAY: f64 = 1.5;

/// Benchmark of the daemon.
#[derive(Parser)]
#[command(name = "tests/bench/fleet/run")]
struct Arguments {
    /// Sites that are added at once
    #[arg(short = 'n', long, default_value_t = 2000)]
    certificates: usize,
    /// Rounds of `issuer issue` and the daemon, one after the other
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Orders worked on at once
    #[arg(long, default_value_t = 64)]
    slots: usize,
    /// Sites whose names the CA refuses
    #[arg(long, default_value_t = 10_000)]
    dead: usize,
    /// Sites that are added in their middle
    #[arg(long, default_value_t = 100)]
    good: usize,
    /// How long a dead site waits before it is tried again
    #[arg(long, default_value_t = 30.0)]
    retry_seconds: f64,
    /// Only these: throughput, dead
    #[arg(long, value_delimiter = ',', default_values_t = ["throughput".to_owned(), "dead".to_owned()])]
    only: Vec<String>,
    /// Print one JSON document instead of the tables
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.only.iter().find(|name| !["throughput", "dead"].contains(&name.as_str()))
    {
        bail!("there is no {unknown}, only throughput and dead");
    }
    let wanted = |series: &str| arguments.only.iter().any(|name| name == series);
    let (mut document, mut text) = (json!({}), String::new());
    if wanted("throughput") {
        let rows = throughput::measure(&arguments).await?;
        document["throughput"] = json!({ "rows": rows, "ratio": throughput::ratio(&rows) });
        text.push_str(&throughput::table(&rows));
        let ratio = throughput::ratio(&rows);
        text.push_str(&format!(
            "{}  the daemon at {THROUGHPUT} of `issuer issue`: {ratio:.2}\n\n",
            verdict(ratio >= THROUGHPUT)
        ));
    }
    if wanted("dead") {
        let (alone, among) = dead::measure(&arguments).await?;
        let ratio = among.p99_ms / alone.p99_ms;
        document["dead"] = json!({ "alone": alone, "among": among, "ratio_of_p99": ratio });
        text.push_str(&dead::table(&alone, &among));
        text.push_str(&format!(
            "{}  p99 among the dead at most {DELAY} of that without: {ratio:.2}\n",
            verdict(ratio <= DELAY)
        ));
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        println!("\n{text}");
    }
    Ok(())
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached    " } else { "NOT reached" }
}
