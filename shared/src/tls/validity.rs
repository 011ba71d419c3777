//! When certificates of the internal CA are valid, and when they are renewed.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// They are valid from this long before they were made: the clocks of those that they are shown to may be behind.
pub const VALID_BEFORE: Duration = Duration::from_secs(3600);

/// When two thirds of the life that a certificate was made for are over.
pub fn renewal_moment(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    let all = not_after.duration_since(not_before).as_secs().max(0);
    let before = i64::try_from(VALID_BEFORE.as_secs()).unwrap_or_default();
    let life = if all > before { all - before } else { all };
    not_after.checked_sub(SignedDuration::from_secs(life / 3)).unwrap_or(not_after)
}

/// Whether a certificate is to be replaced: its time is nearly over, or has not come yet, because a clock was wrong.
pub fn is_outdated(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> bool {
    now < not_before || now >= renewal_moment(not_before, not_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_replaced_in_time_and_when_its_time_has_not_come() {
        let at = |second| Timestamp::from_second(second).unwrap();
        // Made at 10,000 for 900 s.
        let (from, to) = (at(10_000 - 3_600), at(10_900));
        assert_eq!(renewal_moment(from, to), at(10_600));
        for (now, outdated) in
            [(6_399, true), (6_400, false), (10_000, false), (10_599, false), (10_600, true), (11_000, true)]
        {
            assert_eq!(is_outdated(from, to, at(now)), outdated, "{now}");
        }
        assert_eq!(renewal_moment(at(0), at(300)), at(200), "one that somebody else made");
    }
}
