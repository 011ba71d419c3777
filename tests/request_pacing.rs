//! Requests that the CA counts by address: no more than it takes, a pause where it asks for one, and few new accounts.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Rule},
    stage::Stage,
};

async fn with_limits(text: &str) -> Result<Stage> {
    let mut stage = Stage::trusting().await?;
    let file = stage.signpost.write("limits.toml", text)?;
    stage.signpost.set("ca.pebble.limits_file", file.to_str().context("a path is text")?)?;
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_two_nodes_leave_no_faster_than_the_ca_takes_them() -> Result<()> {
    let stage = with_limits("[requests.new-order]\nper_second = 4.0\nburst = 1\n").await?;
    stage.signpost.issuer(&["account", "create"]).await?.success()?;
    let names: Vec<String> = (0..8).map(|number| format!("n{number}.example")).collect();
    let (left, right) = names.split_at(4);
    let words = |names: &[String]| names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let (left, right) = (words(left), words(right));
    let other = stage.signpost.another_node()?;
    let of_left: Vec<&str> = ["issue"].into_iter().chain(left.split(' ')).collect();
    let of_right: Vec<&str> = ["issue"].into_iter().chain(right.split(' ')).collect();
    let (one, two) = tokio::try_join!(stage.signpost.issuer(&of_left), other.issuer(&of_right))?;
    one.success()?;
    two.success()?;
    let log = stage.proxy.log();
    let sent: Vec<u64> =
        log.iter().filter(|line| line.endpoint == Endpoint::NewOrder).map(|line| line.at_ms).collect();
    ensure!(sent.len() == 8, "{sent:?}");
    // Two at once, and four in a second; what is on its way may be overtaken a little.
    for (from, until) in sent.iter().zip(sent.iter().skip(3)) {
        ensure!(until - from >= 400, "three within {} ms of another: {sent:?}", until - from);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_kept_by_all_and_the_order_with_it() -> Result<()> {
    let stage = with_limits("[requests.other]\nper_second = 1000.0\nburst = 100\n").await?;
    stage.issue(&["a.example"]).await?;
    let busy = Answer::page(503, "text/html", "<html>busy</html>").header("retry-after", "600");
    stage.proxy.add_rule(Rule::on(Endpoint::Finalize).nth(1).does(Action::Answer(busy)));
    stage.issue_ending(1, &["b.example"]).await?;
    let before = stage.proxy.requests();
    // The same endpoint, another order, and nobody who asks by hand.
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "c.example"]).await?;
    stage.until_site("c.example", "it waits", |site| site["failure"]["class"] == "limit").await?;
    let after = stage.proxy.requests();
    ensure!(after.of(Endpoint::Finalize) == before.of(Endpoint::Finalize), "{after}");
    ensure!(after.of(Endpoint::Authorization) == before.of(Endpoint::Authorization), "{after}");
    // A person may ask; the order is gone on with.
    stage.issue(&["b.example"]).await?;
    ensure!(stage.proxy.orders_for(&["b.example"]).len() == 1, "the order was given up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_too_many_is_not_asked_for() -> Result<()> {
    let stage = with_limits(
        "[limits.new-accounts-per-address]\ncounts = \"accounts\"\nscope = \"address\"\nburst = 2\ncount = 2\nperiod_seconds = 10800.0\nsays = \"from this IP address\"\n",
    )
    .await?;
    for name in ["one", "two"] {
        stage.signpost.issuer(&["account", "create", "--name", name]).await?.success()?;
    }
    let before = stage.proxy.requests().of(Endpoint::NewAccount);
    let third = stage.signpost.issuer(&["account", "create", "--name", "three"]).await?.with_code(3)?;
    ensure!(third.stderr.contains("new-accounts-per-address"), "{}", third.stderr);
    ensure!(stage.proxy.requests().of(Endpoint::NewAccount) == before, "the CA was asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_ca_is_known_to_want_or_lack_is_said_without_asking_it() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("ca.sslcom-ecc.agree_to_terms", true)?;
    let create = ["account", "create", "--ca", "sslcom-ecc"];
    let run = tokio::time::timeout(Duration::from_secs(20), stage.signpost.issuer(&create)).await??;
    let run = run.with_code(2)?;
    ensure!(run.stderr.contains("ca.sslcom-ecc.contact"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_public_suffix_list_is_counted_by() -> Result<()> {
    let mut stage = with_limits(
        "[limits.certificates-per-registered-domain]\ncounts = \"certificates\"\nscope = \"registered-domain\"\nburst = 5\ncount = 5\nperiod_seconds = 10800.0\n",
    )
    .await?;
    let of = async |stage: &Stage| -> Result<String> {
        let shown = stage.json(&["limits", "www.shop.hoster.example"]).await?;
        Ok(shown["buckets"][0]["of"].as_str().context("a bucket")?.to_owned())
    };
    ensure!(of(&stage).await? == "hoster.example");
    let list = "// VERSION: 2024-01-02_03-04-05_UTC\n// ===BEGIN ICANN DOMAINS===\nexample\n// ===END ICANN DOMAINS===\n// ===BEGIN PRIVATE DOMAINS===\nhoster.example\n// ===END PRIVATE DOMAINS===\n";
    let file = stage.signpost.write("list.dat", list)?;
    stage.signpost.set("issuer.public_suffix_file", file.to_str().context("a path is text")?)?;
    ensure!(of(&stage).await? == "shop.hoster.example");
    let run = stage.signpost.issuer(&["config", "check"]).await?.success()?;
    ensure!(run.stderr.contains("days old"), "{}", run.stderr);
    Ok(())
}
