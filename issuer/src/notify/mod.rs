//! Telling the operator: a webhook, mails, a program of the operator's.
//!
//! One node of the fleet does it at a time ([`lead`]). Each receiver is a task of its own that goes through the streams of
//! events with its own cursor, so one that doesn't answer delays nothing and holds no memory: its cursor stays where it
//! is. Cursor, message on the way and what was told are in the store before and after each delivery; a message keeps its
//! id over retries, restarts and nodes. Told is at least once; whoever was killed in between tells it again, under the
//! same id.

mod desk;
mod digest;
mod hook;
mod lead;
mod mail;
mod message;
mod repeats;
mod setup_error;
mod signature;
mod webhook;

pub use setup_error::SetupError;
pub use signature::sign;

use desk::{Desk, serve};
use hook::Hook;
use lead::Lead;
use mail::Mail;
use shared::{config::Notify, store::Store};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use webhook::Webhook;

/// How long things take. The default is for production; tests are in a hurry.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How long another node waits for one that fell silent.
    pub lead: Duration,
    /// Pause between two looks at the streams.
    pub poll: Duration,
    /// Failures are gathered until none has come for so long, ...
    pub quiet: Duration,
    /// ... or the first of them is this old.
    pub gather: Duration,
    /// Pauses before the second, third, ... attempt; the last one is repeated.
    pub retries: Vec<Duration>,
    /// When a message is given up.
    pub give_up: Duration,
    /// How soon something critical is mailed, at the latest. Other mails wait for so long at least, to gather.
    pub critical: Duration,
    pub webhook_timeout: Duration,
    pub mail_timeout: Duration,
    pub hook_timeout: Duration,
    /// How often a hook that fails is run for one event.
    pub hook_attempts: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            lead: Duration::from_secs(15),
            poll: Duration::from_secs(1),
            quiet: Duration::from_secs(3),
            gather: Duration::from_secs(60),
            retries: [5, 30, 120, 600, 1800].map(Duration::from_secs).to_vec(),
            give_up: Duration::from_secs(24 * 3600),
            critical: Duration::from_secs(60),
            webhook_timeout: Duration::from_secs(10),
            mail_timeout: Duration::from_secs(30),
            hook_timeout: Duration::from_secs(30),
            hook_attempts: 4,
        }
    }
}

impl Pace {
    /// The pause after so many attempts have failed.
    fn retry(&self, attempts: u32) -> Duration {
        let at = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        self.retries.get(at).or(self.retries.last()).copied().unwrap_or(self.poll)
    }
}

/// Tells the receivers of the configuration until `shutdown`. Returns at once where there is none.
///
/// # Errors
/// [`SetupError`] before anything was sent: a file, an address or a program that can't be used.
pub async fn run(store: Store, config: Notify, shutdown: CancellationToken) -> Result<(), SetupError> {
    run_at(store, config, Pace::default(), shutdown).await
}

/// [`run`] at another pace.
///
/// # Errors
/// [`SetupError`].
pub async fn run_at(
    store: Store,
    config: Notify,
    pace: Pace,
    shutdown: CancellationToken,
) -> Result<(), SetupError> {
    let receivers = Receivers::of(&config, &pace)?;
    if receivers.is_empty() {
        return Ok(());
    }
    let mut silent = false;
    while !shutdown.is_cancelled() {
        match Lead::acquire(&store, pace.lead).await {
            Ok(Some(lead)) => {
                silent = false;
                serve_a_term(&store, &receivers, lead, &pace, &shutdown).await;
            }
            Ok(None) => silent = false,
            Err(error) if !silent => {
                silent = true;
                tracing::warn!(
                    error = shared::error::chain(&error),
                    "nobody can be told while the store is away"
                );
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(pace.poll) => {}
        }
    }
    Ok(())
}

/// What can't be used of the receivers of a configuration: each with its key.
pub(crate) fn check(config: &Notify) -> Vec<(&'static str, SetupError)> {
    let pace = Pace::default();
    let tried = [
        ("webhook_url", Webhook::of(config, &pace).map(drop)),
        ("smtp_url", Mail::of(config, &pace).map(drop)),
        ("hook", Hook::of(config).map(drop)),
    ];
    let failed = tried.into_iter().filter_map(|(key, tried)| Some((key, tried.err()?)));
    failed.map(|(key, error)| (error.key().unwrap_or(key), error)).collect()
}

/// Who is told.
struct Receivers {
    webhook: Option<Webhook>,
    mail: Vec<Mail>,
    hook: Option<Hook>,
}

impl Receivers {
    fn of(config: &Notify, pace: &Pace) -> Result<Self, SetupError> {
        Ok(Self {
            webhook: Webhook::of(config, pace)?,
            mail: Mail::of(config, pace)?,
            hook: Hook::of(config)?,
        })
    }

    fn is_empty(&self) -> bool {
        self.webhook.is_none() && self.mail.is_empty() && self.hook.is_none()
    }
}

/// From the moment that this node leads until it no longer does, or is to end. A delivery that has begun is finished.
async fn serve_a_term(
    store: &Store,
    receivers: &Receivers,
    lead: Lead,
    pace: &Pace,
    shutdown: &CancellationToken,
) {
    tracing::info!("this node tells the operator");
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    let desk = |receiver: &str| Desk {
        store: store.clone(),
        lead: lead.clone(),
        receiver: receiver.to_owned(),
        pace: pace.clone(),
        stop: stop.clone(),
    };
    if let Some(webhook) = receivers.webhook.clone() {
        tasks.spawn(serve(webhook, desk("webhook")));
    }
    for mail in &receivers.mail {
        tasks.spawn(serve(mail.clone(), desk(&mail.receiver())));
    }
    if let Some(hook) = receivers.hook.clone() {
        tasks.spawn(serve(hook, desk("hook")));
    }
    let keep = lead.keep();
    tokio::pin!(keep);
    loop {
        tokio::select! {
            () = &mut keep, if !stop.is_cancelled() => {
                tracing::warn!("another node may tell the operator by now: this one stops");
                stop.cancel();
            }
            ended = tasks.join_next() => match ended {
                // One that ends has seen that this node no longer leads.
                Some(Ok(())) => stop.cancel(),
                Some(Err(error)) => {
                    tracing::error!(%error, "a receiver's task broke");
                    stop.cancel();
                }
                None => break,
            },
        }
    }
    lead.release().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pause_is_repeated() {
        let pace = Pace::default();
        let pauses: Vec<u64> = [1, 2, 3, 4, 5, 6, 40].map(|attempt| pace.retry(attempt).as_secs()).to_vec();
        assert_eq!(pauses, [5, 30, 120, 600, 1800, 1800, 1800]);
    }
}
