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
    const SITES: usize = 600;
    const BUSY: usize = 53;
    let stage = limited(&Limits::letsencrypt_divided_by(DIVISOR)).await?;
    // One domain has more names than it has certificates.
    let names: Vec<String> = (0..SITES)
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
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == SITES as u64, "{}", stage.proxy.requests());
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
