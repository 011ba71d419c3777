//! HAProxy's runtime API: a command for each connection, and an answer in words, where `Success!` is the only sign of it.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Until an answer has to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// The socket of a running HAProxy.
#[derive(Clone, Copy)]
pub(super) struct Socket<'a>(pub(super) &'a Path);

/// Which process answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pub(super) pid: u64,
    /// Unix time, seconds; within a second or two.
    pub(super) started: i64,
}

impl Process {
    pub(super) const fn is(&self, other: &Self) -> bool {
        self.pid == other.pid && (self.started - other.started).abs() <= 2
    }
}

impl Socket<'_> {
    /// # Errors
    /// When nobody answers.
    pub(super) fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.0)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(command.as_bytes())?;
        stream.write_all(b"\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.trim().to_owned())
    }

    /// # Errors
    /// What HAProxy says in the place of `expected`, or why it could not be asked.
    pub(super) fn tell(&self, command: &str, expected: &str) -> Result<(), String> {
        match self.ask(command) {
            Ok(answer) if answer.contains(expected) => Ok(()),
            Ok(answer) => Err(answer.replace('\n', "; ")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// # Errors
    /// When nobody answers, or something that is no HAProxy.
    pub(super) fn process(&self) -> io::Result<Process> {
        let info = self.ask("show info")?;
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.and_then(|value| value.trim().parse::<u64>().ok())
        };
        match (field("Pid"), field("Uptime_sec")) {
            (Some(pid), Some(uptime)) => {
                let uptime = i64::try_from(uptime).unwrap_or(i64::MAX);
                Ok(Process { pid, started: jiff::Timestamp::now().as_second().saturating_sub(uptime) })
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not answer as HAProxy does")),
        }
    }
}
