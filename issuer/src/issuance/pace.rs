//! When to ask the CA again.
//!
//! The server's `Retry-After` is the answer where there is one. Where there is none, the first look is taken when an
//! order of this CA is likely to be done, which is learned from the orders before; later looks get rarer quickly.

use crate::acme::poll_delay;
use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

/// The longest pause of our own.
const LONGEST: Duration = Duration::from_secs(15);
/// The first pause is learned within these bounds.
const SHORTEST_FIRST: Duration = Duration::from_millis(5);
const LONGEST_FIRST: Duration = Duration::from_secs(5);
/// Of this many first looks, one may be too early: it costs a request, one that is too late costs a little time.
const ONE_MAY_BE_EARLY: u32 = 21;
/// Above this share of early looks the pace is wrong, and not just unlucky.
const WRONG: f64 = 0.125;
const SMALLEST_LARGE_STEP: f64 = 1.0 / 3.0;
/// How many looks the share of early ones remembers, about.
const REMEMBERED: f64 = 16.0;

/// The pace for one CA and one kind of waiting.
#[derive(Debug)]
pub(super) struct Pace(Mutex<Learned>);

#[derive(Debug)]
struct Learned {
    first: Duration,
    /// Which share of the first looks was too early lately. Nothing is known at first, and that is as good as wrong.
    early: f64,
    /// Orders that wait now.
    waiting: u32,
}

/// One order that waits.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    pace: &'a Pace,
    first: Duration,
}

impl Pace {
    pub(super) fn new(first: Duration) -> Self {
        Self(Mutex::new(Learned { first, early: 1.0, waiting: 0 }))
    }

    pub(super) fn begin(&self) -> Wait<'_> {
        let mut learned = self.learned();
        learned.waiting += 1;
        Wait { pace: self, first: learned.first }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.0.lock().expect("nothing panics while holding it")
    }
}

impl Wait<'_> {
    /// The pace before look number `look`, from 0, given the server's wish.
    pub(super) fn pause(&self, look: u32, asked: Option<Duration>) -> Duration {
        let own = match look {
            0 => self.first,
            // Twice as long each time, and soon not below the pace of a second that suits a CA on the other side of the world.
            _ => {
                let base = self.pace.learned().first.max(Duration::from_millis(20));
                (base * 2u32.saturating_pow(look.min(10))).min(LONGEST)
            }
        };
        poll_delay(asked, own)
    }

    /// Learns from what the first look found.
    pub(super) fn learn(&self, done: bool) {
        let mut learned = self.pace.learned();
        let now = if done { 0.0 } else { 1.0 };
        learned.early += (now - learned.early) / REMEMBERED;
        // Orders that wait at the same time learn the same lesson: each counts for less the more they are.
        let share = learned.first / (2 + learned.waiting);
        let next = if done {
            learned.first - share / ONE_MAY_BE_EARLY
        } else if learned.early < WRONG {
            learned.first + share
        } else {
            // A large step from the pause that was too short, which all that began with it take together: or a CA that
            // pauses for a moment would be taken for a slow one by all of them, each on top of the other.
            learned.first.max(self.first.mul_f64(1.0 + learned.early.max(SMALLEST_LARGE_STEP)))
        };
        learned.first = next.clamp(SHORTEST_FIRST, LONGEST_FIRST);
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.pace.learned().waiting -= 1;
    }
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
            // The slowest need 50 ms; a step up is a third.
            assert!(settled > 38 * MS && settled < 67 * MS, "{start} ms, {at_once} at once: {settled:?}");
            assert!(early < 64 * 400 / 12, "{start} ms, {at_once} at once: {early} first looks too early");
        }
    }

    #[test]
    fn a_moment_of_silence_is_not_taken_for_a_slow_ca() {
        let pace = Pace::new(40 * MS);
        settle(&pace, 40 * MS, 64 * 100, 64);
        let (settled, early) = settle(&pace, 4000 * MS, 64, 64);
        assert_eq!(early, 64);
        assert!(settled < 125 * MS, "{settled:?}");
    }
}
