//! Names that visitors came with and that nobody has here: told to the centre once, a handful at a time. No handshake waits for
//! it, and no scanner fills the memory.

use crate::{
    client::{Client, FetchError},
    config::AgentConfig,
};
use shared::error::chain;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Names that wait to be told; further ones come again with the next visitor.
const MOST_WAITING: usize = 100;
/// What was told is not told again for so long, and so much of it is remembered.
const QUIET: Duration = Duration::from_secs(600);
const MOST_REMEMBERED: usize = 10_000;
/// In a flood what is remembered is looked through so often, and not for each name.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
const TELL_EVERY: Duration = Duration::from_secs(1);
/// After the centre did not take them.
const PAUSE: Duration = Duration::from_secs(30);

/// What was seen. Clones see together; one that is off sees nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sightings(Option<Arc<Mutex<Seen>>>);

#[derive(Debug, Default)]
struct Seen {
    waiting: BTreeSet<String>,
    told: BTreeMap<String, Instant>,
    swept: Option<Instant>,
}

impl Sightings {
    pub(crate) fn of(config: &AgentConfig) -> Self {
        Self(config.sightings.then(Arc::default))
    }

    /// A visitor came with this name.
    pub(crate) fn see(&self, name: &str) {
        let Some(seen) = &self.0 else { return };
        seen.lock().unwrap_or_else(PoisonError::into_inner).see(name, Instant::now());
    }

    /// Tells the centre for ever.
    pub(crate) async fn tell_forever(&self, config: AgentConfig) {
        let Some(seen) = &self.0 else { return };
        let mut client: Option<Client> = None;
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let names = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
            if names.is_empty() {
                continue;
            }
            // The credentials on disk may be others by now.
            let told = match client.take().map_or_else(|| Client::new(&config, &config.credentials), Ok) {
                Ok(known) => {
                    let told = known.sight(&names).await;
                    client = told.is_ok().then_some(known);
                    // A centre that is in trouble has not said no.
                    let is_final = |error: &FetchError| matches!(error, FetchError::Status { status, .. } if status.is_client_error());
                    told.map_err(|error| (chain(&error), is_final(&error)))
                }
                Err(error) => Err((chain(&error), false)),
            };
            if let Err((error, is_final)) = told {
                tracing::warn!(error, names = names.len(), "names that visitors came with can't be told");
                if !is_final {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).give_back(names);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Seen {
    fn see(&mut self, name: &str, now: Instant) {
        let is_told = self.told.get(name).is_some_and(|at| now.duration_since(*at) < QUIET);
        if is_told || self.waiting.len() >= MOST_WAITING || name.len() > 253 || !name.contains('.') {
            return;
        }
        if self.told.len() >= MOST_REMEMBERED {
            if self.swept.is_none_or(|at| now.duration_since(at) >= SWEEP_EVERY) {
                self.swept = Some(now);
                self.told.retain(|_, at| now.duration_since(*at) < QUIET);
            }
            // A flood: what comes is told when it is over.
            if self.told.len() >= MOST_REMEMBERED {
                return;
            }
        }
        self.waiting.insert(name.to_owned());
        self.told.insert(name.to_owned(), now);
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.waiting).into_iter().collect()
    }

    fn give_back(&mut self, names: Vec<String>) {
        let room = MOST_WAITING.saturating_sub(self.waiting.len());
        self.waiting.extend(names.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_once_in_a_while_and_a_flood_fills_nothing() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        for _ in 0..3 {
            seen.see("a.example", now);
        }
        seen.see("localhost", now);
        assert_eq!(seen.take(), ["a.example"]);
        seen.see("a.example", now);
        assert!(seen.take().is_empty());
        seen.see("a.example", now + QUIET);
        assert_eq!(seen.take(), ["a.example"]);
        for number in 0..50_000 {
            seen.see(&format!("n{number}.example"), now);
            if number % 50 == 0 {
                assert!(seen.take().len() <= 100);
            }
        }
        assert!(seen.told.len() <= MOST_REMEMBERED);
        // Once it is over, names are told again.
        seen.take();
        seen.see("b.example", now + QUIET);
        let held = seen.take();
        assert_eq!(held, ["b.example"]);
        // A centre that is in trouble is told later.
        seen.give_back(held);
        assert_eq!(seen.take(), ["b.example"]);
    }
}
