//! `wrk` as the load generator, and processors for everybody.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

/// One measurement to be made.
pub(crate) struct Load {
    pub(crate) url: String,
    /// A connection for each request, as the CA does it.
    pub(crate) close: bool,
    pub(crate) seconds: u32,
    pub(crate) connections: u32,
    pub(crate) cpu: usize,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) answers: u64,
    pub(crate) elapsed: Duration,
    /// What the server used of its processor.
    pub(crate) cpu: Duration,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn per_cpu_second(&self) -> f64 {
        self.answers as f64 / self.cpu.as_secs_f64()
    }
}

impl Load {
    /// How many answers came, and how many of them had a status other than 2xx or 3xx.
    pub(crate) fn run(&self) -> Result<(u64, u64)> {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.cpu.to_string(), "wrk", "-t1"]);
        command.arg(format!("-c{}", self.connections)).arg(format!("-d{}s", self.seconds));
        if self.close {
            command.args(["-H", "Connection: close"]);
        }
        let output =
            command.arg(&self.url).output().context("taskset isn't there: apt-get install util-linux")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "wrk failed (apt-get install wrk): {text}{complaint}");
        let errors = text.lines().find(|line| line.contains("Socket errors"));
        ensure!(errors.is_none_or(only_reads), "{}", errors.unwrap_or_default());
        let before = |word: &str| -> Option<u64> {
            text.lines().find_map(|line| line.trim().split_once(word)?.0.trim().parse().ok())
        };
        let answers = before(" requests in").with_context(|| format!("wrk said: {text}"))?;
        let other = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Non-2xx or 3xx responses:")?.trim().parse().ok());
        Ok((answers, other.unwrap_or(0)))
    }
}

/// wrk counts the server's close after `Connection: close` among the read errors.
fn only_reads(line: &str) -> bool {
    ["connect 0,", "write 0,", "timeout 0"].iter().all(|part| line.contains(part))
}

/// Lets a process, with all its threads, run on one processor only.
pub(crate) fn pin(pid: u32, cpu: usize) -> Result<()> {
    let output = Command::new("taskset")
        .args(["-a", "-c", "-p", &cpu.to_string(), &pid.to_string()])
        .output()
        .context("taskset isn't there: apt-get install util-linux")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
