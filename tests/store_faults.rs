//! A store that is silent, gone, wrongly set up or sealed with another key; and the embedded one, which programs start by
//! themselves.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, CaProxy, Endpoint, Rule},
    deadline::until_true,
    pebble::{Pebble, PebbleOptions},
    ports::free_address,
    redis::RedisOptions,
    redis_proxy::Mode,
    signpost::{Signpost, Started},
    stage::{Stage, StageOptions},
};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(60);
/// A store that says nothing must be noticed within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_noticed_and_an_order_goes_on_when_it_ends() -> Result<()> {
    let stage = Stage::trusting().await?;
    let run = caught_in_the_middle(&stage, "hole.example").await?;
    stage.redis_proxy.set_mode(Mode::BlackHole);
    noticed(&run).await?;
    stage.redis_proxy.set_mode(Mode::Pass);
    stage.redis_proxy.cut();
    recovered(&stage, run, "hole.example").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_noticed_and_an_order_goes_on_when_it_thaws() -> Result<()> {
    let stage = Stage::trusting().await?;
    let run = caught_in_the_middle(&stage, "frozen.example").await?;
    stage.redis.pause()?;
    let found = noticed(&run).await;
    stage.redis.resume()?;
    found?;
    recovered(&stage, run, "frozen.example").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_and_started_again_loses_no_order() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let run = caught_in_the_middle(&stage, "killed.example").await?;
    stage.redis.kill9().await?;
    noticed(&run).await?;
    stage.redis.start_again().await?;
    recovered(&stage, run, "killed.example").await
}

/// Starts an order and returns while the CA takes its time over the challenge: the next thing to do is a write.
async fn caught_in_the_middle(stage: &Stage, name: &str) -> Result<Started> {
    stage.issue(&["warm.example"]).await?;
    let slow = Action::Delay(Duration::from_millis(700));
    stage.proxy.add_rule(Rule::on(Endpoint::Challenge).for_name(name).does(slow));
    let asked = || stage.proxy.requests().of(Endpoint::Challenge);
    let before = asked();
    let run = stage.signpost.start_run("issuer", &["--json", "issue", name])?;
    until_true("the challenge is answered", LIMIT, || async { asked() > before }).await?;
    Ok(run)
}

/// It says so on standard error, soon after the CA's answer.
async fn noticed(run: &Started) -> Result<()> {
    let limit = NOTICED_WITHIN + Duration::from_millis(700);
    until_true("a word about the store", limit, || async {
        run.stderr().is_ok_and(|text| text.contains("the store"))
    })
    .await?;
    run.process.assert_running()
}

async fn recovered(stage: &Stage, run: Started, name: &str) -> Result<()> {
    let result = run.wait(LIMIT).await?.success()?.json()?;
    ensure!(result["results"][0]["status"] == "issued", "{result:#}");
    ensure!(stage.proxy.orders_for(&[name]).len() == 1, "the order was placed twice");
    ensure!(stage.proxy.issued_for(&[name]) == ["ecdsa-p256"]);
    let again = stage.issue(&[name]).await?;
    ensure!(again["results"][0]["status"] == "valid" && again["requests"] == 0, "{again:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_never_reads_as_not_found() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["shop.example"]).await?;
    stage.redis.stop().await?;
    for line in [&["status", "shop.example"][..], &["issue", "shop.example"], &["account", "show"]] {
        let started = Instant::now();
        let run = stage.signpost.issuer(line).await?.with_code(1)?;
        ensure!(run.stderr.contains("the store"), "{line:?}: {}", run.stderr);
        ensure!(
            !run.stderr.contains("not found") && !run.stderr.contains("nothing is known"),
            "{}",
            run.stderr
        );
        ensure!(started.elapsed() < Duration::from_secs(10), "{line:?} took {:?}", started.elapsed());
    }
    let unknown = stage.signpost.issuer(&["--json", "status", "shop.example"]).await?.with_code(1)?;
    ensure!(unknown.json()?["error"] == "store", "{}", unknown.stdout);
    // Nobody has ever listened there.
    let mut nowhere = stage.signpost.another_node()?;
    nowhere.use_store(&format!("redis://{}", free_address()?))?;
    nowhere.issuer(&["status", "shop.example"]).await?.with_code(1)?;

    stage.redis.start_again().await?;
    stage.signpost.issuer(&["status", "unheard-of.example"]).await?.with_code(4)?;
    stage.signpost.issuer(&["status", "shop.example"]).await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_may_throw_records_away_is_refused() -> Result<()> {
    let redis = RedisOptions { maxmemory_policy: "allkeys-lru", ..RedisOptions::default() };
    let stage = Stage::trusting_with(StageOptions { redis, ..StageOptions::default() }).await?;
    let run = stage.run_issue(&["shop.example"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("maxmemory-policy noeviction"), "the setting is named: {}", run.stderr);
    ensure!(stage.proxy.requests().total() == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_no_keyring_or_another_is_refused() -> Result<()> {
    let stage = Stage::trusting().await?;
    let result = stage.issue(&["shop.example"]).await?;
    let mut node = stage.signpost.another_node()?;
    let ring = node.directory().join("ring-of-its-own");
    let ring = ring.to_str().context("a path of text")?.to_owned();
    node.set("store.key_encryption_key_file", ring.as_str())?;
    stage.proxy.reset();

    let run = node.issuer(&["issue", "other.example"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("copy the file") && run.stderr.contains(&ring), "{}", run.stderr);
    ensure!(!Path::new(&ring).exists(), "a ring was made that nothing in the store was sealed with");

    node.issuer(&["key", "generate", &ring]).await?.success()?;
    let run = node.issuer(&["issue", "other.example"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("copy the file") && run.stderr.contains(&ring), "{}", run.stderr);
    node.issuer(&["key", "generate", &ring]).await?.with_code(1)?;
    ensure!(stage.proxy.requests().total() == 0, "{}", stage.proxy.requests());

    // The ring of the first node, and the second works.
    std::fs::copy(stage.signpost.key_encryption_key_file(), &ring)?;
    let second = node.issuer_json(&["issue", "shop.example"]).await?;
    ensure!(second["results"][0]["certificates"] == result["results"][0]["certificates"], "{second:#}");
    Ok(())
}

/// With a URL even an empty store gets no ring by itself: another node may be about to use one.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_by_url_never_gets_a_keyring_by_itself() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let absent = stage.signpost.directory().join("absent");
    let absent = absent.to_str().context("a path of text")?.to_owned();
    stage.signpost.set("store.key_encryption_key_file", absent.as_str())?;
    let run = stage.run_issue(&["shop.example"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("issuer key generate"), "what to do is said: {}", run.stderr);
    ensure!(!Path::new(&absent).exists());
    Ok(())
}

/// A CA, and installations with an embedded store each.
struct Machines {
    _pebble: Pebble,
    proxy: CaProxy,
}

impl Machines {
    async fn new() -> Result<(Self, Signpost)> {
        let pebble = Pebble::start(PebbleOptions { always_valid: true, ..PebbleOptions::default() }).await?;
        let proxy = CaProxy::start(&pebble).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_ca(&pebble, &proxy)?;
        Ok((Self { _pebble: pebble, proxy }, signpost))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_that_need_the_embedded_store_at_once_share_one() -> Result<()> {
    for _ in 0..4 {
        let (machines, signpost) = Machines::new().await?;
        let (one, two) = tokio::try_join!(
            signpost.issuer(&["--json", "issue", "one.example"]),
            signpost.issuer(&["--json", "issue", "two.example"])
        )?;
        let (one, two) = (one.success()?, two.success()?);
        ensure!(
            one.json()?["account"] == two.json()?["account"],
            "an account each: {}{}",
            one.stdout,
            two.stdout
        );
        let made = machines.proxy.log().into_iter().filter(|line| line.ca_status == Some(201));
        ensure!(made.filter(|line| line.endpoint == Endpoint::NewAccount).count() == 1);

        ensure!(servers(&signpost)?.len() == 1, "{:?}", servers(&signpost)?);
        let log = std::fs::read_to_string(signpost.state_dir().join("store/redis.log"))?;
        ensure!(log.matches("ready to accept connections").count() == 1, "{log}");
        let ring = std::fs::metadata(signpost.key_encryption_key_file())?;
        ensure!(ring.permissions().mode() & 0o777 == 0o600, "{:o}", ring.permissions().mode());
        let told =
            [&one.stderr, &two.stderr].iter().filter(|text| text.contains("Back this file up")).count();
        ensure!(told == 1, "whoever made the keyring says so, once:\n{}\n{}", one.stderr, two.stderr);
        let status = signpost.issuer_json(&["status"]).await?;
        ensure!(status["sites"].as_array().context("sites")?.len() == 2, "{status:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_store_that_was_killed_is_started_again_with_its_data() -> Result<()> {
    let (machines, signpost) = Machines::new().await?;
    let first = signpost.issuer_json(&["issue", "kept.example"]).await?;
    let [server] = servers(&signpost)?[..] else { anyhow::bail!("one server") };
    kill_process(server, Signal::KILL)?;
    until_true("the server has ended", LIMIT, || async {
        servers(&signpost).is_ok_and(|running| !running.contains(&server))
    })
    .await?;
    machines.proxy.reset();
    let second = signpost.issuer_json(&["issue", "kept.example"]).await?;
    ensure!(second["results"][0]["certificates"] == first["results"][0]["certificates"], "{second:#}");
    ensure!(machines.proxy.requests().total() == 0);

    let stopped = signpost.issuer_json(&["store", "stop"]).await?;
    ensure!(stopped["stopped"] == true, "{stopped:#}");
    until_true("the server has ended", LIMIT, || async {
        servers(&signpost).is_ok_and(|running| running.is_empty())
    })
    .await?;
    let stopped = signpost.issuer_json(&["store", "stop"]).await?;
    ensure!(stopped["stopped"] == false, "{stopped:#}");
    let status = signpost.issuer_json(&["status", "kept.example"]).await?;
    ensure!(status["sites"][0]["state"] == "valid", "{status:#}");
    Ok(())
}

/// The data is there, the keyring is lost: a new one would open nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_store_that_holds_keys_gets_no_second_keyring() -> Result<()> {
    let (_machines, signpost) = Machines::new().await?;
    signpost.issuer_json(&["issue", "kept.example"]).await?;
    let ring = signpost.key_encryption_key_file();
    let content = std::fs::read(&ring)?;
    std::fs::remove_file(&ring)?;
    let run = signpost.issuer(&["issue", "kept.example"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("backup") && !ring.exists(), "{}", run.stderr);
    // One that others may read is no secret any more.
    std::fs::write(&ring, content)?;
    std::fs::set_permissions(&ring, std::fs::Permissions::from_mode(0o644))?;
    let run = signpost.issuer(&["issue", "kept.example"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("chmod 600"), "{}", run.stderr);
    std::fs::set_permissions(&ring, std::fs::Permissions::from_mode(0o600))?;
    signpost.issuer(&["issue", "kept.example"]).await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_with_too_long_a_path_is_refused() -> Result<()> {
    let (_machines, mut signpost) = Machines::new().await?;
    let deep = signpost.directory().join("d".repeat(100));
    signpost.set("store.state_dir", deep.to_str().context("a path of text")?)?;
    let run = signpost.issuer(&["status"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("store.state_dir"), "the setting is named: {}", run.stderr);
    ensure!(!deep.exists());
    Ok(())
}

/// The `redis-server` processes of this installation.
fn servers(signpost: &Signpost) -> Result<Vec<Pid>> {
    let state_dir = signpost.state_dir();
    let state_dir = state_dir.to_str().context("a path of text")?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended in the meantime has no command line; a zombie's is empty.
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line);
        if line.contains("redis-server") && line.contains(state_dir) {
            found.extend(Pid::from_raw(pid));
        }
    }
    Ok(found)
}
