//! The twin of the CA's limiter: what the CA would refuse is not asked of it. The limiter in front of Pebble refuses as Let's
//! Encrypt does, with every period divided, and the programs are given the same divided limits as a file.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_limits::Limits,
    ca_proxy::Endpoint,
    deadline::until_true,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use serde_json::json;
use shared::domain::DnsName;

const LIMIT: Duration = Duration::from_secs(120);
/// 36 s become 36 ms.
const DIVISOR: u32 = 1000;

/// A scene whose CA has these limits, which the programs know.
async fn limited(limits: &Limits) -> Result<Stage> {
    let mut stage = Stage::trusting_with(StageOptions::default()).await?;
    let file = stage.signpost.write("limits.toml", limits.to_toml())?;
    stage.signpost.set("ca.pebble.limits_file", file.to_str().context("a path is text")?)?;
    stage.signpost.issuer(&["account", "create"]).await?.success()?;
    stage.proxy.limit(limits.clone());
    Ok(stage)
}

async fn until_served(stage: &Stage, names: &[String]) -> Result<()> {
    let Stored { store, .. } = Stored::open(stage.signpost.config_path()).await?;
    let names: Vec<DnsName> = names.iter().map(|name| DnsName::parse(name)).collect::<Result<_, _>>()?;
    until_true("every name is served", LIMIT, || async {
        let pointers = store.load_pointers(&names).await.unwrap_or_default();
        pointers.iter().filter(|pointer| pointer.serving.is_some()).count() == names.len()
    })
    .await
}

fn refusals(stage: &Stage) -> usize {
    stage.proxy.limiter(|limiter| limiter.refusals().len()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_new_sites_meet_no_refusal() -> Result<()> {
    new_sites_meet_no_refusal(300).await
}

async fn new_sites_meet_no_refusal(sites: usize) -> Result<()> {
    const BUSY: usize = 53;
    let stage = limited(&Limits::letsencrypt_divided_by(DIVISOR)).await?;
    // One domain has more names than it has certificates.
    let names: Vec<String> = (0..sites)
        .map(|number| match number {
            BUSY.. => format!("www.shop{number}.example"),
            _ => format!("n{number}.busy.example"),
        })
        .collect();
    let lines: String = names.iter().map(|name| format!("{}\n", json!({"names": [name]}))).collect();
    let file = stage.signpost.write("sites.ndjson", lines)?;
    stage.signpost.issuer(&["apply", file.to_str().context("a path is text")?]).await?.success()?;
    let daemons = [stage.start_daemon()?, stage.start_daemon()?];
    let waiting = async {
        // While it waits it says for what.
        stage
            .until_site_within(LIMIT, &names[BUSY - 1], "it waits or it has been issued", |site| {
                site["state"] == "valid" || site["failure"]["class"] == "limit"
            })
            .await
    };
    waiting.await?;
    until_served(&stage, &names).await?;
    ensure!(refusals(&stage) == 0, "{:?}", stage.proxy.limiter(|limiter| limiter.refusals().to_vec()));
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == sites as u64, "{}", stage.proxy.requests());
    for daemon in daemons {
        let mut daemon = daemon;
        daemon.process.terminate(Duration::from_secs(20)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_refused_is_not_asked() -> Result<()> {
    let mut limits = Limits::letsencrypt_divided_by(1);
    limits.certificates_per_domain.burst = 2;
    let stage = limited(&limits).await?;
    stage.issue(&["a.shop.example", "b.shop.example"]).await?;
    let before = stage.proxy.requests().total();
    let waiting = stage.issue_ending(3, &["c.shop.example"]).await?;
    ensure!(stage.proxy.requests().total() == before, "{}", stage.proxy.requests());
    let text = waiting.to_string();
    ensure!(text.contains("certificates-per-registered-domain") && text.contains("shop.example"), "{text}");
    // Another domain is not held up, nor a key type of the same names.
    stage.issue(&["c.other.example"]).await?;
    stage.issue(&["a.shop.example", "--key-type", "ecdsa-p256", "--key-type", "rsa-2048"]).await?;
    ensure!(refusals(&stage) == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_that_knows_nothing_learns_from_one_refusal() -> Result<()> {
    let stage = limited(&Limits::letsencrypt_divided_by(DIVISOR)).await?;
    let now = u64::try_from(jiff::Timestamp::now().as_nanosecond())?;
    // Somebody else has spent all of a domain, and half a minute of the account.
    let account = stage.json(&["account", "list"]).await?;
    let url = account["accounts"][0]["url"].as_str().context("the account's URL")?.to_owned();
    stage.proxy.limiter(|limiter| {
        limiter.spend_elsewhere("shop.example", 50, now);
        limiter.order_elsewhere(&url, 300, now);
    });
    let names: Vec<String> = (0..40)
        .map(|number| {
            if number % 20 == 0 {
                format!("n{number}.shop.example")
            } else {
                format!("www.else{number}.example")
            }
        })
        .collect();
    let lines: String = names.iter().map(|name| format!("{}\n", json!({"names": [name]}))).collect();
    let file = stage.signpost.write("sites.ndjson", lines)?;
    stage.signpost.issuer(&["apply", file.to_str().context("a path is text")?]).await?.success()?;
    let mut daemon = stage.start_daemon()?;
    until_served(&stage, &names).await?;
    // One for each of the two buckets.
    ensure!(refusals(&stage) <= 2, "{:?}", stage.proxy.limiter(|limiter| limiter.refusals().to_vec()));
    daemon.process.terminate(Duration::from_secs(20)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_shown_and_how_long_a_file_will_take() -> Result<()> {
    let mut limits = Limits::letsencrypt_divided_by(1);
    limits.certificates_per_domain.burst = 2;
    let stage = limited(&limits).await?;
    let fresh = stage.json(&["limits"]).await?;
    ensure!(fresh["cas"][0]["since"].is_null() && fresh["cas"][0]["buckets"][0]["left"] == 300, "{fresh}");
    stage.issue(&["a.shop.example", "b.shop.example"]).await?;
    stage.issue(&["a.shop.example", "--key-type", "ecdsa-p256", "--key-type", "rsa-2048"]).await?;

    // Two certificates of the domain are all, and the third of the same names was exempt.
    let shown = stage.json(&["limits"]).await?;
    let buckets = shown["cas"][0]["buckets"].as_array().context("buckets")?;
    let of = |limit: &str| {
        buckets.iter().find(|bucket| bucket["limit"] == limit).with_context(|| format!("{limit}: {shown}"))
    };
    let domain = of("certificates-per-registered-domain")?;
    ensure!(domain["of"] == "shop.example" && domain["left"] == 0 && domain["next"].is_string(), "{domain}");
    ensure!(*domain == buckets[0], "the emptiest is not the first: {shown}");
    let orders = of("new-orders-per-account")?;
    ensure!(orders["of"] == "default" && orders["left"] == 298 && orders["next"].is_null(), "{orders}");

    // What an order would meet, before it is placed.
    let of_name = stage.json(&["limits", "c.shop.example", "c.other.example"]).await?;
    ensure!(of_name["next_new"] == domain["next"] && of_name["next_same_set"].is_null(), "{of_name}");
    let other = stage.json(&["limits", "c.other.example"]).await?;
    ensure!(other["next_new"].is_null(), "{other}");
    let text = stage.signpost.issuer(&["limits"]).await?.success()?.stdout;
    ensure!(text.contains("0 of 2") && text.contains("298 of 300"), "{text}");
    stage.signpost.issuer(&["limits", "--ca", "nobody"]).await?.with_code(2)?;

    // A thousand sites: the account is the slowest, behind what was spent.
    let lines: String = (0..1000)
        .map(|number| format!("{}\n", json!({"names": [format!("www.s{number}.example")]})))
        .collect();
    let lines = lines
        + &(0..4)
            .map(|number| format!("{}\n", json!({"names": [format!("n{number}.shop.example")]})))
            .collect::<String>();
    let file = stage.signpost.write("many.ndjson", lines)?;
    let file = file.to_str().context("a path is text")?;
    let planned = stage.json(&["plan", file]).await?;
    let waits = planned["limits"].as_array().context("limits")?;
    ensure!(waits.len() == 2, "{planned}");
    let near = |wait: &serde_json::Value, expected: u64| {
        wait["seconds"].as_u64().is_some_and(|seconds| seconds.abs_diff(expected) < expected / 20)
    };
    ensure!(
        waits[0]["of"] == "shop.example" && waits[0]["orders"] == 4 && near(&waits[0], 4 * 12_096),
        "{planned}"
    );
    ensure!(waits[1]["limit"] == "new-orders-per-account" && near(&waits[1], (1004 - 298) * 36), "{planned}");
    let text = stage.signpost.issuer(&["plan", file]).await?.success()?.stdout;
    ensure!(text.contains("The limits of pebble make it take 13."), "{text}");
    ensure!(refusals(&stage) == 0);
    Ok(())
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn hundreds_of_new_sites_meet_no_refusal() -> Result<()> {
        new_sites_meet_no_refusal(600).await
    }
}
