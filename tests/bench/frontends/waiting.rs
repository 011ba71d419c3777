//! A thousand frontends that wait: what they cost the centre, and how soon each has a change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::signpost::Daemon;
use serde_json::Value;
use shared::{
    domain::{Frontend, Right, Scope},
    store::{Role, Store},
};
use tokio::{
    sync::{Barrier, Semaphore},
    task::JoinSet,
    time::sleep,
};

use crate::{fleet::Fleet, leaf::Mint, measure::resident_mib, renew::renew, row::Fan};

/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(20);
const TOKEN: &str = "-token-of-the-benchmark";

pub(crate) async fn measure(fleet: &Fleet, mint: &Mint, count: usize) -> Result<Fan> {
    let config = shared::config::Config::load(Some(fleet.signpost.config_path()))?;
    let store = Store::open(&config.store, Role::Issuer).await?;
    shared::store::open_vault(&store, &config.store).await?;
    for number in 0..count {
        let scope = Scope { names: vec!["*".parse()?], tags: Vec::new() };
        let rights = [Right::ReadCert, Right::ReadKey].into_iter().collect();
        let name = format!("waiting-{number}");
        let mut frontend = Frontend::new(name.parse()?, scope, rights, jiff::Timestamp::now());
        frontend.token_sha256 = Some(shared::digest::sha256_hex(format!("{name}{TOKEN}").as_bytes()));
        store.write_frontend(&frontend).await?;
    }
    let daemon = fleet.signpost.start_certificates().await?;
    let cursor = first_cursor(&daemon).await?;
    let began = Arc::new(Barrier::new(count + 1));
    // A thousand clients on one machine are in each other's way: they come one after the other, and then wait together.
    let places = Arc::new(Semaphore::new(16));
    let mut waiting = JoinSet::new();
    for number in 0..count {
        let (began, cursor) = (Arc::clone(&began), cursor.clone());
        let url = format!("https://127.0.0.1:{}/v1/changes", daemon.address.port());
        let places = Arc::clone(&places);
        waiting.spawn(async move { wait_for_a_change(&url, number, &cursor, &places, &began).await });
    }
    tokio::select! {
        _ = began.wait() => {}
        Some(ended) = waiting.join_next() => {
            ended??;
            bail!("one has heard of a change before there was one");
        }
    }
    sleep(Duration::from_secs(2)).await;
    let (cpu, store_cpu) = (daemon.process.cpu_time()?, cpu_of_redis(fleet).await?);
    sleep(IDLE).await;
    let idle_cpu_percent = (daemon.process.cpu_time()? - cpu).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    let store_cpu_percent = (cpu_of_redis(fleet).await? - store_cpu) / IDLE.as_secs_f64() * 100.0;
    let server_mib = resident_mib(daemon.process.pid())?;
    let changed = Instant::now();
    renew(fleet, mint, 1).await?;
    let mut seconds = Vec::with_capacity(count);
    // A client takes a millisecond to end, which is not the server's: they end once all have heard.
    let mut clients = Vec::with_capacity(count);
    while let Some(heard) = waiting.join_next().await {
        let (heard, client) = heard??;
        seconds.push(heard.duration_since(changed).as_secs_f64());
        clients.push(client);
    }
    seconds.sort_by(f64::total_cmp);
    let at = |percent: usize| seconds[(seconds.len() * percent).div_ceil(100).max(1) - 1];
    Ok(Fan { count, idle_cpu_percent, store_cpu_percent, server_mib, p50: at(50), p99: at(99), all: at(100) })
}

/// Seconds that Redis has used a processor.
async fn cpu_of_redis(fleet: &Fleet) -> Result<f64> {
    let text: String = redis::from_redis_value(fleet.redis.command(&["INFO", "cpu"]).await?)?;
    let of = |field: &str| text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse::<f64>().ok());
    let (user, system) = (of("used_cpu_user:"), of("used_cpu_sys:"));
    Ok(user.context("no used_cpu_user")? + system.context("no used_cpu_sys")?)
}

fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().danger_accept_invalid_certs(true).build()?)
}

/// Where everything that is there has been heard of.
async fn first_cursor(daemon: &Daemon) -> Result<String> {
    let client = client()?;
    let mut cursor = String::new();
    loop {
        let url =
            format!("https://127.0.0.1:{}/v1/changes?limit=1000&cursor={cursor}", daemon.address.port());
        let answer = client.get(url).bearer_auth(format!("waiting-0{TOKEN}")).send().await?;
        let page: Value = serde_json::from_slice(&answer.error_for_status()?.bytes().await?)?;
        cursor = page["cursor"].as_str().context("no cursor")?.to_owned();
        if page["more"] != true {
            return Ok(cursor);
        }
    }
}

/// Answers when it heard of one, and the client that did.
async fn wait_for_a_change(
    url: &str,
    number: usize,
    cursor: &str,
    places: &Semaphore,
    began: &Barrier,
) -> Result<(Instant, reqwest::Client)> {
    let place = places.acquire().await?;
    let client = client()?;
    // What it may see is the same for all of them, but not when they were made: each has a cursor of its own.
    let token = format!("waiting-{number}{TOKEN}");
    let ask = |query: String| client.get(format!("{url}?{query}")).bearer_auth(&token).send();
    let at = cursor.rsplit('.').next().unwrap_or_default();
    let epoch = cursor.split('.').next().unwrap_or_default();
    let own: Value = serde_json::from_slice(&ask("limit=1".to_owned()).await?.bytes().await?)?;
    let own = own["cursor"].as_str().context("no cursor")?;
    let scope = own.split('.').nth(1).context("a cursor has three parts")?;
    let cursor = format!("{epoch}.{scope}.{at}");
    drop(place);
    began.wait().await;
    loop {
        let answer = ask(format!("wait=55&cursor={cursor}")).await?;
        let heard = Instant::now();
        let page: Value = serde_json::from_slice(&answer.error_for_status()?.bytes().await?)?;
        let items = page["items"].as_array().context("no items")?;
        if !items.is_empty() {
            ensure!(items.len() == 1, "more than one change");
            return Ok((heard, client));
        }
    }
}
