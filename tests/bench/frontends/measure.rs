//! What the kernel says of processes and of the loopback device.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Bytes that went over the loopback device since the machine started.
pub(crate) fn loopback_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("no loopback device")?;
    Ok(line.split_whitespace().next().context("no counter")?.parse()?)
}

/// The most memory that a process has had, MiB.
pub(crate) fn peak_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "VmHWM:")
}

/// The memory that it has, MiB.
pub(crate) fn resident_mib(pid: u32) -> Result<f64> {
    status_mib(pid, "VmRSS:")
}

fn status_mib(pid: u32, field: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).context("no such line")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Waits for something, looking often; answers after how many seconds it was.
pub(crate) async fn seconds_until(limit: Duration, mut is_it: impl FnMut() -> Result<bool>) -> Result<f64> {
    let began = Instant::now();
    while !is_it()? {
        if began.elapsed() > limit {
            bail!("not within {limit:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(began.elapsed().as_secs_f64())
}
