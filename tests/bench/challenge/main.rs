//! The challenge benchmark: answers per second of `validation-server challenge` with one worker, and of nginx with one
//! worker that serves the same token as a file (access log off, open_file_cache on, the system's own sendfile path).
//!
//! Both are pinned to one processor, the load generator and Redis to another. Besides answers per second on the clock,
//! which others on the machine disturb and the generator may limit, the table has answers per second of processor time that
//! the server used, which they do not. Series are interleaved, and the medians are compared.

mod load;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use harness::{
    nginx::{Nginx, PREFIX},
    ports,
    process::{Process, children_of},
    raw_http::{connect, exchange},
    redis::{Redis, RedisOptions},
    signpost::Signpost,
};
use load::{Load, Measured, pin};
use std::{net::SocketAddr, time::Duration};

const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
const UNKNOWN: &str = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";
const KEY_AUTHORIZATION: &str =
    "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI";
const PATH: &str = ".well-known/acme-challenge";
/// What is to be reached for a known token, as parts of what nginx does.
const KEEP_ALIVE_GOAL: f64 = 0.8;
const CLOSE_GOAL: f64 = 1.0;

/// Benchmark of answering challenges, beside nginx serving a file.
#[derive(Parser)]
#[command(name = "tests/bench/challenge/run")]
struct Arguments {
    /// How often each series is measured; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long one measurement takes
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Connections at once
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// The processor of the servers
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// The processor of the load generator and of Redis
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
    /// Fail where the goals are missed
    #[arg(long)]
    check: bool,
}

/// One series: what is asked for, and how.
#[derive(Clone, Copy)]
struct Series {
    name: &'static str,
    token: &'static str,
    status: u16,
    close: bool,
    /// What is to be reached, as a part of nginx.
    goal: Option<f64>,
}

const SERIES: [Series; 4] = [
    Series {
        name: "known, keep-alive",
        token: TOKEN,
        status: 200,
        close: false,
        goal: Some(KEEP_ALIVE_GOAL),
    },
    Series {
        name: "known, one connection each",
        token: TOKEN,
        status: 200,
        close: true,
        goal: Some(CLOSE_GOAL),
    },
    Series { name: "unknown, keep-alive", token: UNKNOWN, status: 404, close: false, goal: None },
    Series { name: "unknown, one connection each", token: UNKNOWN, status: 404, close: true, goal: None },
];

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0, "--rounds: at least 1");
    let redis = Redis::start(RedisOptions::default()).await?;
    redis.command(&["SET", &format!("sp:token:{TOKEN}"), KEY_AUTHORIZATION]).await?;
    pin(redis.process()?.pid(), arguments.load_cpu)?;
    let mut signpost = Signpost::new()?;
    signpost.use_store(&redis.url())?;
    signpost.set("challenge.workers", 1)?;
    let ours = signpost.start_challenge().await?;
    pin(ours.process.pid(), arguments.server_cpu)?;
    let (nginx, nginx_address) = start_nginx().await?;
    for pid in children_of(nginx.process().pid()).into_iter().chain([nginx.process().pid()]) {
        pin(pid, arguments.server_cpu)?;
    }
    let servers =
        [("validation-server", ours.address, &ours.process), ("nginx", nginx_address, nginx.process())];
    for (name, address, _) in &servers {
        for series in &SERIES {
            check_answer(*address, series).with_context(|| format!("{name}: {}", series.name))?;
        }
    }
    let mut measured: Vec<[Vec<Measured>; 2]> = SERIES.iter().map(|_| Default::default()).collect();
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        for (series, results) in SERIES.iter().zip(&mut measured) {
            for ((_, address, process), results) in servers.iter().zip(results) {
                let load = Load {
                    url: format!("http://{address}/{PATH}/{}", series.token),
                    close: series.close,
                    seconds: arguments.seconds,
                    connections: arguments.connections,
                    cpu: arguments.load_cpu,
                };
                results.push(measure(&load, process, series.status)?);
            }
        }
    }
    let missed = print_table(&measured);
    ensure!(!arguments.check || missed == 0, "{missed} goals were missed");
    Ok(())
}

fn measure(load: &Load, server: &Process, status: u16) -> Result<Measured> {
    let before = server.cpu_time_with_children()?;
    let (answers, other_status) = load.run()?;
    let cpu = server.cpu_time_with_children()?.saturating_sub(before);
    let wrong = if status == 200 { other_status } else { answers - other_status };
    ensure!(wrong == 0, "{wrong} of {answers} answers of {} had another status than {status}", load.url);
    Ok(Measured { answers, elapsed: Duration::from_secs(load.seconds.into()), cpu })
}

async fn start_nginx() -> Result<(Nginx, SocketAddr)> {
    let address = ports::free_address()?;
    let http = format!(
        "open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s; open_file_cache_errors on;
         sendfile on; tcp_nopush on; keepalive_requests 1000000000; server_tokens off;
         server {{
             listen {address} backlog=4096;
             access_log off; log_not_found off;
             location /{PATH}/ {{ root {PREFIX}/html; default_type application/octet-stream; }}
         }}"
    );
    let file = format!("html/{PATH}/{TOKEN}");
    let files = [(file.as_str(), KEY_AUTHORIZATION.as_bytes())];
    let nginx =
        Nginx::start_with_main("worker_processes 1; worker_rlimit_nofile 8192;", &http, &[address], &files)
            .await?;
    Ok((nginx, address))
}

/// A benchmark of wrong answers would be worth nothing.
fn check_answer(address: SocketAddr, series: &Series) -> Result<()> {
    let request =
        format!("GET /{PATH}/{} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n", series.token);
    let answer = exchange(&mut connect(address)?, request.as_bytes())?.context("no answer")?;
    ensure!(answer.status == series.status, "{answer:?}");
    ensure!(series.status != 200 || answer.text() == KEY_AUTHORIZATION, "{answer:?}");
    Ok(())
}

/// Prints medians and their ratios; how many goals were missed.
fn print_table(measured: &[[Vec<Measured>; 2]]) -> usize {
    println!(
        "{:<30} {:>12} {:>12} {:>7} {:>14} {:>14} {:>7}  goal",
        "answers per second", "ours", "nginx", "ratio", "ours, CPU-s", "nginx, CPU-s", "ratio"
    );
    let mut missed = 0;
    for (series, [ours, nginx]) in SERIES.iter().zip(measured) {
        let clock = [ours, nginx].map(|results| median(results, Measured::per_second));
        let cpu = [ours, nginx].map(|results| median(results, Measured::per_cpu_second));
        let ratio = clock[0] / clock[1];
        let verdict = match series.goal {
            None => String::new(),
            Some(goal) if ratio >= goal => format!("{goal:.1} reached"),
            Some(goal) => {
                missed += 1;
                format!("{goal:.1} missed")
            }
        };
        println!(
            "{:<30} {:>12.0} {:>12.0} {ratio:>7.2} {:>14.0} {:>14.0} {:>7.2}  {verdict}",
            series.name,
            clock[0],
            clock[1],
            cpu[0],
            cpu[1],
            cpu[0] / cpu[1]
        );
    }
    missed
}

fn median(results: &[Measured], of: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = results.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
