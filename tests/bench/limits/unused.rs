//! What the limiter would have allowed to those that waited, and nobody used.

/// The sums over all times of waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unused {
    pub(crate) used: u64,
    pub(crate) unused: u64,
    waiting: Option<Waiting>,
}

/// How it is when an hour ends, and something waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Of those that wait, so many their domains would allow now.
    pub(crate) of_domains: u64,
    /// So many the account would.
    pub(crate) held: u64,
    /// So many come back to the account in an hour.
    pub(crate) came: u64,
    /// New orders that were placed since the beginning.
    pub(crate) placed: u64,
}

/// A time in which, whenever an hour ends, something waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// What was placed before it.
    placed: u64,
    /// What the limiter would have allowed at once, at the worst hour.
    worst: u64,
    /// What the account's bucket lost because it was full.
    lost: u64,
    last: Look,
}

impl Unused {
    pub(crate) fn look(&mut self, look: Look) {
        let Some(waiting) = &mut self.waiting else {
            let worst = look.of_domains.min(look.held);
            self.waiting = Some(Waiting { placed: look.placed, worst, lost: 0, last: look });
            return;
        };
        let before = std::mem::replace(&mut waiting.last, look);
        // The account's bucket loses only what it could have given to one of those that wait.
        if before.of_domains > before.held && look.of_domains > look.held {
            let spent = look.placed - before.placed;
            waiting.lost += (before.held + look.came).saturating_sub(look.held + spent);
        }
        waiting.worst = waiting.worst.max(look.of_domains.min(look.held));
    }

    pub(crate) fn end(&mut self, placed: u64) {
        if let Some(waiting) = self.waiting.take() {
            self.used += placed - waiting.placed;
            self.unused += waiting.worst + waiting.lost;
        }
    }
}
