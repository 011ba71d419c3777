//! `frontend-agent run`: syncs for ever, at moments that the frontends of a fleet do not share.

use crate::{
    client::{Client, ClientError},
    config::AgentConfig,
    sync::{Report, SyncError, sync},
};
use shared::error::chain;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The first pause after an error, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Syncs until SIGTERM or SIGINT. Neither cuts a publication or a reload in two: those do not wait for anything.
///
/// # Errors
/// When signals cannot be listened to; what goes wrong in a sync is logged and tried again.
pub(crate) async fn run(config: &AgentConfig) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut client = None;
    let mut pause = Pause::new(config.poll);
    tracing::info!(server = %config.server, directory = %config.store.directory.display(), "started");
    loop {
        let next = tokio::select! {
            pause = one_pass(config, &mut client, &mut pause) => pause,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("ended");
    Ok(())
}

/// Syncs once, and answers how long to wait before the next time.
async fn one_pass(config: &AgentConfig, client: &mut Option<Client>, pause: &mut Pause) -> Duration {
    match try_pass(config, client).await {
        Ok(report) => {
            log_report(&report);
            pause.after_success()
        }
        Err(error) => {
            let wanted = match &error {
                PassError::Sync(SyncError::Fetch(error)) => error.retry_after(),
                _ => None,
            };
            let next = pause.after_error(wanted);
            tracing::warn!(
                error = chain(&error),
                next_seconds = next.as_secs(),
                "sync failed, everything stays as it is"
            );
            // The credentials may have been renewed on disk.
            *client = None;
            next
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Sync(#[from] SyncError),
}

async fn try_pass(config: &AgentConfig, client: &mut Option<Client>) -> Result<Report, PassError> {
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::new(config)?),
    };
    Ok(sync(config, client, false).await?)
}

fn log_report(report: &Report) {
    for published in &report.published {
        tracing::info!(id = %published.id, names = published.names.join(" "), "published");
    }
    for id in &report.removed {
        tracing::info!(%id, "no longer listed: out of service");
    }
    if !report.is_success() {
        tracing::warn!(problems = report.problems(), "some of it failed");
    }
    if report.reloaded {
        tracing::info!("web server reloaded");
    }
}

/// Pauses: the poll interval give or take a fifth; after errors growing ones with decorrelated jitter.
#[derive(Debug)]
struct Pause {
    poll: Duration,
    last: Duration,
}

impl Pause {
    fn new(poll: Duration) -> Self {
        Self { poll, last: FIRST_PAUSE }
    }

    fn after_success(&mut self) -> Duration {
        self.last = FIRST_PAUSE;
        between(self.poll.mul_f64(0.8), self.poll.mul_f64(1.2))
    }

    fn after_error(&mut self, wanted: Option<Duration>) -> Duration {
        self.last = between(FIRST_PAUSE, self.last * 3).min(LONGEST_PAUSE);
        self.last.max(wanted.unwrap_or_default())
    }
}

fn between(low: Duration, high: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness the fleet asks at the same moment, which is worse than nothing but no reason to stop.
    openssl::rand::rand_bytes(&mut bytes).ok();
    let share = f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX);
    low + high.saturating_sub(low).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_after_errors_and_stay_in_bounds() {
        let mut pause = Pause::new(Duration::from_secs(60));
        for _ in 0..200 {
            let next = pause.after_error(None);
            assert!((FIRST_PAUSE..=LONGEST_PAUSE).contains(&next));
        }
        assert_eq!(pause.after_error(Some(Duration::from_secs(900))), Duration::from_secs(900));
        for _ in 0..200 {
            let next = pause.after_success();
            assert!((Duration::from_secs(48)..=Duration::from_secs(72)).contains(&next));
        }
        assert!(pause.after_error(None) <= FIRST_PAUSE * 3);
    }
}
