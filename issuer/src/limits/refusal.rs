//! Which limit a CA means when it refuses, and until when. Headers first, the text where there are none.

use super::ticket::UNKNOWN_WAIT;
use crate::acme::{ProblemKind, RequestError};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use shared::domain::Limit;
use std::{collections::BTreeMap, time::Duration};

/// A CA that says when to come again counts in seconds, and not always up.
const ROUNDED: Duration = Duration::from_secs(1);

/// The limit's name, where the text tells, and how long it refuses. `None`: it was refused for something else, or the account or
/// a name is paused, which no waiting ends.
pub(super) fn which_limit(
    error: &RequestError,
    limits: &BTreeMap<String, Limit>,
) -> Option<(Option<String>, Duration)> {
    let is_limit = match error.problem() {
        Some(problem) => problem.kind() == ProblemKind::RateLimited && problem.unpause_url().is_none(),
        None => error.status() == Some(429),
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
    Some(Duration::try_from(moment.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_in_lets_encrypts_text_is_read() {
        let now: Timestamp = "1970-01-01T00:00:15Z".parse().unwrap();
        let text = "Error creating new account :: too many new registrations (10) from this IP address in the last 3h0m0s, \
                    retry after 1970-01-01 00:18:15 UTC: see https://letsencrypt.org/docs/rate-limits/";
        assert_eq!(wait_in_text(text, now), Some(Duration::from_secs(18 * 60)));
        assert_eq!(wait_in_text("retry after 1969-01-01 00:18:15 UTC", now), Some(Duration::ZERO));
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
