//! The benchmark of the listeners: how long honest clients wait while two addresses attack, beside how long they wait
//! without, in the same run. Everything runs on this machine, the attackers too, who take their part of its processors.

mod attack;
mod honest;

use anyhow::{Context as _, Result, bail, ensure};
use attack::Attack;
use clap::Parser;
use harness::{
    deadline::until_true,
    redis::{Redis, RedisOptions},
    signpost::{Daemon, Signpost},
};
use honest::{Client, Waits};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// The 99th percentile under attack, as a multiple of the undisturbed one.
const DELAY: f64 = 2.0;
const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
const KEY_AUTHORIZATION: &str =
    "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI";

/// Benchmark of the listeners under attack.
#[derive(Parser)]
#[command(name = "tests/bench/listeners/run")]
struct Arguments {
    /// Connections that two addresses try to hold
    #[arg(short = 'n', long, default_value_t = 20_000)]
    connections: usize,
    /// Rounds, each without and with the attack; the medians count
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each is measured
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Only these: challenge, certificates
    #[arg(long, value_delimiter = ',', default_values_t = ["challenge".to_owned(), "certificates".to_owned()])]
    only: Vec<String>,
    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,
    /// Fail where the goal is missed
    #[arg(long)]
    check: bool,
}

struct Row {
    listener: &'static str,
    alone: Vec<Waits>,
    attacked: Vec<Waits>,
    /// Connections that the attackers had at the end of the last round.
    held: usize,
    opened: u64,
}

impl Row {
    fn ratio(&self) -> f64 {
        median(&self.attacked, |waits| waits.p99) / median(&self.alone, |waits| waits.p99)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0 && arguments.seconds > 0, "--rounds and --seconds: at least 1");
    raise_open_files(arguments.connections)?;
    if let Some(unknown) =
        arguments.only.iter().find(|name| !["challenge", "certificates"].contains(&name.as_str()))
    {
        bail!("there is no {unknown}, only challenge and certificates");
    }
    let wanted = |listener: &str| arguments.only.iter().any(|name| name == listener);
    let redis = Redis::start(RedisOptions::default()).await?;
    redis.command(&["SET", &format!("sp:token:{TOKEN}"), KEY_AUTHORIZATION]).await?;
    let mut signpost = Signpost::new()?;
    signpost.use_store(&redis.url())?;
    let mut rows = Vec::new();
    if wanted("challenge") {
        let role = signpost.start_challenge().await?;
        let client = Client::ca(role.address, TOKEN, KEY_AUTHORIZATION);
        rows.push(measure("challenge", &role, client, &arguments).await?);
    }
    if wanted("certificates") {
        shared::vault::Keyring::generate(&signpost.key_encryption_key_file())?;
        let added = signpost.issuer_json(&["frontend", "add", "edge", "--scope", "*.example.com"]).await?;
        let token = added["token"].as_str().context("a token is printed")?;
        let role = signpost.start_certificates().await?;
        let client = Client::frontend(role.address, token)?;
        until_true("the feed is followed", LIMIT, async || client.ask().is_ok()).await?;
        rows.push(measure("certificates", &role, client, &arguments).await?);
    }
    print(&rows, arguments.json)?;
    let missed = rows.iter().filter(|row| row.ratio() > DELAY).count();
    ensure!(!arguments.check || missed == 0, "{missed} goals were missed");
    Ok(())
}

async fn measure(
    listener: &'static str,
    role: &Daemon,
    client: Client,
    arguments: &Arguments,
) -> Result<Row> {
    let mut row = Row { listener, alone: Vec::new(), attacked: Vec::new(), held: 0, opened: 0 };
    for round in 1..=arguments.rounds {
        eprintln!("{listener}: round {round} of {}", arguments.rounds);
        row.alone.push(client.measure(Duration::from_secs(arguments.seconds)).await?);
        let attack = Attack::start(role.address, arguments.connections);
        until_true("the attack has begun", LIMIT, async || attack.has_begun()).await?;
        row.attacked.push(client.measure(Duration::from_secs(arguments.seconds)).await?);
        row.held = attack.held();
        row.opened = attack.end().await;
        role.process.assert_running()?;
        // Nothing is left of it when the next round begins.
        until_true("it is quiet again", LIMIT, async || client.ask().is_ok()).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(row)
}

fn raise_open_files(connections: usize) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    // Those that are sent away need none.
    let needed = u64::try_from(connections)?;
    if limit.maximum.is_some_and(|most| most < needed) {
        eprintln!("at most {:?} connections can be open at once: ulimit -Hn", limit.maximum);
    }
    Ok(())
}

fn median(all: &[Waits], of: impl Fn(&Waits) -> Duration) -> f64 {
    let mut values: Vec<f64> = all.iter().map(|waits| of(waits).as_secs_f64() * 1_000.0).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(rows: &[Row], as_json: bool) -> Result<()> {
    if as_json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "listener": row.listener,
                    "alone_p50_ms": median(&row.alone, |waits| waits.p50),
                    "alone_p99_ms": median(&row.alone, |waits| waits.p99),
                    "attacked_p50_ms": median(&row.attacked, |waits| waits.p50),
                    "attacked_p99_ms": median(&row.attacked, |waits| waits.p99),
                    "held": row.held,
                    "opened": row.opened,
                    "ratio_of_p99": row.ratio(),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&json!({ "rows": rows }))?);
        return Ok(());
    }
    println!(
        "\n{:<13} {:>9} {:>9} {:>10} {:>10} {:>7} {:>7}   {:>7}",
        "ms", "alone p50", "p99", "attack p50", "p99", "held", "tried", "ratio"
    );
    for row in rows {
        let verdict = if row.ratio() <= DELAY { "reached" } else { "NOT reached" };
        println!(
            "{:<13} {:>9.2} {:>9.2} {:>10.2} {:>10.2} {:>7} {:>7}   {:>7.2}  {DELAY} {verdict}",
            row.listener,
            median(&row.alone, |waits| waits.p50),
            median(&row.alone, |waits| waits.p99),
            median(&row.attacked, |waits| waits.p50),
            median(&row.attacked, |waits| waits.p99),
            row.held,
            row.opened,
            row.ratio()
        );
    }
    Ok(())
}
