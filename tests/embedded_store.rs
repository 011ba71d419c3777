//! The embedded store: its settings, its bounds, a copy of it, and a server that has to load its file first.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::CaProxy,
    deadline::until_true,
    pebble::{Pebble, PebbleOptions},
    signpost::Signpost,
};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(60);

async fn machine() -> Result<(Pebble, CaProxy, Signpost)> {
    let pebble = Pebble::start(PebbleOptions { always_valid: true, ..PebbleOptions::default() }).await?;
    let proxy = CaProxy::start(&pebble).await?;
    let mut signpost = Signpost::new()?;
    signpost.use_ca(&pebble, &proxy)?;
    Ok((pebble, proxy, signpost))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").args(["-a", "--"]).args([from, to]).status()?;
    ensure!(copied.success(), "cp {} {}", from.display(), to.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_private_bounded_and_copied_while_it_is_stopped() -> Result<()> {
    let (_pebble, proxy, mut signpost) = machine().await?;
    signpost.set("store.embedded_memory_mib", 48)?;
    signpost.issuer_json(&["issue", "before.example"]).await?;
    let store = signpost.state_dir().join("store");
    let mode = |name: &str| -> Result<u32> { Ok(store.join(name).metadata()?.permissions().mode() & 0o777) };
    for private in
        ["redis.conf", "users.acl", "issuer.password", "certificates.password", "challenge.password"]
    {
        ensure!(mode(private)? == 0o600, "{private}: {:o}", mode(private)?);
    }
    ensure!(store.join("redis.sock").exists() && store.join("appendonlydir").is_dir());
    let settings = std::fs::read_to_string(store.join("redis.conf"))?;
    for line in
        ["port 0", "appendonly yes", "appendfsync always", "maxmemory 48mb", "maxmemory-policy noeviction"]
    {
        ensure!(settings.lines().any(|found| found == line), "{line}: {settings}");
    }
    let health = signpost.issuer_json(&["store", "status"]).await?;
    ensure!(health["append_only"] == true && health["append_fsync"] == "always", "{health:#}");
    ensure!(health["warnings"] == serde_json::json!([]), "{health:#}");

    // A copy; and what comes after it is ordered again when somebody asks for it.
    signpost.issuer(&["store", "stop"]).await?.success()?;
    let (live, kept) = (store.join("appendonlydir"), signpost.directory().join("kept"));
    copy(&live, &kept)?;
    signpost.issuer_json(&["issue", "after.example"]).await?;
    signpost.issuer(&["store", "stop"]).await?.success()?;
    std::fs::remove_dir_all(&live)?;
    copy(&kept, &live)?;
    proxy.reset();
    let before = signpost.issuer_json(&["issue", "before.example"]).await?;
    ensure!(before["results"][0]["status"] == "valid" && before["requests"] == 0, "{before:#}");
    signpost.issuer(&["status", "after.example"]).await?.with_code(4)?;
    let after = signpost.issuer_json(&["issue", "after.example"]).await?;
    ensure!(after["results"][0]["status"] == "issued", "{after:#}");

    // Where the disk has less than this, nothing new is ordered.
    signpost.set("store.embedded_min_free_mib", 1_000_000_000)?;
    proxy.reset();
    let refused = signpost.issuer(&["issue", "full.example"]).await?.with_code(1)?;
    ensure!(refused.stderr.contains("MiB are free"), "{}", refused.stderr);
    ensure!(proxy.orders().is_empty(), "the CA was asked");
    Ok(())
}

/// A `redis-server` that takes its time over each record of its file.
fn slow_server(signpost: &Signpost) -> Result<PathBuf> {
    let found = std::env::var("PATH")?;
    let real =
        found.split(':').map(|folder| Path::new(folder).join("redis-server")).find(|path| path.is_file());
    let real = real.context("redis-server isn't there: apt-get install redis-server")?;
    let folder = signpost.directory().join("slow");
    std::fs::create_dir(&folder)?;
    let script = format!(
        "#!/bin/sh\nexec {} \"$@\" --key-load-delay 30000 --loading-process-events-interval-bytes 1024\n",
        real.display()
    );
    let path = folder.join("redis-server");
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_is_waited_for_and_it_is_said() -> Result<()> {
    let mut signpost = Signpost::new()?;
    for number in 0..40 {
        signpost.issuer(&["tenant", "set", &format!("t{number}")]).await?.success()?;
    }
    signpost.issuer(&["store", "stop"]).await?.success()?;
    let slow = slow_server(&signpost)?;
    signpost.set_environment("PATH", &format!("{}:{}", slow.display(), std::env::var("PATH")?));
    // One starts it, one finds it loading; and who is told to end ends.
    let waiting = |text: String| text.contains("waiting for the embedded redis-server");
    let first = signpost.start_run("issuer", &["tenant", "list"])?;
    until_true("it is said", SOON, async || first.stderr().is_ok_and(waiting)).await?;
    let second = signpost.start_run("issuer", &["tenant", "list"])?;
    let third = signpost.start_run("issuer", &["tenant", "list"])?;
    until_true("it is said", SOON, async || third.stderr().is_ok_and(waiting)).await?;
    third.process.signal(Signal::INT)?;
    ensure!(third.wait(SOON).await?.code()? == 130);
    for run in [first, second] {
        let run = run.wait(SOON).await?.success()?;
        ensure!(run.stdout.contains("t39"), "{}", run.stdout);
    }
    Ok(())
}
