//! The port that frontends pull from, with clients who say nothing, or go away while they wait.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::{until, until_true},
    raw_http::connect,
};
use serde_json::Value;
use shared::domain::KeyType;

use crate::fleet::{CERTS, Fleet, Identity};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_hold_no_frontend_up() -> Result<()> {
    let fleet = Fleet::new().await?;
    let edge = fleet.add_frontend("edge", &["*.example.com"], &[], CERTS).await?;
    let mut daemon = fleet.start().await?;
    // More than there could be handshakes at once; some have sent a part of one.
    let mut held: Vec<TcpStream> =
        (0..600).map(|_| connect(daemon.address)).collect::<std::io::Result<_>>()?;
    for stream in held.iter_mut().take(100) {
        stream.write_all(&[22, 3, 1, 2, 0])?;
    }
    let started = Instant::now();
    let answer = fleet.get(daemon.address, &edge, "/v1/certificates")?;
    ensure!(answer.status == 200 && started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // What is no TLS is not waited for, and no connection for longer than a handshake may take.
    let mut plain = connect(daemon.address)?;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")?;
    let answered = plain.read(&mut [0; 100]);
    ensure!(answered.is_err() || answered.is_ok_and(|count| count == 0), "something answered without TLS");
    ensure!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    for stream in &mut held {
        ensure!(!stream.read(&mut [0]).is_ok_and(|count| count > 0), "a word to who said nothing");
    }
    ensure!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    // Told to end, it waits for none of them.
    let _held: Vec<TcpStream> = (0..50).map(|_| connect(daemon.address)).collect::<std::io::Result<_>>()?;
    let told = Instant::now();
    ensure!(daemon.process.terminate(LIMIT).await?.code() == Some(0));
    ensure!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_went_away_waits_no_longer() -> Result<()> {
    let fleet = Fleet::new().await?;
    fleet.add_site(&["shop.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    let edge = fleet.add_frontend("edge", &["*.example.com"], &[], CERTS).await?;
    let daemon = fleet.start().await?;
    let cursor = until("the feed is followed", LIMIT, async || {
        let answer = fleet.get(daemon.address, &edge, "/v1/changes").ok()?;
        let page: Value = serde_json::from_slice(&answer.body).ok()?;
        page["cursor"].as_str().map(str::to_owned)
    })
    .await?;
    let request = |more: &str| {
        let Identity::Header(token) = &edge else { unreachable!("it has a token") };
        format!(
            "GET /v1/changes?cursor={cursor}&wait=55 HTTP/1.1\r\nhost: localhost\r\nauthorization: {token}\r\n\r\n{more}"
        )
    };
    // Cut off, each in the middle of its question; some with requests behind it that were never to be answered.
    for number in 0..16 {
        let mut stream = fleet.connect(daemon.address, &edge)?;
        let more = if number % 2 == 0 { String::new() } else { request("").repeat(200) };
        stream.write_all(request(&more).as_bytes())?;
    }
    let started = Instant::now();
    until_true("a place is free", LIMIT, async || {
        let path = format!("/v1/changes?cursor={cursor}&wait=1");
        fleet.get(daemon.address, &edge, &path).is_ok_and(|answer| answer.status == 200)
    })
    .await?;
    ensure!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    // Who says that it asks nothing more is answered, and not kept waiting.
    let mut half = fleet.connect(daemon.address, &edge)?;
    half.write_all(request("").as_bytes())?;
    half.get_ref().shutdown(std::net::Shutdown::Write)?;
    let started = Instant::now();
    let answer = harness::raw_http::read_answer(&mut half, false)?.context("no answer")?;
    ensure!(answer.status == 200 && started.elapsed() < Duration::from_secs(8), "{answer:?}");
    // A head that is none is refused in the form that everything else is.
    for (status, error, head) in [
        (400, "bad-request", "GET /v1/certificates HTTP/1.1\r\n\r\n".to_owned()),
        (431, "too-large", format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(120))),
    ] {
        let mut stream = fleet.connect(daemon.address, &edge)?;
        let answer = harness::raw_http::exchange(&mut stream, head.as_bytes())?.context("no answer")?;
        let body: Value = serde_json::from_slice(&answer.body).with_context(|| format!("{answer:?}"))?;
        ensure!(answer.status == status && body["error"] == error, "{answer:?}");
    }
    Ok(())
}
