//! A line of the log that strangers could have written as often as they like: said at most once in a while, with how often
//! it would have been said.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two lines of a kind.
const PAUSE: Duration = Duration::from_secs(60);

/// One kind of line.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    pub const fn new() -> Self {
        Self(Mutex::new(Said { last: None, unsaid: 0 }))
    }

    /// Has it said, unless that was done a moment ago. `say` learns how often it was not.
    pub fn say(&self, say: impl FnOnce(u64)) {
        if let Some(unsaid) = self.is_due(Instant::now()) {
            say(unsaid);
        }
    }

    fn is_due(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_with_how_many_were_left_out() {
        let (seldom, start) = (Seldom::new(), Instant::now());
        assert_eq!(seldom.is_due(start), Some(0));
        for _ in 0..5 {
            assert_eq!(seldom.is_due(start + PAUSE / 2), None);
        }
        assert_eq!(seldom.is_due(start + PAUSE), Some(5));
        assert_eq!(seldom.is_due(start + PAUSE * 2), Some(0));
    }
}
