//! `kill -9` of the issuer at every step that it persists: the next run goes on with the same order, and the CA sees one
//! order and one certificate for each key type.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Rule},
    deadline::until_true,
    redis_proxy::{Moment, Then, Trigger},
    stage::{Fuse, Stage},
    stored::Stored,
};

const LIMIT: Duration = Duration::from_secs(60);
const PUBLISH: &str = include_str!("../shared/src/store/scripts/publish.lua");
const POINT_NAME: &str = include_str!("../shared/src/store/scripts/point_name.lua");
const ALL_OR_NOTHING: &str = include_str!("../shared/src/store/scripts/all_or_nothing.lua");
const SCHEDULE: &str = include_str!("../shared/src/store/scripts/schedule.lua");
const SETTLE: &str = include_str!("../shared/src/store/scripts/settle.lua");
const SET: &str = "\r\nSET\r\n";

/// A write to Redis: a word for messages, and the bytes that its command contains.
type Write = (&'static str, Vec<String>);

/// Every write of one order of this slot, and of the run around it.
fn writes(slot: &str) -> Vec<Write> {
    let state = |state: &str| vec![format!("\"state\":\"{state}\""), format!(":{slot}\r\n")];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        ("lease", words(&[":sites", "EVALSHA"])),
        ("name kept", words(&["sp:name:", "EVALSHA"])),
        ("planned", state("planned")),
        ("ordered", state("ordered")),
        ("tokens", words(&["sp:token:", SET])),
        ("challenged", state("challenged")),
        ("ready", state("ready")),
        ("finalizing", state("finalizing")),
        ("issued", state("issued")),
        ("chain", words(&["sp:chain:", SET])),
        ("stored", state("stored")),
        ("publish", vec![publish()]),
        ("name pointer", vec![sha1(POINT_NAME)]),
        ("settlement", vec![settle()]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_write_reaches_the_store() -> Result<()> {
    killed_at_every_write(Moment::BeforeCommand).await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_write_before_its_answer_arrives() -> Result<()> {
    killed_at_every_write(Moment::Answered).await
}

#[tokio::test(flavor = "multi_thread")]
async fn right_after_the_answer_to_a_write() -> Result<()> {
    killed_at_every_write(Moment::PassedOn).await
}

async fn killed_at_every_write(moment: Moment) -> Result<()> {
    let stage = warm().await?;
    for (number, (word, containing)) in writes("ecdsa").into_iter().enumerate() {
        let name = format!("w{number}.example");
        let fuse = killing(&stage, &containing, moment);
        let line = ["--json", "issue", &name];
        killed_unless(is_last(word, moment), &stage, &fuse, &line).await.with_context(|| word)?;
        finished(&stage, &name, &["ecdsa-p256"], 1 + lost_orders(word, moment))
            .await
            .with_context(|| word)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dual_pair_right_after_each_answer() -> Result<()> {
    killed_within_a_dual_pair(&[Moment::PassedOn]).await
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dual_pair_before_and_after_each_answer() -> Result<()> {
        killed_within_a_dual_pair(&[Moment::Answered, Moment::PassedOn]).await
    }
}

async fn killed_within_a_dual_pair(moments: &[Moment]) -> Result<()> {
    let stage = warm().await?;
    let states = ["planned", "ordered", "challenged", "ready", "finalizing", "issued", "stored"];
    let mut number = 0;
    for slot in ["ecdsa", "rsa"] {
        let around = [("publish", vec![publish()]), ("settlement", vec![settle()])];
        let of_slot = writes(slot).into_iter().filter(|(word, _)| states.contains(word));
        for (word, containing) in of_slot.chain(around) {
            for &moment in moments {
                let name = format!("d{number}.example");
                number += 1;
                let fuse = killing(&stage, &containing, moment);
                let place = || format!("{slot} {word} {moment:?}");
                let line = ["--json", "issue", "--dual", &name];
                killed_unless(is_last(word, moment), &stage, &fuse, &line).await.with_context(place)?;
                let most = 2 + lost_orders(word, moment);
                finished(&stage, &name, &["ecdsa-p256", "rsa-2048"], most).await.with_context(place)?;
            }
        }
    }
    Ok(())
}

/// Orders that the CA may have made without a record of ours: one, where the kill falls between the plan and the record.
/// (A signal takes a moment: after the plan's answer newOrder may be on its way.)
fn lost_orders(word: &str, moment: Moment) -> usize {
    usize::from(matches!((word, moment), ("planned", Moment::PassedOn) | ("ordered", Moment::BeforeCommand)))
}

/// The CA has acted, and we don't know.
#[tokio::test(flavor = "multi_thread")]
async fn before_an_answer_of_the_ca_arrives() -> Result<()> {
    let stage = warm().await?;
    let endpoints = [
        Endpoint::NewOrder,
        Endpoint::Authorization,
        Endpoint::Challenge,
        Endpoint::Order,
        Endpoint::Finalize,
        Endpoint::Certificate,
    ];
    for endpoint in endpoints {
        let name = format!("{endpoint:?}.example").to_lowercase();
        let fuse = Fuse::default();
        let kill = fuse.clone();
        let rule = Rule::on(endpoint).for_name(&name).nth(1).does(Action::call_after(move |_| kill.kill9()));
        stage.proxy.add_rule(rule);
        killed(&stage, &fuse, &["--json", "issue", &name]).await.with_context(|| format!("{endpoint:?}"))?;
        // Only an order that was never recorded may be placed again.
        let orders = if endpoint == Endpoint::NewOrder { 2 } else { 1 };
        finished(&stage, &name, &["ecdsa-p256"], orders).await.with_context(|| format!("{endpoint:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_account_is_made() -> Result<()> {
    let stage = warm().await?;
    let status = |status: &str| vec![format!("\"status\":\"{status}\""), "EVALSHA".to_owned()];
    let mut number = 0;
    let writes = [("planned", status("planned")), ("valid", status("valid"))];
    for (word, containing) in writes {
        for moment in [Moment::BeforeCommand, Moment::Answered, Moment::PassedOn] {
            let name = format!("a{number}");
            number += 1;
            stage.proxy.reset();
            let fuse = killing(&stage, &containing, moment);
            one_account(&stage, &name, &fuse).await.with_context(|| format!("{word} {moment:?}"))?;
        }
    }
    let fuse = Fuse::default();
    let kill = fuse.clone();
    stage.proxy.reset();
    let rule = Rule::on(Endpoint::NewAccount).nth(1).does(Action::call_after(move |_| kill.kill9()));
    stage.proxy.add_rule(rule);
    one_account(&stage, "told", &fuse).await.context("the CA has made it")
}

async fn one_account(stage: &Stage, name: &str, fuse: &Fuse) -> Result<()> {
    let create = ["account", "create", "--name", name];
    killed(stage, fuse, &create).await?;
    stage.signpost.issuer(&create).await?.success()?;
    stage.signpost.issuer(&["account", "update", "--name", name]).await?.success()?;
    let made = stage
        .proxy
        .log()
        .into_iter()
        .filter(|line| line.endpoint == Endpoint::NewAccount && line.ca_status == Some(201));
    ensure!(made.count() == 1, "the CA made more than one account, or none");
    Ok(())
}

/// Where a rollover is interrupted.
enum Cut {
    /// Around the nth write of a record with a candidate.
    Write(u64, Moment),
    BeforeTheCa,
    AfterTheCa,
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_account_gets_a_new_key() -> Result<()> {
    let stage = warm().await?;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    // The promotion replaces a record with a candidate: both texts are in its command, the second of its kind.
    let scenes = [
        ("candidate, before", Cut::Write(1, Moment::BeforeCommand)),
        ("candidate, answered", Cut::Write(1, Moment::Answered)),
        ("candidate, passed on", Cut::Write(1, Moment::PassedOn)),
        ("the CA not asked yet", Cut::BeforeTheCa),
        ("the CA has acted", Cut::AfterTheCa),
        ("promotion, before", Cut::Write(2, Moment::BeforeCommand)),
        ("promotion, answered", Cut::Write(2, Moment::Answered)),
        ("promotion, passed on", Cut::Write(2, Moment::PassedOn)),
    ];
    for (word, cut) in scenes {
        let fuse = Fuse::default();
        let kill = fuse.clone();
        let change = Rule::on(Endpoint::KeyChange).nth(1);
        match cut {
            Cut::Write(nth, moment) => {
                let act = move || {
                    kill.kill9();
                    Then::Cut
                };
                let trigger = Trigger::on("\"candidate\":", moment, act).and("EVALSHA").nth(nth);
                stage.redis_proxy.add_trigger(trigger);
            }
            Cut::BeforeTheCa => {
                stage.proxy.add_rule(change.does(Action::call_before(move |_| kill.kill9())));
            }
            Cut::AfterTheCa => {
                stage.proxy.add_rule(change.does(Action::call_after(move |_| kill.kill9())));
            }
        }
        let url = account_url(&stage).await?;
        let line = ["account", "rollover", "--key-type", "ecdsa-p384"];
        killed_unless(word == "promotion, passed on", &stage, &fuse, &line).await.with_context(|| word)?;
        // The next program that opens the account finds out which key the CA has.
        let name = format!("{}.example", word.replace([' ', ','], ""));
        stage.issue(&[&name]).await.with_context(|| word)?;
        ensure!(account_url(&stage).await? == url, "{word}: another account");
        let account = stored.store.load_account("pebble", "default").await?.context("an account")?.account;
        ensure!(account.candidate.is_none(), "{word}: the outcome was not found out");
        stage.signpost.issuer(&["account", "rollover", "--key-type", "ecdsa-p256"]).await?.success()?;
        stage.proxy.clear_rules();
    }
    let made = stage.proxy.log().into_iter().filter(|line| line.ca_status == Some(201));
    let accounts = made.filter(|line| line.endpoint == Endpoint::NewAccount).count();
    ensure!(accounts == 1, "{accounts} accounts were made");
    Ok(())
}

/// A holder that was frozen for longer than its lease finds the site in other hands when it wakes.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_issuer_writes_nothing_when_it_wakes() -> Result<()> {
    let mut stage = warm().await?;
    stage.signpost.set("issuer.lease_seconds", 2)?;
    let frozen_at =
        ["planned", "ordered", "challenged", "ready", "finalizing", "issued", "stored", "publish"];
    let scenes = writes("ecdsa").into_iter().filter(|(word, _)| frozen_at.contains(word));
    let mut sleepers = Vec::new();
    for (number, (word, containing)) in scenes.enumerate() {
        let name = format!("f{number}.example");
        let fuse = Fuse::default();
        let freeze = fuse.clone();
        let act = move || {
            freeze.pause();
            Then::GoOn
        };
        let fired = stage.redis_proxy.fired();
        stage.redis_proxy.add_trigger(trigger(&containing, Moment::Answered, act));
        let sleeper = stage.signpost.start_run("issuer", &["--json", "issue", &name])?;
        fuse.attach(sleeper.process.killer());
        let proxy = &stage.redis_proxy;
        until_true(word, LIMIT, || async { proxy.fired() > fired }).await?;
        sleepers.push((word, name, sleeper));
    }
    // All at once: each waits for the end of the lease.
    let names: Vec<&str> = sleepers.iter().map(|(_, name, _)| name.as_str()).collect();
    let taken_over = stage.issue(&names).await?;
    for result in taken_over["results"].as_array().context("results")? {
        ensure!(matches!(result["status"].as_str(), Some("issued" | "valid")), "{result:#}");
    }
    let before = records(&stage).await?;
    for (word, name, sleeper) in sleepers {
        sleeper.process.resume()?;
        let run = sleeper.wait(LIMIT).await.with_context(|| word)?;
        let issued = stage.proxy.issued_for(&[&name]);
        ensure!(issued == ["ecdsa-p256"], "{word}: the CA issued {issued:?}\n{}", run.stderr);
        // What was published under its own lease was published: it may hear so before it finds the lease gone.
        if word == "publish" && run.code()? == 0 {
            continue;
        }
        ensure!(run.code()? == 1, "{word}: it lost its lease\n{}{}", run.stdout, run.stderr);
        ensure!(run.stderr.contains("another issuer"), "{word}: {}", run.stderr);
    }
    let after = records(&stage).await?;
    ensure!(before == after, "a frozen issuer wrote: {before:#?}\n{after:#?}");
    Ok(())
}

/// Every record of every site, as the server would dump it.
async fn records(stage: &Stage) -> Result<Vec<(String, redis::Value)>> {
    let mut keys: Vec<String> = redis::from_redis_value(stage.redis.command(&["KEYS", "sp:*"]).await?)?;
    keys.retain(|key| {
        key.starts_with("sp:{p") || key.starts_with("sp:name:") || key.starts_with("sp:chain:")
    });
    keys.sort();
    let mut records = Vec::new();
    for key in keys {
        let value = match key.split(':').nth(2) {
            Some("site") => {
                let mut fields: Vec<String> =
                    redis::from_redis_value(stage.redis.command(&["HGETALL", &key]).await?)?;
                // In pairs, whose order is the hash's own affair.
                let mut pairs: Vec<String> = fields.chunks(2).map(|pair| pair.join("=")).collect();
                pairs.sort();
                fields.clear();
                redis::Value::SimpleString(pairs.join("\n"))
            }
            _ => stage.redis.command(&["DUMP", &key]).await?,
        };
        records.push((key, value));
    }
    Ok(records)
}

/// A stage where the account, the CA's directory and every script are there already.
async fn warm() -> Result<Stage> {
    let stage = Stage::trusting().await?;
    stage.issue(&["--dual", "warm.example"]).await?;
    Ok(stage)
}

/// The digests of the scripts that publish and that give a site back, as the store knows them.
fn publish() -> String {
    sha1(&format!("{ALL_OR_NOTHING}\n{SCHEDULE}\n{PUBLISH}"))
}

fn settle() -> String {
    sha1(&format!("{ALL_OR_NOTHING}\n{SCHEDULE}\n{SETTLE}"))
}

fn sha1(script: &str) -> String {
    openssl::sha::sha1(script.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn trigger(containing: &[String], moment: Moment, act: impl FnMut() -> Then + Send + 'static) -> Trigger {
    let (first, others) = containing.split_first().expect("a write has at least one word");
    others.iter().fold(Trigger::on(first, moment, act), |trigger, word| trigger.and(word))
}

/// Sets a trigger that kills whatever will be attached to the fuse.
fn killing(stage: &Stage, containing: &[String], moment: Moment) -> Fuse {
    let fuse = Fuse::default();
    let kill = fuse.clone();
    stage.redis_proxy.add_trigger(trigger(containing, moment, move || {
        kill.kill9();
        Then::Cut
    }));
    fuse
}

/// Runs `issuer`, which must not survive it.
async fn killed(stage: &Stage, fuse: &Fuse, arguments: &[&str]) -> Result<()> {
    killed_unless(false, stage, fuse, arguments).await
}

/// [`killed`], or ended by itself where it is killed when it has nothing left to do: the signal may come too late.
async fn killed_unless(is_last: bool, stage: &Stage, fuse: &Fuse, arguments: &[&str]) -> Result<()> {
    let fired = stage.redis_proxy.fired();
    let started = stage.signpost.start_run("issuer", arguments)?;
    fuse.attach(started.process.killer());
    let run = started.wait(LIMIT).await?;
    let has_ended = is_last && run.exit.code() == Some(0) && stage.redis_proxy.fired() > fired;
    ensure!(run.exit.code().is_none() || has_ended, "it was never killed: {}{}", run.stdout, run.stderr);
    Ok(())
}

/// Whether the client has heard that its last write is done.
fn is_last(word: &str, moment: Moment) -> bool {
    (word, moment) == ("settlement", Moment::PassedOn)
}

/// The next run finishes, and then there is exactly what one run without a kill would have left.
async fn finished(stage: &Stage, name: &str, key_types: &[&str], most_orders: usize) -> Result<()> {
    let arguments = if key_types.len() > 1 { vec!["--dual", name] } else { vec![name] };
    let result = stage.issue(&arguments).await?;
    let status = result["results"][0]["status"].as_str();
    ensure!(matches!(status, Some("issued" | "valid")), "{result:#}");
    ensure!(
        result["elapsed_ms"].as_u64().context("a duration")? < 10_000,
        "it waited for the lease of the dead"
    );

    let orders = stage.proxy.orders_for(&[name]);
    ensure!((key_types.len()..=most_orders).contains(&orders.len()), "orders: {orders:#?}");
    ensure!(orders.iter().all(|order| order.finalized <= 1), "{orders:#?}");
    let mut issued = stage.proxy.issued_for(&[name]);
    issued.sort();
    ensure!(issued == key_types, "the CA issued {issued:?}");

    let root = stage.pebble.roots().await?.remove(0).root_pem;
    let served = Stored::open(stage.signpost.config_path()).await?.served(name).await?;
    ensure!(served.len() == key_types.len(), "{} are served", served.len());
    for certificate in served {
        certificate.verify(&root, &[name])?;
    }
    let again = stage.issue(&arguments).await?;
    ensure!(again["results"][0]["status"] == "valid" && again["requests"] == 0, "{again:#}");
    let orders = format!("sp:*:order:{}:*", result["results"][0]["site"].as_str().context("a site")?);
    let open: Vec<String> = redis::from_redis_value(stage.redis.command(&["KEYS", &orders]).await?)?;
    ensure!(open.is_empty(), "orders are left: {open:?}");
    Ok(())
}

async fn account_url(stage: &Stage) -> Result<String> {
    let shown = stage.signpost.issuer_json(&["account", "show"]).await?;
    Ok(shown["url"].as_str().with_context(|| format!("no url in {shown:#}"))?.to_owned())
}
