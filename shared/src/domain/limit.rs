//! A limit of a CA, and the arithmetic that Let's Encrypt's own limiter uses for it: the generic cell rate algorithm.
//!
//! A bucket is one number, its TAT (theoretical arrival time): the moment when it is full again. What is spent moves it on, by
//! one emission interval each; it may be ahead of now by the whole burst and no more. All times are microseconds since 1970,
//! which a double keeps exactly: the same arithmetic runs in the store's scripts (`store/scripts/limits.lua`).

use serde::{Deserialize, Serialize};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// New orders, when they are placed.
    Orders,
    /// Certificates: looked at when an order is placed, spent when it is issued.
    Certificates,
    /// Validations that failed: looked at when an order is placed.
    FailedValidations,
    /// Validations that failed with none in between that succeeded. Once it is used up, the CA pauses the name.
    ConsecutiveFailures,
    /// New accounts.
    Accounts,
}

/// Who has a bucket of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitScope {
    Account,
    /// All accounts together, by the Public Suffix List; an IPv4 address, the /64 of an IPv6 address.
    RegisteredDomain,
    /// All accounts together: the exact set of names.
    IdentifierSet,
    AccountAndIdentifier,
    /// The address that requests come from.
    Address,
    /// The /48 of an IPv6 address that requests come from.
    Ipv6Range,
}

/// What kind of order it is, by what the CA exempts it from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderClass {
    /// It replaces a certificate within the window that the CA asks for (RFC 9773).
    Ari,
    /// Exactly these names had a certificate lately.
    SameSet,
    New,
}

impl OrderClass {
    /// That of an order that replaces nothing within the CA's window. `same_set`: exactly its names had a certificate lately.
    pub const fn of_names(same_set: bool) -> Self {
        if same_set { Self::SameSet } else { Self::New }
    }
}

/// A bucket's size and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// What a full bucket holds.
    pub burst: u32,
    /// So many come back ...
    pub count: u32,
    /// ... in this time, evenly.
    pub period_seconds: f64,
}

/// A limit of a CA, as its profile states it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub counts: Counted,
    pub scope: LimitScope,
    pub burst: u32,
    pub count: u32,
    pub period_seconds: f64,
    /// Orders that it does not hold for.
    #[serde(default)]
    pub exempt: Vec<OrderClass>,
    /// What the CA's refusal says when it is this one: part of its text.
    #[serde(default)]
    pub says: String,
}

/// What a bucket would answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The TAT once it is spent, and how much is left then.
    Allowed { tat_us: i64, remaining: i64 },
    /// How long until it is allowed, and how much there is now.
    Denied { retry_in_us: i64, remaining: i64 },
}

impl Limit {
    pub fn rate(&self) -> Rate {
        Rate { burst: self.burst, count: self.count, period_seconds: self.period_seconds }
    }
}

impl Rate {
    /// Whether it is one at all: nothing divides by zero, and no bucket is forever empty.
    pub fn is_possible(&self) -> bool {
        self.burst > 0 && self.count > 0 && self.period_seconds.is_finite() && self.period_seconds > 0.0
    }

    /// How long one takes to come back, microseconds.
    pub fn interval_us(&self) -> i64 {
        let interval = self.period_seconds * 1e6 / f64::from(self.count.max(1));
        (interval.round() as i64).max(1)
    }

    /// How long an empty bucket takes to fill, microseconds.
    pub fn full_after_us(&self) -> i64 {
        self.interval_us().saturating_mul(i64::from(self.burst))
    }

    /// Spends `cost` at `now_us`, if the bucket has it. A denial changes nothing.
    pub fn spend(&self, tat_us: i64, now_us: i64, cost: i64) -> Tried {
        let interval = self.interval_us();
        let begin = tat_us.max(now_us);
        let tat = begin.saturating_add(cost.saturating_mul(interval));
        let over = now_us.saturating_sub(tat.saturating_sub(self.full_after_us()));
        if over < 0 {
            let remaining = now_us.saturating_sub(begin.saturating_sub(self.full_after_us()));
            return Tried::Denied { retry_in_us: -over, remaining: remaining.div_euclid(interval) };
        }
        Tried::Allowed { tat_us: tat, remaining: over.div_euclid(interval) }
    }

    /// Gives `cost` back. A full bucket does not overflow.
    pub fn refund(&self, tat_us: i64, now_us: i64, cost: i64) -> i64 {
        if tat_us <= now_us {
            return tat_us;
        }
        tat_us.saturating_sub(cost.saturating_mul(self.interval_us())).max(now_us)
    }

    /// How much there is at `now_us`.
    pub fn remaining(&self, tat_us: i64, now_us: i64) -> i64 {
        let ahead = tat_us.saturating_sub(now_us).max(0);
        self.full_after_us().saturating_sub(ahead).div_euclid(self.interval_us())
    }

    /// How long `orders` take that come all at once to a bucket of this TAT: until the last of them may go, microseconds.
    pub fn time_for_us(&self, orders: u64, tat_us: i64, now_us: i64) -> i64 {
        let cost = i64::try_from(orders).unwrap_or(i64::MAX);
        let tat = tat_us.max(now_us).saturating_add(cost.saturating_mul(self.interval_us()));
        tat.saturating_sub(self.full_after_us()).saturating_sub(now_us).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;
    const ORDERS: Rate = Rate { burst: 300, count: 300, period_seconds: 10_800.0 };

    #[test]
    fn three_hundred_at_once_then_one_in_36_seconds() {
        let (mut tat, now) = (0, 1_000_000 * S);
        for left in (0..300).rev() {
            let Tried::Allowed { tat_us, remaining } = ORDERS.spend(tat, now, 1) else { panic!() };
            assert_eq!(remaining, left);
            tat = tat_us;
        }
        assert_eq!(ORDERS.spend(tat, now, 1), Tried::Denied { retry_in_us: 36 * S, remaining: 0 });
        assert!(matches!(ORDERS.spend(tat, now + 36 * S, 1), Tried::Allowed { remaining: 0, .. }));
        assert!(matches!(ORDERS.spend(tat, now + 36 * S - 1, 1), Tried::Denied { retry_in_us: 1, .. }));
        // Planning numbers: 1,000 take 7 hours, 100,000 take 41.5 days.
        assert_eq!(ORDERS.time_for_us(1_000, 0, now) / S, 700 * 36);
        assert_eq!(ORDERS.time_for_us(100_000, 0, now) / S / 86_400, 41);
        assert_eq!(ORDERS.time_for_us(300, 0, now), 0);
    }

    #[test]
    fn what_is_given_back_can_be_spent_again_and_never_overflows() {
        let now = 50 * S;
        let Tried::Allowed { tat_us, .. } = ORDERS.spend(0, now, 1) else { panic!() };
        assert_eq!(ORDERS.refund(tat_us, now, 1), now);
        assert_eq!(ORDERS.refund(tat_us, now, 9), now);
        assert_eq!(ORDERS.refund(7, now, 1), 7);
        assert_eq!(ORDERS.remaining(tat_us, now), 299);
        assert_eq!(ORDERS.remaining(0, now), 300);
    }

    #[test]
    fn the_published_intervals() {
        let every = |burst, count, period_seconds| Rate { burst, count, period_seconds }.interval_us();
        assert_eq!(every(50, 50, 604_800.0), 12_096 * S);
        assert_eq!(every(5, 5, 604_800.0), 120_960 * S);
        assert_eq!(every(5, 5, 3_600.0), 720 * S);
        assert_eq!(every(1152, 1, 86_400.0), 86_400 * S);
        assert!(!Rate { burst: 0, count: 1, period_seconds: 1.0 }.is_possible());
        assert!(!Rate { burst: 1, count: 1, period_seconds: f64::NAN }.is_possible());
    }
}
