//! When to ask the CA again.
//!
//! The server's `Retry-After` is the answer where there is one. Where there is none, the first look is taken when an
//! order of this CA is likely to be done, which is learned from the orders before; later looks get rarer quickly.

use crate::acme::poll_delay;
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// The longest pause of our own.
const LONGEST: Duration = Duration::from_secs(15);
/// The first pause is learned within these bounds.
const SHORTEST_FIRST: Duration = Duration::from_millis(5);
const LONGEST_FIRST: Duration = Duration::from_secs(5);

/// The pace for one CA and one kind of waiting.
#[derive(Debug)]
pub(super) struct Pace {
    first_us: AtomicU64,
    /// Orders that wait now.
    waiting: AtomicU64,
    /// Whether a first look has found an order done: until then the pace is a guess.
    was_right: AtomicBool,
}

/// One order that waits.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    pace: &'a Pace,
    first: Duration,
}

impl Pace {
    pub(super) fn new(first: Duration) -> Self {
        Self {
            first_us: AtomicU64::new(micros(first)),
            waiting: AtomicU64::new(0),
            was_right: AtomicBool::new(false),
        }
    }

    pub(super) fn begin(&self) -> Wait<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Wait { pace: self, first: self.first() }
    }

    fn first(&self) -> Duration {
        Duration::from_micros(self.first_us.load(Ordering::Relaxed))
    }
}

impl Wait<'_> {
    /// The pause before look number `look`, from 0, given the server's wish.
    pub(super) fn pause(&self, look: u32, asked: Option<Duration>) -> Duration {
        let own = match look {
            0 => self.first,
            // Twice as long each time, and soon not below the pace of a second that suits a CA on the other side of the world.
            _ => {
                let base = self.pace.first().max(Duration::from_millis(20));
                (base * 2u32.saturating_pow(look.min(10))).min(LONGEST)
            }
        };
        poll_delay(asked, own)
    }

    /// Learns from what the first look found: one that was too early costs a request, one that was too late a little
    /// time, so one in twenty may be too early.
    ///
    /// Orders that wait at the same time learn the same lesson: each counts for less the more they are, or a CA that
    /// pauses for a moment would be taken for a slow one by all of them, each on top of the other.
    pub(super) fn learn(&self, done: bool) {
        let pace = self.pace;
        let waiting = pace.waiting.load(Ordering::Relaxed);
        let is_guess = !done && !pace.was_right.load(Ordering::Relaxed);
        if done {
            pace.was_right.store(true, Ordering::Relaxed);
        }
        let _ = pace.first_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| {
            let share = first / (2 + waiting);
            let next = match done {
                true => first - share / 21,
                false if is_guess => first.max(2 * micros(self.first)),
                false => first + share,
            };
            Some(next.clamp(micros(SHORTEST_FIRST), micros(LONGEST_FIRST)))
        });
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.pace.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn looks_get_rarer_and_the_servers_word_counts() {
        let pace = Pace::new(25 * MS);
        let wait = pace.begin();
        assert_eq!(wait.pause(0, None), 25 * MS);
        assert_eq!(wait.pause(1, None), 50 * MS);
        assert_eq!(wait.pause(3, None), 200 * MS);
        assert_eq!(wait.pause(30, None), LONGEST);
        assert_eq!(wait.pause(0, Some(3000 * MS)), 3000 * MS);
    }

    /// The pace after `orders`, `at_once` of them waiting at a time, and how many first looks were too early.
    fn settle(pace: &Pace, done_after: Duration, orders: usize, at_once: usize) -> (Duration, usize) {
        let mut early = 0;
        for _ in 0..orders / at_once {
            let waits: Vec<_> = (0..at_once).map(|_| pace.begin()).collect();
            for (number, wait) in waits.iter().enumerate() {
                // Some orders take up to a quarter longer than others.
                let needed = done_after + done_after * u32::try_from(number % 16).unwrap() / 64;
                let done = wait.pause(0, None) >= needed;
                early += usize::from(!done);
                wait.learn(done);
            }
        }
        (pace.begin().pause(0, None), early)
    }

    #[test]
    fn the_first_look_settles_where_orders_are_mostly_done() {
        for (start, at_once) in [(1000, 1), (10, 1), (10, 16), (10, 64), (100, 64)] {
            let pace = Pace::new(start * MS);
            let (settled, early) = settle(&pace, 40 * MS, 64 * 400, at_once);
            assert!(settled > 38 * MS && settled < 60 * MS, "{start} ms, {at_once} at once: {settled:?}");
            assert!(early < 64 * 400 / 12, "{start} ms, {at_once} at once: {early} first looks too early");
        }
    }

    #[test]
    fn a_moment_of_silence_is_not_taken_for_a_slow_ca() {
        let pace = Pace::new(40 * MS);
        settle(&pace, 40 * MS, 64 * 100, 64);
        let (settled, early) = settle(&pace, 4000 * MS, 64, 64);
        assert_eq!(early, 64);
        assert!(settled < 150 * MS, "{settled:?}");
    }
}
