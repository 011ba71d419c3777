//! `deploy/quickstart` as a newcomer runs it: twice in a row, the second time where only root can enter and with a newer Pebble's
//! programs; with `--keep`; and that it leaves nothing behind.

use std::{
    collections::BTreeSet,
    fs::Permissions,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, mock_dns::NEWER};

#[tokio::test]
async fn two_runs_in_a_row_end_with_https_on_both_frontends_and_leave_nothing() -> Result<()> {
    for run in 1..=2 {
        let place = tempfile::tempdir()?;
        let bin = tempfile::tempdir()?;
        let mut command = command(place.path(), &[]);
        if run == 2 {
            std::fs::set_permissions(place.path(), Permissions::from_mode(0o700))?;
            std::os::unix::fs::symlink(NEWER, bin.path().join("pebble-challtestsrv"))?;
            command.env("PATH", path_with(bin.path())?);
        }
        let output = command.output().context("deploy/quickstart")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let shown = format!("run {run}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {shown}", output.status);
        for step in ["ecdsa ordered", "rsa ordered", "self-check", "published", "frontend-agent sync"] {
            ensure!(text.contains(step), "the timeline lacks {step}: {shown}");
        }
        for (frontend, kind) in
            [("edge-1", "ecdsa"), ("edge-1", "rsa"), ("edge-2", "ecdsa"), ("edge-2", "rsa")]
        {
            let (_, after) =
                text.split_once(&format!("{frontend}, {kind}: curl ")).with_context(|| shown.clone())?;
            let seen = after.split("curl ").next().unwrap_or_default();
            for line in
                ["issuer: CN=Pebble", "SSL certificate verify ok.", "HTTP/1.1 200", "shop.example.com"]
            {
                ensure!(seen.contains(line), "{frontend} {kind} lacks {line}: {shown}");
            }
        }
        nothing_is_left(place.path()).await.with_context(|| shown)?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_kept_runs_on_until_it_is_stopped() -> Result<()> {
    let place = tempfile::tempdir()?;
    let output = quickstart(place.path(), &["--keep"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let (_, next) = text.rsplit_once("Try:").with_context(|| text.clone())?;
    let commands: Vec<&str> = next
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with('/') || line.starts_with("curl "))
        .collect();
    ensure!(commands.len() >= 6, "commands to type: {text}");
    let _stopped = StopAtTheEnd(commands.last().map(ToString::to_string).unwrap_or_default());
    for command in commands {
        // nginx takes a reload up in its own time.
        let limit = Duration::from_secs(if command.starts_with("curl ") { 10 } else { 0 });
        let typed = until_true(command, limit, || async { type_in(command).is_ok() });
        typed.await.with_context(|| format!("{:?}", type_in(command)))?;
    }
    nothing_is_left(place.path()).await
}

/// What it says to type next, typed.
fn type_in(line: &str) -> Result<()> {
    let typed = Command::new("bash").args(["-c", line]).stdin(Stdio::null()).output()?;
    let (out, err) = (String::from_utf8_lossy(&typed.stdout), String::from_utf8_lossy(&typed.stderr));
    ensure!(typed.status.success(), "{line}: {}\n{out}\n{err}", typed.status);
    Ok(())
}

/// Also when the test fails.
struct StopAtTheEnd(String);

impl Drop for StopAtTheEnd {
    fn drop(&mut self) {
        // It has been stopped already when all went well, and says so.
        let _ = type_in(&self.0);
    }
}

#[tokio::test]
async fn a_part_that_fails_ends_it_with_the_reason_and_leaves_nothing() -> Result<()> {
    for (program, said) in [("pebble", "the CA has ended"), ("nginx", "nginx of edge-1 has ended")] {
        let place = tempfile::tempdir()?;
        // One that ends at once stands before the real one.
        let broken = tempfile::tempdir()?;
        let script = broken.path().join(program);
        std::fs::write(&script, "#!/bin/sh\necho 'out of order' >&2\nexit 1\n")?;
        std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        let output = command(place.path(), &[]).env("PATH", path_with(broken.path())?).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{}: {error}", output.status);
        ensure!(error.contains(said) && error.contains("out of order"), "{error}");
        nothing_is_left(place.path()).await?;
    }
    Ok(())
}

/// The `PATH` with a directory before all others.
fn path_with(first: &Path) -> Result<String> {
    Ok(format!("{}:{}", first.display(), std::env::var("PATH")?))
}

/// Whatever it is at: a directory that was just made, a program that was just started, a command that is being expanded.
#[tokio::test]
async fn told_to_end_it_ends_with_130_and_leaves_nothing() -> Result<()> {
    let moments =
        ["", "log", "places", "log/dns.log", "log/ca.log", "state", "log/issuer.log", "edge-1", "site.json"];
    for moment in moments {
        let place = tempfile::tempdir()?;
        std::fs::set_permissions(place.path(), Permissions::from_mode(0o711))?;
        let mut child = command(place.path(), &["--no-build"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("deploy/quickstart")?;
        let is_there = || {
            let made = std::fs::read_dir(place.path()).into_iter().flatten().flatten().next();
            made.is_some_and(|made| made.path().join(moment).exists())
        };
        until_true(moment, Duration::from_secs(120), || std::future::ready(is_there())).await?;
        let group = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(group, rustix::process::Signal::INT)?;
        let status = child.wait()?;
        ensure!(status.code() == Some(130), "{moment}: {status}");
        nothing_is_left(place.path()).await.context(moment)?;
    }
    Ok(())
}

#[test]
fn it_says_how_it_is_used_and_what_it_can_not_stop() -> Result<()> {
    let place = tempfile::tempdir()?;
    ensure!(quickstart(place.path(), &["--help"])?.status.success(), "--help");
    ensure!(quickstart(place.path(), &["--nonsense"])?.status.code() == Some(2), "an unknown option");
    let elsewhere = place.path().join("precious");
    std::fs::create_dir(&elsewhere)?;
    let output = quickstart(place.path(), &["--stop", &elsewhere.display().to_string()])?;
    ensure!(output.status.code() == Some(1) && elsewhere.exists(), "it stops only what it started");
    Ok(())
}

fn quickstart(place: &Path, arguments: &[&str]) -> Result<Output> {
    command(place, arguments).output().context("deploy/quickstart")
}

/// With a directory for its temporary files that is looked at afterwards, and the programs as they were built for the
/// tests: cargo finds them up to date.
fn command(place: &Path, arguments: &[&str]) -> Command {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is below the root");
    let mut command = Command::new(tree.join("deploy/quickstart"));
    // Cargo's directory for a profile has its name: PROFILE/deps/stories-HASH.
    let program = std::env::current_exe().expect("a test is a program");
    let profile =
        program.ancestors().nth(2).and_then(Path::file_name).expect("it is below the target directory");
    command.arg("--profile").arg(profile).args(arguments).env("TMPDIR", place).stdin(Stdio::null());
    // A variable of the developer's mustn't reach the programs.
    command.env("SIGNPOST_ISSUER__SLOTS", "0");
    command
}

/// No file below `place`, and no process that was told of it.
async fn nothing_is_left(place: &Path) -> Result<()> {
    let left: Vec<PathBuf> =
        std::fs::read_dir(place)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    let gone = until_true("its processes to be gone", Duration::from_secs(10), || async {
        processes_of(place).is_empty()
    });
    gone.await.with_context(|| format!("{:?}", processes_of(place)))
}

/// Command lines, and programs with a working directory, that name `place`: the store's server shows its socket.
fn processes_of(place: &Path) -> BTreeSet<String> {
    let place = place.display().to_string();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let directory = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if line.contains(&place) || directory.display().to_string().contains(&place) {
            found.insert(format!("{} {line}", entry.file_name().display()));
        }
    }
    found
}
