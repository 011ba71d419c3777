//! Replay nonces (RFC 8555 section 6.5): each is good for one request, and every answer brings a new one.

use std::time::{Duration, Instant};

/// Enough for 64 orders at work at once: a nonce that is in flight comes back with the answer.
const CAPACITY: usize = 64;
/// A CA forgets nonces, and all of them when it fails over: an old one costs a refused request.
const KEPT_FOR: Duration = Duration::from_secs(120);
/// Longer than any server's; a header of this size is junk.
const LONGEST: usize = 1024;

/// A nonce as the server sent it, known to be base64url.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nonce(String);

impl Nonce {
    /// A value that is not base64url must be ignored (RFC 8555 section 6.5.1).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let well_formed = (1..=LONGEST).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        well_formed.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Nonces that can be used: the newest first, because it is the least likely to have been forgotten.
#[derive(Debug, Default)]
pub(super) struct NoncePool {
    /// Oldest first.
    kept: Vec<(Instant, Nonce)>,
}

impl NoncePool {
    pub(super) fn put(&mut self, nonce: Nonce, now: Instant) {
        if self.kept.len() == CAPACITY {
            self.kept.remove(0);
        }
        self.kept.push((now, nonce));
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn take(&mut self, now: Instant) -> Option<Nonce> {
        let (since, nonce) = self.kept.pop()?;
        if now.saturating_duration_since(since) > KEPT_FOR {
            // All below it are older still.
            self.kept.clear();
            return None;
        }
        Some(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(text: &str) -> Nonce {
        Nonce::parse(text).unwrap()
    }

    #[test]
    fn the_newest_is_used_first_and_the_old_are_dropped() {
        let start = Instant::now();
        let mut pool = NoncePool::default();
        pool.put(nonce("old"), start);
        pool.put(nonce("new"), start + Duration::from_secs(100));
        assert_eq!(pool.take(start + Duration::from_secs(130)), Some(nonce("new")));
        assert_eq!(pool.take(start + Duration::from_secs(130)), None);
        pool.put(nonce("fresh"), start + Duration::from_secs(131));
        assert_eq!(pool.take(start + Duration::from_secs(131)), Some(nonce("fresh")));
        assert_eq!(pool.take(start), None);
    }

    #[test]
    fn the_pool_is_bounded_and_drops_the_oldest() {
        let now = Instant::now();
        let mut pool = NoncePool::default();
        for number in 0..=CAPACITY {
            pool.put(nonce(&format!("n{number}")), now);
        }
        let taken: Vec<_> = std::iter::from_fn(|| pool.take(now)).collect();
        assert_eq!(taken.len(), CAPACITY);
        assert_eq!(
            (taken.first(), taken.last()),
            (Some(&nonce(&format!("n{CAPACITY}"))), Some(&nonce("n1")))
        );
    }

    #[test]
    fn what_is_not_base64url_is_no_nonce() {
        for bad in ["", "a b", "a+b", "a/b", "YQ==", "é", &"a".repeat(LONGEST + 1)] {
            assert_eq!(Nonce::parse(bad), None, "{bad}");
        }
        assert!(Nonce::parse("oFvnlFP1wIhRlYS2jTaXbA").is_some());
    }
}
