//! The scale benchmark: what a hundred thousand sites cost, and what a million do, in one run.
//!
//! A real Redis, configured as the embedded store is, is filled with sites as a finished order leaves them: a leaf with the
//! shape and size of Let's Encrypt's for each (see `leaf`), a key sealed for it, the names that lead there. Then the real
//! programs work on it. Only the filling writes to the disk now and then; everything measured is on disk before it counts.

mod fleet;
mod leaf;
mod memory;
mod row;
mod work;

use anyhow::{Result, ensure};
use clap::Parser;
use fleet::Fleet;
use leaf::Mint;
use row::Row;

/// Benchmark of a store with many sites.
#[derive(Parser)]
#[command(name = "tests/bench/scale/run")]
struct Arguments {
    /// Sizes, each measured in a Redis of its own
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000])]
    sites: Vec<usize>,
    /// Groups that are made due for the claim rate
    #[arg(long, default_value_t = 30_000)]
    due: usize,
    /// When Redis has a write on its disk while the programs work: always, as the embedded store does, or everysec
    #[arg(long, default_value = "always")]
    appendfsync: String,
    /// Groups that the daemon works on at once [default: issuer.slots]
    #[arg(long, default_value_t = 64)]
    slots: usize,
    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.sites.iter().all(|sites| (1000..10_000_000).contains(sites)), "1,000 sites at least");
    let mint = Mint::open(&fleet::name(0), false)?;
    eprintln!("leaves of {} bytes", mint.leaf_bytes());
    let mut rows = Vec::new();
    for sites in &arguments.sites {
        eprintln!("measuring: {sites} sites");
        rows.push(measure(*sites, &arguments, &mint).await?);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        println!("\n{}", row::table(&rows));
        for line in row::goals(&rows) {
            println!("{line}");
        }
    }
    Ok(())
}

async fn measure(sites: usize, arguments: &Arguments, mint: &Mint) -> Result<Row> {
    let mut fleet = Fleet::set_up().await?;
    fleet.signpost.set("issuer.slots", i64::try_from(arguments.slots)?)?;
    let mut row = Row { sites, ..Row::default() };
    let before = memory::used(&fleet.redis).await?;
    row.fill_seconds = fleet.fill(sites, mint).await?;
    row.bytes_each = (memory::used(&fleet.redis).await? - before) as f64 / sites as f64;
    row.parts = memory::parts(&fleet.redis, sites).await?;
    fleet.redis.command(&["CONFIG", "SET", "appendfsync", &arguments.appendfsync]).await?;
    work::daemon(&fleet, &mut row, sites, arguments.due.min(sites)).await?;
    work::commands(&fleet, &mut row, sites).await?;
    work::file(&fleet, &mut row, sites).await?;
    Ok(row)
}
