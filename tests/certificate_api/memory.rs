//! Keys that were given out are not left behind in the memory of the server.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::deadline::until_true;
use shared::domain::KeyType;

use crate::fleet::{Fleet, KEYS, post};

const LIMIT: Duration = Duration::from_secs(30);
const READS: usize = 25;
/// What a worker may hold of its last answer.
const MOST_LEFT: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_wiped_from_memory_after_use() -> Result<()> {
    let fleet = Fleet::new().await?;
    let site = fleet.add_site(&["shop.example.com"], &[], &[KeyType::Rsa2048]).await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let wanted = format!("{{\"ids\":[\"{site}\"]}}");
    let mut key = String::new();
    for _ in 0..READS {
        let answer = fleet.get(daemon.address, &edge, "/v1/certificates/shop.example.com/rsa/privkey.pem")?;
        ensure!(answer.status == 200, "{answer:?}");
        key = answer.text();
        let answer = post(&fleet, daemon.address, &edge, "/v1/bundles", wanted.as_bytes())?;
        ensure!(answer.status == 200 && answer.text().contains("PRIVATE"), "{}", answer.status);
        let answer = fleet.get(daemon.address, &edge, "/v1/adapters/traefik")?;
        ensure!(answer.status == 200 && answer.text().contains("PRIVATE"), "{}", answer.status);
    }
    // A line from the middle of the key.
    let line = key.lines().nth(10).context("a key of many lines")?.to_owned();
    ensure!(line.len() == 64, "{}", line.len());
    let process = daemon.process.pid();
    let is_wiped = async || copies(process, line.as_bytes()).is_ok_and(|left| left <= MOST_LEFT);
    let wiped = until_true("the keys are wiped", LIMIT, is_wiped).await;
    wiped.with_context(|| {
        format!("{READS} keys by three ways: {:?} are left", copies(process, line.as_bytes()))
    })
}

/// How often something stands in the memory of a process.
fn copies(process: u32, needle: &[u8]) -> Result<usize> {
    let mut memory = File::open(format!("/proc/{process}/mem"))?;
    let mut found = 0;
    for line in std::fs::read_to_string(format!("/proc/{process}/maps"))?.lines() {
        let (range, rest) = line.split_once(' ').context("a range")?;
        if !rest.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').context("two ends")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut content = vec![0; usize::try_from(to - from)?];
        memory.seek(SeekFrom::Start(from))?;
        // What can't be read is no memory of its own.
        if memory.read_exact(&mut content).is_ok() {
            found += content.windows(needle.len()).filter(|window| *window == needle).count();
        }
    }
    Ok(found)
}
