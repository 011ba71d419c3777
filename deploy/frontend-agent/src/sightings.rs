//! Names that visitors came with and that nobody has here: told to the centre once, a handful at a time. No handshake waits for
//! it, and no scanner fills the memory.

use crate::{
    client::{Client, FetchError},
    config::AgentConfig,
};
use shared::{
    domain::{PublicSuffixes, sightable},
    error::chain,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Names that wait to be told. Of more than that each has the same chance; the others come again with the next visitor.
const MOST_WAITING: usize = 100;
/// What was told is not told again for so long, and so much of it is remembered, the latest.
const QUIET: Duration = Duration::from_secs(600);
const MOST_REMEMBERED: usize = 10_000;
const TELL_EVERY: Duration = Duration::from_secs(1);
/// After the centre did not take them.
const PAUSE: Duration = Duration::from_secs(30);

static SUFFIXES: LazyLock<PublicSuffixes> = LazyLock::new(PublicSuffixes::shipped);

/// What was seen. Clones see together; one that is off sees nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sightings(Option<Arc<Mutex<Seen>>>);

#[derive(Debug, Default)]
struct Seen {
    waiting: Vec<String>,
    /// How many came since the last ones were told.
    came: usize,
    told: BTreeMap<String, Instant>,
    /// The same, the oldest first.
    order: VecDeque<(Instant, String)>,
}

impl Sightings {
    pub(crate) fn of(config: &AgentConfig) -> Self {
        Self(config.sightings.then(Arc::default))
    }

    /// A visitor came with this name. What can be nobody's is not kept.
    pub(crate) fn see(&self, name: &str) {
        let Some(seen) = &self.0 else { return };
        let Ok(name) = sightable(name, &SUFFIXES) else { return };
        seen.lock().unwrap_or_else(PoisonError::into_inner).see(name.as_str(), Instant::now());
    }

    /// Tells the centre for ever.
    pub(crate) async fn tell_forever(&self, config: AgentConfig) {
        let Some(seen) = &self.0 else { return };
        let mut client: Option<Client> = None;
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let names = seen.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
            if names.is_empty() {
                continue;
            }
            // The credentials on disk may be others by now.
            let told = match client.take().map_or_else(|| Client::new(&config, &config.credentials), Ok) {
                Ok(known) => {
                    let told = known.sight(&names).await;
                    client = told.is_ok().then_some(known);
                    let told =
                        told.map(|full| seen.lock().unwrap_or_else(PoisonError::into_inner).forget(&full));
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
        if is_told || self.waiting.iter().any(|waiting| waiting == name) {
            return;
        }
        self.came += 1;
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push(name.to_owned());
        } else if let Some(place) = self.waiting.get_mut(below(self.came)) {
            name.clone_into(place);
        }
    }

    fn take(&mut self, now: Instant) -> Vec<String> {
        self.came = 0;
        let names = std::mem::take(&mut self.waiting);
        for name in &names {
            self.told.insert(name.clone(), now);
            self.order.push_back((now, name.clone()));
        }
        while self.order.len() > MOST_REMEMBERED
            || self.order.front().is_some_and(|(at, _)| now.duration_since(*at) >= QUIET)
        {
            let Some((at, name)) = self.order.pop_front() else { break };
            if self.told.get(&name) == Some(&at) {
                self.told.remove(&name);
            }
        }
        names
    }

    /// The centre had no room for these: they are told again with the next visitor.
    fn forget(&mut self, names: &[String]) {
        for name in names {
            self.told.remove(name);
        }
    }

    fn give_back(&mut self, names: Vec<String>) {
        let room = MOST_WAITING.saturating_sub(self.waiting.len());
        self.waiting.extend(names.into_iter().take(room));
    }
}

/// A random number below `end`.
fn below(end: usize) -> usize {
    let mut bytes = [0; 8];
    // Without randomness nobody who waits is replaced.
    match openssl::rand::rand_bytes(&mut bytes) {
        Ok(()) => usize::from_le_bytes(bytes) % end.max(1),
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_name_is_told_once_in_a_while() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        for _ in 0..3 {
            seen.see("a.example", now);
        }
        assert_eq!(seen.take(now), ["a.example"]);
        seen.see("a.example", now);
        assert!(seen.take(now).is_empty());
        seen.see("a.example", now + QUIET);
        let held = seen.take(now + QUIET);
        assert_eq!(held, ["a.example"]);
        // A centre that is in trouble is told later; one that had no room, with the next visitor.
        seen.give_back(held);
        assert_eq!(seen.take(now + QUIET), ["a.example"]);
        seen.forget(&["a.example".to_owned()]);
        assert!(seen.take(now + QUIET).is_empty());
        seen.see("a.example", now + QUIET);
        assert_eq!(seen.take(now + QUIET), ["a.example"]);
    }

    #[test]
    fn names_that_are_nobody_s_take_no_room() {
        let sightings = Sightings(Some(Arc::default()));
        for number in 0..2_000 {
            for name in [
                format!("n{number}"),
                format!("n_{number}.example"),
                format!("n{number}.nowhere"),
                format!("-{number}.example"),
                format!("n{number}..example"),
                format!("192.0.2.{number}"),
                format!("x.x.n{number}.example"),
                format!("{}.example", "n".repeat(64 + number)),
            ] {
                sightings.see(&name);
            }
        }
        sightings.see("Hosted.Example.");
        let seen = sightings.0.unwrap();
        let mut seen = seen.lock().unwrap();
        assert_eq!((seen.came, seen.take(Instant::now())), (1, vec!["hosted.example".to_owned()]));
    }

    #[test]
    fn a_flood_of_strangers_crowds_nobody_out_and_fills_nothing() {
        let (mut seen, mut now) = (Seen::default(), Instant::now());
        // Seventeen a second, for longer than anything is remembered.
        for second in 0..1_300 {
            for number in 0..17 {
                seen.see(&format!("n{second}-{number}.example"), now);
            }
            if second == 1_200 {
                seen.see("hosted.example", now);
                assert!(seen.take(now).contains(&"hosted.example".to_owned()));
            }
            assert!(seen.take(now).len() <= MOST_WAITING);
            assert!(seen.told.len() <= MOST_REMEMBERED && seen.order.len() <= MOST_REMEMBERED);
            now += SECOND;
        }
        // A thousand a second: one that comes again and again is told before long.
        let is_told = (0..300).any(|second| {
            for number in 0..1_000 {
                seen.see(&format!("m{second}-{number}.example"), now);
                if number == 900 {
                    seen.see("also.example", now);
                }
            }
            now += SECOND;
            let told = seen.take(now);
            told.len() == MOST_WAITING && told.contains(&"also.example".to_owned())
        });
        assert!(is_told && seen.told.len() <= MOST_REMEMBERED && seen.order.len() <= MOST_REMEMBERED);
    }
}
