//! A store that is gone, silent, slow, read-only or full while the daemon runs and sites are wanted: no order is started,
//! nothing is deleted, and everything goes on when it is back. And daemons that end: told to, or killed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Hits, Rule},
    daemon::{SOON, seconds},
    deadline::until_true,
    redis_proxy::Mode,
    signpost::{Run, Started},
    stage::Stage,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
/// A store that is away this long is away for every part of the daemon: several leases, and tries of each command.
const AWAY: Duration = Duration::from_secs(6);

/// A daemon with one site that is served, and one that is due every second: it fails, until the rule is taken away.
struct Scene {
    stage: Stage,
    daemon: Started,
    refused: Hits,
}

impl Scene {
    async fn set_up() -> Result<Self> {
        let mut stage = Stage::trusting().await?;
        stage.signpost.set("issuer.retry_seconds", seconds(&[0.5]))?;
        stage.signpost.set("issuer.lease_seconds", 2.0)?;
        let daemon = stage.start_daemon()?;
        stage.json(&["site", "add", "served.example"]).await?;
        stage.until_valid("served.example").await?;
        let refusal = Action::problem(400, "rejectedIdentifier", "not yet");
        let rule = Rule::on(Endpoint::NewOrder).for_name("due.example").does(refusal);
        let refused = stage.proxy.add_rule(rule);
        stage.json(&["site", "add", "due.example"]).await?;
        until_true("it is tried again and again", SOON, || async { refused.count() >= 3 }).await?;
        Ok(Self { stage, daemon, refused })
    }

    /// A node that reaches Redis past the proxy.
    fn past_the_proxy(&self) -> Result<harness::signpost::Signpost> {
        let mut node = self.stage.signpost.another_node()?;
        node.use_store(&self.stage.redis.url())?;
        Ok(node)
    }

    /// While the store is away no order is started, and `status` says so.
    async fn nothing_is_ordered(&self, since: u64, word: &str) -> Result<()> {
        let run = self.stage.signpost.issuer(&["--json", "status"]).await?.with_code(1)?;
        ensure!(run.json()?["error"] == "store", "{}", run.stdout);
        self.is_said(&run, since, word).await
    }

    /// While it takes no writes no order is started; `status` shows what is there, and says so. Nothing is changed.
    async fn nothing_is_written(&self, since: u64, word: &str) -> Result<()> {
        let refused =
            self.stage.signpost.issuer(&["--json", "site", "add", "x.example"]).await?.with_code(1)?;
        ensure!(refused.json()?["error"] == "store", "{}", refused.stdout);
        let run = self.stage.signpost.issuer(&["--json", "status"]).await?.with_code(0)?;
        ensure!(run.json()?["sites"].as_array().is_some_and(|sites| sites.len() == 2), "{}", run.stdout);
        self.is_said(&run, since, word).await
    }

    async fn is_said(&self, run: &Run, since: u64, word: &str) -> Result<()> {
        let began = std::time::Instant::now();
        ensure!(run.stderr.to_lowercase().contains(word), "{word}: {}", run.stderr);
        until_true("the daemon is not ready", LIMIT, || async {
            self.stage.signpost.readiness().await.is_some_and(|(status, _)| status == 503)
        })
        .await?;
        until_true("it is away for a while", LIMIT, || async { began.elapsed() > AWAY }).await?;
        let after = self.refused.count();
        // One that was under way when the store went may still have been asked for.
        ensure!(after <= since + 1, "{} orders were asked for while the store was away", after - since);
        self.daemon.process.assert_running()
    }

    /// Everything goes on: what was due, what came meanwhile, and what was served is served.
    async fn goes_on(&self, served: &str) -> Result<()> {
        self.stage.proxy.clear_rules();
        until_true("the daemon is ready", LIMIT, || async {
            self.stage.signpost.readiness().await.is_some_and(|(status, _)| status == 200)
        })
        .await?;
        let within = |name: &'static str| async move {
            let valid = |site: &Value| site["state"] == "valid";
            self.stage.until_site_within(LIMIT, name, "it is issued", valid).await
        };
        within("due.example").await?;
        ensure!(self.stage.proxy.issued_for(&["due.example"]).len() == 1, "{:?}", self.stage.proxy.orders());
        self.stage.json(&["site", "add", "new.example"]).await?;
        within("new.example").await?;
        ensure!(self.stage.serial("served.example").await? == served, "something else is served");
        ensure!(self.stage.proxy.issued_for(&["served.example"]).len() == 1);
        Ok(())
    }
}

/// Who listens, answers: alive, not ready, and the API that it can't say anything yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_at_the_start() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.redis_proxy.set_mode(Mode::Refuse);
    stage.redis_proxy.cut();
    let mut daemon = stage.start_daemon()?;
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
    let [page, api] =
        [stage.signpost.address("telemetry.listen.issuer")?, stage.signpost.address("issuer.listen")?];
    let ask = async |address: std::net::SocketAddr, path: &str| -> Result<(u16, String)> {
        let answer = http.get(format!("http://{address}{path}")).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    until_true("it listens", SOON, || async { ask(page, "/healthz").await.is_ok() }).await?;
    ensure!(ask(page, "/healthz").await?.0 == 200);
    let (status, why) = ask(page, "/readyz").await?;
    ensure!(status == 503 && why.contains("the store can't be reached"), "{why}");
    let (status, metrics) = ask(page, "/metrics").await?;
    ensure!(status == 200 && metrics.contains("signpost_store_up 0"), "{metrics}");
    for path in ["/api/v1/status", "/api/v1/sites"] {
        let (status, body) = ask(api, path).await?;
        ensure!(status == 503 && body.contains("store-unavailable"), "{path}: {body}");
    }
    stage.redis_proxy.set_mode(Mode::Pass);
    until_true("it is ready", LIMIT, || async {
        ask(page, "/readyz").await.is_ok_and(|answer| answer.0 == 200)
    })
    .await?;
    ensure!(ask(api, "/api/v1/status").await?.0 == 401);
    stage.json(&["site", "add", "late.example"]).await?;
    stage.until_valid("late.example").await?;
    daemon.process.terminate(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_connections() -> Result<()> {
    let scene = Scene::set_up().await?;
    let served = scene.stage.serial("served.example").await?;
    scene.stage.redis_proxy.set_mode(Mode::Refuse);
    scene.stage.redis_proxy.cut();
    let since = scene.refused.count();
    scene.past_the_proxy()?.issuer_json(&["site", "add", "meanwhile.example"]).await?;
    scene.nothing_is_ordered(since, "not reachable").await?;
    ensure!(scene.stage.proxy.orders_for(&["meanwhile.example"]).is_empty());
    scene.stage.redis_proxy.set_mode(Mode::Pass);
    scene.goes_on(&served).await?;
    scene.stage.until_valid("meanwhile.example").await?;
    let told = || async { scene.stage.events(&["store-back"]).await.is_ok_and(|told| told.len() == 1) };
    until_true("it is told that the store was away", SOON, told).await?;
    ensure!(scene.stage.events(&["store-lost"]).await?.len() == 1, "and that it was lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_nothing() -> Result<()> {
    let scene = Scene::set_up().await?;
    let served = scene.stage.serial("served.example").await?;
    scene.stage.redis_proxy.set_mode(Mode::BlackHole);
    let since = scene.refused.count();
    scene.past_the_proxy()?.issuer_json(&["site", "add", "meanwhile.example"]).await?;
    scene.nothing_is_ordered(since, "the store").await?;
    scene.stage.redis_proxy.set_mode(Mode::Pass);
    scene.stage.redis_proxy.cut();
    scene.goes_on(&served).await?;
    scene.stage.until_valid("meanwhile.example").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_a_replica_now() -> Result<()> {
    let scene = Scene::set_up().await?;
    let served = scene.stage.serial("served.example").await?;
    // Of a primary that isn't there.
    scene.stage.redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await?;
    let since = scene.refused.count();
    scene.nothing_is_written(since, "read only").await?;
    scene.stage.redis.command(&["REPLICAOF", "NO", "ONE"]).await?;
    scene.goes_on(&served).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full() -> Result<()> {
    let scene = Scene::set_up().await?;
    let served = scene.stage.serial("served.example").await?;
    let before = scene.stage.keys("sp:*").await?.len();
    scene.stage.redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await?;
    let since = scene.refused.count();
    scene.nothing_is_written(since, "maxmemory").await?;
    let during = scene.stage.keys("sp:*").await?.len();
    ensure!(during >= before - 1, "{before} keys became {during}");
    scene.stage.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    scene.goes_on(&served).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_slow_delays_and_loses_nothing() -> Result<()> {
    let scene = Scene::set_up().await?;
    let served = scene.stage.serial("served.example").await?;
    scene.stage.redis_proxy.set_mode(Mode::Delay(Duration::from_millis(25)));
    scene.past_the_proxy()?.issuer_json(&["site", "add", "slow.example"]).await?;
    let direct = scene.past_the_proxy()?;
    until_true("it is issued all the same", LIMIT, || async {
        let status = direct.issuer_json(&["status", "slow.example"]).await;
        status.is_ok_and(|status| status["sites"][0]["state"] == "valid")
    })
    .await?;
    ensure!(scene.stage.proxy.issued_for(&["slow.example"]).len() == 1);
    scene.stage.redis_proxy.set_mode(Mode::Pass);
    scene.goes_on(&served).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_and_comes_back() -> Result<()> {
    let mut scene = Scene::set_up().await?;
    let served = scene.stage.serial("served.example").await?;
    scene.stage.redis.kill9().await?;
    let since = scene.refused.count();
    scene.nothing_is_ordered(since, "not reachable").await?;
    scene.stage.redis.start_again().await?;
    scene.goes_on(&served).await
}

/// Orders that are under way, held up by a CA that takes its time over the challenges.
async fn under_way(stage: &Stage, names: &[&str]) -> Result<()> {
    let held = Rule::on(Endpoint::Challenge).does(Action::Delay(Duration::from_millis(1500)));
    let held = stage.proxy.add_rule(held);
    for name in names {
        stage.json(&["site", "add", name]).await?;
    }
    until_true("every order is under way", SOON, || async { held.count() == names.len() as u64 }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_end_finishes_what_it_has_begun() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    stage.signpost.set("issuer.lease_seconds", 2.0)?;
    let mut daemon = stage.start_daemon()?;
    let names = ["a.example", "b.example", "c.example"];
    under_way(&stage, &names).await?;
    let exit = daemon.process.terminate(Duration::from_secs(20)).await?;
    ensure!(exit.code() == Some(0), "{exit:?}: {}", daemon.stderr()?);
    for name in names {
        let site = stage.site(name).await?;
        ensure!(site["state"] == "valid", "{site:#}");
        ensure!(stage.proxy.issued_for(&[name]).len() == 1);
    }
    let told = stage.events(&["drained"]).await?;
    ensure!(told.len() == 1, "{told:#?}");
    // Nothing new is begun by one that has ended.
    stage.json(&["site", "add", "later.example"]).await?;
    ensure!(stage.site("later.example").await?["state"] == "pending");
    let _next = stage.start_daemon()?;
    stage.until_valid("later.example").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_daemon_goes_on_with_what_a_killed_one_left() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    stage.signpost.set("issuer.lease_seconds", 2.0)?;
    let mut daemon = stage.start_daemon()?;
    let names = ["a.example", "b.example", "c.example"];
    under_way(&stage, &names).await?;
    daemon.process.kill9().await.context("the first one")?;
    stage.proxy.clear_rules();
    let _next = stage.start_daemon()?;
    for name in names {
        stage.until_valid(name).await?;
        ensure!(stage.proxy.orders_for(&[name]).len() == 1, "{name}: another order was placed");
        ensure!(stage.proxy.issued_for(&[name]).len() == 1, "{name}");
    }
    stage.until_idle().await?;
    ensure!(stage.keys("sp:{p*}:order:*").await?.is_empty(), "an order is left over");
    Ok(())
}
