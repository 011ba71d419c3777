//! The hook: a program of the operator's, run for one event after the other with its JSON on standard input.

use super::{
    SetupError,
    desk::{Desk, Receiver, STATE_VERSION},
    repeats::{Memory, Wanted},
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use shared::{
    config::Notify,
    store::{EventCursor, StoreError, StoredEvent},
    text::to_document,
};
use std::{io, path::Path, process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command};

/// The program at `notify.hook`.
#[derive(Clone)]
pub(super) struct Hook {
    command: Vec<String>,
    state: Option<State>,
}

/// Behind the last event that the hook was run for.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    v: u32,
    cursor: EventCursor,
}

#[derive(Debug, thiserror::Error)]
enum NotDone {
    #[error("it can't be run")]
    Run(#[source] io::Error),
    #[error("it ended with {0}")]
    Ended(std::process::ExitStatus),
    #[error("it was killed: it ran longer than {} s", .0.as_secs())]
    Timeout(Duration),
}

impl Hook {
    pub(super) fn of(config: &Notify) -> Result<Option<Self>, SetupError> {
        let Some(program) = config.hook.first() else { return Ok(None) };
        let path = Path::new(program);
        std::fs::metadata(path).map_err(|source| SetupError::Hook { path: path.into(), source })?;
        Ok(Some(Self { command: config.hook.clone(), state: None }))
    }

    /// Runs the program for one event, again where it fails; given up in the end, so that later events get their turn.
    async fn run_for(&self, stored: &StoredEvent, desk: &Desk) -> Result<(), StoreError> {
        for attempt in 1..=desk.pace.hook_attempts.max(1) {
            desk.confirm().await?;
            let Err(error) = run(&self.command, stored, desk.pace.hook_timeout).await else { return Ok(()) };
            let error = shared::error::chain(&error);
            if attempt >= desk.pace.hook_attempts {
                tracing::error!(event = %stored.id, attempt, error, "the hook failed: it is not run for this event again");
                return Ok(());
            }
            let pause = desk.pace.retry(attempt);
            tracing::warn!(event = %stored.id, attempt, again_s = pause.as_secs(), error, "the hook failed");
            tokio::select! {
                // Another term, or another node, begins with this event.
                () = desk.stop.cancelled() => return Err(StoreError::Fenced),
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }
}

impl Receiver for Hook {
    async fn step(&mut self, desk: &Desk) -> Result<Duration, StoreError> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => match desk.load().await? {
                Some(state) => state,
                None => {
                    let state = State { v: STATE_VERSION, cursor: desk.store.events_now().await? };
                    desk.commit(&state, &[]).await?;
                    state
                }
            },
        };
        let page = desk.page(&state.cursor).await?;
        let mut memory = Memory::default();
        desk.recall(&mut memory, &page.events).await?;
        for stored in &page.events {
            if desk.stop.is_cancelled() {
                self.state = Some(state);
                return Ok(Duration::ZERO);
            }
            if memory.judge(&stored.event, &Wanted::EVERYTHING) {
                self.run_for(stored, desk).await?;
                state.cursor.advance_to(stored.id);
                desk.commit(&state, &memory.changes()).await?;
            }
        }
        if state.cursor != page.cursor {
            state.cursor = page.cursor;
            desk.commit(&state, &memory.changes()).await?;
        }
        self.state = Some(state);
        Ok(if page.more { Duration::ZERO } else { desk.pace.poll })
    }

    fn forget(&mut self) {
        self.state = None;
    }
}

async fn run(command: &[String], stored: &StoredEvent, limit: Duration) -> Result<(), NotDone> {
    let mut input = serde_json::to_vec(&to_document(stored)).expect("events are plain data");
    input.push(b'\n');
    let (program, arguments) = command.split_first().expect("a hook has a program");
    let mut child = Command::new(program)
        .args(arguments)
        .env("SIGNPOST_EVENT_ID", stored.id.to_string())
        .env("SIGNPOST_EVENT_KIND", stored.event.kind.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(NotDone::Run)?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut stdin = child.stdin.take();
    let talk = async {
        if let Some(stdin) = &mut stdin {
            // A program that doesn't read is fine.
            let _ = stdin.write_all(&input).await;
        }
        drop(stdin.take());
        child.wait().await
    };
    match tokio::time::timeout(limit, talk).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(NotDone::Ended(status)),
        Ok(Err(error)) => Err(NotDone::Run(error)),
        Err(_) => {
            // What it started ends with it.
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait().await;
            Err(NotDone::Timeout(limit))
        }
    }
}
