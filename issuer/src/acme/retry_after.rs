//! The `Retry-After` header (RFC 9110 section 10.2.3): seconds, or a date.

use super::moments::{Believed, Moment};
use jiff::SignedDuration;
use std::time::{Duration, SystemTime};

/// The longest pause between two looks at an order or an authorization. Some CAs send a day (86400) while they work.
pub const LONGEST_POLL: Duration = Duration::from_secs(60);
/// A server that allows a look at once is still not asked faster than at our own pace, and that is at most this.
const SHORT_POLL: Duration = Duration::from_secs(1);

/// How long the server wants to be left alone. A date is taken relative to the answer's own `Date` header where there
/// is one (`date`), so that a clock that is off does not matter, and else to `now`. A date that has passed is zero; what is longer
/// than [`Moment::RetryAfter`] allows is not believed.
pub fn parse(value: &str, date: Option<SystemTime>, now: SystemTime) -> Option<Believed<Duration>> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(believed(Duration::from_secs(value.parse().unwrap_or(u64::MAX))));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(believed(until.duration_since(date.unwrap_or(now)).unwrap_or(Duration::ZERO)))
}

fn believed(said: Duration) -> Believed<Duration> {
    let found = Moment::RetryAfter.believe(SignedDuration::try_from(said).unwrap_or(SignedDuration::MAX));
    Believed { value: Duration::try_from(found.value).unwrap_or_default(), is_replaced: found.is_replaced }
}

/// The pause before an order or an authorization is looked at again.
///
/// Never shorter than the server asked for, up to [`LONGEST_POLL`]; never longer than it asked for either, but that an
/// answer of zero means "at our own pace", a second at most. Without a word from the server it is `own_pace`.
pub fn poll_delay(asked: Option<Duration>, own_pace: Duration) -> Duration {
    match asked {
        None => own_pace,
        Some(asked) if asked.is_zero() => own_pace.min(SHORT_POLL),
        Some(asked) => asked.min(LONGEST_POLL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(1_445_412_480); // Wed, 21 Oct 2015 07:28:00 GMT

    fn parsed(value: &str) -> Option<u64> {
        parse(value, None, SystemTime::UNIX_EPOCH + NOW).map(|d| d.value.as_secs())
    }

    #[test]
    fn both_forms_are_read() {
        assert_eq!(parsed("120"), Some(120));
        assert_eq!(parsed(" 0 "), Some(0));
        assert_eq!(parsed("Wed, 21 Oct 2015 07:30:00 GMT"), Some(120));
        assert_eq!(parsed("Wednesday, 21-Oct-15 07:30:00 GMT"), Some(120));
        assert_eq!(parsed("Wed Oct 21 07:30:00 2015"), Some(120));
        assert_eq!(parsed("Wed, 21 Oct 2015 07:00:00 GMT"), Some(0));
        assert_eq!(parsed("99999999999999999999999"), Some(86_400));
        // A moment in the place of seconds.
        assert_eq!(parsed("1796000000"), Some(86_400));
        assert_eq!(parsed("Fri, 31 Dec 9999 23:59:59 GMT"), Some(86_400));
        for bad in ["", "-1", "1.5", "+3", "soon", "12s"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_date_is_relative_to_the_date_of_the_answer() {
        let server = SystemTime::UNIX_EPOCH + NOW - Duration::from_secs(3600);
        let value = "Wed, 21 Oct 2015 06:29:00 GMT";
        let seconds = |date| parse(value, date, SystemTime::UNIX_EPOCH + NOW).unwrap();
        assert_eq!(seconds(Some(server)), Believed { value: Duration::from_secs(60), is_replaced: false });
        assert_eq!(seconds(None).value, Duration::ZERO);
    }

    #[test]
    fn a_poll_is_at_the_servers_pace_within_bounds() {
        let (own, second) = (Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(poll_delay(None, own), own);
        assert_eq!(poll_delay(Some(3 * second), own), 3 * second);
        assert_eq!(poll_delay(Some(second), 8 * second), second);
        assert_eq!(poll_delay(Some(86_400 * second), own), LONGEST_POLL);
        assert_eq!(poll_delay(Some(Duration::ZERO), own), own);
        assert_eq!(poll_delay(Some(Duration::ZERO), 8 * second), second);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_bounded(text in "\\PC{0,40}", offset in 0u64..4_000_000_000) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(offset);
            prop_assert!(parse(&text, None, now).is_none_or(|d| d.value <= Duration::from_secs(86_400)));
        }
    }
}
