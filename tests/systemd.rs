//! What systemd is told, and the units that ship.

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, signpost::program_path, stage::Stage};

const LIMIT: Duration = Duration::from_secs(20);
/// As `WatchdogSec=` would be.
const WATCHDOG: Duration = Duration::from_millis(900);

/// The socket that systemd would listen on.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Self(socket))
    }

    /// The lines of the next message that has this one.
    fn told(&self, line: &str) -> Result<Vec<String>> {
        let began = Instant::now();
        let mut bytes = [0; 4096];
        loop {
            let length = self.0.recv(&mut bytes).with_context(|| format!("{line} is never said"))?;
            let text = String::from_utf8_lossy(&bytes[..length]);
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.iter().any(|own| own == line) {
                return Ok(lines);
            }
            ensure!(began.elapsed() < LIMIT, "{line} is never said");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_that_the_daemon_is_ready_lives_and_ends() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let path = stage.signpost.directory().join("notify");
    let manager = Manager::listen(&path)?;
    stage.signpost.set_environment("NOTIFY_SOCKET", &path.display().to_string());
    stage.signpost.set_environment("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string());
    let mut daemon = stage.start_daemon()?;
    manager.told("READY=1")?;
    for _ in 0..4 {
        let lines = manager.told("WATCHDOG=1")?;
        ensure!(lines.iter().any(|line| line == "STATUS=working"), "{lines:?}");
    }

    // Frozen, it says nothing: systemd would start it again.
    daemon.process.pause()?;
    manager.0.set_nonblocking(true)?;
    until_true("what was said before is read", LIMIT, || async { manager.0.recv(&mut [0; 4096]).is_err() })
        .await?;
    let frozen = Instant::now();
    until_true("a watchdog's time is over", LIMIT, || async { frozen.elapsed() > WATCHDOG }).await?;
    ensure!(manager.0.recv(&mut [0; 4096]).is_err(), "it says that it lives");
    daemon.process.resume()?;
    manager.0.set_nonblocking(false)?;
    manager.told("WATCHDOG=1")?;

    let exit = daemon.process.terminate(LIMIT).await?;
    ensure!(exit.code() == Some(0), "{exit:?}");
    let lines = manager.told("STOPPING=1")?;
    ensure!(lines.iter().any(|line| line.starts_with("STATUS=finishing")), "{lines:?}");
    Ok(())
}

#[test]
fn the_units_are_what_systemd_understands() -> Result<()> {
    let programs = program_path("issuer")?;
    let programs = programs.parent().context("a folder of programs")?;
    let place = tempfile::tempdir()?;
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let mut units = Vec::new();
    for entry in std::fs::read_dir(shipped)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        // What it starts must be there.
        let text = text.replace("/usr/local/bin", &programs.display().to_string());
        let unit = place.path().join(path.file_name().context("a name")?);
        std::fs::write(&unit, text)?;
        units.push(unit);
    }
    ensure!(units.len() >= 4, "{units:?}");
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output();
    let verified = verified.context("systemd-analyze isn't there: apt-get install systemd")?;
    let said = String::from_utf8_lossy(&verified.stderr);
    // It also looks at units of the machine.
    let of_ours: Vec<&str> = said.lines().filter(|line| line.contains("signpost")).collect();
    ensure!(verified.status.success() && of_ours.is_empty(), "{said}");
    Ok(())
}
