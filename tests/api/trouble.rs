//! A store that is away, requests that are none, and the end.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    raw_http::{connect, exchange, read_answer},
    redis_proxy::{Mode, Moment, Then, Trigger, cut_twice},
};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::{
    document,
    service::{Reply, Service},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_503_and_nothing_else() -> Result<()> {
    let mut service = Service::start().await?;
    let token = service.token("ops", "admin").await?;
    let site = json!({"names": ["a.example.com"]});
    service.ask("POST /sites", &token, Some(&site)).await?.with(201)?;
    ensure!(service.monitoring("/readyz").await?.0 == 200);
    let lines = [
        "GET /sites",
        "GET /sites/a.example.com",
        "GET /sites/unknown.example.com",
        "DELETE /sites/a.example.com",
        "POST /sites/a.example.com/renew",
        "GET /certificates/a.example.com",
        "GET /status",
        "GET /events",
        "DELETE /brakes/issuance/all",
        "GET /tenants/unknown",
        "GET /tokens",
    ];
    service.redis.stop().await?;
    for line in lines {
        for token in [token.as_str(), "sp_unknown"] {
            let reply = service.ask(line, token, None).await?.refused(503, "store-unavailable")?;
            ensure!(reply.header("Retry-After") == Some("1"), "{reply:#?}");
        }
        // Who brings none needs no store to be told so.
        service.ask(line, "", None).await?.refused(401, "unauthorized")?;
    }
    service.ask("GET /openapi.json", "", None).await?.with(200)?;
    until_true("not ready", Duration::from_secs(10), || async {
        service.monitoring("/readyz").await.is_ok_and(|(status, _)| status == 503)
    })
    .await?;
    ensure!(service.monitoring("/healthz").await?.0 == 200);
    service.redis.start_again().await?;
    until_true("ready", Duration::from_secs(10), || async {
        service.monitoring("/readyz").await.is_ok_and(|(status, _)| status == 200)
    })
    .await?;
    service.ask("GET /sites/a.example.com", &token, None).await?.with(200)?;
    let (_, metrics) = service.monitoring("/metrics").await?;
    let counted =
        "signpost_api_requests_total{method=\"GET\",route=\"/api/v1/sites/{site}\",status=\"503\"} 4";
    ensure!(metrics.contains(counted) && metrics.contains("signpost_store_up 1"), "{metrics}");

    // One that is silent is no better.
    service.redis_proxy.set_mode(Mode::BlackHole);
    service.ask("GET /sites/a.example.com", &token, None).await?.refused(503, "store-unavailable")?;
    Ok(())
}

/// The store is there for the token, and away for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_in_the_middle_is_not_found_to_lack_anything() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("ops", "admin").await?;
    let site = json!({"names": ["a.example.com"]});
    service.ask("POST /sites", &token, Some(&site)).await?.with(201)?;
    service.ask("PUT /tenants/acme", &token, Some(&json!({"redirect": true}))).await?.with(201)?;
    for (line, cut_at) in [
        ("GET /sites/a.example.com", "sp:name:a.example.com"),
        ("GET /sites/a.example.com", "HGETALL"),
        ("GET /certificates/a.example.com", "sp:name:a.example.com"),
        ("GET /tenants/acme", "sp:tenant:acme"),
        ("DELETE /brakes/issuance/all", "sp:brakes"),
        ("GET /sites", "ZRANGEBYLEX"),
    ] {
        for cut in cut_twice(&[cut_at], Moment::BeforeCommand) {
            service.redis_proxy.add_trigger(cut);
        }
        let refused = service.ask(line, &token, None).await?.refused(503, "store-unavailable");
        refused.with_context(|| format!("{line}, cut at {cut_at}"))?;
    }
    ensure!(service.redis_proxy.fired() == 12, "{} of the cuts were made", service.redis_proxy.fired());
    // A record that can't be read isn't missing either, and trying again doesn't help.
    service.redis.command(&["SET", "sp:tenant:broken", "{"]).await?;
    let damaged = service.ask("GET /tenants/broken", &token, None).await?.refused(500, "damaged")?;
    ensure!(damaged.header("Retry-After").is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_none_are_refused_as_json() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "write").await?;
    for line in ["GET /nothing", "GET /sites/a/b/c", "POST /sites/", "GET /../../"] {
        service.send(line, &token, None, &[]).await?.refused(404, "no-such-route")?;
    }
    let reply = service.send("PUT /sites/a.example.com", &token, None, &[]).await?;
    let reply = reply.refused(405, "method-not-allowed")?;
    ensure!(reply.header("Allow") == Some("GET, PATCH, DELETE"), "{reply:#?}");

    let send = async |kind: &str, bytes: &[u8]| {
        service.send("POST /sites", &token, Some((kind, bytes.to_vec())), &[]).await
    };
    let wish = br#"{"names":["a.example.com"]}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        send(kind, wish).await?.refused(415, "not-json")?;
    }
    for bytes in [&b"{"[..], b"{\"names\":[\"\xff\"]}", b"nonsense", b""] {
        send("application/json", bytes).await?.refused(400, "bad-request")?;
    }
    // By places, which nobody means; and in a form that nobody reads.
    send("application/json", br#"[["a.example.com"]]"#).await?.refused(400, "bad-request")?;
    send("application/json; charset=utf-16", wish).await?.refused(415, "not-json")?;
    let body = Some(("application/json", wish.to_vec()));
    service
        .send("POST /sites", &token, body, &[("Content-Encoding", "gzip")])
        .await?
        .refused(415, "not-json")?;
    for line in ["POST /sites?dry_run=1", "GET /tenants?limit=1", "GET /status?x", "GET /openapi.json?x=1"] {
        service.send(line, &token, None, &[]).await?.refused(400, "bad-request")?;
    }
    let mut large = br#"{"names":["#.to_vec();
    large.resize(256 << 10, b' ');
    send("application/json", &large).await?.refused(400, "bad-request")?;
    large.push(b' ');
    send("application/json", &large).await?.refused(413, "too-large")?;
    send("application/json; charset=utf-8", wish).await?.with(201)?;
    Ok(())
}

/// Refused by HTTP itself, before there is a request: in the documented form all the same.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_none_are_refused_as_json() -> Result<()> {
    let service = Service::start().await?;
    let path = "/api/v1/status";
    let (many, long) = ("x-a: b\r\n".repeat(120), "x".repeat(40 << 10));
    let heads = [
        (400, format!("GET {path} HTTP/1.1\r\n\r\n")),
        (400, format!("GET {path} HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")),
        (
            400,
            format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n"
            ),
        ),
        (400, format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc")),
        (400, format!("GET {path} HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n")),
        (400, format!("GET {path}\0 HTTP/1.1\r\nhost: a\r\n\r\n")),
        (400, "nonsense\r\n\r\n".to_owned()),
        (431, format!("GET {path} HTTP/1.1\r\nhost: a\r\n{many}\r\n")),
        (431, format!("GET {path} HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n")),
    ];
    let usual = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    for (number, (status, head)) in heads.iter().enumerate() {
        let mut stream = connect(service.address)?;
        // As the first request, and behind one that was answered.
        if number % 2 == 1 {
            ensure!(exchange(&mut stream, usual.as_bytes())?.is_some_and(|answer| answer.status == 401));
        }
        let answer =
            exchange(&mut stream, head.as_bytes())?.with_context(|| format!("{head:.80}: no answer"))?;
        ensure!(answer.status == *status, "{head:.80}: {answer:?}");
        ensure!(
            answer.header("connection") == Some("close") && answer.header("date").is_some(),
            "{answer:?}"
        );
        ensure!(answer.header("content-type") == Some("application/json"), "{answer:?}");
        let body: Value = serde_json::from_slice(&answer.body)?;
        let reply = Reply { status: answer.status, body, headers: HeaderMap::new() };
        document::check("GET", "/status", &reply).with_context(|| format!("{head:.80}: {reply:#?}"))?;
        ensure!(read_answer(&mut stream, false)?.is_none(), "{head:.80}: a second answer");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_can_be_bound_to_the_state_that_was_seen() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "admin").await?;
    let send = async |line: &str, body: &str, headers: &[(&str, &str)]| {
        service.send(line, &token, Some(("application/json", body.as_bytes().to_vec())), headers).await
    };
    send("POST /sites", r#"{"names":["a.example.com"]}"#, &[]).await?.with(201)?;
    let seen = service.send("GET /sites/a.example.com", &token, None, &[]).await?.with(200)?;
    let seen = seen.header("ETag").context("an ETag")?.to_owned();
    let line = "PATCH /sites/a.example.com";
    let changed = send(line, r#"{"tags":["eu"]}"#, &[("If-Match", &seen)]).await?.with(200)?;
    let now = changed.header("ETag").context("an ETag")?.to_owned();
    send(line, r#"{"tags":["us"]}"#, &[("If-Match", &seen)]).await?.refused(412, "precondition-failed")?;
    send(line, r#"{"tags":["us"]}"#, &[("If-Match", "*")]).await?.with(200)?;
    service
        .send("DELETE /sites/a.example.com", &token, None, &[("If-Match", &now)])
        .await?
        .refused(412, "precondition-failed")?;
    send("PUT /tenants/acme", r#"{"redirect":true}"#, &[("If-Match", "*")])
        .await?
        .refused(412, "precondition-failed")?;
    let made = send("PUT /tenants/acme", r#"{"redirect":true}"#, &[]).await?.with(201)?;
    let made = made.header("ETag").context("an ETag")?.to_owned();
    send("PUT /tenants/acme", r#"{"redirect":false}"#, &[("If-Match", &made)]).await?.with(200)?;

    // Only what is not there yet.
    let only_new = [("If-None-Match", "*")];
    for (line, body) in [
        ("PUT /tenants/acme", r#"{"redirect":true}"#),
        (
            "PUT /tls-policy",
            r#"{"min_version":"1.3","ciphersuites":["TLS_AES_128_GCM_SHA256"],"groups":["x25519"]}"#,
        ),
        ("POST /sites", r#"{"names":["a.example.com"]}"#),
        ("POST /sites", r#"{"names":["a.example.com"],"tags":["other"]}"#),
    ] {
        let refused = send(line, body, &only_new).await?.refused(412, "precondition-failed");
        refused.with_context(|| format!("{line} {body}"))?;
    }
    let seen = service.send("GET /tenants/acme", &token, None, &only_new).await?.with(200)?;
    ensure!(seen.body["redirect"] == false, "{seen:#?}");
    send("PUT /tenants/new", r#"{"redirect":true}"#, &only_new).await?.with(201)?;
    send("PUT /brakes/issuance/tag:x", "{}", &only_new).await?.with(201)?;
    send("PUT /brakes/issuance/tag:x", "{}", &only_new).await?.refused(412, "precondition-failed")?;
    send("POST /sites", r#"{"names":["b.example.com"]}"#, &only_new).await?.with(201)?;
    // What can't be heeded is not passed over; nor is one of two that contradict each other.
    let twice = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")];
    for (line, headers) in [
        ("PUT /tenants/other", &[("If-None-Match", made.as_str())][..]),
        ("PUT /tenants/other", &[("If-Match", "*"), ("If-Match", "\"a\"")]),
        ("PATCH /sites/a.example.com", &only_new),
        ("POST /sites/a.example.com/pause", &only_new),
        ("POST /sites/a.example.com/renew", &[("If-Match", made.as_str())]),
        ("PUT /tenants/other", &twice),
        ("POST /sites", &twice),
        ("POST /sites", &[("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]),
    ] {
        let refused = send(line, "{}", headers).await?.refused(400, "bad-request");
        refused.with_context(|| format!("{line} {headers:?}"))?;
    }
    service.ask("GET /tenants/other", &token, None).await?.refused(404, "no-such-tenant")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_finishes_what_is_open() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "write").await?;
    service.ask("GET /status", &token, None).await?.with(200)?;
    let stop = service.stop.clone();
    let ending = Trigger::on(":due", Moment::Answered, move || {
        stop.cancel();
        Then::GoOn
    });
    service.redis_proxy.add_trigger(ending.and("a.example.com"));
    let site = json!({"names": ["a.example.com"]});
    service.ask("POST /sites", &token, Some(&site)).await?.with(201)?;
    ensure!(service.redis_proxy.fired() == 1 && service.monitoring("/readyz").await?.1 == "ending\n");
    tokio::time::timeout(Duration::from_secs(5), service.served).await???;
    Ok(())
}
