//! One frontend: its first sync, changes, an hour without any; and curl beside it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::signpost::Daemon;

use crate::{
    fleet::{self, Fleet},
    leaf::Mint,
    measure::{loopback_bytes, peak_mib, seconds_until},
    nginx,
    renew::renew,
    row::{Change, Row},
};

const LIMIT: Duration = Duration::from_secs(1200);
const CHANGES: [usize; 3] = [1, 100, 10_000];

pub(crate) async fn measure(fleet: &mut Fleet, mint: &Mint, sites: usize, idle: u64) -> Result<Row> {
    let mut row = Row { sites, ..Row::default() };
    let added = fleet.signpost.issuer_json(&["frontend", "add", "edge", "--scope", "*"]).await?;
    let text = |field: &str| added[field].as_str().map(str::to_owned).context("no such field");
    let ca = fleet.signpost.write("ca.pem", text("ca_certificate_pem")?)?;
    let token = fleet.signpost.write("token", text("token")?)?;
    let directory = fleet.signpost.directory().join("agent");
    // The issuer takes the audit to its disk, as it does in life.
    let issuer = fleet.signpost.start_issuer().await?;
    let certificates = fleet.signpost.start_certificates().await?;
    let server = format!("https://127.0.0.1:{}", certificates.address.port());
    for (key, value) in [
        ("server", server.clone()),
        ("ca_file", ca.display().to_string()),
        ("token_file", token.display().to_string()),
        ("directory", directory.display().to_string()),
        ("probe", String::new()),
    ] {
        fleet.signpost.set(&format!("agent.{key}"), value)?;
    }
    for key in ["nginx.test", "nginx.reload"] {
        fleet.signpost.set(&format!("agent.{key}"), Vec::<toml::Value>::new())?;
    }

    eprintln!("measuring: the first sync of {sites}");
    let before = loopback_bytes()?;
    let agent = fleet.signpost.start_run("frontend-agent", &["run"])?;
    let began = Instant::now();
    let map = directory.join("nginx/map.conf");
    let is_there = || Ok(std::fs::read(&map).is_ok_and(|text| lines(&text) == sites));
    seconds_until(LIMIT, is_there).await.with_context(|| agent.stderr().unwrap_or_default())?;
    row.cold_seconds = began.elapsed().as_secs_f64();
    row.cold_mib = mib(loopback_bytes()? - before);
    row.agent_mib = peak_mib(agent.process.pid())?;
    row.server_mib = peak_mib(certificates.process.pid())?;

    for count in CHANGES.into_iter().filter(|count| *count <= sites) {
        eprintln!("measuring: {count} changes");
        let ids: Vec<PathBuf> = (0..count)
            .map(|number| Ok(directory.join("live").join(fleet::id(number)?.as_str())))
            .collect::<Result<_>>()?;
        let former = targets(&ids)?;
        let before = loopback_bytes()?;
        // They are renewed within this time.
        let filled = renew(fleet, mint, count).await?;
        let seconds = seconds_until(LIMIT, || {
            Ok(ids.iter().all(|id| std::fs::read_link(id).is_ok_and(|now| former.get(id) != Some(&now))))
        })
        .await?;
        row.changes.push(Change {
            count,
            written_seconds: filled,
            seconds,
            mib: mib(loopback_bytes()? - before),
        });
    }
    row.agent_after_mib = peak_mib(agent.process.pid())?;

    eprintln!("measuring: {idle} s without a change");
    let (before, asked) = (loopback_bytes()?, requests(&certificates).await?);
    tokio::time::sleep(Duration::from_secs(idle)).await;
    let hours = idle as f64 / 3600.0;
    // The question for the metrics is not the frontend's.
    row.idle_requests = (requests(&certificates).await? - asked) / hours;
    row.idle_kib = (loopback_bytes()? - before) as f64 / 1024.0 / hours;

    eprintln!("measuring: nginx with all of it");
    row.nginx = nginx::measure(fleet, mint, &directory).await?;
    drop(agent);

    eprintln!("measuring: curl, one by one");
    let place = fleet.signpost.directory().join("curl");
    std::fs::create_dir(&place)?;
    let before = loopback_bytes()?;
    row.curl_cold_seconds = curl(&place, &server, &ca, &token, sites)?;
    row.curl_cold_mib = mib(loopback_bytes()? - before);
    let before = loopback_bytes()?;
    row.curl_again_seconds = curl(&place, &server, &ca, &token, sites)?;
    row.curl_again_mib = mib(loopback_bytes()? - before);
    drop(issuer);
    Ok(row)
}

/// Every bundle with its ETag, over one connection; again, those that are known are not sent.
fn curl(place: &Path, server: &str, ca: &Path, token: &Path, sites: usize) -> Result<f64> {
    let token = std::fs::read_to_string(token)?;
    let mut config = String::new();
    for number in 0..sites {
        let name = fleet::name(number);
        config.push_str(&format!(
            "next\nsilent\nfail\ncacert = {}\nheader = \"Authorization: Bearer {}\"\nurl = {server}/v1/certificates/{name}/ecdsa/bundle.pem\n\
             output = {name}.pem\netag-compare = {name}.etag\netag-save = {name}.etag\n",
            ca.display(),
            token.trim()
        ));
    }
    std::fs::write(place.join("config"), config.trim_start_matches("next\n"))?;
    let began = Instant::now();
    let status = Command::new("curl").arg("--config").arg("config").current_dir(place).status()?;
    ensure!(status.success(), "curl: {status}");
    let seconds = began.elapsed().as_secs_f64();
    let pulled = std::fs::read_dir(place)?.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "pem"))
    });
    ensure!(pulled.count() == sites, "curl has not pulled everything");
    Ok(seconds)
}

fn targets(ids: &[PathBuf]) -> Result<BTreeMap<PathBuf, PathBuf>> {
    ids.iter().map(|id| Ok((id.clone(), std::fs::read_link(id)?))).collect()
}

/// Requests that the role has answered.
async fn requests(daemon: &Daemon) -> Result<f64> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
    let text = client.get(format!("http://{}/metrics", daemon.telemetry)).send().await?.text().await?;
    let lines = text.lines().filter(|line| line.contains("certificate_requests_total{"));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

fn lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
