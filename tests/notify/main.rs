//! Telling the operator: a signed webhook, mails, a hook, against real receivers; one node at a time, and none of them
//! forgets.

mod fleet;
mod hook;
mod mail;
mod webhook;

use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::{
    deadline::until,
    redis::{Redis, RedisOptions},
    redis_proxy::RedisProxy,
    signpost::Signpost,
    webhook_receiver::{Delivery, WebhookReceiver},
};
use issuer::notify::{Pace, run_at};
use jiff::{SignedDuration, Timestamp};
use shared::{
    config::Config,
    domain::{DnsName, Event, EventKind, Failure, FailureClass, NameSet, SiteId},
    error::Fault,
    store::{EventId, Role, Store},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(30);
const SECRET: &str = "a secret that only the two of us know";

/// A store, an installation whose `[notify]` a test fills in, and nobody who notifies yet.
struct Scene {
    store: Store,
    signpost: Signpost,
    proxy: RedisProxy,
    redis: Redis,
}

/// A node that notifies, in this process.
struct Node {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

/// In a hurry.
fn pace() -> Pace {
    Pace {
        lead: Duration::from_millis(1500),
        poll: Duration::from_millis(50),
        quiet: Duration::from_millis(300),
        gather: Duration::from_secs(5),
        retries: vec![Duration::from_millis(100)],
        give_up: Duration::from_secs(3600),
        critical: Duration::from_millis(600),
        webhook_timeout: Duration::from_secs(3),
        mail_timeout: Duration::from_secs(3),
        hook_timeout: Duration::from_secs(2),
        hook_attempts: 3,
    }
}

impl Scene {
    async fn set_up() -> Result<Self> {
        let redis = Redis::start(RedisOptions::default()).await?;
        let proxy = RedisProxy::start(redis.address()).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_store(&proxy.url())?;
        // The test's own way to the store: what happens to the node's connections doesn't concern it.
        let direct = Config::parse(&format!("[store]\nurl = {:?}\n", redis.url()), "x".as_ref(), &[])?;
        let store = Store::open(&direct.store, Role::Issuer).await?;
        Ok(Self { store, signpost, proxy, redis })
    }

    /// The webhook goes to this receiver.
    fn use_webhook(&mut self, receiver: &WebhookReceiver) -> Result<()> {
        let secret = self.signpost.write("webhook-secret", format!("{SECRET}\n"))?;
        self.signpost.set("notify.webhook_url", receiver.url())?;
        self.signpost.set("notify.webhook_secret_file", secret.display().to_string())?;
        if let Some(roots) = receiver.root_file() {
            self.signpost.set("notify.webhook_roots_file", roots.display().to_string())?;
        }
        Ok(())
    }

    /// A node that notifies, and that leads once this returns: what happens from now on is told.
    async fn start(&self) -> Result<Node> {
        let node = self.start_waiting(pace()).await?;
        let receivers = ["webhook_url", "hook"];
        let config = Config::load(Some(self.signpost.config_path()))?;
        let table = toml::Table::try_from(&config.notify)?;
        let wanted = receivers.iter().filter(|key| {
            table.get(**key).is_some_and(|value| value.as_array().is_none_or(|words| !words.is_empty()))
        });
        // Each address is a receiver of its own.
        let readers = config.notify.smtp_url.as_ref().map_or(0, |_| config.notify.to.len());
        let wanted = wanted.count() + readers;
        until("every receiver has its place in the streams", LIMIT, || async {
            let known = self.redis.command(&["HLEN", "sp:{notify}:state"]).await.ok()?;
            let leads = self.leader().await.ok()?.is_some();
            (known == redis::Value::Int(i64::try_from(wanted).ok()?) && leads).then_some(())
        })
        .await?;
        Ok(node)
    }

    /// A node that notifies when it may.
    async fn start_waiting(&self, pace: Pace) -> Result<Node> {
        let config = Config::load(Some(self.signpost.config_path()))?;
        let store = Store::open(&config.store, Role::Issuer).await?;
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move {
            run_at(store, config.notify, pace, token).await.expect("the receivers can be set up");
        });
        Ok(Node { task, shutdown })
    }

    async fn leader(&self) -> Result<Option<String>> {
        Ok(redis::from_redis_value(self.redis.command(&["GET", "sp:{notify}:leader"]).await?)?)
    }

    /// Events of the same millisecond in different partitions have no order: the next one comes in a later one.
    async fn append(&self, event: &Event) -> Result<EventId> {
        let id = self.store.append_event(event).await?;
        while Timestamp::now() <= id.time() + SignedDuration::from_millis(1) {
            tokio::task::yield_now().await;
        }
        Ok(id)
    }
}

impl Node {
    /// Ends it as SIGTERM would.
    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.task).await.context("it ends")??;
        Ok(())
    }

    /// Ends it at once, wherever it is: nothing is released, nothing is written.
    async fn kill(self) {
        self.task.abort();
        // It has ended when this returns; that it was aborted is no news.
        let _ = self.task.await;
    }
}

fn site_of(name: &str) -> Result<NameSet> {
    Ok(NameSet::one(DnsName::parse(name)?))
}

/// An event of the one site with this name.
fn event(kind: EventKind, name: &str) -> Result<Event> {
    let names = site_of(name)?;
    Ok(Event::new(kind, Timestamp::now(), format!("{name}: {kind}."))
        .for_site(&SiteId::of(&names))
        .names(names.iter()))
}

fn failure(class: FailureClass, count: u32) -> Failure {
    Failure {
        at: Timestamp::now(),
        count,
        fault: Fault::Customer,
        class,
        what: "CAA forbids it".into(),
        remedy: "Allow the CA in the CAA record.".into(),
        not_before: None,
        since: None,
        next: None,
        waits: false,
        remembered: false,
    }
}

fn failed(name: &str, class: FailureClass, count: u32) -> Result<Event> {
    Ok(event(EventKind::Failed, name)?.because(&failure(class, count)))
}

/// The messages that were accepted, once there are this many.
async fn accepted(receiver: &WebhookReceiver, count: usize) -> Result<Vec<Delivery>> {
    until(&format!("{count} messages"), LIMIT, || async {
        let accepted = receiver.accepted();
        (accepted.len() >= count).then_some(accepted)
    })
    .await
}

/// The messages that were accepted, once one of them lists this event.
async fn accepted_with(receiver: &WebhookReceiver, id: EventId) -> Result<Vec<Delivery>> {
    let id = id.to_string();
    until(&format!("a message with {id}"), LIMIT, || async {
        let accepted = receiver.accepted();
        let lists = |delivery: &Delivery| delivery.events("id").is_ok_and(|ids| ids.contains(&id));
        accepted.iter().any(lists).then_some(accepted)
    })
    .await
}
