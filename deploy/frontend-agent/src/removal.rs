//! What happens to items that the server no longer lists. A mistake here is an outage, so doubt keeps everything.

use jiff::{SignedDuration, Timestamp};

/// How long the files of a removed item stay.
const GRACE: SignedDuration = SignedDuration::from_hours(24);
/// Up to so many removals in one pass need no confirmation...
const ALWAYS_ALLOWED: usize = 20;
/// ...nor up to this share of everything that is live.
const ALLOWED_PERCENT: usize = 2;
/// More than half of everything within an hour never goes unasked, one by one neither; two items always may.
const LATELY: SignedDuration = SignedDuration::from_hours(1);
const FEW: usize = 2;

/// Why vanished items stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Withheld {
    #[error("the server lists nothing at all: {0} items stay as they are")]
    EmptyListing(usize),
    #[error("{vanished} of {live} items vanished at once: all of them stay as they are")]
    TooMany { vanished: usize, live: usize },
    #[error("{vanished} of {live} items would be gone within an hour: what is left of them stays as it is")]
    Most { vanished: usize, live: usize },
    #[error("the listing has an item without a readable id: {0} vanished items stay as they are")]
    UnreadableItem(usize),
}

impl Withheld {
    /// What a person can do.
    pub(crate) const REMEDY: &str = "if that is right, run: frontend-agent sync --confirm-removals";
}

/// What a pass would take out of service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removals {
    pub(crate) vanished: usize,
    /// In service now, those included.
    pub(crate) live: usize,
    /// Taken out of service a while ago.
    pub(crate) lately: usize,
    /// Items of a complete listing.
    pub(crate) listed: usize,
    /// The listing has an item without a readable id.
    pub(crate) unreadable: bool,
    /// A person has said so.
    pub(crate) confirmed: bool,
}

/// Whether that may be.
///
/// # Errors
/// [`Withheld`].
pub(crate) fn judge(removals: Removals) -> Result<(), Withheld> {
    let Removals { vanished, live, lately, listed, unreadable, confirmed } = removals;
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
    let (vanished, live) = (vanished + lately, live + lately);
    if vanished > FEW && vanished * 2 > live {
        return Err(Withheld::Most { vanished, live });
    }
    Ok(())
}

/// Whether what was removed at `since` counts with what is removed now.
pub(crate) fn is_lately(since: Timestamp, now: Timestamp) -> bool {
    now.duration_since(since).abs() < LATELY
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
        for (vanished, live, lately, listed, allowed) in [
            (0, 5, 0, 0, true),
            (1, 5, 0, 4, true),
            (1, 1, 0, 9, true),
            (2, 2, 0, 9, true),
            (3, 3, 0, 9, false),
            (3, 6, 0, 3, true),
            (4, 6, 0, 2, false),
            (5, 6, 0, 1, false),
            (1, 3, 3, 2, false),
            (1, 4, 2, 3, true),
            (20, 21, 0, 1, false),
            (20, 40, 0, 20, true),
            (21, 100, 0, 79, false),
            (5, 5, 0, 0, false),
            (200, 10_000, 0, 9_800, true),
            (201, 10_000, 0, 9_799, false),
        ] {
            let removals = Removals { vanished, live, lately, listed, unreadable: false, confirmed: false };
            assert_eq!(judge(removals).is_ok(), allowed, "{removals:?}");
            assert!(judge(Removals { confirmed: true, ..removals }).is_ok());
            let unreadable = Removals { unreadable: true, confirmed: true, ..removals };
            assert_eq!(judge(unreadable).is_ok(), vanished == 0);
        }
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
