//! Moments that a CA names. Each is believed within bounds; what lies outside is replaced by the bound, and told.
//!
//! A CA has sent a moment where seconds were meant, a date of 1970, and a year 9999. None of them may stop a fleet.

use jiff::{SignedDuration, Timestamp};

/// What a moment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Moment {
    /// `Retry-After` (RFC 9110 section 10.2.3), or the moment in the text of a refusal.
    RetryAfter,
    /// `expires` of an order or an authorization (RFC 8555 section 7.1).
    Expires,
    /// An edge of a window for renewal (RFC 9773 section 4.2).
    RenewalWindow,
}

/// How far from now a moment may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub earliest: SignedDuration,
    pub latest: SignedDuration,
    pub reason: &'static str,
}

/// What is made of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Believed<T> {
    pub value: T,
    /// The CA named another one, and it is not believed.
    pub is_replaced: bool,
}

const fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

impl Moment {
    pub const fn bounds(self) -> Bounds {
        match self {
            Self::RetryAfter => Bounds {
                earliest: SignedDuration::ZERO,
                latest: hours(24),
                reason: "a CA that wants to be left alone for longer says so again",
            },
            Self::Expires => Bounds {
                earliest: hours(1),
                latest: hours(30 * 24),
                reason: "an order that can be worked on lives for an hour at least, and none is open for more than a month",
            },
            Self::RenewalWindow => Bounds {
                earliest: hours(-366 * 24),
                latest: hours(20 * 366 * 24),
                reason: "no certificate that is served was due a year ago, or is due in twenty",
            },
        }
    }

    /// As it stands in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RetryAfter => "Retry-After",
            Self::Expires => "expires",
            Self::RenewalWindow => "suggestedWindow",
        }
    }

    /// A moment, given as its distance from now.
    pub fn believe(self, from_now: SignedDuration) -> Believed<SignedDuration> {
        let bounds = self.bounds();
        let value = from_now.clamp(bounds.earliest, bounds.latest);
        Believed { value, is_replaced: value != from_now }
    }

    /// A moment.
    pub fn believe_at(self, said: Timestamp, now: Timestamp) -> Believed<Timestamp> {
        let Believed { value, is_replaced } = self.believe(said.duration_since(now));
        let bound = if value.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
        let value = if is_replaced { now.saturating_add(value).unwrap_or(bound) } else { said };
        Believed { value, is_replaced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_replaced_by_the_bound() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        for (kind, said, believed) in [
            (Moment::RetryAfter, "2026-11-30T19:00:00Z", "2026-11-30T19:00:00Z"),
            (Moment::RetryAfter, "2083-01-01T00:00:00Z", "2026-12-01T12:00:00Z"),
            (Moment::RetryAfter, "1970-01-01T00:00:00Z", "2026-11-30T12:00:00Z"),
            (Moment::Expires, "2026-12-07T12:00:00Z", "2026-12-07T12:00:00Z"),
            (Moment::Expires, "1970-01-01T00:00:00Z", "2026-11-30T13:00:00Z"),
            (Moment::Expires, "9999-12-30T00:00:00Z", "2026-12-30T12:00:00Z"),
            (Moment::RenewalWindow, "2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            (Moment::RenewalWindow, "0001-01-01T00:00:00Z", "2025-11-29T12:00:00Z"),
        ] {
            let said: Timestamp = said.parse().unwrap();
            let found = kind.believe_at(said, now);
            assert_eq!(found.value.to_string(), believed, "{kind:?} {said}");
            assert_eq!(found.is_replaced, found.value != said, "{kind:?} {said}");
        }
        for kind in [Moment::RetryAfter, Moment::Expires, Moment::RenewalWindow] {
            for said in [SignedDuration::MIN, SignedDuration::MAX] {
                assert!(kind.believe(said).is_replaced);
            }
            for (said, now) in [(Timestamp::MIN, Timestamp::MAX), (Timestamp::MAX, Timestamp::MIN)] {
                assert!(kind.believe_at(said, now).is_replaced);
            }
        }
    }
}
