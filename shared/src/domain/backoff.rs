//! When to try again after failures in a row.

use super::fraction;
use std::time::Duration;

/// An early pause gets up to this share longer.
const EARLY_JITTER: f64 = 0.1;
/// A repeating pause lies within this share around its length: what failed at one moment does not come back at one.
const REPEATING_JITTER: f64 = 0.25;

/// The pauses after the 1st, 2nd, ... failure in a row. After the early ones, one repeats for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    early: Vec<Duration>,
    repeating: Duration,
}

impl Backoff {
    pub fn new(early: impl IntoIterator<Item = Duration>, repeating: Duration) -> Self {
        Self { early: early.into_iter().collect(), repeating }
    }

    /// The pause after so many failures in a row; none at all counts as one. `jitter` is drawn by the caller from
    /// 0.0..1.0.
    ///
    /// An early pause is never shorter than it stands in the schedule, and up to a tenth longer. The repeating one is
    /// up to an eighth shorter or longer.
    pub fn pause(&self, failures_in_a_row: u32, jitter: f64) -> Duration {
        let jitter = fraction(jitter);
        let place = usize::try_from(failures_in_a_row.saturating_sub(1)).unwrap_or(usize::MAX);
        match self.early.get(place) {
            Some(early) => early.saturating_add(share(*early, EARLY_JITTER * jitter)),
            None => {
                let shortest = share(self.repeating, 1.0 - REPEATING_JITTER / 2.0);
                shortest.saturating_add(share(self.repeating, REPEATING_JITTER * jitter))
            }
        }
    }
}

impl Default for Backoff {
    /// 1, 10 and 100 minutes, then daily.
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self::new([1, 10, 100].map(minutes), minutes(24 * 60))
    }
}

fn share(of: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(of.as_secs_f64() * share).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_is_1_10_and_100_minutes_then_daily() {
        let backoff = Backoff::default();
        let minutes = |failures, jitter| backoff.pause(failures, jitter).as_secs_f64() / 60.0;
        for (failures, shortest, longest) in [
            (0, 1.0, 1.1),
            (1, 1.0, 1.1),
            (2, 10.0, 11.0),
            (3, 100.0, 110.0),
            (4, 1260.0, 1620.0),
            (5, 1260.0, 1620.0),
            (u32::MAX, 1260.0, 1620.0),
        ] {
            assert!((minutes(failures, 0.0) - shortest).abs() < 1e-6, "{failures}");
            assert!((minutes(failures, 1.0) - longest).abs() < 1e-6, "{failures}");
            assert!((minutes(failures, f64::NAN) - minutes(failures, 0.0)).abs() < 1e-6);
        }
        assert!((minutes(9, 0.5) - 1440.0).abs() < 1e-6, "a day on average");
    }

    #[test]
    fn what_failed_at_one_moment_comes_back_over_six_hours() {
        let pauses: Vec<Duration> =
            (0..10_000).map(|n| Backoff::default().pause(4, f64::from(n) / 10_000.0)).collect();
        let mut minutes = vec![0; 27 * 60];
        for pause in &pauses {
            minutes[usize::try_from(pause.as_secs() / 60).unwrap()] += 1;
        }
        assert_eq!(minutes.iter().filter(|count| **count > 0).count(), 360);
        assert!(minutes.iter().all(|count| *count <= 28), "no minute has more than its share");
    }

    #[test]
    fn the_longest_pauses_do_not_overflow() {
        let backoff = Backoff::new([Duration::MAX], Duration::MAX);
        assert_eq!((backoff.pause(1, 1.0), backoff.pause(2, 1.0)), (Duration::MAX, Duration::MAX));
        assert_eq!(Backoff::new([], Duration::ZERO).pause(1, 0.7), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn an_early_pause_is_never_shorter_and_more_failures_never_wait_less(
            failures in 0_u32..10, more in 0_u32..10, jitter in 0.0..1.0, other in 0.0..1.0,
        ) {
            let backoff = Backoff::default();
            let pause = backoff.pause(failures, jitter);
            if failures < 4 {
                prop_assert!(pause >= backoff.pause(failures, 0.0));
                prop_assert!(pause < backoff.pause(4, other));
            }
            prop_assert!(backoff.pause(failures + more, jitter) >= pause);
        }

        #[test]
        fn any_schedule_keeps_its_bounds(
            early in proptest::collection::vec(0_u64..1_000_000_000, 0..6),
            repeating in 0_u64..1_000_000_000,
            failures in 1_u32..9,
            jitter in 0.0..1.0,
        ) {
            let backoff = Backoff::new(early.iter().copied().map(Duration::from_secs), Duration::from_secs(repeating));
            let pause = backoff.pause(failures, jitter).as_secs_f64();
            let (nominal, from, to) = match early.get(failures as usize - 1) {
                Some(seconds) => (*seconds as f64, 1.0, 1.1),
                None => (repeating as f64, 0.875, 1.125),
            };
            prop_assert!(pause >= nominal * from - 1e-6 && pause <= nominal * to + 1e-6, "{pause} of {nominal}");
        }
    }
}
