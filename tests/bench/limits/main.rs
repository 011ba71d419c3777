//! What the twin of the CA's limiter costs, and what it is good for. See `run`.

use anyhow::Result;
use clap::Parser;
use harness::redis::{Redis, RedisOptions};
use month::{Plan, live};
use std::process::ExitCode;

mod month;
mod speed;

#[derive(Parser)]
struct Arguments {
    /// A month at the edge of the limits, in place of the script's speed
    #[arg(long)]
    month: bool,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

const MONTH: Plan = Plan {
    days: 30,
    renewing: 20_000,
    new: 5000,
    bursts: 12,
    domains: 300,
    busy: 400,
    private: 60,
    failing: 50,
    forced: 2000,
    wiped_at: None,
    foreign_per_day: 0,
    seed: 0x51_67_6e,
};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    if Arguments::parse().month { month().await } else { speed::run().await.map(|()| ExitCode::SUCCESS) }
}

async fn month() -> Result<ExitCode> {
    println!(
        "{} days, 3 issuers, one account: {} renewals, {} new sites in {} bursts under {} domains ({} under one), 1 of {} fails, {} forced",
        MONTH.days,
        MONTH.renewing,
        MONTH.new,
        MONTH.bursts,
        MONTH.domains,
        MONTH.busy,
        MONTH.failing,
        MONTH.forced
    );
    println!(
        "{:<44} {:>8} {:>9} {:>8} {:>9} {:>8} {:>8} {:>7} {:>6}",
        "", "new", "renewals", "asked", "refusals", "buckets", "waiting", "used", "took"
    );
    let mut is_reached = true;
    for (title, plan, allowed) in [
        ("as it is", MONTH, 0),
        ("the twin forgets all on day 15", Plan { wiped_at: Some(15 * 24), ..MONTH }, 2),
        ("somebody else has 2 a day of one domain", Plan { foreign_per_day: 2, ..MONTH }, 60),
    ] {
        let redis = Redis::start(RedisOptions { append_only: false, ..RedisOptions::default() }).await?;
        let report = live(&redis, &plan).await?;
        println!(
            "{title:<44} {:>8} {:>9} {:>8} {:>9} {:>8} {:>8} {:>6.1}% {:>5.0}s",
            report.new_orders,
            report.renewals,
            report.asked,
            report.refusals.len(),
            report.refusals_by_bucket().len(),
            report.waiting,
            report.share() * 100.0,
            report.took.as_secs_f64()
        );
        is_reached &= report.refusals.len() <= allowed && report.share() >= 0.95;
    }
    println!(
        "used: of what the limiter would have allowed to what waited; waiting: new sites without a certificate at the end"
    );
    Ok(if is_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
