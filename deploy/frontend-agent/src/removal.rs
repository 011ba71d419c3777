//! What happens to items that the server no longer lists. A mistake here is an outage, so doubt keeps everything.

use jiff::{SignedDuration, Timestamp};

/// How long the files of a removed item stay.
const GRACE: SignedDuration = SignedDuration::from_hours(24);
/// Up to so many removals in one pass need no confirmation...
const ALWAYS_ALLOWED: usize = 20;
/// ...nor up to this share of everything that is live.
const ALLOWED_PERCENT: usize = 2;

/// Why vanished items stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Withheld {
    #[error("the server lists nothing at all: {0} items stay as they are")]
    EmptyListing(usize),
    #[error("{vanished} of {live} items vanished at once: all of them stay as they are")]
    TooMany { vanished: usize, live: usize },
    #[error("the listing has an item without a readable id: {0} vanished items stay as they are")]
    UnreadableItem(usize),
}

impl Withheld {
    /// What a person can do.
    pub(crate) const REMEDY: &str = "if that is right, run: frontend-agent sync --confirm-removals";
}

/// Whether `vanished` of `live` items may be taken out of service, after a complete listing of `listed` items.
///
/// # Errors
/// [`Withheld`].
pub(crate) fn judge(
    vanished: usize,
    live: usize,
    listed: usize,
    unreadable: bool,
    confirmed: bool,
) -> Result<(), Withheld> {
    if vanished == 0 {
        return Ok(());
    }
    if unreadable {
        return Err(Withheld::UnreadableItem(vanished));
    }
    if confirmed {
        return Ok(());
    }
    if listed == 0 {
        return Err(Withheld::EmptyListing(vanished));
    }
    if vanished > ALWAYS_ALLOWED.max(live * ALLOWED_PERCENT / 100) {
        return Err(Withheld::TooMany { vanished, live });
    }
    Ok(())
}

/// Whether the files of an item removed at `since` may be deleted.
pub(crate) fn grace_is_over(since: Timestamp, now: Timestamp) -> bool {
    now.duration_since(since) >= GRACE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_removals_pass_and_many_do_not() {
        for (vanished, live, listed, allowed) in [
            (0, 5, 0, true),
            (1, 5, 4, true),
            (20, 21, 1, true),
            (21, 100, 79, false),
            (5, 5, 0, false),
            (200, 10_000, 9_800, true),
            (201, 10_000, 9_799, false),
        ] {
            assert_eq!(judge(vanished, live, listed, false, false).is_ok(), allowed, "{vanished} of {live}");
            assert!(judge(vanished, live, listed, false, true).is_ok());
        }
        assert_eq!(judge(1, 9, 8, true, true), Err(Withheld::UnreadableItem(1)));
    }

    #[test]
    fn files_stay_a_day() {
        let since = Timestamp::from_second(1_000_000).unwrap();
        let after = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        assert!(!grace_is_over(since, after(86_399)));
        assert!(grace_is_over(since, after(86_400)));
        assert!(!grace_is_over(since, after(-86_400)), "a clock that was set back");
    }
}
