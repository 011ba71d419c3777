//! Several nodes, several receivers, and a store that comes and goes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::{
    deadline::{until, until_true},
    mail_server::{MailServer, Security},
    redis_proxy::Mode,
    webhook_receiver::{Answer, WebhookReceiver},
};
use shared::domain::{EventKind, FailureClass};

use crate::{LIMIT, Scene, accepted_with, event, failed, pace};

#[tokio::test(flavor = "multi_thread")]
async fn one_node_tells_and_another_takes_over_when_it_is_killed() -> Result<()> {
    let receiver = WebhookReceiver::start().await?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    let first = scene.start().await?;
    let leader = scene.leader().await?;
    let second = scene.start_waiting(pace()).await?;
    let mut ids = Vec::new();
    for number in 0..40 {
        let id = scene.append(&event(EventKind::Issued, &format!("a{number}.example"))?).await?;
        if number % 10 == 0 {
            accepted_with(&receiver, id).await?;
        }
        ids.push(id.to_string());
    }
    // A node that is killed before it has noted a delivery delivers again, under the same id: that is one message.
    let told = || {
        let messages: BTreeMap<String, Vec<String>> = receiver
            .accepted()
            .into_iter()
            .filter_map(|delivery| Some((delivery.id.clone(), delivery.events("id").ok()?)))
            .collect();
        let mut told: Vec<String> = messages.into_values().flatten().collect();
        told.sort();
        told
    };
    ids.sort();
    until_true("all are told", LIMIT, || async { told().len() >= ids.len() }).await?;
    ensure!(told() == ids, "two nodes, and each event once");
    ensure!(scene.leader().await? == leader, "the first node led all the time");

    first.kill().await;
    let killed = Instant::now();
    ids.push(scene.append(&event(EventKind::Issued, "after.example")?).await?.to_string());
    until_true("the other node tells", LIMIT, || async { told().len() >= ids.len() }).await?;
    ids.sort();
    ensure!(told() == ids, "each event once");
    ensure!(scene.leader().await? != leader);
    ensure!(killed.elapsed() < pace().lead + Duration::from_secs(5), "it took {:?}", killed.elapsed());
    second.stop().await?;
    ensure!(scene.leader().await?.is_none(), "a node that is ended gives the lead back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_the_lead_tells_nothing_more() -> Result<()> {
    let receiver = WebhookReceiver::start().await?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    receiver.answer(Answer::Status(500));
    let node = scene.start().await?;
    let id = scene.append(&event(EventKind::Issued, "a.example")?).await?;
    until_true("some refusals", LIMIT, || async { receiver.deliveries().len() >= 2 }).await?;
    // Somebody else has the lead all of a sudden, as after a pause of this node.
    scene.redis.command(&["SET", "sp:{notify}:leader", "another node", "PX", "2500"]).await?;
    let state = scene.redis.command(&["HGET", "sp:{notify}:state", "webhook"]).await?;
    let before = receiver.deliveries().len();
    let gone = || async {
        scene.leader().await.is_ok_and(|leader| leader.is_none_or(|leader| leader != "another node"))
    };
    until_true("the other's lead ends", LIMIT, gone).await?;
    let meanwhile = receiver.deliveries().len();
    ensure!(meanwhile <= before + 1, "{} attempts without the lead", meanwhile - before);
    ensure!(state != redis::Value::Nil);
    receiver.answer(Answer::Status(200));
    accepted_with(&receiver, id).await?;
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_never_answers_delays_nobody() -> Result<()> {
    let receiver = WebhookReceiver::start().await?;
    receiver.answer(Answer::Nothing);
    let server = MailServer::start(Security::None)?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    scene.signpost.set("notify.smtp_url", server.url(""))?;
    scene.signpost.set("notify.from", "signpost@hoster.example")?;
    scene.signpost.set("notify.to", vec!["ops@hoster.example"])?;
    let out = scene.signpost.write("hook.out", "")?;
    let tee = vec!["/usr/bin/tee".to_owned(), "-a".into(), out.display().to_string()];
    scene.signpost.set("notify.hook", tee)?;
    let node = scene.start().await?;
    let held = scene.append(&failed("a.example", FailureClass::Caa, 1)?).await?;
    until_true("the webhook is held", LIMIT, || async { !receiver.deliveries().is_empty() }).await?;
    let started = Instant::now();
    scene.append(&event(EventKind::Expired, "b.example")?).await?;
    until_true("the hook and the mail", LIMIT, || async {
        let hooked = std::fs::read_to_string(&out).is_ok_and(|text| text.lines().count() >= 2);
        hooked && server.mails().iter().any(|mail| mail.data.contains("b.example"))
    })
    .await?;
    ensure!(started.elapsed() < pace().webhook_timeout, "they waited {:?}", started.elapsed());
    receiver.answer(Answer::Status(200));
    let told = accepted_with(&receiver, held).await?;
    ensure!(told[0].id == receiver.deliveries()[0].id, "the message that was held came again");
    node.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_away_is_gone_on_with() -> Result<()> {
    let receiver = WebhookReceiver::start().await?;
    let mut scene = Scene::set_up().await?;
    scene.use_webhook(&receiver)?;
    let node = scene.start().await?;
    let first = scene.append(&event(EventKind::Issued, "a.example")?).await?;
    accepted_with(&receiver, first).await?;
    // Until the node has written down that it was accepted, it would tell it once more.
    let is_noted = || async {
        let state = scene.redis.command(&["HGET", "sp:{notify}:state", "webhook"]).await;
        let state = state.ok().and_then(|value| redis::from_redis_value::<String>(value).ok());
        state.is_some_and(|state| state.contains("\"message\":null"))
    };
    until_true("the delivery is noted", LIMIT, is_noted).await?;
    scene.proxy.set_mode(Mode::BlackHole);
    let meanwhile = scene.append(&event(EventKind::Issued, "b.example")?).await?;
    // The node's lead ends while it can't be renewed.
    until("the lead ends", LIMIT, || async { scene.leader().await.ok()?.is_none().then_some(()) }).await?;
    ensure!(receiver.accepted().len() == 1, "told without the lead");
    scene.proxy.set_mode(Mode::Pass);
    scene.proxy.cut();
    let told = accepted_with(&receiver, meanwhile).await?;
    ensure!(told.len() == 2 && told[1].events("id")? == [meanwhile.to_string()]);
    node.stop().await
}
