//! One command line: started, waited for, and what it left.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::process::{Exit, Process};

/// What a finished command line left behind.
#[derive(Debug)]
pub struct Run {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

/// A program that has been started and not been waited for.
pub struct Started {
    pub process: Process,
    pub(super) stdout: PathBuf,
    pub(super) stderr: PathBuf,
    pub(super) since: Instant,
}

impl Started {
    /// Waits for its end.
    pub async fn wait(mut self, limit: Duration) -> Result<Run> {
        let exit = self.process.wait(limit).await?;
        self.finish(exit)
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.stdout)?)
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.stderr)?)
    }

    pub(super) fn finish(&mut self, exit: Exit) -> Result<Run> {
        let stderr = std::fs::read_to_string(&self.stderr)?;
        Ok(Run { exit, stdout: self.stdout()?, stderr, elapsed: self.since.elapsed() })
    }
}

impl Run {
    /// The exit code; an error when a signal ended it.
    pub fn code(&self) -> Result<i32> {
        self.exit.code().with_context(|| format!("ended by a signal\n{}", self.stderr))
    }

    /// Passes a run with exit code 0 on; anything else is an error with both outputs.
    pub fn success(self) -> Result<Self> {
        self.with_code(0)
    }

    /// Passes a run with this exit code on; anything else is an error with both outputs.
    pub fn with_code(self, wanted: i32) -> Result<Self> {
        let code = self.code()?;
        ensure!(
            code == wanted,
            "exit code {code}, not {wanted}\nstdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// The one JSON document on standard output.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not one JSON document: {}", self.stdout))
    }

    /// NDJSON: a document on each line of standard output.
    pub fn json_lines(&self) -> Result<Vec<Value>> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }
}

/// Where cargo put one of our programs: beside the test executable, or one of the folders above it.
pub fn program_path(program: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let Some(found) = test.ancestors().skip(1).map(|folder| folder.join(program)).find(|path| path.is_file())
    else {
        bail!("{program} hasn't been built: cargo build --profile tests -p {program}");
    };
    warn_if_stale(&found);
    Ok(found)
}

/// Cargo builds the programs of other packages only when told to: says so when a source is newer than the program.
fn warn_if_stale(program: &Path) {
    let Ok(built) = modified(program) else { return };
    let Ok(dependencies) = std::fs::read_to_string(program.with_extension("d")) else { return };
    let sources = dependencies.split_once(": ").map_or("", |(_, sources)| sources);
    if let Some(newer) =
        sources.split_whitespace().find(|source| modified(Path::new(source)).is_ok_and(|time| time > built))
    {
        eprintln!("WARNING: {} is older than {newer}: build it again", program.display());
    }
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    std::fs::metadata(path)?.modified()
}
