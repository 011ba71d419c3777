//! The frontends' benchmark: what a hundred thousand certificates cost one of them, beside the same pulled one by one; what
//! nginx makes of them; and what a thousand that wait cost the centre.
//!
//! The store is filled as for the scale benchmark. Everything goes over HTTPS on the loopback device, whose counters say how
//! much; nothing else may use it meanwhile.

#[path = "../scale/fleet.rs"]
mod fleet;
#[path = "../scale/leaf.rs"]
mod leaf;
mod measure;
mod nginx;
mod renew;
mod row;
mod sync;
mod waiting;

use anyhow::{Result, ensure};
use clap::Parser;
use fleet::Fleet;
use leaf::Mint;
use row::Fan;

/// Benchmark of frontends.
#[derive(Parser)]
#[command(name = "tests/bench/frontends/run")]
struct Arguments {
    /// Sizes, each measured with a store of its own
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000])]
    sites: Vec<usize>,
    /// Frontends that wait for changes
    #[arg(long, default_value_t = 1000)]
    waiting: usize,
    /// How long a time without changes is watched, seconds
    #[arg(long, default_value_t = 110)]
    idle: u64,
    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.sites.iter().all(|sites| (200..1_000_000).contains(sites)), "200 sites at least");
    let mint = Mint::open(&fleet::name(0), true)?;
    eprintln!("leaves of {} bytes", mint.leaf_bytes());
    let (mut rows, mut fan) = (Vec::new(), Fan::default());
    for (place, sites) in arguments.sites.iter().enumerate() {
        eprintln!("filling: {sites} sites");
        let mut fleet = Fleet::set_up().await?;
        fleet.fill(*sites, &mint).await?;
        rows.push(sync::measure(&mut fleet, &mint, *sites, arguments.idle).await?);
        if place == 0 {
            eprintln!("measuring: {} frontends that wait", arguments.waiting);
            fan = waiting::measure(&fleet, &mint, arguments.waiting).await?;
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&(&rows, &fan))?);
    } else {
        println!("\n{}\n\n{}\n", row::table(&rows), row::fan_table(&fan));
        for line in row::goals(&rows, &fan) {
            println!("{line}");
        }
    }
    Ok(())
}
