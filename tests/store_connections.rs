//! Connections to the store: followed, renewed, given back; from far away; and the waits that end when they are told to.

use std::{
    fs::Permissions,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::{until, until_true},
    ports::free_address,
    redis::{Address, Redis, RedisOptions},
    redis_proxy::{Mode, RedisProxy},
    sentinel::{SERVICE, SentinelStore, in_step},
    signpost::{Signpost, program_path},
    stage::{Stage, StageOptions},
};
use rustix::process::{Pid, Signal, kill_process};
use shared::{
    config::Config,
    domain::{Brake, BrakeScope, Braked},
    store::{Role, Store},
};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(60);
/// What a wait that was ended takes at most. The wait itself would be minutes.
const AT_ONCE: Duration = Duration::from_secs(20);
/// One after the other they would be as many round trips.
const PARTITIONS: u64 = 64;
const MOST_OF_AN_ISSUANCE: u64 = 100;
/// Each way: a round trip of 200 ms.
const FAR: Mode = Mode::Delay(Duration::from_millis(100));

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_follows_the_primary_is_followed() -> Result<()> {
    let stage = Stage::trusting().await?;
    let Address::Tcp(primary) = *stage.redis.address() else { anyhow::bail!("the primary listens on TCP") };
    let second = Redis::start(RedisOptions { replica_of: Some(primary), ..RedisOptions::default() }).await?;
    in_step(&stage.redis, 1).await?;
    let _daemon = stage.signpost.start_issuer().await?;
    stage.json(&["site", "add", "before.example"]).await?;
    stage.until_valid("before.example").await?;
    in_step(&stage.redis, 1).await?;

    // The old one stays, as a replica, and so do the connections to it.
    let Address::Tcp(successor) = *second.address() else { anyhow::bail!("it listens on TCP") };
    second.command(&["REPLICAOF", "NO", "ONE"]).await?;
    let port = successor.port().to_string();
    stage.redis.command(&["REPLICAOF", "127.0.0.1", &port]).await?;
    stage.redis_proxy.lead_to(second.address());
    until_true("ready", LIMIT, async || {
        stage.signpost.readiness().await.is_some_and(|(status, _)| status == 200)
    })
    .await?;
    stage.json(&["site", "add", "after.example"]).await?;
    stage.until_valid("after.example").await?;
    ensure!(second.text_of("sp:name:after.example").await?.len() == 20, "the new primary has the name");
    Ok(())
}

/// What a proxy in between closes while nobody asks is dialled anew by whoever asks next.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_idle_and_was_closed_costs_nobody_an_error() -> Result<()> {
    let stage = Stage::trusting().await?;
    let config = Config::load(Some(stage.signpost.config_path()))?;
    let store = Store::open(&config.store, Role::Issuer).await?;
    for _ in 0..5 {
        store.set_brake(&brake()).await.context("a confirmed write")?;
        ensure!(store.load_brakes().await.context("a question")?.len() == 1);
        stage.redis_proxy.cut();
    }
    Ok(())
}

fn brake() -> Brake {
    let since = jiff::Timestamp::UNIX_EPOCH;
    Brake { what: Braked::Issuance, scope: BrakeScope::Ca("nobody".into()), since, reason: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_shares_what_room_there_is_and_gives_it_back() -> Result<()> {
    let stage = Stage::trusting().await?;
    let config = Config::load(Some(stage.signpost.config_path()))?;
    let store = Store::open(&config.store, Role::Issuer).await?;
    // Of the test's own, before there is no more room.
    let admin = stage.redis.connection().await?;
    let clients = async || -> Result<usize> {
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut admin.clone()).await?;
        Ok(list.lines().count())
    };
    let room_for = async |most: usize| -> Result<()> {
        let mut set = redis::cmd("CONFIG");
        Ok(set.arg("SET").arg("maxclients").arg(most).query_async(&mut admin.clone()).await?)
    };
    room_for(clients().await? + 3).await?;
    let writes = async |number: usize| -> Result<()> {
        let mut writes = JoinSet::new();
        for _ in 0..number {
            let store = store.clone();
            writes.spawn(async move { store.set_brake(&brake()).await });
        }
        while let Some(written) = writes.join_next().await {
            written?.context("each of them has its turn")?;
        }
        Ok(())
    };
    writes(40).await?;
    room_for(1000).await?;
    writes(40).await?;
    let at_most = clients().await?;
    // One for questions, 64 for confirmed writes, and the test's own.
    writes(300).await?;
    ensure!(clients().await? <= 66, "{} connections", clients().await?);
    let watched = tokio::spawn({
        let store = store.clone();
        async move { store.watch().await }
    });
    until_true("idle connections are closed", LIMIT, async || {
        clients().await.is_ok_and(|now| now < at_most.min(6))
    })
    .await?;
    watched.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_far_away_is_a_store() -> Result<()> {
    let stage = Stage::trusting().await?;
    let names: Vec<String> = (0..12).map(|number| format!("s{number}.example")).collect();
    stage.issue(&names.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    // Round trips are counted: they need not take as long as those that are meant.
    stage.redis_proxy.set_mode(Mode::Delay(Duration::from_millis(40)));
    let trips = |before: u64| stage.redis_proxy.round_trips() - before;
    // Whatever asks about the 64 partitions asks all of them at once.
    for line in [&["status"][..], &["forecast"]] {
        let before = trips(0);
        let shown = stage.json(line).await.with_context(|| format!("{line:?}"))?;
        ensure!(trips(before) < PARTITIONS, "{line:?}: {} round trips", trips(before));
        ensure!(line != ["status"] || shown["sites"].as_array().is_some_and(|sites| sites.len() == 12));
    }
    let before = trips(0);
    stage.issue(&["far.example"]).await?;
    ensure!(trips(before) < MOST_OF_AN_ISSUANCE, "{} round trips for a certificate", trips(before));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_are_far_away_are_heard_and_unequal_priorities_are_allowed_for() -> Result<()> {
    let store = SentinelStore::start().await?;
    let mut far = Vec::new();
    for address in store.sentinels() {
        let proxy = RedisProxy::start(&Address::Tcp(address)).await?;
        proxy.set_mode(FAR);
        far.push(proxy);
    }
    let addresses: Vec<String> = far.iter().map(|proxy| proxy.address().to_string()).collect();
    let url = format!("redis+sentinel://{}/{SERVICE}", addresses.join(","));
    let options = StageOptions { store_url: Some(url), ..StageOptions::default() };
    let mut stage = Stage::trusting_with(options).await?;
    stage.signpost.set("store.confirm_replicas", 1)?;
    stage.issue(&["far.example"]).await?;
    let health = stage.json(&["store", "status"]).await?;
    ensure!(!health["warnings"].to_string().contains("replica-priority"), "{health:#}");
    drop(far);
    stage.signpost.use_store(&store.url())?;

    // The Sentinels would promote this one, whatever it has.
    let primary = store.primary().await?;
    let preferred = &store.redis[(primary + 1) % store.redis.len()];
    preferred.command(&["CONFIG", "SET", "replica-priority", "10"]).await?;
    // Each of them asks in its own time, and any may be the one that is heard.
    for address in store.sentinels() {
        stage.signpost.use_store(&format!("redis+sentinel://{address}/{SERVICE}"))?;
        let warned = until("a Sentinel knows it", LIMIT, async || {
            let health = stage.json(&["store", "status"]).await.ok()?;
            let warnings = health["warnings"].to_string();
            warnings.contains("replica-priority").then_some(warnings)
        })
        .await?;
        ensure!(warned.contains("2 replicas must confirm"), "{warned}");
    }
    stage.signpost.use_store(&store.url())?;
    preferred.pause()?;
    let refused = stage.issue_ending(1, &["alone.example"]).await;
    preferred.resume()?;
    let refused = refused?;
    let what = refused["results"][0]["failure"]["what"].as_str().context("words")?;
    ensure!(what.contains("1 replicas of the 2"), "the other one alone confirmed it: {refused}");
    stage.issue(&["alone.example"]).await?;
    Ok(())
}

/// A `redis-server` that was stopped keeps everybody waiting, and nobody in the dark or against their will.
#[tokio::test(flavor = "multi_thread")]
async fn every_wait_for_an_embedded_store_is_said_and_ends_when_it_is_told_to() -> Result<()> {
    let signpost = Signpost::new()?;
    signpost.issuer(&["tenant", "set", "a"]).await?.success()?;
    let server = server(&signpost)?;
    kill_process(server, Signal::STOP)?;
    let ended = async {
        for signal in [Signal::INT, Signal::TERM] {
            let run = signpost.start_run("issuer", &["status"])?;
            until_true("it is said what is waited for", AT_ONCE, async || {
                run.stderr().is_ok_and(|text| text.contains("waiting for the embedded redis-server"))
            })
            .await?;
            run.process.signal(signal)?;
            let run = run.wait(AT_ONCE).await?;
            ensure!(run.code()? == 130, "{}", run.stderr);
        }
        for (program, line) in [
            ("issuer", &["run"][..]),
            ("validation-server", &["challenge"]),
            ("validation-server", &["certificates"]),
        ] {
            let run = signpost.start_run(program, line)?;
            until_true("it waits", AT_ONCE, async || {
                run.stderr().is_ok_and(|text| text.contains("waiting for"))
                    || run.stdout().is_ok_and(|text| text.contains("waiting for"))
            })
            .await
            .with_context(|| format!("{program} {line:?}"))?;
            run.process.signal(Signal::TERM)?;
            run.wait(AT_ONCE).await?.with_code(0)?;
        }
        // And whoever waits to the end is told the truth.
        let run = signpost.run("issuer", &["status"], LIMIT).await?.with_code(1)?;
        ensure!(run.stderr.contains("kill -CONT"), "{}", run.stderr);
        anyhow::Ok(())
    };
    let ended = ended.await;
    kill_process(server, Signal::CONT)?;
    ended?;
    signpost.issuer(&["status"]).await?.success()?;
    Ok(())
}

/// Nobody who listens, nobody who answers: each wait for a store by URL ends as well.
#[tokio::test(flavor = "multi_thread")]
async fn every_wait_for_a_silent_store_ends_when_it_is_told_to() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.redis_proxy.set_mode(Mode::BlackHole);
    let run = stage.signpost.start_run("issuer", &["status"])?;
    until_true("it is said what is waited for", AT_ONCE, async || {
        run.stderr().is_ok_and(|text| text.contains("waiting for it"))
    })
    .await?;
    run.process.signal(Signal::INT)?;
    ensure!(run.wait(AT_ONCE).await?.code()? == 130);
    let daemon = stage.start_daemon()?;
    until_true("it waits", AT_ONCE, async || {
        daemon.stderr().is_ok_and(|text| text.contains("waiting for it"))
    })
    .await?;
    daemon.process.signal(Signal::TERM)?;
    daemon.wait(AT_ONCE).await?.with_code(0)?;
    Ok(())
}

/// A command of root's leaves nothing that the store's own user can't use; another user is told whose it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_store_stays_its_owners() -> Result<()> {
    let mut signpost = Signpost::new()?;
    if !rustix::process::geteuid().is_root() {
        // Whose user may not become another one sees the other half alone: a directory of root's.
        signpost.set("store.state_dir", "/usr/share")?;
        let refused = signpost.issuer(&["status"]).await?.with_code(1)?;
        ensure!(refused.stderr.contains("belongs to the user root"), "{}", refused.stderr);
        return Ok(());
    }
    const NOBODY: u32 = 65534;
    const OTHER: u32 = 65533;
    let state = signpost.state_dir();
    std::fs::create_dir(&state)?;
    std::os::unix::fs::chown(&state, Some(NOBODY), Some(NOBODY))?;
    for path in [signpost.directory(), signpost.config_path()] {
        std::fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    // Found while somebody else's command is the first one.
    signpost.issuer(&["tenant", "set", "a"]).await?.success()?;
    let as_user = async |user: u32, line: &[&str]| -> Result<(i32, String)> {
        let mut command = Command::new(program_path("issuer")?);
        command.arg("--config").arg(signpost.config_path()).args(line).uid(user).gid(user);
        let output =
            tokio::time::timeout(AT_ONCE, tokio::task::spawn_blocking(move || command.output())).await??;
        let output = output?;
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, said) = as_user(NOBODY, &["tenant", "set", "b"]).await?;
    ensure!(code == 0, "{said}");
    let (code, said) = as_user(OTHER, &["status"]).await?;
    ensure!(code == 1 && said.contains("belongs to the user nobody"), "{code}: {said}");
    // What an older release left to root is given back by the next command of root's.
    signpost.issuer(&["store", "stop"]).await?.success()?;
    for entry in std::fs::read_dir(state.join("store"))? {
        std::os::unix::fs::chown(entry?.path(), Some(0), Some(0))?;
    }
    std::os::unix::fs::chown(state.join("store"), Some(0), Some(0))?;
    let (code, said) = as_user(NOBODY, &["status"]).await?;
    ensure!(code == 1 && said.contains("belongs to the user root"), "{code}: {said}");
    signpost.issuer(&["status"]).await?.success()?;
    let (code, said) = as_user(NOBODY, &["status"]).await?;
    ensure!(code == 0, "{said}");
    Ok(())
}

/// Programs that run while their state directory is removed do not begin it anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_removed_is_not_begun_anew_by_who_used_it() -> Result<()> {
    let mut signpost = Signpost::new()?;
    signpost.set("issuer.listen", free_address()?.to_string())?;
    let daemon = signpost.start_issuer().await?;
    let server = server(&signpost)?;
    // At once: the daemon starts a server again as soon as it has ended.
    std::fs::rename(signpost.state_dir(), signpost.directory().join("removed"))?;
    kill_process(server, Signal::KILL)?;
    until_true("it is not ready", LIMIT, async || {
        signpost.readiness().await.is_some_and(|(status, _)| status == 503)
    })
    .await?;
    ensure!(!signpost.state_dir().exists(), "a store was begun");
    daemon.process.assert_running()
}

/// The `redis-server` of an installation.
fn server(signpost: &Signpost) -> Result<Pid> {
    let state_dir = signpost.state_dir();
    let state_dir = state_dir.to_str().context("a path of text")?;
    let found = std::fs::read_dir("/proc")?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        (line.contains("redis-server") && line.contains(state_dir)).then(|| Pid::from_raw(pid))?
    });
    found.context("a redis-server runs")
}
