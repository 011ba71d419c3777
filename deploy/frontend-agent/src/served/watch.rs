//! What is to be looked at when, and what came of it: what was just published at once and until it is served, everything else
//! one after the other, for ever.

use super::handshake::Shown;
use crate::{index::Live, wire::ItemId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::{
    digest::hex,
    domain::{ItemProblem, ServedItem, Slot},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a web server may take until what was published is served, before that is a problem.
const GRACE: Duration = Duration::from_secs(30);
/// Pauses between two looks at something that is not served yet; the last one repeats.
const AGAIN: [Duration; 7] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(15),
];
/// While nobody listens, it is tried so often.
const NOBODY_LISTENS: Duration = Duration::from_secs(10);
/// Some of what was confirmed before is looked at again so often.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// An item that should be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) id: ItemId,
    /// One of its names, that leads to it.
    pub(crate) name: Arc<str>,
    /// SHA-256 of each of its certificates.
    pub(crate) slots: Box<[(Slot, [u8; 32])]>,
}

impl Target {
    /// `names`: which item answers for each. None where no name leads to it.
    pub(crate) fn of(id: &ItemId, live: &Live, names: &BTreeMap<Arc<str>, ItemId>) -> Option<Self> {
        let name = live.names.iter().find(|name| names.get(*name) == Some(id))?;
        let slots = live.slots.iter().map(|(slot, live)| (*slot, live.fingerprint)).collect();
        Some(Self { id: id.clone(), name: name.clone(), slots })
    }
}

/// An item that is not confirmed.
#[derive(Debug)]
struct Fresh {
    since: Instant,
    next: Instant,
    tries: usize,
}

/// An item in whose place something else is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wrong {
    pub(crate) name: String,
    pub(crate) since: Timestamp,
    /// SHA-256 of the certificate that is; absent: none.
    pub(crate) serves: Option<String>,
}

#[derive(Debug)]
pub(super) struct Watch {
    /// Everything that should be served, and whether it was seen to be.
    all: BTreeMap<ItemId, (Target, bool)>,
    fresh: BTreeMap<ItemId, Fresh>,
    pub(super) wrong: BTreeMap<ItemId, Wrong>,
    /// Cursors, and what was published with each and is not seen yet.
    awaited: VecDeque<(Option<String>, BTreeSet<ItemId>)>,
    confirmed_cursor: Option<String>,
    swept: Option<ItemId>,
    next_sweep: Instant,
    /// Whether somebody was seen to listen, and whether nobody was.
    pub(super) listens: bool,
    silent: bool,
    next_try: Instant,
}

impl Watch {
    pub(super) fn new(at: Instant) -> Self {
        Self {
            all: BTreeMap::new(),
            fresh: BTreeMap::new(),
            wrong: BTreeMap::new(),
            awaited: VecDeque::new(),
            confirmed_cursor: None,
            swept: None,
            next_sweep: at,
            listens: false,
            silent: false,
            next_try: at,
        }
    }

    /// What was published, up to a cursor.
    pub(super) fn publish(&mut self, targets: Vec<Target>, cursor: Option<String>, at: Instant) {
        let mut ids = BTreeSet::new();
        for target in targets {
            ids.insert(target.id.clone());
            self.fresh.insert(target.id.clone(), Fresh { since: at, next: at, tries: 0 });
            self.all.insert(target.id.clone(), (target, false));
        }
        match self.awaited.back_mut().filter(|_| ids.is_empty()) {
            Some((last, _)) => *last = cursor,
            None => self.awaited.push_back((cursor, ids)),
        }
        self.settle();
    }

    /// What is no longer wanted here.
    pub(super) fn forget(&mut self, ids: &[ItemId]) {
        for id in ids {
            self.all.remove(id);
            self.fresh.remove(id);
            self.wrong.remove(id);
            self.no_longer_awaited(id);
        }
        self.settle();
    }

    /// What is to be looked at now, `most` at most.
    pub(super) fn due(&mut self, at: Instant, most: usize) -> Vec<Target> {
        if at < self.next_try {
            return Vec::new();
        }
        // While nobody listens one is enough to find out.
        let most = if self.listens { most } else { 1 };
        let fresh = self.fresh.iter().filter(|(_, fresh)| fresh.next <= at).map(|(id, _)| id);
        let mut due: Vec<Target> =
            fresh.take(most).filter_map(|id| Some(self.all.get(id)?.0.clone())).collect();
        if due.is_empty() && at >= self.next_sweep {
            self.next_sweep = at + SWEEP_EVERY;
            let after = self.swept.clone().map_or(Bound::Unbounded, Bound::Excluded);
            due.extend(
                self.all.range((after, Bound::Unbounded)).take(most).map(|(_, (target, _))| target.clone()),
            );
            self.swept = due.last().map(|last| last.id.clone());
        }
        due
    }

    /// When something is to be looked at next.
    pub(super) fn next(&self) -> Instant {
        let fresh = self.fresh.values().map(|fresh| fresh.next).min();
        fresh.map_or(self.next_sweep, |fresh| fresh.min(self.next_sweep)).max(self.next_try)
    }

    /// Nobody listens, or speaks no TLS: nothing can be said.
    pub(super) fn nobody(&mut self, at: Instant) {
        (self.listens, self.silent) = (false, true);
        self.next_try = at + NOBODY_LISTENS;
        self.settle();
    }

    /// What was shown for an item, in the order of its slots. Answers what is served from now on.
    pub(super) fn saw(
        &mut self,
        looked_at: &Target,
        shown: &[Shown],
        now: Timestamp,
        at: Instant,
    ) -> Vec<ServedItem> {
        (self.listens, self.silent) = (true, false);
        self.next_try = at;
        let Some((target, confirmed)) = self.all.get_mut(&looked_at.id) else { return Vec::new() };
        // Something newer was published meanwhile.
        if target != looked_at {
            return Vec::new();
        }
        let other = target
            .slots
            .iter()
            .zip(shown)
            .find(|((_, wanted), shown)| **shown != Shown::Certificate(*wanted))
            .map(|(_, shown)| match shown {
                Shown::Certificate(digest) => Some(hex(digest)),
                Shown::Nothing => None,
            });
        let id = target.id.clone();
        let Some(serves) = other else {
            let was_confirmed = std::mem::replace(confirmed, true);
            let item = |(_, digest): &(Slot, [u8; 32])| ServedItem {
                id: id.to_string(),
                name: target.name.to_string(),
                fingerprint_sha256: hex(digest),
                since: now,
                after_seconds: None,
            };
            let news = if was_confirmed { Vec::new() } else { target.slots.iter().map(item).collect() };
            self.fresh.remove(&id);
            self.wrong.remove(&id);
            self.no_longer_awaited(&id);
            self.settle();
            return news;
        };
        *confirmed = false;
        let name = target.name.to_string();
        let fresh = self.fresh.entry(id.clone()).or_insert_with(|| Fresh { since: at, next: at, tries: 0 });
        fresh.next = at + AGAIN[fresh.tries.min(AGAIN.len() - 1)];
        fresh.tries += 1;
        let waited = at.duration_since(fresh.since);
        if waited >= GRACE {
            let since = now.checked_sub(jiff::SignedDuration::try_from(waited).unwrap_or_default());
            let since = self.wrong.get(&id).map_or(since.unwrap_or(now), |before| before.since);
            self.wrong.insert(id.clone(), Wrong { name, since, serves });
            self.no_longer_awaited(&id);
            self.settle();
        }
        Vec::new()
    }

    /// Up to where everything is served, but for what is wrong.
    pub(super) fn cursor(&self) -> Option<&String> {
        self.confirmed_cursor.as_ref()
    }

    /// How many items were seen to be served, and how many there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.all.values().filter(|(_, confirmed)| *confirmed).count(), self.all.len())
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = ItemProblem> {
        self.wrong.iter().map(|(id, wrong)| ItemProblem {
            id: Some(id.to_string()),
            names: vec![wrong.name.clone()],
            reason: "the web server does not serve what was published".to_owned(),
            since: wrong.since,
            serves: wrong.serves.clone(),
        })
    }

    fn no_longer_awaited(&mut self, id: &ItemId) {
        for (_, ids) in &mut self.awaited {
            ids.remove(id);
        }
    }

    fn settle(&mut self) {
        while self.awaited.front().is_some_and(|(_, ids)| ids.is_empty() || self.silent) {
            self.confirmed_cursor = self.awaited.pop_front().and_then(|(cursor, _)| cursor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(id: &str, digest: u8) -> Target {
        let id = ItemId::parse(id).unwrap();
        Target { id, name: "a.example".into(), slots: [(Slot::Ecdsa, [digest; 32])].into() }
    }

    fn cursor(watch: &Watch) -> &str {
        watch.cursor().map_or("", String::as_str)
    }

    /// One that knows that somebody listens.
    fn watch(at: Instant) -> Watch {
        let mut watch = Watch::new(at);
        watch.publish(vec![target("00", 0)], Some("0".into()), at);
        watch.saw(&target("00", 0), &[Shown::Certificate([0; 32])], Timestamp::UNIX_EPOCH, at);
        watch.next_sweep = at + SWEEP_EVERY;
        watch
    }

    #[test]
    fn what_was_published_is_looked_at_until_it_is_served_and_the_cursor_waits_for_it() {
        let (at, now) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let mut watch = watch(at);
        let (one, two) = (target("01", 1), target("02", 2));
        watch.publish(vec![one.clone()], Some("1".into()), at);
        watch.publish(vec![two.clone()], Some("2".into()), at);
        assert_eq!((watch.due(at, 9), cursor(&watch)), (vec![one.clone(), two.clone()], "0"));
        assert!(watch.saw(&one, &[Shown::Certificate([9; 32])], now, at).is_empty());
        assert_eq!(watch.saw(&two, &[Shown::Certificate([2; 32])], now, at).len(), 1);
        assert_eq!((watch.due(at, 9), cursor(&watch)), (vec![], "0"));
        let later = at + AGAIN[0];
        assert_eq!((watch.next(), watch.due(later, 9)), (later, vec![one.clone()]));
        assert_eq!(
            watch.saw(&one, &[Shown::Certificate([1; 32])], now, later)[0].fingerprint_sha256,
            "01".repeat(32)
        );
        assert_eq!((cursor(&watch), watch.counts(), watch.wrong.len()), ("2", (3, 3), 0));
        assert!(watch.saw(&one, &[Shown::Certificate([1; 32])], now, later).is_empty(), "no news");
    }

    #[test]
    fn what_is_not_served_in_time_is_a_problem_until_it_is() {
        let (at, now) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let mut watch = watch(at);
        let one = target("01", 1);
        watch.publish(vec![one.clone()], Some("1".into()), at);
        watch.saw(&one, &[Shown::Nothing], now, at);
        assert_eq!((cursor(&watch), watch.wrong.len()), ("0", 0));
        let late = at + GRACE;
        watch.saw(&one, &[Shown::Certificate([7; 32])], now, late);
        let problem = watch.problems().next().unwrap();
        assert_eq!((problem.serves, cursor(&watch)), (Some("07".repeat(32)), "1"));
        // Something newer takes its place, and what was seen of the older one says nothing.
        let newer = target("01", 3);
        watch.publish(vec![newer.clone()], Some("2".into()), late);
        watch.saw(&one, &[Shown::Certificate([1; 32])], now, late);
        assert_eq!(watch.wrong.len(), 1);
        watch.saw(&newer, &[Shown::Certificate([3; 32])], now, late);
        assert_eq!((watch.wrong.len(), cursor(&watch)), (0, "2"));
        // It was served, and is no longer.
        let swept = late + SWEEP_EVERY;
        assert_eq!(watch.due(swept, 9), [target("00", 0), newer.clone()]);
        watch.saw(&newer, &[Shown::Nothing], now, swept);
        assert_eq!(watch.due(swept + AGAIN[0], 9), vec![newer.clone()]);
        watch.forget(&[newer.id]);
        assert_eq!((watch.counts(), watch.wrong.len()), ((1, 1), 0));
    }

    #[test]
    fn where_nobody_listens_nothing_is_waited_for() {
        let at = Instant::now();
        let mut watch = Watch::new(at);
        watch.publish(vec![target("01", 1), target("02", 2)], Some("1".into()), at);
        assert_eq!(watch.due(at, 9).len(), 1, "one is enough to find out");
        watch.nobody(at);
        assert!(watch.due(at, 9).is_empty());
        assert_eq!((cursor(&watch), watch.next()), ("1", at + NOBODY_LISTENS));
        assert_eq!(watch.due(at + NOBODY_LISTENS, 9).len(), 1);
    }
}
