//! When a certificate is renewed where the CA says nothing, and how near its end is. Fractions of the lifetime all of
//! them, so that they hold for 90 days as for six.

use super::fraction;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Certificates that live less than this are renewed at one half of their life instead of one third before its end.
const SHORT: SignedDuration = SignedDuration::from_hours(240);
/// The draws lie within this share of the lifetime, as the windows of a CA's own renewal information do.
const SPREAD: f64 = 0.02;

/// How near the end of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpiryStage {
    Fine,
    /// Less than a quarter of the lifetime is left: its renewal is overdue.
    Warning,
    /// Less than a tenth is left.
    Critical,
    Expired,
}

/// Within which a certificate should be renewed: `start` belongs to it, `end` no longer does. Let's Encrypt lifts its limits
/// for a renewal that comes within it (RFC 9773 section 4.2 names it `suggestedWindow`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalWindow {
    pub start: Timestamp,
    pub end: Timestamp,
}

/// When a certificate is renewed when the CA says nothing: with one third of its lifetime left, with one half where it
/// lives less than ten days. `spread` is drawn once by the caller, from 0.0..1.0, and moves that by up to one hundredth
/// of the lifetime either way, in whole seconds.
pub fn renewal_moment(not_before: Timestamp, not_after: Timestamp, spread: f64) -> Timestamp {
    let window = renewal_window(not_before, not_after);
    // In the middle of the range where there was no draw.
    let spread = if spread.is_nan() { 0.5 } else { fraction(spread) };
    let offset_s = window.end.duration_since(window.start).mul_f64(spread).as_secs();
    let moment = window.start + SignedDuration::from_secs(offset_s);
    moment.min(urgent_from(not_before, not_after)).max(not_before)
}

/// The window of a certificate for which the CA names none: as wide as those that Boulder names, and around the same moment.
pub fn renewal_window(not_before: Timestamp, not_after: Timestamp) -> RenewalWindow {
    let lifetime = lifetime(not_before, not_after);
    let start = not_before + renewal_cycle(lifetime) - lifetime.mul_f64(SPREAD / 2.0);
    RenewalWindow { start, end: start + lifetime.mul_f64(SPREAD) }
}

/// From when on the life of a certificate counts that was issued at `issued`. That is its beginning, but where more than a quarter of its
/// life was over by then: such a CA would give another one like it at once, and one order would follow upon the other. What is left of it
/// is its life, then.
pub fn life_begin(not_before: Timestamp, not_after: Timestamp, issued: Timestamp) -> Timestamp {
    let is_spent = issued.duration_since(not_before) > lifetime(not_before, not_after) / 4;
    if is_spent && issued < not_after { issued } else { not_before }
}

/// How long it is from a certificate to the one that follows it, where the renewal comes when it should.
pub fn renewal_cycle(lifetime: SignedDuration) -> SignedDuration {
    lifetime - if lifetime < SHORT { lifetime / 2 } else { lifetime / 3 }
}

/// From when on a renewal counts as one of what is about to expire: one sixth of the lifetime is left.
pub fn urgent_from(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    not_after - lifetime(not_before, not_after) / 6
}

/// How near the end is at `now`. The last second is still valid (RFC 5280 section 4.1.2.5).
pub fn expiry_stage(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> ExpiryStage {
    let lifetime = lifetime(not_before, not_after);
    let left = not_after.duration_since(now);
    if left.is_negative() {
        ExpiryStage::Expired
    } else if left < lifetime / 10 {
        ExpiryStage::Critical
    } else if left < lifetime / 4 {
        ExpiryStage::Warning
    } else {
        ExpiryStage::Fine
    }
}

/// Never negative: a certificate whose end is before its beginning has no life at all.
fn lifetime(not_before: Timestamp, not_after: Timestamp) -> SignedDuration {
    not_after.duration_since(not_before).max(SignedDuration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIFETIMES_H: [i64; 4] = [160, 45 * 24, 64 * 24, 90 * 24];

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// What is left of the lifetime at `moment`.
    fn left(not_before: i64, lifetime_s: i64, moment: Timestamp) -> f64 {
        at(not_before + lifetime_s).duration_since(moment).as_secs_f64() / lifetime_s as f64
    }

    #[test]
    fn real_lifetimes_are_renewed_in_time() {
        for (hours, earliest_h, latest_h) in [
            // One half, less or more a hundredth: 80 h - 1.6 h to 80 h + 1.6 h.
            (160, 78.4, 81.6),
            (45 * 24, 709.2, 730.8),
            (64 * 24, 1008.64, 1039.36),
            // 60 days, less or more 21.6 hours.
            (90 * 24, 1418.4, 1461.6),
        ] {
            let (from, to) = (at(0), at(hours * 3600));
            let moment_h =
                |spread| renewal_moment(from, to, spread).duration_since(from).as_secs_f64() / 3600.0;
            assert!((moment_h(0.0) - earliest_h).abs() < 0.001, "{hours}: {}", moment_h(0.0));
            assert!((moment_h(1.0) - latest_h).abs() < 0.001, "{hours}: {}", moment_h(1.0));
            assert!((moment_h(f64::NAN) - moment_h(0.5)).abs() < 0.001);
        }
    }

    #[test]
    fn a_certificate_that_comes_with_little_life_is_not_renewed_at_once() {
        let day = 86_400;
        for (from, until, issued, begin) in [
            (0, 90 * day, 3_600, 0),
            (0, 160 * 3_600, 3_600, 0),
            // An hour back, and ten minutes ahead.
            (0, 4_200, 3_600, 3_600),
            // A subscription that ends on a day.
            (0, 80 * day, 60 * day, 60 * day),
            // It begins later, and has ended already.
            (0, day, -60, 0),
            (0, day, 2 * day, 0),
        ] {
            let found = life_begin(at(from), at(until), at(issued));
            assert_eq!(found, at(begin), "{from}..{until} at {issued}");
            let next = renewal_moment(found, at(until), 0.0);
            assert!(issued > until || next.as_second() > issued, "{from}..{until} at {issued}: {next}");
        }
        // Each of a row of them waits for its part of what is left: they end with the subscription.
        let (mut issued, mut orders) = (60 * day, 0);
        while 80 * day - issued > 3_600 {
            issued =
                renewal_moment(life_begin(at(0), at(80 * day), at(issued)), at(80 * day), 0.5).as_second();
            orders += 1;
        }
        assert!((3..=12).contains(&orders), "{orders} orders");
    }

    #[test]
    fn our_windows_are_those_of_boulder() {
        // core/objects.go, `RenewalInfoSimple`.
        for (hours, centre_h, width_h) in
            [(160, 80.0, 3.2), (45 * 24, 720.0, 21.6), (64 * 24, 1024.0, 30.72), (90 * 24, 1440.0, 43.2)]
        {
            let window = renewal_window(at(0), at(hours * 3600));
            let (start_h, end_h) = (
                window.start.duration_since(at(0)).as_secs_f64() / 3600.0,
                window.end.duration_since(at(0)).as_secs_f64() / 3600.0,
            );
            assert!((end_h - start_h - width_h).abs() < 1e-6, "{hours}: {start_h} to {end_h}");
            assert!((f64::midpoint(start_h, end_h) - centre_h).abs() < 1e-6, "{hours}: {start_h} to {end_h}");
            let cycle = renewal_cycle(SignedDuration::from_hours(hours));
            assert!((cycle.as_secs_f64() / 3600.0 - centre_h).abs() < 1e-6);
        }
    }

    #[test]
    fn stages_are_fractions_of_the_lifetime() {
        for hours in LIFETIMES_H {
            let end = hours * 3600;
            let stage = |left_s: i64| expiry_stage(at(0), at(end), at(end - left_s));
            for (left_s, expected) in [
                (end + 1, ExpiryStage::Fine),
                (end, ExpiryStage::Fine),
                (end / 4, ExpiryStage::Fine),
                (end / 4 - 1, ExpiryStage::Warning),
                (end / 10, ExpiryStage::Warning),
                (end / 10 - 1, ExpiryStage::Critical),
                (0, ExpiryStage::Critical),
                (-1, ExpiryStage::Expired),
            ] {
                assert_eq!(stage(left_s), expected, "{hours} h, {left_s} s left");
            }
            assert_eq!(urgent_from(at(0), at(end)), at(end - end / 6));
        }
    }

    #[test]
    fn a_lifetime_that_is_none_is_due_and_expired_at_once() {
        for end in [100, 50] {
            assert_eq!(renewal_moment(at(100), at(end), 0.9), at(100));
            assert_eq!(urgent_from(at(100), at(end)), at(end));
            assert_eq!(expiry_stage(at(100), at(end), at(101)), ExpiryStage::Expired);
        }
        let (first, last) = (Timestamp::MIN, Timestamp::MAX);
        assert!(renewal_moment(first, last, 1.0) < urgent_from(first, last));
    }

    fn lifetimes() -> impl Strategy<Value = i64> {
        prop_oneof![
            proptest::sample::select(LIFETIMES_H.map(|hours| hours * 3600).to_vec()),
            1_i64..400 * 86_400,
        ]
    }

    proptest! {
        #[test]
        fn a_draw_stays_in_its_range(from in 0_i64..4_000_000_000, lifetime_s in lifetimes(), spread in 0.0..1.0) {
            let (not_before, not_after) = (at(from), at(from + lifetime_s));
            let moment = renewal_moment(not_before, not_after, spread);
            prop_assert!(moment >= not_before);
            prop_assert!(moment <= urgent_from(not_before, not_after));
            let centre = if lifetime_s < 864_000 { 0.5 } else { 1.0 / 3.0 };
            let tolerance = 0.01 + 1.0 / lifetime_s as f64;
            let left = left(from, lifetime_s, moment);
            prop_assert!((left - centre).abs() <= tolerance, "{left} of {lifetime_s}");
        }

        #[test]
        fn a_later_draw_and_a_later_start_never_come_earlier(
            from in 0_i64..4_000_000_000, later in 0_i64..1_000_000, lifetime_s in lifetimes(),
            one in 0.0..1.0, two in 0.0..1.0,
        ) {
            let draw = |from: i64, spread: f64| renewal_moment(at(from), at(from + lifetime_s), spread);
            let (low, high) = if one < two { (one, two) } else { (two, one) };
            prop_assert!(draw(from, low) <= draw(from, high));
            let moved = draw(from + later, one).duration_since(draw(from, one));
            prop_assert_eq!(moved.as_secs(), later, "the same certificate later is renewed as much later");
        }

        #[test]
        fn no_number_of_days_is_built_in(days in 10_i64..200, factor in 2_i64..9, spread in 0.0..1.0) {
            let share = |days: i64| left(0, days * 86_400, renewal_moment(at(0), at(days * 86_400), spread));
            prop_assert!((share(days) - share(days * factor)).abs() < 1e-5);
        }

        #[test]
        fn stages_only_get_worse(lifetime_s in lifetimes(), one in -0.5..1.5, two in -0.5..1.5) {
            let stage = |share: f64| {
                expiry_stage(at(0), at(lifetime_s), at((lifetime_s as f64 * share) as i64))
            };
            let (early, late) = if one < two { (one, two) } else { (two, one) };
            prop_assert!(stage(early) <= stage(late));
            prop_assert_eq!(stage(1.0), if lifetime_s < 10 { stage(1.0) } else { ExpiryStage::Critical });
        }
    }
}
