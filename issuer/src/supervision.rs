//! The parts of the daemon that are to go on for as long as it does: one that ends or panics is told, and started again.

use jiff::Timestamp;
use shared::{
    domain::{Event, EventKind},
    store::Store,
};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::task::{JoinError, JoinSet};

/// The pause before a part is started again; twice as long each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A part that has lived for so long begins with the first pause again.
const WELL_FOR: Duration = Duration::from_secs(600);

/// Parts that go on until this is dropped.
pub struct Supervisor {
    store: Store,
    parts: JoinSet<()>,
}

impl Supervisor {
    pub fn new(store: Store) -> Self {
        Self { store, parts: JoinSet::new() }
    }

    /// Keeps a part going. `begin` makes it, each time that it is started.
    pub fn keep<F, T>(&mut self, name: &'static str, begin: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let store = self.store.clone();
        self.parts.spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let began = Instant::now();
                // Ends with this one.
                let mut part = JoinSet::new();
                part.spawn(begin());
                let ended = part.join_next().await;
                if began.elapsed() > WELL_FOR {
                    pause = FIRST_PAUSE;
                }
                let event = told(name, ended.and_then(Result::err).as_ref(), pause);
                tracing::error!(part = name, "{}", event.what);
                if let Err(error) = store.append_event(&event).await {
                    tracing::warn!(error = shared::error::chain(&error), "that it ended could not be told");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }
}

fn told(name: &str, error: Option<&JoinError>, pause: Duration) -> Event {
    let how = if error.is_some_and(JoinError::is_panic) { "panicked" } else { "ended" };
    let seconds = pause.as_secs();
    let what =
        format!("the daemon's part that {name} {how}, and is started again in {seconds} s; the others go on");
    Event::new(EventKind::TaskRestarted, Timestamp::now(), what)
        .remedy("report it with the log of this daemon: it is a mistake of the program")
        .with("task", name)
        .with("how", how)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_from_an_end() {
        let panicked = tokio::spawn(async { panic!("on purpose") }).await.unwrap_err();
        let event = told("copies the audit", Some(&panicked), FIRST_PAUSE);
        assert_eq!(
            event.what,
            "the daemon's part that copies the audit panicked, and is started again in 1 s; the others go on"
        );
        assert_eq!(told("x", None, FIRST_PAUSE).data["how"], "ended");
    }
}
