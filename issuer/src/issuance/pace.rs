//! When to ask the CA again.
//!
//! The server's `Retry-After` is the answer where there is one. Where there is none, the first look is taken when an
//! order of this CA is likely to be done, which is learned from the orders before; later looks get rarer quickly.

use crate::acme::poll_delay;
use std::{
    sync::atomic::{AtomicU64, Ordering},
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
}

impl Pace {
    pub(super) fn new(first: Duration) -> Self {
        Self { first_us: AtomicU64::new(micros(first)) }
    }

    /// The pause before look number `look`, from 0, given the server's wish.
    pub(super) fn pause(&self, look: u32, asked: Option<Duration>) -> Duration {
        let first = Duration::from_micros(self.first_us.load(Ordering::Relaxed));
        let own = match look {
            0 => first,
            // Twice as long each time, and soon not below the pace of a second that suits a CA on the other side of the world.
            _ => (first.max(Duration::from_millis(20)) * 2u32.saturating_pow(look.min(10))).min(LONGEST),
        };
        poll_delay(asked, own)
    }

    /// Learns from an order that was found done at look number `look`: a first look that was too early costs a request,
    /// one that was too late costs a little time.
    pub(super) fn learn(&self, look: u32) {
        let _ = self.first_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| {
            let next = if look == 0 { first - first / 64 } else { first + first / 3 };
            Some(next.clamp(micros(SHORTEST_FIRST), micros(LONGEST_FIRST)))
        });
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
        assert_eq!(pace.pause(0, None), 25 * MS);
        assert_eq!(pace.pause(1, None), 50 * MS);
        assert_eq!(pace.pause(3, None), 200 * MS);
        assert_eq!(pace.pause(30, None), LONGEST);
        assert_eq!(pace.pause(0, Some(3000 * MS)), 3000 * MS);
    }

    #[test]
    fn the_first_look_settles_where_orders_are_mostly_done() {
        let pace = Pace::new(1000 * MS);
        let done_after = 40 * MS;
        let mut late = 0;
        for _ in 0..2000 {
            let look = u32::from(pace.pause(0, None) < done_after);
            late += look;
            pace.learn(look);
        }
        let settled = pace.pause(0, None);
        assert!(settled > 30 * MS && settled < 60 * MS, "{settled:?}");
        assert!(late < 120, "one look in twenty may be too early: {late}");
    }
}
