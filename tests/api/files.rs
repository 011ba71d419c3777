//! Every site that is wanted, in one file: what it would change, and making it so.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    raw_http::{connect, exchange},
};
use serde_json::{Value, json};

use crate::service::{Reply, Service};

const NDJSON: &str = "application/x-ndjson";
const LIMIT: Duration = Duration::from_secs(20);

fn sites(count: usize) -> String {
    (0..count).map(|number| format!("{{\"names\":[\"s{number}.example.com\"]}}\n")).collect()
}

fn counts(reply: &Reply) -> [u64; 4] {
    ["added", "changed", "removed", "unchanged"].map(|word| reply.body[word].as_u64().unwrap_or(9999))
}

async fn listed(service: &Service, token: &str) -> Result<usize> {
    let page = service.ask("GET /sites?limit=1000", token, None).await?.with(200)?;
    Ok(page.body["sites"].as_array().map_or(0, Vec::len))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_planned_applied_and_applied_again() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "write").await?;
    let send = async |line: &str, content: &str| service.send_file(line, &token, NDJSON, content, &[]).await;
    // More than a JSON body may have.
    let many = sites(3_000).replace('}', &format!("{}}}", " ".repeat(80)));
    ensure!(many.len() > 300 << 10);
    let planned = send("POST /plan?limit=3", &many).await?.with(200)?;
    ensure!(counts(&planned) == [3_000, 0, 0, 0], "{:#}", planned.body);
    ensure!(planned.body["changes"].as_array().is_some_and(|all| all.len() == 3), "{:#}", planned.body);
    ensure!(planned.body["omitted"] == 2_997 && planned.body["orders"] == 3_000, "{:#}", planned.body);
    ensure!(listed(&service, &token).await? == 0, "a plan changes nothing");

    let file = sites(40);
    let key = [("Idempotency-Key", "file-1")];
    let first = service.send_file("POST /apply", &token, NDJSON, &file, &key).await?.with(200)?;
    ensure!(counts(&first) == [40, 0, 0, 0] && first.body["failed"] == json!([]), "{:#}", first.body);
    ensure!(listed(&service, &token).await? == 40);
    let again = service.send_file("POST /apply", &token, NDJSON, &file, &key).await?.with(200)?;
    ensure!(again.body == first.body && again.header("Idempotent-Replay") == Some("true"), "{again:#?}");
    service.send_file("POST /apply", &token, NDJSON, &sites(41), &key).await?.refused(422, "key-reused")?;
    ensure!(counts(&send("POST /apply", &file).await?.with(200)?) == [0, 0, 0, 40]);

    let toml = "[defaults]\ntags = [\"eu\"]\n\n".to_owned()
        + &(0..40).map(|n| format!("[[site]]\nnames = [\"s{n}.example.com\"]\n")).collect::<String>();
    let changed =
        service.send_file("POST /apply", &token, "application/toml; charset=utf-8", &toml, &[]).await?;
    ensure!(counts(&changed.with(200)?) == [0, 40, 0, 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_changes_nothing() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "write").await?;
    let send = async |line: &str, content: &str| service.send_file(line, &token, NDJSON, content, &[]).await;
    send("POST /apply", &sites(40)).await?.with(200)?;
    let bad = sites(41) + "{\"names\":[\"a_b.example.com\"]}\n{\"names\":[\"s3.example.com\"]}\n";
    for line in ["POST /plan", "POST /apply"] {
        let refused = send(line, &bad).await?.refused(422, "invalid-file")?;
        let mistakes: Vec<&str> = refused.body["error"]["details"]["mistakes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        ensure!(mistakes.len() == 2, "{:#}", refused.body);
        ensure!(mistakes[0].starts_with("line 42:") && mistakes[1].starts_with("line 43:"), "{mistakes:?}");
    }
    let refused = send("POST /apply", &sites(3)).await?.refused(409, "too-many-removals")?;
    ensure!(
        refused.body["error"]["details"] == json!({"removed": 37, "known": 40, "source": "default"}),
        "{:#}",
        refused.body
    );
    ensure!(listed(&service, &token).await? == 40, "nothing was changed");
    let removed = send("POST /apply?remove=37", &sites(3)).await?.with(200)?;
    ensure!(counts(&removed) == [0, 0, 37, 3] && listed(&service, &token).await? == 3, "{:#}", removed.body);

    // Another source has nothing to do with these, and an empty file removes nothing by itself.
    let other = "{\"names\":[\"other.example.com\"]}\n";
    let applied = send("POST /apply?source=panel", other).await?.with(200)?;
    ensure!(counts(&applied) == [1, 0, 0, 0] && applied.body["source"] == "panel", "{:#}", applied.body);
    let site = service.ask("GET /sites/other.example.com", &token, None).await?.with(200)?;
    ensure!(site.body["source"] == "panel" && site.body["origin"] == "file", "{:#}", site.body);
    for empty in ["", "# nothing\n"] {
        send("POST /apply?source=panel", empty).await?.refused(409, "too-many-removals")?;
        let planned = send("POST /plan?source=panel", empty).await?.with(200)?;
        ensure!(planned.body["needs_remove"] == 1, "{:#}", planned.body);
    }
    let stolen = send("POST /apply?source=panel&remove=1", &sites(1)).await?.with(200)?;
    let failed = &stolen.body["failed"][0];
    ensure!(failed["names"] == json!(["s0.example.com"]), "{:#}", stolen.body);
    ensure!(failed["message"].as_str().is_some_and(|m| m.contains("source \"default\"")), "{failed}");
    ensure!(listed(&service, &token).await? == 3, "its own was removed, theirs was not taken");
    send("POST /apply?source=a%20b", other).await?.refused(400, "bad-request")?;
    let list = send("POST /plan", "a.example.com\nb.example.com\n").await?.refused(422, "invalid-file")?;
    let mistakes = list.body["error"]["details"]["mistakes"].to_string();
    ensure!(mistakes.contains("a plain list of names") && mistakes.contains("[[site]]"), "{mistakes}");

    for kind in ["application/json", "text/plain", ""] {
        let reply = service.send_file("POST /apply", &token, kind, &sites(3), &[]).await?;
        reply.refused(415, "not-a-file")?;
    }
    service
        .send_file("POST /apply?sites=3", &token, NDJSON, &sites(3), &[])
        .await?
        .refused(400, "bad-request")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_only_looks_has_so_many_files_under_way() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("viewer", "read").await?;
    let plan = async || service.send_file("POST /plan", &token, NDJSON, &sites(3), &[]).await;
    plan().await?.with(200)?;
    let begin = || -> Result<std::net::TcpStream> {
        let mut stream = connect(service.address)?;
        let head = format!(
            "POST /api/v1/plan HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-type: {NDJSON}\r\n\
             transfer-encoding: chunked\r\n\r\n1\r\n\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        Ok(stream)
    };
    // One that comes at the same moment as a plan may be the one too many.
    let held = std::sync::Mutex::new(Vec::new());
    until_true("four are under way", LIMIT, async || {
        if plan().await.is_ok_and(|reply| reply.status == 429) {
            return true;
        }
        held.lock().expect("no panic while held").extend(begin());
        false
    })
    .await?;
    let refused = plan().await?.refused(429, "busy")?;
    ensure!(refused.header("Retry-After").is_some(), "{refused:#?}");
    let other = service.token("other", "read").await?;
    service.send_file("POST /plan", &other, NDJSON, &sites(3), &[]).await?.with(200)?;
    // What a client that has gone away was sending is gone with it.
    drop(held);
    until_true("there is room", LIMIT, async || plan().await.is_ok_and(|reply| reply.status == 200)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_not_read_on() -> Result<()> {
    let service = Service::start().await?;
    for (path, status) in [("/api/v1/plan", 401), ("/api/v1/sites", 401), ("/nowhere", 404)] {
        let mut stream = connect(service.address)?;
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {NDJSON}\r\ntransfer-encoding: chunked\r\n\r\n5\r\n"
        );
        let answer = exchange(&mut stream, request.as_bytes())?.context("no answer")?;
        ensure!(
            answer.status == status && answer.header("connection") == Some("close"),
            "{path}: {answer:?}"
        );
        ensure!(stream.read(&mut [0])? == 0, "{path}: it is still open");
    }
    Ok(())
}
