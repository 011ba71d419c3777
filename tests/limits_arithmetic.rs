//! The arithmetic of the limits is the same in the product, in its script in Redis, and in the limiter of the tests, which was
//! written on its own: whatever is spent whenever, they allow the same, and name the same moment where they don't.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_limits::Bucket,
    redis::{Redis, RedisOptions},
};
use shared::{
    config::Config,
    domain::{Rate, Tried},
    store::{BucketUse, BucketWish, Claimant, LimitAnswer, LimitWish, Role, Settled, Store},
};
use std::{path::Path, time::Duration};

const SEQUENCES: u32 = 1_000_000;
const STEPS: u32 = 20;
/// 2027-01-01, microseconds.
const BEGINNING_US: i64 = 1_798_761_600_000_000;

/// The same numbers in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// A rate whose interval is a whole number of microseconds, from one to two weeks.
    fn rate(&mut self) -> (Rate, Bucket) {
        let interval_us = 1 << self.below(41);
        let interval_us = interval_us + self.below(interval_us);
        let (burst, count) = (1 + self.below(8) as u32, 1 + self.below(40) as u32);
        let period = Duration::from_micros(interval_us * u64::from(count));
        (Rate { burst, count, period_seconds: period.as_secs_f64() }, Bucket { burst, count, period })
    }

    /// Often nothing, a part of an interval or exactly one, sometimes longer than it takes to fill.
    fn pause_us(&mut self, rate: &Rate) -> i64 {
        let interval = rate.interval_us();
        match self.below(8) {
            0..=2 => 0,
            3 | 4 => self.below(interval as u64 + 1) as i64,
            5 => interval,
            6 => interval * self.below(u64::from(rate.burst) + 2) as i64 - 1,
            _ => rate.full_after_us() + self.below(interval as u64 + 1) as i64,
        }
        .max(0)
    }
}

/// What both say of one more at `now_us`; the new TAT in microseconds where it is allowed, or how long it is not.
fn of_limiter(bucket: Bucket, tat_us: i64, now_us: i64) -> Result<i64, i64> {
    let ns = |us: i64| us as u64 * 1000;
    let us = |ns: u64| (ns / 1000) as i64;
    bucket.spend(ns(tat_us), ns(now_us)).map(us).map_err(us)
}

#[test]
fn a_million_sequences_in_the_product_and_in_the_limiter() {
    let mut dice = Dice(7);
    let (mut allowed, mut denied) = (0_u64, 0_u64);
    for sequence in 0..SEQUENCES {
        let (rate, bucket) = dice.rate();
        let (mut tat, mut now) = (0, BEGINNING_US);
        for _ in 0..STEPS {
            now += dice.pause_us(&rate);
            match (rate.spend(tat, now, 1), of_limiter(bucket, tat, now)) {
                (Tried::Allowed { tat_us, .. }, Ok(expected)) if tat_us == expected => {
                    tat = tat_us;
                    allowed += 1;
                }
                (Tried::Denied { retry_in_us, .. }, Err(expected)) if retry_in_us == expected => denied += 1,
                (ours, theirs) => panic!("{sequence}: {rate:?} at {now}, {tat}: {ours:?}, {theirs:?}"),
            }
        }
    }
    assert!(allowed > 1_000_000 && denied > 1_000_000, "{allowed} allowed, {denied} denied");
}

#[tokio::test]
async fn thousands_of_sequences_in_the_script_and_in_the_limiter() -> Result<()> {
    let redis = Redis::start(RedisOptions { append_only: false, ..RedisOptions::default() }).await?;
    let text = format!("[store]\nurl = {:?}\n", redis.url());
    let config = Config::parse(&text, Path::new("signpost.toml"), &[])?;
    let store = Store::open(&config.store, Role::Issuer).await?;
    let mut dice = Dice(11);
    let (mut allowed, mut denied) = (0_u64, 0_u64);
    for sequence in 0..1000 {
        let (rate, bucket) = dice.rate();
        let wish =
            BucketWish { bucket: format!("b{sequence}"), rate, usage: BucketUse::Spend, cost: 1, left: 0 };
        let (mut tat, mut now) = (0, BEGINNING_US);
        for step in 0..STEPS {
            now += dice.pause_us(&rate);
            let order = format!("{sequence}/{step}");
            let asked = LimitWish {
                order: &order,
                claimant: Claimant::Operator,
                promised: false,
                buckets: std::slice::from_ref(&wish),
                asking: Duration::from_secs(60),
                open: Duration::from_secs(60),
                draw: 0.0,
            };
            let answer = store.ask_limits("x", &asked, Some(now)).await?;
            match (answer, of_limiter(bucket, tat, now)) {
                (LimitAnswer::Go(spending), Ok(expected)) => {
                    tat = expected;
                    allowed += 1;
                    // Answered at once, so nothing is uncertain.
                    let settled = [(wish.clone(), Settled::Answered)];
                    store.settle_limits("x", &order, Some(&spending), &settled, Some(now)).await?;
                }
                (LimitAnswer::Wait { wait, .. }, Err(expected)) => {
                    let waited = i64::try_from(wait.as_micros()).context("a wait")?;
                    ensure!(waited == expected, "{sequence}: {rate:?} at {now}, {tat}: {waited}, {expected}");
                    denied += 1;
                }
                (ours, theirs) => {
                    anyhow::bail!("{sequence}: {rate:?} at {now}, {tat}: {ours:?}, {theirs:?}");
                }
            }
        }
    }
    ensure!(allowed > 1000 && denied > 1000, "{allowed} allowed, {denied} denied");
    Ok(())
}
