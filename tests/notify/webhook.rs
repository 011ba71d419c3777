//! The webhook: its signature, its retries, and what it spares its receiver.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    webhook_receiver::{Answer, WebhookReceiver},
};
use shared::domain::{EventKind, FailureClass};

use crate::{LIMIT, SECRET, Scene, accepted, accepted_with, event, failed};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_signed_as_the_handbook_says() -> Result<()> {
    let receiver = WebhookReceiver::start_tls().await?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    let node = scene.start().await?;
    let issued = event(EventKind::Issued, "shop.example")?.with("serial", "04a1");
    let id = scene.append(&issued).await?;
    let delivery = accepted_with(&receiver, id).await?.remove(0);
    let body = delivery.json()?;
    ensure!(body["id"] == delivery.id.as_str() && !delivery.id.is_empty(), "{body:#}");
    ensure!(body["sent"].is_string() && body["groups"] == serde_json::json!([]), "{body:#}");
    let told = &body["events"][0];
    ensure!(told["id"] == id.to_string() && told["kind"] == "issued", "{body:#}");
    ensure!(told["names"][0] == "shop.example" && told["data"]["serial"] == "04a1", "{body:#}");

    // The handbook's line, run as it stands there.
    let page = std::fs::read_to_string("../deploy/handbook/notifications.md")?;
    let script = page.split("```sh\n").find(|block| block.contains("openssl dgst")).context("the line")?;
    let script = script.split("```").next().unwrap_or_default();
    let verify = |signature: &str, body: &[u8]| -> Result<bool> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("body.json"), body)?;
        std::fs::write(directory.path().join("webhook-secret"), format!("{SECRET}\n"))?;
        let output = Command::new("sh")
            .args(["-euc", script])
            .current_dir(directory.path())
            .env("SIGNATURE", signature)
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim() == "genuine")
    };
    ensure!(verify(&delivery.signature, &delivery.body)?, "{}", delivery.signature);
    let mut other = delivery.body.clone();
    other.push(b' ');
    ensure!(!verify(&delivery.signature, &other)?, "another body is refused");
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_gets_the_same_message_again() -> Result<()> {
    let receiver = WebhookReceiver::start().await?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    receiver.answer_next(&[Answer::Status(500), Answer::Status(503), Answer::Redirect]);
    let node = scene.start().await?;
    let first = scene.append(&event(EventKind::Issued, "a.example")?).await?;
    until_true("a first refusal", LIMIT, || async { !receiver.deliveries().is_empty() }).await?;
    // What comes in the meantime is another message: the first one stays what it was.
    let second = scene.append(&event(EventKind::Issued, "b.example")?).await?;
    accepted_with(&receiver, second).await?;
    let deliveries = receiver.deliveries();
    ensure!(deliveries.len() == 5, "three failures and two messages, not {}", deliveries.len());
    for delivery in &deliveries[..4] {
        ensure!(delivery.id == deliveries[0].id, "the id stays");
        ensure!(delivery.events("id")? == [first.to_string()], "and so does the content");
        ensure!(delivery.path == "/hook", "a redirect isn't followed");
    }
    ensure!(deliveries[4].id != deliveries[0].id && deliveries[4].events("id")? == [second.to_string()]);
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_is_one_message_and_each_failure_is_told_once() -> Result<()> {
    let receiver = WebhookReceiver::start().await?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    let node = scene.start().await?;
    for number in 0..1000 {
        scene.append(&failed(&format!("n{number}.example"), FailureClass::Caa, 1)?).await?;
    }
    let storm = accepted(&receiver, 1).await?.remove(0).json()?;
    ensure!(storm["events"] == serde_json::json!([]), "{storm:#}");
    ensure!(storm["groups"][0]["count"] == 1000 && storm["groups"][0]["class"] == "caa", "{storm:#}");
    ensure!(storm["groups"][0]["remedy"] == "Allow the CA in the CAA record.", "{storm:#}");
    ensure!(storm["groups"][0]["names"].as_array().context("names")?.len() == 20, "{storm:#}");

    // Again and again, the same of the same: nothing new. Another cause is.
    for number in 0..20 {
        scene.append(&failed(&format!("n{number}.example"), FailureClass::Caa, 2)?).await?;
    }
    let other = scene.append(&failed("n7.example", FailureClass::Dns, 3)?).await?;
    let messages = accepted_with(&receiver, other).await?;
    ensure!(messages.len() == 2, "the repetitions were told");
    ensure!(messages[1].events("id")? == [other.to_string()], "{:#}", messages[1].json()?);

    // The end of what was told is told, the end of what was not isn't.
    scene.append(&event(EventKind::Recovered, "never-failed.example")?).await?;
    let recovered = scene.append(&event(EventKind::Recovered, "n7.example")?).await?;
    let messages = accepted_with(&receiver, recovered).await?;
    ensure!(messages.len() == 3 && messages[2].events("id")? == [recovered.to_string()]);
    // From then on it is news again.
    let anew = scene.append(&failed("n7.example", FailureClass::Caa, 1)?).await?;
    accepted_with(&receiver, anew).await?;
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_wanted_is_posted() -> Result<()> {
    let receiver = WebhookReceiver::start().await?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    scene.signpost.set("notify.webhook_min_severity", "warning")?;
    let node = scene.start().await?;
    scene.append(&event(EventKind::Renewed, "a.example")?).await?;
    let failure = scene.append(&failed("a.example", FailureClass::Dns, 1)?).await?;
    accepted_with(&receiver, failure).await?;
    let recovery = scene.append(&event(EventKind::Recovered, "a.example")?).await?;
    accepted_with(&receiver, recovery).await?;
    scene.append(&event(EventKind::Recovered, "b.example")?).await?;
    let expired = scene.append(&event(EventKind::Expired, "c.example")?).await?;
    let messages = accepted_with(&receiver, expired).await?;
    let told: Vec<String> =
        messages.iter().map(|message| message.events("kind")).collect::<Result<Vec<_>>>()?.concat();
    ensure!(told == ["failed", "recovered", "expired"], "{told:?}");
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_loses_nothing() -> Result<()> {
    let receiver = WebhookReceiver::start().await?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    let node = scene.start().await?;
    let mut expected = BTreeSet::new();
    for number in 0..150 {
        expected.insert(scene.append(&event(EventKind::Issued, &format!("a{number}.example"))?).await?);
    }
    accepted(&receiver, 1).await?;
    receiver.answer(Answer::Status(500));
    for number in 0..150 {
        expected.insert(scene.append(&event(EventKind::Issued, &format!("b{number}.example"))?).await?);
    }
    let refused =
        || receiver.deliveries().into_iter().find(|delivery| delivery.answer == Answer::Status(500));
    until_true("a refusal", LIMIT, || async { refused().is_some() }).await?;
    node.kill().await;
    let refused = refused().context("a refusal")?;
    // Nobody notifies while these happen.
    for number in 0..150 {
        expected.insert(scene.append(&event(EventKind::Issued, &format!("c{number}.example"))?).await?);
    }
    receiver.answer(Answer::Status(200));
    let node = scene.start().await?;
    let told = || -> Result<Vec<String>> {
        let events =
            receiver.accepted().iter().map(|delivery| delivery.events("id")).collect::<Result<Vec<_>>>()?;
        Ok(events.concat())
    };
    let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
    until_true("everything is told", LIMIT, || async {
        told().is_ok_and(|told| told.iter().cloned().collect::<BTreeSet<_>>() == expected)
    })
    .await?;
    ensure!(told()?.len() == expected.len(), "nothing was accepted twice");
    let again: Vec<_> =
        receiver.accepted().into_iter().filter(|delivery| delivery.id == refused.id).collect();
    ensure!(again.len() == 1, "the message that was refused kept its id over the restart");
    ensure!(again[0].events("id")? == refused.events("id")?);
    ensure!(
        receiver.accepted().iter().all(|delivery| delivery.events("id").is_ok_and(|ids| ids.len() <= 100))
    );
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_given_up_in_the_end_and_the_next_one_gets_its_turn() -> Result<()> {
    let receiver = WebhookReceiver::start().await?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    receiver.answer(Answer::Status(500));
    // A first start for its place in the streams.
    scene.start().await?.stop().await?;
    let first = scene.append(&event(EventKind::Issued, "a.example")?).await?;
    let pace = issuer::notify::Pace { give_up: std::time::Duration::from_millis(500), ..crate::pace() };
    let node = scene.start_waiting(pace).await?;
    until_true("some refusals", LIMIT, || async { receiver.deliveries().len() >= 2 }).await?;
    let second = scene.append(&event(EventKind::Issued, "b.example")?).await?;
    until_true("the next message", LIMIT, || async {
        receiver
            .deliveries()
            .iter()
            .any(|delivery| delivery.events("id").is_ok_and(|ids| ids == [second.to_string()]))
    })
    .await?;
    receiver.answer(Answer::Status(200));
    let told = accepted_with(&receiver, second).await?;
    ensure!(
        told.iter().all(|delivery| !delivery.events("id").is_ok_and(|ids| ids.contains(&first.to_string())))
    );
    node.stop().await
}
