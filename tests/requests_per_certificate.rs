//! How many requests a certificate costs, counted at the CA: its limits are per request too, and a fleet has many.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Counts, Endpoint},
    pebble::PebbleOptions,
    stage::{Stage, StageOptions},
};

/// For one name that was never proved: the order, its authorization, the challenge, the order again, finalize, the order
/// once more, the certificate.
const FRESH: u64 = 7;
/// A process of its own begins without a nonce.
const FRESH_ALONE: u64 = FRESH + 1;
const MOST: u64 = 9;
const ALREADY_PROVED: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn names_one_after_another_in_one_run() -> Result<()> {
    let stage = Stage::looking().await?;
    stage.issue(&["warm.example"]).await?;
    stage.proxy.reset();
    let names: Vec<String> = (0..30).map(|number| format!("s{number}.example")).collect();
    let mut arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    arguments.extend(["--slots", "1"]);
    let result = stage.issue(&arguments).await?;

    let requests = stage.proxy.requests();
    ensure!(requests.of(Endpoint::NewNonce) == 1, "every answer carries the next nonce: {requests}");
    ensure!(requests.of(Endpoint::Directory) == 0, "the directory was kept: {requests}");
    ensure!(result["requests"] == requests.total(), "what it reports is what the CA saw: {requests}");
    let each = per_order(&stage);
    ensure!(each.len() == names.len(), "{} orders", each.len());
    judge(each, FRESH, MOST)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_at_once_in_one_run() -> Result<()> {
    let stage = Stage::looking().await?;
    stage.issue(&["warm.example"]).await?;
    stage.proxy.reset();
    let names: Vec<String> = (0..48).map(|number| format!("c{number}.example")).collect();
    let mut arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    arguments.extend(["--slots", "16"]);
    stage.issue(&arguments).await?;
    let requests = stage.proxy.requests();
    // Each of sixteen needs a nonce of its own to begin with, and hands it on.
    ensure!(requests.of(Endpoint::NewNonce) <= 16, "{requests}");
    // Who fetched one for all is chance: the nonces are counted above, the orders without them.
    let each: Vec<u64> = stage.proxy.orders().iter().map(|order| without_nonces(&order.requests)).collect();
    judge(each, FRESH, MOST)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_for_each_name() -> Result<()> {
    let stage = Stage::looking().await?;
    stage.issue(&["warm.example"]).await?;
    let mut each = Vec::new();
    for number in 0..15 {
        stage.proxy.reset();
        let result = stage.issue(&[&format!("p{number}.example")]).await?;
        let requests = stage.proxy.requests();
        ensure!(requests.of(Endpoint::NewNonce) == 1, "{requests}");
        ensure!(requests.of(Endpoint::Directory) == 0, "the directory is kept in the store: {requests}");
        ensure!(result["requests"] == requests.total(), "{requests}\n{result:#}");
        each.push(requests.total());
    }
    judge(each, FRESH_ALONE, MOST)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_very_first_one() -> Result<()> {
    let stage = Stage::looking().await?;
    stage.issue(&["first.example"]).await?;
    let requests = stage.proxy.requests();
    let once = [Endpoint::Directory, Endpoint::NewNonce, Endpoint::NewAccount];
    ensure!(once.iter().all(|endpoint| requests.of(*endpoint) == 1), "{requests}");
    ensure!(requests.total() <= MOST + 2, "{requests}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_were_proved_before() -> Result<()> {
    let pebble = PebbleOptions { authz_reuse_percent: 100, ..PebbleOptions::default() };
    let stage = Stage::looking_with(StageOptions { pebble, ..StageOptions::default() }).await?;
    let names: Vec<String> = (0..15).map(|number| format!("v{number}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    stage.issue(&names).await?;

    stage.proxy.reset();
    let mut second = names.clone();
    second.extend(["--key-type", "rsa-2048", "--slots", "1"]);
    stage.issue(&second).await?;
    let each = per_order(&stage);
    ensure!(each.len() == names.len(), "{} orders", each.len());
    judge(each, ALREADY_PROVED, ALREADY_PROVED)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_names_on_one_certificate() -> Result<()> {
    const NAMES: u64 = 50;
    let stage = Stage::looking().await?;
    stage.issue(&["warm.example"]).await?;
    let mut each = Vec::new();
    for set in 0..5 {
        stage.proxy.reset();
        let names: Vec<String> = (0..NAMES).map(|number| format!("n{number}.set{set}.example")).collect();
        let mut arguments = vec!["--san"];
        arguments.extend(names.iter().map(String::as_str));
        stage.issue(&arguments).await?;
        let [order] = &stage.proxy.orders()[..] else { anyhow::bail!("more than one order") };
        ensure!(order.finalized == 1 && order.names.len() == names.len(), "{order:#?}");
        let requests = &order.requests;
        ensure!(requests.of(Endpoint::NewNonce) == 1, "a process begins with one nonce: {requests}");
        ensure!(requests.of(Endpoint::Authorization) == NAMES, "{requests}");
        each.push(without_nonces(requests));
    }
    let median = median(&each)?;
    println!("50 names: median {median} requests");
    // The order is looked at, not each authorization.
    ensure!(median <= 2 * NAMES + 5, "median {median}");
    Ok(())
}

fn per_order(stage: &Stage) -> Vec<u64> {
    stage.proxy.orders().iter().map(|order| order.requests.total()).collect()
}

fn without_nonces(requests: &Counts) -> u64 {
    requests.total() - requests.of(Endpoint::NewNonce)
}

fn judge(each: Vec<u64>, wanted_median: u64, wanted_most: u64) -> Result<()> {
    let median = median(&each)?;
    let most = each.iter().max().context("no order")?;
    println!("{} certificates: median {median}, most {most} requests", each.len());
    ensure!(median <= wanted_median, "median {median}, at most {wanted_median} wanted: {each:?}");
    ensure!(*most <= wanted_most, "one took {most}, at most {wanted_most} wanted: {each:?}");
    Ok(())
}

fn median(each: &[u64]) -> Result<u64> {
    let mut sorted = each.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().context("no order")
}
