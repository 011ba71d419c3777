//! The dead do not delay the living: names that fail for ever are tried again and again, and whoever is added in the middle of
//! them is served all the same. What fails never holds more than its share of the workers.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Endpoint, Rule},
    deadline::until_true,
    stage::Stage,
    stored::Stored,
};
use serde_json::json;
use shared::domain::{Class, DnsName};

const DEAD: usize = 2000;
const GOOD: usize = 40;
const SLOTS: usize = 16;
/// How long the CA takes to refuse. The order's worker is held for as long.
const REFUSAL: Duration = Duration::from_millis(60);
const LIMIT: Duration = Duration::from_secs(180);

/// When a name was refused.
type Refusals = Arc<Mutex<Vec<(Instant, String)>>>;

#[tokio::test(flavor = "multi_thread")]
async fn who_is_added_among_thousands_that_fail_is_served() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let retry: Vec<toml::Value> = vec![1.0.into()];
    stage.signpost.set("issuer.retry_seconds", retry)?;
    stage.signpost.set("issuer.slots", i64::try_from(SLOTS)?)?;
    stage.signpost.issuer(&["account", "create"]).await?.success()?;
    let refusals = refuse_the_dead(&stage);
    let dead: String = (0..DEAD).map(|number| format!("{}\n", json!({"names": [dead(number)]}))).collect();
    let file = stage.signpost.write("dead.ndjson", dead)?;
    stage.signpost.issuer(&["apply", file.to_str().context("a path is text")?]).await?.success()?;
    let mut daemon = stage.signpost.start_run("issuer", &["run"])?;

    // Each has failed once: from now on they are retries.
    until_true("every dead name is refused", LIMIT, || async {
        let refused: BTreeSet<String> = at(&refusals).iter().map(|(_, name)| name.clone()).collect();
        refused.len() == DEAD
    })
    .await?;
    let since = Instant::now();
    for number in 0..GOOD {
        stage.signpost.issuer(&["site", "add", &good(number)]).await?.success()?;
    }
    let Stored { store, .. } = Stored::open(stage.signpost.config_path()).await?;
    let names: Vec<DnsName> =
        (0..GOOD).map(|number| DnsName::parse(&good(number))).collect::<Result<_, _>>()?;
    until_true("every good name is served", LIMIT, || async {
        let pointers = store.load_pointers(&names).await.unwrap_or_default();
        pointers.iter().filter(|pointer| pointer.serving.is_some()).count() == GOOD
    })
    .await?;
    let served = Instant::now();
    let refused = at(&refusals).len();
    until_true("the dead go on failing", LIMIT, || async { at(&refusals).len() > refused }).await?;
    let load = stage.signpost.issuer_json(&["status", "--limit", "1"]).await?["fleet"]["load"].clone();
    ensure!(load["failing"] == DEAD && load["groups"] == DEAD + GOOD, "{load}");
    daemon.process.terminate(Duration::from_secs(20)).await?;

    let meanwhile: Vec<Instant> =
        at(&refusals).iter().map(|(at, _)| *at).filter(|at| (since..served).contains(at)).collect();
    ensure!(meanwhile.len() >= SLOTS, "the dead were quiet: {} refusals", meanwhile.len());
    let share = (SLOTS * Class::Retry.most()).div_ceil(100);
    let most = at_once(&meanwhile);
    eprintln!("{} refusals in {:?}, {most} at once", meanwhile.len(), served - since);
    ensure!(most <= share, "{most} dead names at once, of {SLOTS} workers: their share is {share}");
    Ok(())
}

/// The CA wants nothing to do with them, and takes its time to say so.
fn refuse_the_dead(stage: &Stage) -> Refusals {
    let refusals = Refusals::default();
    let noted = Arc::clone(&refusals);
    let of_the_dead = || Rule::on(Endpoint::NewOrder).below("dead.example");
    stage.proxy.add_rule(of_the_dead().does(Action::call_before(move |seen| {
        let mut noted = noted.lock().expect("no panic while held");
        noted.extend(seen.names.iter().map(|name| (Instant::now(), name.clone())));
    })));
    stage.proxy.add_rule(of_the_dead().does(Action::Delay(REFUSAL)));
    let refusal = Action::problem(400, "rejectedIdentifier", "the CA will not issue for this name");
    stage.proxy.add_rule(of_the_dead().does(refusal));
    refusals
}

fn at(refusals: &Refusals) -> std::sync::MutexGuard<'_, Vec<(Instant, String)>> {
    refusals.lock().expect("no panic while held")
}

/// The most that were being refused in one moment: each holds its worker from when it arrives until the answer.
fn at_once(arrivals: &[Instant]) -> usize {
    let mut arrivals = arrivals.to_vec();
    arrivals.sort_unstable();
    let within = |first: &Instant| {
        arrivals
            .iter()
            .skip_while(|at| *at < first)
            .take_while(|at| at.duration_since(*first) < REFUSAL)
            .count()
    };
    arrivals.iter().map(within).max().unwrap_or(0)
}

fn dead(number: usize) -> String {
    format!("d{number}.dead.example")
}

fn good(number: usize) -> String {
    format!("g{number}.good.example")
}
