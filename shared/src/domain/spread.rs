//! The moment of a renewal, so that no hour has more of them than another.
//!
//! A moment is drawn once, within the window that the CA or our own rule gives. A million draws that know nothing of each
//! other leave the busiest hour 13 to 16 % over the mean, so a few are drawn, and those whose hours are crowded give way:
//!
//! 1. [`candidates`] draws the moments to choose among.
//! 2. The caller asks the store how many renewals its partition has in [`Candidates::hours`].
//! 3. [`Candidates::choose`] takes one.
//!
//! The window is narrow, 2 % of the lifetime, so certificates that were all issued within days would be renewed within days
//! for ever. Where its window is crowded, the first certificate of a name is therefore renewed early, once, at any moment
//! between now and the window: some one day early, some two, some weeks. Such an order is outside of the window, so what
//! spares it the CA's limits is the set of names, which is the same as before.

use super::{RenewalWindow, renewal_cycle};
use jiff::{SignedDuration, Timestamp};

/// Draws within the window. More of them would even out the hours better, and the minutes within an hour worse.
const DRAWS: usize = 3;
/// So many hours of the window, or all where it has fewer, show whether it is crowded as a whole: the hours of a few draws
/// alone would mostly show noise. All of 90 days' window, which is 43 hours wide.
const MOST_PROBES: i64 = 48;
/// Draws between now and the window.
const EARLY_DRAWS: usize = 6;
/// How far over what is usual an hour of a partition may be before another draw is looked at, as a share of the mean. Small
/// numbers differ by more on their own, and evening out what is even is what makes the minutes uneven.
const TOLERATED: f64 = 0.1;
/// How far over the mean a window as a whole is before its certificates are renewed early.
const CLEARLY: f64 = 1.05;
/// A window whose hours have no more renewals than this in a partition harms nobody, however few the other hours have.
const HARMLESS_PER_HOUR: f64 = 4.0;
/// Partitions with fewer certificates than this renew nothing early: in 64 of them that is some two thousand.
const FEW: u64 = 32;
/// An early renewal comes after this part of the lifetime at the soonest, a day of 90: two certificates of one set of names
/// within hours look like a mistake, and Let's Encrypt takes five a week.
const SOONEST: i32 = 90;
/// What should have been renewed before now is renewed within this time.
const OVERDUE: SignedDuration = SignedDuration::from_mins(5);

const HOUR_MS: i64 = 3_600_000;

/// Why a moment is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The first certificate of these names was issued, or the first one that lives as long as this. It may be renewed early.
    First,
    /// A certificate was renewed.
    Renewal,
    /// The CA moved the window of a certificate that was issued a while ago.
    Moved,
}

/// Moments to choose among.
#[derive(Clone, Debug)]
pub struct Candidates {
    window: RenewalWindow,
    cycle: SignedDuration,
    occasion: Occasion,
    draws: [Timestamp; DRAWS],
    /// Both empty unless it is the first certificate, and its window is far enough away.
    probes: Vec<i64>,
    early: Vec<Timestamp>,
}

/// What the store knows of an hour.
struct Looked {
    renewals: f64,
    /// See [`Candidates::usual`].
    usual: f64,
    /// How many of the renewals are more than usual.
    excess: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub moment: Timestamp,
    /// It lies before the window: once chosen it stands, even where the CA moves the window, unless to before it.
    pub early: bool,
}

/// The hour of a moment, in hours since the epoch.
pub fn hour_of(moment: Timestamp) -> i64 {
    moment.as_millisecond().div_euclid(HOUR_MS)
}

/// Moments for the renewal of a certificate with this window and lifetime. None is before `now`; none is at or after the
/// window's end, unless that has passed. `seed` decides all of them, and any number is as good as another: the same seed
/// gives the same moments.
pub fn candidates(
    window: RenewalWindow,
    lifetime: SignedDuration,
    occasion: Occasion,
    now: Timestamp,
    seed: u64,
) -> Candidates {
    let mut dice = Dice(seed);
    let (from, until) = if window.end <= now {
        (now, now.checked_add(OVERDUE).unwrap_or(Timestamp::MAX))
    } else {
        (window.start.min(window.end).max(now), window.end)
    };
    let draws = std::array::from_fn(|_| between(from, until, dice.roll()));
    let mut found = Candidates {
        window: RenewalWindow { start: from, end: until },
        cycle: renewal_cycle(lifetime),
        occasion,
        draws,
        probes: Vec::new(),
        early: Vec::new(),
    };
    let soonest = now.checked_add(lifetime / SOONEST).unwrap_or(Timestamp::MAX);
    if occasion == Occasion::First && soonest < window.start && from < until {
        let (first, last) = (hour_of(from), hour_of(until));
        let step = usize::try_from((last - first) / MOST_PROBES + 1).unwrap_or(usize::MAX);
        found.probes = (first..=last).step_by(step).collect();
        found.early = (0..EARLY_DRAWS).map(|_| between(soonest, from, dice.roll())).collect();
    }
    found
}

impl Candidates {
    /// The hours whose numbers of renewals [`Self::choose`] wants to know, as [`hour_of`] counts them. Some may be the same.
    pub fn hours(&self) -> impl Iterator<Item = i64> {
        let draws = self.draws.iter().map(|moment| hour_of(*moment));
        let early = self.early.iter().map(|moment| hour_of(*moment));
        draws.chain(self.probes.iter().copied()).chain(early)
    }

    /// Takes one. `renewals` are those that the partition has in each of [`Self::hours`], in their order; what is missing
    /// counts as none. `certificates` is how many the partition has, together with those that it is known to get: where a
    /// million sites are wanted and it takes weeks to issue them all, the weeks are spread over the cycle already, and
    /// knowing it spares the early renewals.
    pub fn choose(&self, renewals: &[u64], certificates: u64) -> Chosen {
        let mean = self.mean_per_hour(certificates);
        let look = |place: usize, hour: i64| {
            let renewals = renewals.get(place).copied().unwrap_or_default() as f64;
            let usual = self.usual(hour);
            Looked { renewals, usual, excess: renewals - mean * usual }
        };
        let (mut natural, mut least) = (self.draws[0], f64::INFINITY);
        for (place, draw) in self.draws.into_iter().enumerate() {
            let excess = look(place, hour_of(draw)).excess;
            if excess < least {
                (natural, least) = (draw, excess);
            }
            // The first that will do, not the emptiest: a draw that is not corrected is as uniform as draws are.
            if excess <= mean * TOLERATED {
                break;
            }
        }
        let natural = Chosen { moment: natural, early: false };
        let (mut renewals, mut usual) = (0.0, 0.0);
        for (place, hour) in self.probes.iter().enumerate() {
            let looked = look(DRAWS + place, *hour);
            renewals += looked.renewals;
            usual += looked.usual;
        }
        let is_crowded = certificates >= FEW && renewals > usual * (mean * CLEARLY).max(HARMLESS_PER_HOUR);
        if !is_crowded {
            return natural;
        }
        let places = DRAWS + self.probes.len()..;
        let early =
            self.early.iter().zip(places).map(|(draw, place)| (draw, look(place, hour_of(*draw)).excess));
        match early.min_by(|(_, one), (_, two)| one.total_cmp(two)) {
            Some((draw, excess)) if excess < renewals / usual - mean => Chosen { moment: *draw, early: true },
            _ => natural,
        }
    }

    fn mean_per_hour(&self, certificates: u64) -> f64 {
        let hours = self.cycle.as_secs_f64() / 3600.0;
        if hours > 0.0 { certificates as f64 / hours } else { f64::INFINITY }
    }

    /// How full an hour is by now when all is even, from 0.0 to 1.0. Nobody who was renewed up to now is due
    /// after the window's end, all who will be due at its start have been renewed, and in between it falls evenly.
    fn usual(&self, hour: i64) -> f64 {
        if self.occasion == Occasion::Moved {
            return 1.0;
        }
        let from = (hour * HOUR_MS) as f64;
        let until = from + HOUR_MS as f64;
        let start = self.window.start.as_millisecond() as f64;
        let end = self.window.end.as_millisecond() as f64;
        let before_ms = (start.min(until) - from).max(0.0);
        let (low, high) = (from.max(start), until.min(end));
        let within_ms =
            if low < high { (high - low) * ((end - low) + (end - high)) / 2.0 / (end - start) } else { 0.0 };
        (before_ms + within_ms) / HOUR_MS as f64
    }
}

/// At that share of the way, which is below 1, in whole milliseconds. Never before `from`, and before `until` where that is
/// possible.
fn between(from: Timestamp, until: Timestamp, share: f64) -> Timestamp {
    let span_ms = i64::try_from(until.duration_since(from).as_millis()).unwrap_or_default().max(0);
    let offset_ms = ((span_ms as f64 * share) as i64).min(span_ms - 1).max(0);
    from + SignedDuration::from_millis(offset_ms)
}

/// SplitMix64 (Steele, Lea, Flood 2014): many numbers from one, each as good as drawn.
struct Dice(u64);

impl Dice {
    /// From 0.0 to just below 1.0.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = (mixed ^ (mixed >> 31)) >> 11;
        bits as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{PARTITIONS, renewal_window};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const LIFETIMES_H: [i64; 4] = [160, 45 * 24, 64 * 24, 90 * 24];
    const NOW_S: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    /// Of a certificate that was issued now.
    fn new(lifetime: SignedDuration, occasion: Occasion, seed: u64) -> (RenewalWindow, Candidates) {
        let window = renewal_window(at(NOW_S), at(NOW_S) + lifetime);
        (window, candidates(window, lifetime, occasion, at(NOW_S), seed))
    }

    #[test]
    fn a_crowded_hour_gives_way() {
        // 10 an hour.
        let (_, few) = new(hours(90 * 24), Occasion::Renewal, 1);
        let usual: Vec<u64> = few.hours().map(|hour| (10.0 * few.usual(hour)) as u64).collect();
        let choose = |counts: &[u64]| few.choose(counts, 14_400).moment;
        assert_eq!(choose(&usual), few.draws[0], "nothing is wrong with the first");
        assert_eq!(choose(&[usual[0] + 3, usual[1], usual[2]]), few.draws[1]);
        assert_eq!(
            choose(&[usual[0] + 3, usual[1] + 4, usual[2] + 2]),
            few.draws[2],
            "the least crowded of all"
        );
        assert_eq!(choose(&[]), few.draws[0], "what the store does not have is none");
    }

    #[test]
    fn a_crowded_window_is_left_once_and_only_by_first_ones() {
        for lifetime in LIFETIMES_H.map(hours) {
            let counts = |found: &Candidates, window: u64, before: u64| -> Vec<u64> {
                let first_early = hour_of(found.window.start);
                found.hours().map(|hour| if hour < first_early { before } else { window }).collect()
            };
            for seed in 0..100 {
                let (window, first) = new(lifetime, Occasion::First, seed);
                let chosen = first.choose(&counts(&first, 5_000, 1), 15_000);
                assert!(chosen.early && chosen.moment < window.start, "{chosen:?}");
                assert!(chosen.moment >= at(NOW_S) + lifetime / 90);
                assert!(!first.choose(&counts(&first, 5_000, 50_000), 15_000).early, "it is worse elsewhere");
                assert!(!first.choose(&counts(&first, 2, 0), 15_000).early, "few are in nobody's way");
                assert!(!first.choose(&counts(&first, 5_000, 1), 31).early, "nor are they in a small fleet");
                for occasion in [Occasion::Renewal, Occasion::Moved] {
                    let (window, later) = new(lifetime, occasion, seed);
                    let chosen = later.choose(&counts(&later, 5_000, 1), 15_000);
                    assert!(!chosen.early && chosen.moment >= window.start);
                }
            }
        }
    }

    #[test]
    fn early_ones_lie_anywhere_before_the_window() {
        let (window, _) = new(hours(90 * 24), Occasion::First, 0);
        let mut days = BTreeMap::new();
        for seed in 0..10_000 {
            let (_, first) = new(hours(90 * 24), Occasion::First, seed);
            for moment in &first.early {
                *days.entry(moment.duration_since(at(NOW_S)).as_hours() / 24).or_insert(0) += 1;
            }
        }
        assert_eq!(days.len() as i64, window.start.duration_since(at(NOW_S)).as_hours() / 24);
        // The last day is one of two hours.
        assert!(days.range(..59).all(|(_, count)| (850..1250).contains(count)), "{days:?}");
    }

    #[test]
    fn a_small_fleet_renews_nothing_early_though_it_was_issued_at_once() {
        for lifetime in LIFETIMES_H.map(hours) {
            let mut histograms = vec![BTreeMap::new(); usize::from(PARTITIONS)];
            for seed in 0..900 {
                let (_, first) = new(lifetime, Occasion::First, seed);
                let histogram = &mut histograms[seed as usize % usize::from(PARTITIONS)];
                let counts: Vec<u64> =
                    first.hours().map(|hour| histogram.get(&hour).copied().unwrap_or_default()).collect();
                let chosen = first.choose(&counts, histogram.values().sum::<u64>() + 1);
                assert!(!chosen.early, "{lifetime:?}, {seed}");
                *histogram.entry(hour_of(chosen.moment)).or_insert(0) += 1;
            }
        }
    }

    #[test]
    fn what_is_usual_falls_from_the_windows_start_to_its_end() {
        let (window, found) = new(hours(90 * 24), Occasion::Renewal, 0);
        let (first, last) = (hour_of(window.start), hour_of(window.end));
        assert_eq!((found.usual(first - 1), found.usual(last + 1)), (1.0, 0.0));
        assert!((first..=last).all(|hour| found.usual(hour) > found.usual(hour + 1)));
        let sum: f64 = (first..=last).map(|hour| found.usual(hour)).sum();
        let past_s = (window.start.as_second() % 3600) as f64;
        assert!((sum - past_s / 3600.0 - 21.6).abs() < 1e-3, "half of the window's 43.2 hours: {sum}");
        let (_, moved) = new(hours(90 * 24), Occasion::Moved, 0);
        assert_eq!((moved.usual(first), moved.usual(last)), (1.0, 1.0));
    }

    #[test]
    fn a_window_that_has_passed_means_now() {
        let window = RenewalWindow { start: at(NOW_S - 3600), end: at(NOW_S - 1800) };
        for seed in 0..100 {
            let found = candidates(window, hours(160), Occasion::First, at(NOW_S), seed);
            let chosen = found.choose(&[1_000_000; 64], 1_000_000);
            let after_s = chosen.moment.duration_since(at(NOW_S)).as_secs();
            assert!((0..300).contains(&after_s) && !chosen.early, "{after_s} s");
        }
    }

    #[test]
    fn nothing_overflows_at_the_end_of_time() {
        let window = RenewalWindow { start: Timestamp::MIN, end: Timestamp::MAX };
        for (now, lifetime) in [
            (Timestamp::MAX, SignedDuration::MAX),
            (Timestamp::MIN, SignedDuration::ZERO),
            (Timestamp::MIN, SignedDuration::MIN),
        ] {
            let found = candidates(window, lifetime, Occasion::First, now, 7);
            assert!(found.choose(&[1, 2, 3], u64::MAX).moment >= now);
        }
    }

    proptest! {
        #[test]
        fn in_the_window_unless_early_and_never_before_now(
            start_s in -200_i64 * 86_400..200 * 86_400, width_s in 0_i64..5 * 86_400, lifetime_s in 0_i64..400 * 86_400,
            occasion in proptest::sample::select(vec![Occasion::First, Occasion::Renewal, Occasion::Moved]),
            seed: u64, counts in proptest::collection::vec(0_u64..100, 0..64), certificates in 0_u64..100_000,
        ) {
            let now = at(NOW_S);
            let window = RenewalWindow { start: at(NOW_S + start_s), end: at(NOW_S + start_s + width_s) };
            let found = candidates(window, SignedDuration::from_secs(lifetime_s), occasion, now, seed);
            prop_assert!(found.hours().count() <= 64, "the store is asked for a few hours");
            let chosen = found.choose(&counts, certificates);
            prop_assert!(chosen.moment >= now);
            if window.end <= now {
                prop_assert!(chosen.moment < now + OVERDUE && !chosen.early);
            } else if chosen.early {
                prop_assert!(occasion == Occasion::First && chosen.moment < window.start);
            } else {
                prop_assert!(chosen.moment >= window.start);
                prop_assert!(chosen.moment < window.end || width_s == 0);
            }
            let again = candidates(window, SignedDuration::from_secs(lifetime_s), occasion, now, seed);
            prop_assert_eq!(again.choose(&counts, certificates), chosen, "the seed decides");
        }
    }
}
