//! What a CA that looks from ten places at once meets: each validator fetches each token through the frontends, as strictly as the
//! CA does, all of them at the same time; beside it the same fetches at the validation host directly.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;
use harness::{
    mock_dns::MockDns,
    nginx::Nginx,
    ports::LoopbackNet,
    redis::{Redis, RedisOptions},
    signpost::Signpost,
    stage::{VALIDATION_HOST, frontends},
};
use issuer::{
    dns::Resolver,
    preflight::{Outcome, Rules, Validator},
};
use tokio::{sync::Semaphore, task::JoinSet};

const FRONTENDS: [u8; 2] = [1, 2];
const VALIDATION: u8 = 3;

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 1_000)]
    tokens: usize,
    #[arg(long, default_value_t = 10)]
    validators: usize,
    /// Fetches that one validator has under way at once
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    #[arg(long)]
    json: bool,
    /// What `cargo bench` passes on
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one series came to.
#[derive(serde::Serialize)]
struct Row {
    series: &'static str,
    fetches: usize,
    answered: usize,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let net = LoopbackNet::pick()?;
    let port = net.free_port(&[FRONTENDS[0], FRONTENDS[1], VALIDATION])?;
    let directory = tempfile::tempdir()?;
    let dns = MockDns::start(directory.path(), net.host(FRONTENDS[0])).await?;
    dns.set_a(VALIDATION_HOST, &[net.host(VALIDATION)]).await?;

    let redis = Redis::start(RedisOptions::default()).await?;
    let tokens: Vec<String> = (0..arguments.tokens).map(|number| format!("token-{number:037}")).collect();
    for token in &tokens {
        redis.command(&["SET", &format!("sp:token:{token}"), &answer(token), "EX", "3600"]).await?;
    }
    let mut signpost = Signpost::new()?;
    signpost.use_store(&redis.url())?;
    signpost.listen_challenge(net.host(VALIDATION), port)?;
    let _challenge = signpost.start_challenge().await?;
    let addresses = FRONTENDS.map(|number| SocketAddr::from((net.host(number), port)));
    let _nginx = Nginx::start(&frontends(&addresses, port)?, &addresses, &[]).await?;
    for number in 0..arguments.tokens {
        let frontend = FRONTENDS[number % FRONTENDS.len()];
        dns.set_a(&format!("n{number}.example"), &[net.host(frontend)]).await?;
    }

    let resolver = Resolver::with_servers(&[dns.address()])?;
    let validator = Validator::new(Rules::for_port(port, |_| false), resolver);
    let tokens = Arc::new(tokens);
    let mut rows = Vec::new();
    for (series, direct) in [("directly at the validation host", true), ("through nginx frontends", false)] {
        rows.push(measure(series, &validator, &tokens, &arguments, direct).await?);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        println!(
            "{:<34} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "", "fetches", "answered", "1/s", "p50 ms", "p99 ms", "max ms"
        );
        for row in &rows {
            println!(
                "{:<34} {:>8} {:>8} {:>8.0} {:>8.1} {:>8.1} {:>8.1}",
                row.series, row.fetches, row.answered, row.per_second, row.p50_ms, row.p99_ms, row.longest_ms
            );
        }
    }
    ensure!(rows.iter().all(|row| row.answered == row.fetches), "not every fetch was answered");
    Ok(())
}

/// Every validator fetches every token, all of them at once.
async fn measure(
    series: &'static str,
    validator: &Validator,
    tokens: &Arc<Vec<String>>,
    arguments: &Arguments,
    direct: bool,
) -> Result<Row> {
    let began = Instant::now();
    let mut validators = JoinSet::new();
    for _ in 0..arguments.validators {
        let (validator, tokens, at_once) = (validator.clone(), Arc::clone(tokens), arguments.at_once);
        validators.spawn(async move { fetch_all(&validator, &tokens, at_once, direct).await });
    }
    let mut took = Vec::new();
    let mut answered = 0;
    while let Some(done) = validators.join_next().await {
        for (time, is_right) in done?? {
            took.push(time);
            answered += usize::from(is_right);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    took.sort();
    let at = |share: f64| {
        let place = ((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1));
        took.get(place).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
    };
    Ok(Row {
        series,
        fetches: took.len(),
        answered,
        per_second: took.len() as f64 / seconds,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        longest_ms: at(1.0),
    })
}

async fn fetch_all(
    validator: &Validator,
    tokens: &[String],
    at_once: usize,
    direct: bool,
) -> Result<Vec<(Duration, bool)>> {
    let places = Arc::new(Semaphore::new(at_once));
    let mut fetches = JoinSet::new();
    for (number, token) in tokens.iter().enumerate() {
        let place = Arc::clone(&places).acquire_owned().await?;
        let (validator, token) = (validator.clone(), token.clone());
        fetches.spawn(async move {
            let host = if direct { VALIDATION_HOST.to_owned() } else { format!("n{number}.example") };
            let began = Instant::now();
            let path = format!("/.well-known/acme-challenge/{token}");
            let finding = validator.fetch_as_the_ca(&host, &path).await;
            drop(place);
            let is_right = matches!(&finding.outcome, Outcome::Answered { body } if *body == answer(&token));
            (began.elapsed(), is_right)
        });
    }
    Ok(fetches.join_all().await)
}

fn answer(token: &str) -> String {
    format!("{token}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI")
}
