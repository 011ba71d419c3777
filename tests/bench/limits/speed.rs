//! How fast the script is: all buckets of an order at once, against one Redis. Each order asks, and is settled as placed and issued.

use anyhow::{Result, bail};
use harness::redis::{Redis, RedisOptions};
use issuer::{
    ca::Ca,
    limits::{Asked, SuffixSource, Turn, Twin},
};
use shared::{
    config::Config,
    domain::{DnsName, NameSet, OrderClass, PublicSuffixes},
    store::{Claimant, Role, Store},
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

const LONG_ENOUGH: Duration = Duration::from_secs(3);
const ASKERS: [usize; 2] = [1, 8];
const NAMES: [usize; 2] = [1, 100];

pub(crate) async fn run() -> Result<()> {
    println!("{:<22} {:>8} {:>12} {:>10} {:>10} {:>10}", "", "askers", "orders/s", "mean", "p50", "p99");
    for names in NAMES {
        for askers in ASKERS {
            let redis = Redis::start(RedisOptions { append_only: false, ..RedisOptions::default() }).await?;
            let (took, all) = ask(&redis, names, askers).await?;
            let ms = |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
            let mean = all.iter().sum::<Duration>().as_secs_f64() * 1e3 / all.len() as f64;
            println!(
                "{:<22} {askers:>8} {:>12.0} {mean:>7.2} ms {:>7.2} ms {:>7.2} ms",
                format!("asked, {names} names"),
                all.len() as f64 / took.as_secs_f64(),
                ms(0.5),
                ms(0.99)
            );
        }
    }
    println!(
        "an order of 100 names touches 302 buckets; between two asks it is settled, which is not counted in its time"
    );
    Ok(())
}

/// How long all took, and each ask by itself, sorted.
async fn ask(redis: &Redis, names: usize, askers: usize) -> Result<(Duration, Vec<Duration>)> {
    let began = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for asker in 0..askers {
        let url = redis.url();
        running.spawn(async move {
            // Nothing is to be refused here.
            let text = format!("[store]\nurl = {url:?}\n[ca.letsencrypt]\n");
            let config = Config::parse(&text, Path::new("signpost.toml"), &[])?;
            let store = Store::open(&config.store, Role::Issuer).await?;
            let list = Arc::new(PublicSuffixes::shipped());
            let suffixes: SuffixSource = Arc::new(move || Arc::clone(&list));
            let ca = Ca::of(&config, None)?;
            let mut times = Vec::new();
            let mut number = 0;
            while began.elapsed() < LONG_ENOUGH {
                number += 1;
                // An account of its own for each order: its bucket is never empty.
                let account = format!("a{asker}-{number}");
                let twin = Twin::new(store.clone(), ca.clone(), &account, Arc::clone(&suffixes), 0.05);
                let names = NameSet::new(
                    (0..names)
                        .map(|name| DnsName::parse(&format!("www.s{asker}-{number}-{name}.com")))
                        .collect::<Result<Vec<_>, _>>()?,
                )?;
                let asked = Asked {
                    order: format!("{account}/ecdsa"),
                    names: &names,
                    replaces: None,
                    class: OrderClass::New,
                    same_set: false,
                    claimant: Claimant::New,
                    by_hand: false,
                    promised: false,
                };
                let before = Instant::now();
                let turn = twin.ask(&asked, None).await?;
                times.push(before.elapsed());
                let Turn::Now(ticket) = turn else { bail!("an order was put off") };
                ticket.placed(&twin, 1, None).await;
                ticket.issued(&twin, None).await;
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = running.join_next().await {
        all.extend(times??);
    }
    let took = began.elapsed();
    all.sort();
    Ok((took, all))
}
