//! Answers that were given before. The CA's validators ask six times and more within seconds, from several places of the
//! world; and a store that fails must not fail a validation that has begun.
//!
//! A miss is never kept: a token may be published a moment after somebody asked for it.

use actix_web::web::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// So that workers seldom meet at one lock.
const SHARDS: usize = 16;
/// Answers kept, at about 300 bytes each. The oldest goes first.
const CAPACITY: usize = 65_536;
/// How long an answer that the store can't confirm is still given.
const SERVED_ON: Duration = Duration::from_secs(3600);

/// What is known of a token without asking the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    /// The store said so a moment ago.
    Fresh(Bytes),
    /// The store said so once: to be given when it can't be asked.
    Old(Bytes),
    Unknown,
}

/// The answers, shared by all workers.
pub(crate) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
    shard_capacity: usize,
    fresh_for: Duration,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Arc<str>, Entry>,
    /// In the order they came. One that was forgotten and came again is here twice, with different numbers.
    order: VecDeque<(Arc<str>, u64)>,
    next_number: u64,
}

struct Entry {
    answer: Bytes,
    confirmed: Instant,
    number: u64,
}

impl Cache {
    pub(crate) fn new(fresh_for: Duration) -> Self {
        Self::with_capacity(fresh_for, CAPACITY)
    }

    fn with_capacity(fresh_for: Duration, capacity: usize) -> Self {
        Self { shards: Default::default(), shard_capacity: capacity.div_ceil(SHARDS), fresh_for }
    }

    pub(crate) fn find(&self, token: &str, now: Instant) -> Cached {
        let shard = self.shard(token);
        let Some(entry) = shard.entries.get(token) else { return Cached::Unknown };
        let age = now.saturating_duration_since(entry.confirmed);
        if age < self.fresh_for {
            Cached::Fresh(entry.answer.clone())
        } else if age < SERVED_ON {
            Cached::Old(entry.answer.clone())
        } else {
            Cached::Unknown
        }
    }

    /// The store has this answer.
    pub(crate) fn remember(&self, token: &str, answer: &Bytes, now: Instant) {
        let mut shard = self.shard(token);
        if let Some(entry) = shard.entries.get_mut(token) {
            entry.answer = answer.clone();
            entry.confirmed = now;
            return;
        }
        while shard.order.len() >= self.shard_capacity {
            shard.drop_oldest();
        }
        let number = shard.next_number;
        shard.next_number += 1;
        let token: Arc<str> = token.into();
        shard.order.push_back((Arc::clone(&token), number));
        shard.entries.insert(token, Entry { answer: answer.clone(), confirmed: now, number });
    }

    /// The store has none any more.
    pub(crate) fn forget(&self, token: &str) {
        self.shard(token).entries.remove(token);
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    /// Tokens are random: any of their characters spread them.
    fn shard(&self, token: &str) -> MutexGuard<'_, Shard> {
        let sum = token.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        lock(&self.shards[sum % SHARDS])
    }
}

impl Shard {
    fn drop_oldest(&mut self) {
        if let Some((token, number)) = self.order.pop_front()
            && self.entries.get(&token).is_some_and(|entry| entry.number == number)
        {
            self.entries.remove(&token);
        }
    }
}

/// Nothing is left half done in a shard, whatever panics.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Duration = Duration::from_secs(5);

    fn answer(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn an_answer_is_fresh_then_old_then_gone() {
        let cache = Cache::new(FRESH);
        let start = Instant::now();
        assert_eq!(cache.find("token", start), Cached::Unknown);
        cache.remember("token", &answer("a"), start);
        assert_eq!(cache.find("token", start), Cached::Fresh(answer("a")));
        assert_eq!(cache.find("token", start + FRESH), Cached::Old(answer("a")));
        cache.remember("token", &answer("b"), start + FRESH);
        assert_eq!(cache.find("token", start + FRESH), Cached::Fresh(answer("b")));
        assert_eq!(cache.find("token", start + FRESH + SERVED_ON), Cached::Unknown);
    }

    #[test]
    fn what_the_store_has_no_more_is_forgotten() {
        let cache = Cache::new(FRESH);
        let now = Instant::now();
        cache.remember("token", &answer("a"), now);
        cache.forget("token");
        assert_eq!((cache.find("token", now), cache.len()), (Cached::Unknown, 0));
    }

    #[test]
    fn it_never_grows_past_its_capacity_and_drops_the_oldest() {
        let cache = Cache::with_capacity(FRESH, 64);
        let now = Instant::now();
        for number in 0..10_000 {
            let token = format!("token-{number}");
            cache.remember(&token, &answer("a"), now);
            if number % 3 == 0 {
                cache.forget(&token);
                cache.remember(&token, &answer("b"), now);
            }
            assert_ne!(cache.find(&token, now), Cached::Unknown, "the newest is always there");
        }
        assert!(cache.len() <= 64, "{}", cache.len());
        assert!(cache.shards.iter().all(|shard| lock(shard).order.len() <= 4));
        assert_eq!(cache.find("token-1", now), Cached::Unknown);
    }
}
