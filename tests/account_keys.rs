//! The account changes under the hands of those who order with it: another key, another account in its place.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Rule},
    daemon::{list, seconds},
    deadline::until_true,
    signpost::Signpost,
    stage::{Fuse, Stage},
    stored::Stored,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

/// Two daemons order, and the CA takes its time to look: every order sees the key change, and none fails of it.
#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_under_load_take_a_new_key() -> Result<()> {
    let mut stage = Stage::looking().await?;
    stage.issue(&["warm.example"]).await?;
    let url = stage.json(&["account", "show"]).await?["url"].clone();
    stage.proxy.add_rule(Rule::on(Endpoint::Challenge).does(Action::Delay(Duration::from_millis(300))));
    stage.signpost.set("issuer.slots", 4)?;
    let mut other = stage.signpost.another_node()?;
    other.set("issuer.slots", 4)?;
    let _daemons = [stage.start_daemon()?, other.start_run("issuer", &["run"])?];
    let mut names: Vec<String> = Vec::new();
    for (round, kind) in ["ecdsa-p384", "rsa-2048", "rsa-2048"].into_iter().enumerate() {
        let added: Vec<String> = (0..8).map(|number| format!("r{round}-n{number}.example")).collect();
        for name in &added {
            stage.json(&["site", "add", name]).await?;
        }
        names.extend(added);
        let rolled = stage.json(&["account", "rollover", "--key-type", kind]).await?;
        ensure!(rolled["key_type"] == kind && rolled["url"] == url, "{rolled:#}");
        ensure!(rolled["key_version"] == round + 2, "{rolled:#}");
    }
    for name in &names {
        let is_there = |site: &Value| site["state"] == "valid";
        stage.until_site_within(LIMIT, name, "it is issued", is_there).await?;
        ensure!(stage.proxy.orders_for(&[name]).len() == 1, "{name}: it was ordered twice");
    }
    let told = stage.events(&["failed", "ca-trouble"]).await?;
    ensure!(told.is_empty(), "{told:?}");
    ensure!(stage.json(&["account", "show"]).await?["at_ca"]["status"] == "valid");
    Ok(())
}

/// An order whose answers were published with the old key: they end in the new one before the CA is told to look.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_in_flight_is_proved_with_the_new_key() -> Result<()> {
    let stage = Stage::looking().await?;
    stage.issue(&["warm.example"]).await?;
    let fuse = Fuse::default();
    let kill = fuse.clone();
    let told = Rule::on(Endpoint::Challenge).for_name("flight.example").nth(1);
    stage.proxy.add_rule(told.does(Action::call_before(move |_| kill.kill9())));
    let told = Rule::on(Endpoint::Challenge).for_name("flight.example").nth(1);
    stage.proxy.add_rule(told.does(Action::Reset));
    let started = stage.signpost.start_run("issuer", &["issue", "flight.example"])?;
    fuse.attach(started.process.killer());
    let run = started.wait(LIMIT).await?;
    ensure!(run.exit.code().is_none(), "it was never killed: {}{}", run.stdout, run.stderr);
    ensure!(stage.site("flight.example").await?["order"]["ecdsa"] == "challenged");
    let answers = || async {
        let mut answers = Vec::new();
        for key in stage.keys("sp:token:*").await? {
            answers.push((key.clone(), stage.redis.text_of(&key).await?));
        }
        anyhow::Ok(answers)
    };
    let before = answers().await?;
    stage.json(&["account", "rollover", "--key-type", "ecdsa-p384"]).await?;
    stage.issue(&["flight.example"]).await?;
    ensure!(stage.proxy.orders_for(&["flight.example"]).len() == 1, "it was ordered twice");
    let after = answers().await?;
    let renewed = |(key, answer): &(String, String)| before.iter().any(|(k, a)| k == key && a != answer);
    ensure!(after.iter().any(renewed), "the answer is the old key's still: {before:?} {after:?}");
    Ok(())
}

/// The rollover is killed once the CA has acted: those who order find out by themselves which key it has.
#[tokio::test(flavor = "multi_thread")]
async fn daemons_go_on_where_a_rollover_was_killed() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["warm.example"]).await?;
    let _daemon = stage.start_daemon()?;
    for (word, before) in [("asked", true), ("acted", false)] {
        let fuse = Fuse::default();
        let kill = fuse.clone();
        let act = move |_: &_| kill.kill9();
        let act = if before { Action::call_before(act) } else { Action::call_after(act) };
        stage.proxy.add_rule(Rule::on(Endpoint::KeyChange).nth(1).does(act));
        let started = stage.signpost.start_run("issuer", &["account", "rollover"])?;
        fuse.attach(started.process.killer());
        ensure!(started.wait(LIMIT).await?.exit.code().is_none(), "{word}: it was never killed");
        stage.proxy.clear_rules();
        let name = format!("{word}.example");
        stage.json(&["site", "add", &name]).await?;
        stage.until_valid(&name).await?;
    }
    let told = stage.events(&["failed", "ca-trouble"]).await?;
    ensure!(told.is_empty(), "{told:?}");
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let account = stored.store.load_account("pebble", "default").await?.context("an account")?.account;
    ensure!(account.candidate.is_none(), "the outcome was not found out");
    Ok(())
}

/// The account has ended at the CA, and the store knows nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_the_ca_has_ended_is_replaced_and_daemons_go_on() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("issuer.retry_seconds", seconds(&[3600.0]))?;
    stage.issue(&["warm.example"]).await?;
    let first = stage.json(&["account", "create"]).await?;
    ensure!(first["at_ca"]["status"] == "valid", "the CA was not asked: {first:#}");
    let kept = stage.json(&["account", "create", "--replace"]).await?;
    ensure!(kept["url"] == first["url"], "a valid account was replaced: {kept:#}");
    // An order that was begun with it.
    let fuse = Fuse::default();
    let kill = fuse.clone();
    let begun = Rule::on(Endpoint::Finalize).nth(1).does(Action::call_before(move |_| kill.kill9()));
    stage.proxy.add_rule(begun);
    let started = stage.signpost.start_run("issuer", &["issue", "begun.example"])?;
    fuse.attach(started.process.killer());
    ensure!(started.wait(LIMIT).await?.exit.code().is_none(), "it was never killed");

    end_at_the_ca(&stage).await?;
    let _daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "later.example"]).await?;
    let failed = |site: &Value| site["failure"]["class"] == "account";
    let site = stage.until_site("later.example", "the CA refuses the account", failed).await?;
    let remedy = site["failure"]["remedy"].as_str().unwrap_or_default();
    ensure!(remedy.contains("account create --replace"), "{site:#}");
    let run = stage.signpost.issuer(&["account", "create"]).await?.with_code(1)?;
    ensure!(run.stderr.contains("--replace"), "{}", run.stderr);
    let shown = stage.json(&["account", "show"]).await?;
    ensure!(shown["at_ca"]["status"] == "lost" && shown["url"] == first["url"], "{shown:#}");

    let second = stage.json(&["account", "create", "--replace"]).await?;
    ensure!(second["url"] != first["url"] && second["status"] == "valid", "{second:#}");
    for name in ["later.example", "begun.example"] {
        let is_there = |site: &Value| site["state"] == "valid";
        stage.until_site_within(LIMIT, name, "it is issued", is_there).await?;
        let orders = stage.proxy.orders_for(&[name]);
        let by = orders.last().map(|order| order.account.as_str());
        ensure!(by == second["url"].as_str(), "{name}: ordered by {by:?}");
    }
    let recovered = async || stage.events(&["ca-recovered"]).await.is_ok_and(|told| !told.is_empty());
    until_true("the daemon says that it issues again", LIMIT, recovered).await?;
    // What has ended there ends here as well.
    end_at_the_ca(&stage).await?;
    let ended = stage.json(&["account", "deactivate", "--yes"]).await?;
    ensure!(ended["status"] == "deactivated", "{ended:#}");
    Ok(())
}

/// The CA has never heard of it, as after a restore of its own: said, and replaced.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_the_ca_has_forgotten_is_said_to_be() -> Result<()> {
    let stage = Stage::trusting().await?;
    let first = stage.json(&["account", "create"]).await?;
    let forgotten = || Action::problem(400, "accountDoesNotExist", "unable to find account");
    stage.proxy.add_rule(Rule::on(Endpoint::Account).does(forgotten()));
    let run = stage.signpost.issuer(&["account", "create"]).await?.with_code(1)?;
    ensure!(run.stderr.contains("does not know the account"), "{}", run.stderr);
    let shown = stage.json(&["account", "show"]).await?;
    ensure!(shown["at_ca"]["status"] == "lost", "{shown:#}");
    let second = stage.json(&["account", "create", "--replace", "--key-type", "ecdsa-p384"]).await?;
    ensure!(second["url"] != first["url"] && second["key_type"] == "ecdsa-p384", "{second:#}");
    stage.proxy.clear_rules();
    stage.issue(&["a.example"]).await?;
    let accounts = stage.json(&["account", "list"]).await?;
    ensure!(accounts["accounts"].as_array().is_some_and(|all| all.len() == 1), "{accounts:#}");
    ensure!(list(&second["contact"]) == ["mailto:tls@hoster.example"], "{second:#}");
    Ok(())
}

/// Another installation has the account's key, and deactivates it.
async fn end_at_the_ca(stage: &Stage) -> Result<()> {
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let key = stored.account_key("pebble", "default").await?.private_key_to_pem_pkcs8()?;
    let mut elsewhere = Signpost::new()?;
    elsewhere.use_ca(&stage.pebble, &stage.proxy)?;
    let file = elsewhere.write("key.pem", key)?;
    let file = file.to_str().context("a path of text")?.to_owned();
    elsewhere.issuer(&["account", "import", &file]).await?.success()?;
    elsewhere.issuer(&["account", "deactivate", "--yes"]).await?.success()?;
    Ok(())
}
