//! Why nothing may be written for now, although the store takes writes: it is not the one that this program was started with,
//! or it may lose what it is told.

use super::StoreError;
use std::sync::{Mutex, PoisonError};

/// What the watchers found. Each has its own reason.
#[derive(Default)]
pub(super) struct Halt {
    reasons: Mutex<[Option<Reason>; 2]>,
}

/// What stands against writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// What was sealed is gone, and so is the rest, most likely.
    Emptied,
    /// It was sealed with keys that this program doesn't have.
    Foreign,
    /// It may throw records away.
    Evicting,
}

/// Who watches.
#[derive(Clone, Copy)]
pub(super) enum Watcher {
    Vault,
    Policy,
}

impl Halt {
    /// `true` where that is news.
    pub(super) fn set(&self, watcher: Watcher, reason: Option<Reason>) -> bool {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let place = &mut reasons[watcher as usize];
        std::mem::replace(place, reason) != reason
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().next().copied()
    }

    /// # Errors
    /// [`StoreError::Unsuitable`] in words for an operator.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.reason().map_or(Ok(()), |reason| Err(StoreError::Unsuitable(reason.to_words().into())))
    }
}

impl Reason {
    pub const fn to_words(self) -> &'static str {
        match self {
            Self::Emptied => {
                "the store was emptied, or another one has taken its place: nothing is written into it. Restore a copy; to begin \
                 anew, restart this program"
            }
            Self::Foreign => {
                "the store was sealed with keys that this program's keyring lacks: nothing is written into it. Point store.url \
                 to the right store, or copy the keyring from a node that works"
            }
            Self::Evicting => {
                "Redis may throw records away: nothing is written until it is told to keep them. Set maxmemory-policy noeviction"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_watcher_takes_back_its_own_reason_alone() {
        let halt = Halt::default();
        assert!(halt.check().is_ok());
        assert!(halt.set(Watcher::Policy, Some(Reason::Evicting)));
        assert!(!halt.set(Watcher::Policy, Some(Reason::Evicting)));
        assert!(!halt.set(Watcher::Vault, None));
        assert_eq!(halt.reason(), Some(Reason::Evicting));
        assert!(halt.set(Watcher::Vault, Some(Reason::Emptied)));
        assert!(halt.set(Watcher::Policy, None));
        assert!(halt.check().is_err_and(|error| error.to_string().contains("emptied")));
    }
}
