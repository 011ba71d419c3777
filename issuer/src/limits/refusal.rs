//! Which limit a CA means when it refuses, and until when. Headers first, the text where there are none.

use super::ticket::UNKNOWN_WAIT;
use crate::acme::{Moment, ProblemKind, RequestError};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use shared::domain::Limit;
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

/// A CA that says when to come again counts in seconds, and not always up.
const ROUNDED: Duration = Duration::from_secs(1);

/// A range of addresses, as CAs name it: `192.0.2.7/32`. One address is the range of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(whole);
        (prefix <= whole).then_some(Self { address, prefix })
    }

    pub(crate) fn contains(self, other: IpAddr) -> bool {
        let shared = match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        shared >= u32::from(self.prefix)
    }
}

/// The limit's name, where the text tells, and how long it refuses. `None`: it was refused for something else, or the account or
/// a name is paused, which no waiting ends.
pub(super) fn which_limit(
    error: &RequestError,
    limits: &BTreeMap<String, Limit>,
) -> Option<(Option<String>, Duration)> {
    let is_limit = match error.problem() {
        Some(problem) => problem.kind() == ProblemKind::RateLimited && problem.unpause_url().is_none(),
        None => error.is_limit(),
    };
    if !is_limit {
        return None;
    }
    let detail = error.problem().and_then(|problem| problem.detail.as_deref()).unwrap_or_default();
    let said = limits.iter().find(|(_, limit)| !limit.says.is_empty() && detail.contains(&limit.says));
    let asked = error.retry_after().or_else(|| wait_in_text(detail, Timestamp::now()));
    let wait = asked.map_or(UNKNOWN_WAIT, |wait| wait.saturating_add(ROUNDED));
    Some((said.map(|(name, _)| name.clone()), wait))
}

/// `..., retry after 2006-01-02 15:04:05 UTC: see ...`
pub(crate) fn wait_in_text(detail: &str, now: Timestamp) -> Option<Duration> {
    let (_, rest) = detail.split_once("retry after ")?;
    let moment = rest.get(..19)?;
    if !rest.get(19..)?.starts_with(" UTC") {
        return None;
    }
    let moment = DateTime::strptime("%Y-%m-%d %H:%M:%S", moment).ok()?;
    let moment = moment.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let believed = Moment::RetryAfter.believe(moment.duration_since(now)).value;
    Some(Duration::try_from(believed).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_of_its_prefix() {
        let contains = |network: &str, address: &str| {
            Network::parse(network).is_some_and(|network| network.contains(address.parse().unwrap()))
        };
        assert!(contains("192.0.2.7/32", "192.0.2.7") && !contains("192.0.2.7/32", "192.0.2.8"));
        assert!(contains("192.0.2.0/24", "192.0.2.8") && !contains("192.0.2.0/24", "192.0.3.8"));
        assert!(contains("2001:db8:1:2::/64", "2001:db8:1:2::9") && !contains("::/64", "192.0.2.1"));
        assert!(contains("0.0.0.0/0", "192.0.2.1") && contains("192.0.2.1", "192.0.2.1"));
        for odd in ["192.0.2.0/33", "192.0.2.0/x", "a.example", "192.0.2/24", ""] {
            assert_eq!(Network::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_moment_in_lets_encrypts_text_is_read() {
        let now: Timestamp = "1970-01-01T00:00:15Z".parse().unwrap();
        let text = "Error creating new account :: too many new registrations (10) from this IP address in the last 3h0m0s, \
                    retry after 1970-01-01 00:18:15 UTC: see https://letsencrypt.org/docs/rate-limits/";
        assert_eq!(wait_in_text(text, now), Some(Duration::from_secs(18 * 60)));
        assert_eq!(wait_in_text("retry after 1969-01-01 00:18:15 UTC", now), Some(Duration::ZERO));
        assert_eq!(
            wait_in_text("retry after 9000-01-01 00:18:15 UTC", now),
            Some(Duration::from_secs(86_400))
        );
        for text in [
            "",
            "retry after",
            "retry after tomorrow, or never at all",
            "retry after 1970-13-01 00:18:15 UTC",
        ] {
            assert_eq!(wait_in_text(text, now), None, "{text}");
        }
    }
}
