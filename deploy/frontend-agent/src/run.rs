//! `frontend-agent run`: waits for changes for ever; after errors at moments that the frontends of a fleet do not share.

use crate::{
    config::AgentConfig,
    disk::Directory,
    report::Report,
    served::{News, Reporter},
    sightings::Sightings,
    status::Status,
    sync::{Agent, SyncError},
};
use shared::error::chain;
use std::time::Duration;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinError, JoinSet},
};

/// The first pause after an error, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Between two passes that both found something: what comes in a rush is taken in together.
const BREATH: Duration = Duration::from_millis(300);
/// Between two tries of what has failed.
const MEND_EVERY: Duration = Duration::from_secs(60);

/// Syncs until SIGTERM or SIGINT. Neither cuts a publication or a reload in two: those do not wait for anything.
///
/// # Errors
/// When signals cannot be listened to; what goes wrong in a sync is logged and tried again.
pub(crate) async fn run(config: &AgentConfig) -> anyhow::Result<()> {
    serving::open_files::raise_limit();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let sightings = Sightings::of(config);
    let agent = Agent::new(config.clone(), &sightings)?;
    let told = config.clone();
    let mut tasks = JoinSet::new();
    if config.sightings {
        tasks.spawn(async move {
            sightings.tell_forever(told).await;
            "names that visitors came with"
        });
    }
    let reporter = Reporter::start(config.clone(), &mut tasks);
    let mut loop_state =
        Loop { config, agent, reporter, pause: Pause::new(), wait: Duration::ZERO, is_first: true };
    tracing::info!(server = %config.server, directory = %config.store.directory.display(), "started");
    loop_state.begin();
    loop {
        let next = tokio::select! {
            pause = loop_state.turn() => pause,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = tasks.join_next() => return Err(too_soon(ended)),
        };
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = tasks.join_next() => return Err(too_soon(ended)),
        }
    }
    tracing::info!("ended");
    Ok(())
}

/// A task that goes on as long as the agent does has not. Without it there is no agent: it is started again as a whole.
fn too_soon(ended: Option<Result<&'static str, JoinError>>) -> anyhow::Error {
    match ended {
        Some(Err(error)) => anyhow::Error::new(error).context("a part of the agent ended"),
        Some(Ok(task)) => anyhow::anyhow!("a part of the agent ended: {task}"),
        None => anyhow::anyhow!("no part of the agent is there"),
    }
}

/// What lasts from pass to pass.
struct Loop<'a> {
    config: &'a AgentConfig,
    agent: Agent,
    reporter: Reporter,
    pause: Pause,
    /// How long the next question may wait for its answer: not at all for the first one.
    wait: Duration,
    is_first: bool,
}

impl Loop<'_> {
    /// Serves what is on disk, whoever else is there.
    fn begin(&mut self) {
        match self.agent.serve_what_is_here() {
            Ok(report) => {
                match report.published.len() {
                    0 => tracing::info!("there is nothing here to serve yet: waiting for the centre"),
                    items => tracing::info!(items, "serving what is here"),
                }
                for problem in &report.server_errors {
                    tracing::warn!(problem, "a web server does not take what is here");
                }
                self.note(report, false);
            }
            Err(error) => tracing::warn!(error = chain(&error), "what is here is not served yet"),
        }
    }

    /// Syncs once, and answers how long to wait before the next time.
    async fn turn(&mut self) -> Duration {
        match self.agent.pass(self.wait, false).await {
            Ok(report) => {
                log_report(&report);
                let soon =
                    if report.is_success() { self.config.poll } else { self.config.poll.min(MEND_EVERY) };
                self.wait = report.again_in.map_or(soon, |again| again.min(soon));
                let is_news = report.changed_something() || !report.is_success();
                let is_first = std::mem::take(&mut self.is_first);
                self.note(report, is_news || is_first);
                self.pause.reset();
                BREATH
            }
            Err(error) => {
                let wanted = match &error {
                    SyncError::Fetch(error) => error.retry_after(),
                    _ => None,
                };
                let next = self.pause.after_error(wanted);
                tracing::warn!(
                    error = chain(&error),
                    next_seconds = next.as_secs(),
                    "sync failed, everything stays as it is"
                );
                next
            }
        }
    }

    /// Hands on what came of a pass to where it is looked at, and reported.
    fn note(&self, report: Report, is_news: bool) {
        let cursor = Status::load(&Directory::existing(&self.config.store)).shown;
        let gone = report.removed;
        self.reporter.note(News {
            cursor,
            items: self.agent.items(),
            published: report.targets,
            gone,
            is_news,
        });
    }
}

fn log_report(report: &Report) {
    for published in &report.published {
        tracing::info!(id = %published.id, names = published.names.join(" "), "published");
    }
    for id in &report.removed {
        tracing::info!(%id, "no longer wanted here: out of service");
    }
    if !report.is_success() {
        tracing::warn!(problems = report.problems(), "some of it failed");
    }
    if report.reloaded {
        tracing::info!("web server reloaded");
    }
}

/// Pauses after errors: growing ones with decorrelated jitter.
#[derive(Debug)]
struct Pause {
    last: Duration,
}

impl Pause {
    const fn new() -> Self {
        Self { last: FIRST_PAUSE }
    }

    fn reset(&mut self) {
        self.last = FIRST_PAUSE;
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

    #[tokio::test]
    async fn the_agent_ends_with_a_part_of_it() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async { panic!("a bug") });
        assert!(too_soon(tasks.join_next().await).to_string().contains("a part of the agent ended"));
    }

    #[test]
    fn pauses_grow_after_errors_and_stay_in_bounds() {
        assert_eq!(LONGEST_PAUSE, Duration::from_secs(300));
        let mut pause = Pause::new();
        for _ in 0..200 {
            let next = pause.after_error(None);
            assert!((FIRST_PAUSE..=LONGEST_PAUSE).contains(&next));
        }
        assert_eq!(pause.after_error(Some(Duration::from_secs(900))), Duration::from_secs(900));
        pause.reset();
        assert!(pause.after_error(None) <= FIRST_PAUSE * 3);
    }
}
