//! Days at the edge of Let's Encrypt's limits under a moved clock, with the product's own twin: nothing is refused, and hardly
//! anything that would have been allowed is left. The whole month is `tests/bench/limits/run --month`.

use anyhow::{Result, ensure};
use harness::redis::{Redis, RedisOptions};

#[path = "bench/limits/month.rs"]
mod month;
use month::{Plan, Report, live};

const PLAN: Plan = Plan {
    days: 3,
    renewing: 2000,
    new: 3000,
    bursts: 3,
    domains: 300,
    busy: 100,
    private: 60,
    failing: 50,
    forced: 300,
    wiped_at: None,
    foreign_per_day: 0,
    seed: 0x51_67_6e,
};

async fn lived(plan: &Plan) -> Result<Report> {
    let redis = Redis::start(RedisOptions { append_only: false, ..RedisOptions::default() }).await?;
    let report = live(&redis, plan).await?;
    println!("{report:?}");
    Ok(report)
}

#[tokio::test]
async fn nothing_is_refused_and_nearly_all_is_used() -> Result<()> {
    let report = lived(&PLAN).await?;
    ensure!(report.refusals.is_empty(), "{:?}", report.refusals);
    ensure!(report.share() >= 0.95, "{} used, {} not", report.used, report.unused);
    // Each waits for its turn, and does not ask again and again.
    ensure!(report.asked < 4 * (report.new_orders + report.renewals), "{} asked", report.asked);
    Ok(())
}

#[tokio::test]
async fn a_twin_that_forgot_everything_is_refused_once_by_each_bucket() -> Result<()> {
    let report = lived(&Plan { wiped_at: Some(20), ..PLAN }).await?;
    let by_bucket = report.refusals_by_bucket();
    ensure!(!by_bucket.is_empty(), "it was wiped when nothing was used up: the story tells nothing");
    ensure!(by_bucket.values().all(|count| *count == 1), "{by_bucket:?}");
    Ok(())
}

#[tokio::test]
async fn a_foreign_client_costs_a_refusal_now_and_then() -> Result<()> {
    let report = lived(&Plan { foreign_per_day: 4, ..PLAN }).await?;
    let by_bucket = report.refusals_by_bucket();
    ensure!(by_bucket.keys().all(|bucket| *bucket == "domain/busy.com"), "{by_bucket:?}");
    // Never more than the foreign client has taken: each refusal corrects the twin.
    ensure!(report.refusals.len() <= 3 * 4, "{:?}", report.refusals);
    Ok(())
}
