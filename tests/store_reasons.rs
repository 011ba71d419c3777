//! What the roles that serve say of a store that can't be used, each for what it needs; replicas that are missing; and a restart
//! that counts as a failover.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::{until, until_true},
    redis::{Address, Redis, RedisOptions},
    rights,
    sentinel::in_step,
    stage::{Stage, StageOptions},
};
use redis::aio::MultiplexedConnection;
use shared::{
    config::Config,
    store::{Role, Store},
};

const LIMIT: Duration = Duration::from_secs(60);

async fn page(telemetry: SocketAddr) -> Option<(u16, String)> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().ok()?;
    let answer = client.get(format!("http://{telemetry}/readyz")).send().await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

async fn until_says(telemetry: SocketAddr, status: u16, word: &str) -> Result<()> {
    until_true(&format!("{status} {word}"), LIMIT, async || {
        page(telemetry).await.is_some_and(|(found, why)| found == status && why.contains(word))
    })
    .await
}

async fn tell(admin: &mut MultiplexedConnection, line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let mut command = redis::cmd(words.next().context("a command")?);
    words.for_each(|word| {
        command.arg(word);
    });
    let _: redis::Value = command.query_async(admin).await.with_context(|| line.to_owned())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_says_what_is_in_its_way_and_goes_on() -> Result<()> {
    let redis = RedisOptions { acl: Some(rights::acl_file()?), ..RedisOptions::default() };
    let mut stage = Stage::trusting_with(StageOptions { redis, ..StageOptions::default() }).await?;
    stage.issue(&["shop.example"]).await?;
    let url_of = |stage: &Stage, role: &str| stage.redis.url_as(role, rights::PASSWORD);
    let url = url_of(&stage, "certificates");
    stage.signpost.set_environment_of("validation-server", "SIGNPOST_STORE__URL", &url);
    let certificates = stage.signpost.start_certificates().await?;
    let url = url_of(&stage, "challenge");
    stage.signpost.set_environment_of("validation-server", "SIGNPOST_STORE__URL", &url);
    let challenge = stage.signpost.start_challenge().await?;
    let mut admin = stage.redis.connection().await?;
    let kill = "CLIENT KILL TYPE normal SKIPME yes";
    // What is told to Redis, what each says of it, and how it is mended. Empty: it stays ready.
    let cases: [(&[&str], &str, &str, &str); 7] = [
        (&["ACL SETUSER certificates off", kill], "refuses this program", "", "ACL SETUSER certificates on"),
        (&["ACL SETUSER challenge off", kill], "", "refuses this program", "ACL SETUSER challenge on"),
        (&["ACL SETUSER certificates -xadd"], "refuses this program", "", "ACL SETUSER certificates +xadd"),
        (&["CONFIG SET maxmemory 1mb"], "takes no writes", "", "CONFIG SET maxmemory 0"),
        (
            &["CONFIG SET min-replicas-to-write 1"],
            "takes no writes",
            "",
            "CONFIG SET min-replicas-to-write 0",
        ),
        (
            &["CONFIG SET maxmemory-policy allkeys-lru"],
            "may throw records away",
            "",
            "CONFIG SET maxmemory-policy noeviction",
        ),
        (
            &["CONFIG SET maxclients 1", kill],
            "does not answer",
            "does not answer",
            "CONFIG SET maxclients 10000",
        ),
    ];
    for (begin, of_certificates, of_challenge, end) in cases {
        for line in begin {
            tell(&mut admin, line).await?;
        }
        for (telemetry, word) in
            [(certificates.telemetry, of_certificates), (challenge.telemetry, of_challenge)]
        {
            let status = if word.is_empty() { 200 } else { 503 };
            until_says(telemetry, status, word).await.with_context(|| begin.join(", "))?;
        }
        tell(&mut admin, end).await?;
        for telemetry in [certificates.telemetry, challenge.telemetry] {
            until_says(telemetry, 200, "").await.with_context(|| end.to_owned())?;
        }
    }
    tell(&mut admin, "FLUSHALL").await?;
    until_says(certificates.telemetry, 503, "was emptied").await?;
    until_says(challenge.telemetry, 200, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_says_that_replicas_are_missing() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let Address::Tcp(primary) = *stage.redis.address() else { anyhow::bail!("the primary listens on TCP") };
    let mut replica =
        Redis::start(RedisOptions { replica_of: Some(primary), ..RedisOptions::default() }).await?;
    in_step(&stage.redis, 1).await?;
    stage.signpost.set("store.confirm_replicas", 1)?;
    let daemon = stage.signpost.start_issuer().await?;
    stage.json(&["site", "add", "before.example"]).await?;
    stage.until_valid("before.example").await?;
    replica.stop().await?;
    until_says(daemon.telemetry, 503, "fewer replicas than must confirm a write").await?;
    let health = stage.json(&["store", "status"]).await?;
    ensure!(health["warnings"].to_string().contains("no order can be placed"), "{health:#}");
    replica.start_again().await?;
    until_says(daemon.telemetry, 200, "").await?;
    stage.json(&["site", "add", "after.example"]).await?;
    stage.until_valid("after.example").await.map(drop)
}

/// What a server had not on its disk is gone after a restart, as after a failover: whoever keeps something of it must look again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_replicas_counts_as_a_failover() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let config = Config::load(Some(stage.signpost.config_path()))?;
    let store = Store::open(&config.store, Role::Issuer).await?;
    let watched = tokio::spawn({
        let store = store.clone();
        async move { store.watch().await }
    });
    until_true("the server is remembered", LIMIT, async || {
        stage.redis.command(&["HLEN", "sp:epoch"]).await.is_ok_and(|known| known == redis::Value::Int(1))
    })
    .await?;
    ensure!(store.load_epoch().await? == 0);
    stage.redis.kill9().await?;
    stage.redis.start_again().await?;
    until("the epoch is raised", LIMIT, async || store.load_epoch().await.ok().filter(|epoch| *epoch == 1))
        .await?;
    ensure!(*store.failovers().borrow() == 1);
    watched.abort();
    Ok(())
}

/// As the handbook's table has it: what a crash of the server itself loses.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_loses_depends_on_the_file() -> Result<()> {
    for (append_only, append_fsync, kept, warning) in [
        (true, "always", true, ""),
        (true, "no", true, "half a minute or more"),
        (false, "always", false, "since its last snapshot"),
    ] {
        let redis = RedisOptions { append_only, append_fsync, ..RedisOptions::default() };
        let mut stage = Stage::trusting_with(StageOptions { redis, ..StageOptions::default() }).await?;
        let health = stage.json(&["store", "status"]).await?;
        ensure!(health["append_only"] == append_only, "{health:#}");
        ensure!(!append_only || health["append_fsync"] == append_fsync, "{health:#}");
        let warnings = health["warnings"].to_string();
        ensure!(if warning.is_empty() { warnings == "[]" } else { warnings.contains(warning) }, "{warnings}");
        stage.issue(&["shop.example"]).await?;
        stage.redis.kill9().await?;
        stage.redis.start_again().await?;
        let code = stage.signpost.issuer(&["status", "shop.example"]).await?.code()?;
        ensure!(code == if kept { 0 } else { 4 }, "{append_only} {append_fsync}: {code}");
    }
    Ok(())
}
