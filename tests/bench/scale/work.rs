//! The real programs at work on the full store.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::{
    process::Process,
    signpost::{Signpost, Started},
};
use redis::aio::MultiplexedConnection;
use shared::domain::{Class, Partition};

use crate::{
    fleet::{Fleet, id, name},
    row::Row,
};

const LIMIT: Duration = Duration::from_secs(900);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A look costs as much of Redis as some claims.
const COUNT_EVERY: Duration = Duration::from_millis(150);
/// What is looked at within the hour was not given back to its renewal, weeks ahead.
const SOON_MS: i64 = 3_600_000;
const REPETITIONS: usize = 5;
const IDLE: Duration = Duration::from_secs(5);

/// Start, memory and claim rate of `issuer run`.
pub(crate) async fn daemon(fleet: &Fleet, row: &mut Row, sites: usize, due: usize) -> Result<()> {
    let mut connection = fleet.redis.connection().await?;
    // What is due at the start is given back once everything is open: account, keys, brakes.
    make_due(&mut connection, &[0]).await?;
    let began = Instant::now();
    let mut daemon = fleet.signpost.start_run("issuer", &["run"])?;
    until_settled(&mut connection, &daemon).await?;
    row.start_seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(IDLE).await;
    row.idle_mib = mib(&daemon.process, "VmRSS")?;

    let step = (sites / due).max(1);
    let numbers: Vec<usize> = (0..due).map(|number| number * step).collect();
    let issuer_cpu = daemon.process.cpu_time()?;
    let redis_cpu = fleet.redis.process()?.cpu_time()?;
    make_due(&mut connection, &numbers).await?;
    let began = Instant::now();
    row.busy_mib = until_settled(&mut connection, &daemon).await?;
    let seconds = began.elapsed().as_secs_f64();
    row.claims_per_second = due as f64 / seconds;
    let share = |cpu: Duration| cpu.as_secs_f64() * 1e6 / due as f64;
    row.issuer_cpu_us = share(daemon.process.cpu_time()? - issuer_cpu);
    row.redis_cpu_us = share(fleet.redis.process()?.cpu_time()? - redis_cpu);
    for number in numbers.iter().step_by(due / 100) {
        let id = id(*number)?;
        let key = format!("sp:{{{}}}:site:{id}", id.partition());
        let held: Option<String> =
            redis::cmd("HGET").arg(&key).arg("lease_owner").query_async(&mut connection).await?;
        ensure!(held.is_none(), "{key} was not given back");
    }
    daemon.process.terminate(Duration::from_secs(20)).await?;
    Ok(())
}

/// What an operator waits for.
pub(crate) async fn commands(fleet: &Fleet, row: &mut Row, sites: usize) -> Result<()> {
    let one = name(sites / 3);
    row.status_ms = median_ms(&fleet.signpost, &["status"]).await?;
    row.show_ms = median_ms(&fleet.signpost, &["site", "show", &one]).await?;
    row.events_ms = median_ms(&fleet.signpost, &["events"]).await?;
    Ok(())
}

/// `plan` and `apply` of a file that says what is there already.
pub(crate) async fn file(fleet: &Fleet, row: &mut Row, sites: usize) -> Result<()> {
    let mut text = String::with_capacity(sites * 64);
    for number in 0..sites {
        text.push_str(&format!("{{\"names\":[\"{}\"]}}\n", name(number)));
    }
    let path = fleet.signpost.write("sites.ndjson", text)?;
    let path = path.to_str().context("a temporary path is text")?;
    for verb in ["plan", "apply"] {
        let mut started = fleet.signpost.start_run("issuer", &["--json", verb, path])?;
        let began = Instant::now();
        let mut most = 0.0_f64;
        while started.process.is_running() {
            // Its peak, for as long as it can be asked.
            most = most.max(mib(&started.process, "VmHWM").unwrap_or(0.0));
            tokio::time::sleep(LOOK_EVERY).await;
            ensure!(began.elapsed() < LIMIT, "{verb} takes too long");
        }
        let seconds = began.elapsed().as_secs_f64();
        started.process.wait(LIMIT).await?;
        let document: serde_json::Value =
            serde_json::from_str(&started.stdout()?).with_context(|| started.stderr().unwrap_or_default())?;
        ensure!(document["unchanged"] == sites, "{verb}: {document}");
        if verb == "plan" {
            (row.plan_seconds, row.plan_mib) = (seconds, most);
        } else {
            (row.apply_seconds, row.apply_mib) = (seconds, most);
        }
    }
    Ok(())
}

async fn make_due(connection: &mut MultiplexedConnection, numbers: &[usize]) -> Result<()> {
    let now = jiff::Timestamp::now().as_millisecond();
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for number in numbers {
        let id = id(*number)?;
        pipeline.cmd("ZADD").arg(format!("sp:{{{}}}:due", id.partition())).arg(now).arg(id.as_str());
    }
    Ok(pipeline.query_async(connection).await?)
}

/// Nothing is ready, nothing is due within the hour: leases neither. Answers the most memory that was seen, MiB.
async fn until_settled(connection: &mut MultiplexedConnection, daemon: &Started) -> Result<f64> {
    let began = Instant::now();
    let mut most = 0.0_f64;
    loop {
        let soon = jiff::Timestamp::now().as_millisecond() + SOON_MS;
        let mut counts = redis::pipe();
        for partition in Partition::all() {
            counts.cmd("ZCOUNT").arg(format!("sp:{{{partition}}}:due")).arg("-inf").arg(soon);
            for class in Class::ALL {
                counts.cmd("ZCARD").arg(format!("sp:{{{partition}}}:ready:{}", class.letter()));
            }
        }
        let counts: Vec<u64> = counts.query_async(connection).await?;
        most = most.max(mib(&daemon.process, "VmRSS")?);
        if counts.iter().sum::<u64>() == 0 {
            return Ok(most);
        }
        ensure!(began.elapsed() < LIMIT, "not settled after {LIMIT:?}\n{}", daemon.stderr()?);
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

async fn median_ms(signpost: &Signpost, arguments: &[&str]) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..REPETITIONS {
        times.push(signpost.issuer(arguments).await?.success()?.elapsed);
    }
    times.sort_unstable();
    Ok(times[REPETITIONS / 2].as_secs_f64() * 1e3)
}

/// A line of `/proc/PID/status`, MiB.
fn mib(process: &Process, line: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let kib: f64 =
        value.and_then(|value| value.trim().strip_suffix(" kB")).context("no such line")?.parse()?;
    Ok(kib / 1024.0)
}
