//! Idempotency keys: the first answer again, whatever happens in between.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    redis_proxy::{Moment, Then, Trigger, cut_twice},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::service::{Reply, Service};

const REPLAY: &str = "Idempotent-Replay";

async fn ask(service: &Service, line: &str, token: &str, key: &str, body: Option<Value>) -> Result<Reply> {
    service.ask_with(line, token, body.as_ref(), &[("Idempotency-Key", key)]).await
}

async fn times_added(service: &Service, token: &str) -> Result<usize> {
    let events = service.ask("GET /events?kind=site-added", token, None).await?.with(200)?;
    Ok(events.body["events"].as_array().context("events")?.len())
}

async fn only_key(service: &Service) -> Result<String> {
    let keys: Vec<String> =
        redis::from_redis_value(service.redis.command(&["KEYS", "sp:idempotency:*"]).await?)?;
    ensure!(keys.len() == 1, "{keys:?}");
    Ok(keys[0].clone())
}

async fn milliseconds_left(service: &Service, key: &str) -> Result<i64> {
    Ok(redis::from_redis_value(service.redis.command(&["PTTL", key]).await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_gets_the_first_answer() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "write").await?;
    let wish = json!({"names": ["a.example.com"]});
    let first = ask(&service, "POST /sites", &token, "k1", Some(wish.clone())).await?.with(201)?;
    ensure!(first.header(REPLAY).is_none());
    let left = milliseconds_left(&service, &only_key(&service).await?).await?;
    ensure!((86_000_000..=86_400_000).contains(&left), "kept for {left} ms");
    let again = ask(&service, "POST /sites", &token, "k1", Some(wish.clone())).await?.with(201)?;
    ensure!(again.body == first.body && again.header(REPLAY) == Some("true"), "{again:#?}");
    ensure!(again.header("Location") == first.header("Location"), "{again:#?}");
    ensure!(times_added(&service, &token).await? == 1);

    // Another request under the same key: another body, path, query or method.
    let other = json!({"names": ["b.example.com"]});
    ask(&service, "POST /sites", &token, "k1", Some(other)).await?.refused(422, "key-reused")?;
    for line in ["POST /sites/a.example.com/pause", "DELETE /sites/a.example.com", "POST /retry"] {
        ask(&service, line, &token, "k1", None).await?.refused(422, "key-reused")?;
    }
    // Keys are each token's own.
    let second = service.token("second", "write").await?;
    let theirs = ask(&service, "POST /sites", &second, "k1", Some(wish.clone())).await?.with(200)?;
    ensure!(theirs.header(REPLAY).is_none() && theirs.body["change"] == "unchanged", "{theirs:#?}");

    // What a second time would answer otherwise.
    let line = "PATCH /sites/a.example.com";
    let changed = ask(&service, line, &token, "k2", Some(json!({"tags": ["x"]}))).await?.with(200)?;
    let again = ask(&service, line, &token, "k2", Some(json!({"tags": ["x"]}))).await?.with(200)?;
    ensure!(again.body == changed.body && again.body["change"] == "changed", "{again:#?}");
    let line = "DELETE /sites/a.example.com";
    let removed = ask(&service, line, &token, "k3", None).await?.with(200)?;
    let again = ask(&service, line, &token, "k3", None).await?.with(200)?;
    ensure!(again.body == removed.body && again.header(REPLAY) == Some("true"), "{again:#?}");
    ask(&service, line, &token, "k4", None).await?.refused(404, "no-such-site")?;

    // A refusal is an answer, too; a question has none that is kept.
    let again = ask(&service, line, &token, "k4", None).await?.refused(404, "no-such-site")?;
    ensure!(again.header(REPLAY) == Some("true"));
    let asked = ask(&service, "GET /sites", &token, "k1", None).await?.with(200)?;
    ensure!(asked.header(REPLAY).is_none());
    for key in ["", &"x".repeat(256), "\u{e4}"] {
        ask(&service, "POST /sites", &token, key, Some(wish.clone())).await?.refused(400, "bad-request")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_do_it_once() -> Result<()> {
    let service = std::sync::Arc::new(Service::start().await?);
    let token = service.token("panel", "write").await?;
    let mut asked = JoinSet::new();
    for _ in 0..16 {
        let (service, token) = (service.clone(), token.clone());
        asked.spawn(async move {
            let wish = json!({"names": ["a.example.com"]});
            ask(&service, "POST /sites", &token, "k", Some(wish)).await
        });
    }
    let mut firsts = 0;
    for reply in asked.join_all().await {
        let reply = reply?;
        match (reply.status, reply.header(REPLAY)) {
            (201, None) => firsts += 1,
            (201, Some("true")) => {}
            _ => {
                let reply = reply.refused(409, "in-progress")?;
                ensure!(reply.header("Retry-After").is_some());
            }
        }
    }
    ensure!(firsts == 1, "{firsts} were the first");
    ensure!(times_added(&service, &token).await? == 1);
    Ok(())
}

/// Between what was done and the keeping of its answer: the mark stays, as when the program is killed there.
#[tokio::test(flavor = "multi_thread")]
async fn cut_off_before_the_answer_was_kept() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "write").await?;
    let wish = json!({"names": ["a.example.com"]});
    for cut in cut_twice(&["sp:idempotency:", "\"answer\""], Moment::BeforeCommand) {
        service.redis_proxy.add_trigger(cut);
    }
    let first = ask(&service, "POST /sites", &token, "k", Some(wish.clone())).await?.with(201)?;
    ensure!(service.redis_proxy.fired() == 2);
    let early = ask(&service, "POST /sites", &token, "k", Some(wish.clone())).await?;
    let early = early.refused(409, "in-progress")?;
    ensure!(early.header("Retry-After") == Some("5"), "{early:#?}");
    let other = json!({"names": ["b.example.com"]});
    ask(&service, "POST /sites", &token, "k", Some(other)).await?.refused(422, "key-reused")?;

    // The mark ends by itself within a minute; the test doesn't wait for it.
    let key = only_key(&service).await?;
    let left = milliseconds_left(&service, &key).await?;
    ensure!((1..=60_000).contains(&left), "marked for {left} ms");
    service.redis.command(&["PEXPIRE", &key, "1"]).await?;
    until_true("the mark ends", Duration::from_secs(5), || async {
        milliseconds_left(&service, &key).await.is_ok_and(|left| left == -2)
    })
    .await?;
    let late = ask(&service, "POST /sites", &token, "k", Some(wish.clone())).await?.with(200)?;
    ensure!(late.body["change"] == "unchanged" && late.body["site"] == first.body["site"], "{late:#?}");
    ensure!(times_added(&service, &token).await? == 1);
    let again = ask(&service, "POST /sites", &token, "k", Some(wish)).await?.with(200)?;
    ensure!(again.header(REPLAY) == Some("true"), "{again:#?}");
    Ok(())
}

/// The store did it, and the program doesn't know: 503 is not kept, and the repetition finds it done.
#[tokio::test(flavor = "multi_thread")]
async fn cut_off_while_it_was_done() -> Result<()> {
    let service = Service::start().await?;
    let token = service.token("panel", "write").await?;
    // Once before, so that the store knows the scripts.
    service.ask("POST /sites", &token, Some(&json!({"names": ["z.example.com"]}))).await?.with(201)?;
    for (key, name, moment) in
        [("k1", "a.example.com", Moment::BeforeCommand), ("k2", "b.example.com", Moment::Answered)]
    {
        let wish = json!({"names": [name]});
        for cut in cut_twice(&[":due", name], moment) {
            service.redis_proxy.add_trigger(cut);
        }
        let cut = ask(&service, "POST /sites", &token, key, Some(wish.clone())).await?;
        let cut = cut.refused(503, "store-unavailable")?;
        ensure!(cut.header("Retry-After") == Some("1"), "{cut:#?}");
        let status = if moment == Moment::Answered { 200 } else { 201 };
        let again = ask(&service, "POST /sites", &token, key, Some(wish)).await?.with(status)?;
        ensure!(again.header(REPLAY).is_none() && again.body["site"]["names"] == json!([name]), "{again:#?}");
    }
    ensure!(service.redis_proxy.fired() == 4 && times_added(&service, &token).await? == 3);
    // Cut once, it is sent again at once, and finds its own write: that is no other's change.
    let name = "c.example.com";
    for (number, (line, wish, status)) in [
        ("POST /sites", json!({"names": [name], "tags": ["here"]}), 201),
        ("PATCH /sites/c.example.com", json!({"tags": ["there"]}), 200),
        ("DELETE /sites/c.example.com", json!(null), 200),
    ]
    .into_iter()
    .enumerate()
    {
        let cut = Trigger::on(":due", Moment::Answered, || Then::Cut).and(name).and("\"change\"");
        service.redis_proxy.add_trigger(cut);
        let wish = (!wish.is_null()).then_some(wish);
        ask(&service, line, &token, &format!("once{number}"), wish).await?.with(status)?;
        ensure!(service.redis_proxy.fired() == 5 + number as u64, "{line}");
    }
    ensure!(times_added(&service, &token).await? == 4);
    Ok(())
}
