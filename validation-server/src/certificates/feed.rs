//! What is new in the store, followed by one task for all frontends that wait: it asks a few times a second how far each
//! partition has come, and keeps the latest changes in memory. A thousand frontends that wait cost the store nothing.

use shared::{
    domain::Partition,
    error::chain,
    store::{FeedHead, FollowedGroup, Store, StoreError},
};
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Pause between two questions.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// After an error.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Changes that are kept in memory, of all partitions.
const KEPT: usize = 1_000;
/// More of one partition since the last question are left to those who ask for them.
const MOST_AT_ONCE: usize = 200;

/// The store as it was a moment ago.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) head: FeedHead,
    tail: VecDeque<Change>,
    /// By partition: the tail has every change after this one.
    complete_after: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Change {
    partition: Partition,
    number: u64,
    group: Arc<FollowedGroup>,
}

/// What there is to know of the store; nothing before it was asked once.
#[derive(Clone)]
pub(crate) struct Feed {
    current: watch::Receiver<Option<Arc<Snapshot>>>,
    sender: Arc<watch::Sender<Option<Arc<Snapshot>>>>,
    questions: Arc<Questions>,
}

/// How often the store was asked, and somebody who can't wait for the next time.
struct Questions {
    begun: AtomicU64,
    answered: watch::Sender<u64>,
    hurry: Notify,
}

impl Feed {
    pub(crate) fn new() -> Self {
        let (sender, current) = watch::channel(None);
        let questions =
            Questions { begun: AtomicU64::new(0), answered: watch::channel(0).0, hurry: Notify::new() };
        Self { current, sender: Arc::new(sender), questions: Arc::new(questions) }
    }

    /// Tells of each change from now on; see [`Feed::current`].
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.current.clone()
    }

    /// Has the store asked once more, so that [`Feed::changes`] knows all that was there when this was called. However many
    /// call it, one question at a time is on its way.
    pub(crate) async fn catch_up(&self) {
        let next = self.questions.begun.load(Ordering::SeqCst) + 1;
        let mut answered = self.questions.answered.subscribe();
        self.questions.hurry.notify_one();
        // The sender is a field of this.
        answered.wait_for(|number| *number >= next).await.ok();
    }

    /// Asks the store for ever. While it does not answer, what was known of it is forgotten.
    pub(crate) async fn follow(&self, store: &Store) -> Infallible {
        let mut told = false;
        loop {
            let number = self.questions.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let before = self.current.borrow().clone();
            let answer = next(store, before.as_deref()).await;
            let is_error = answer.is_err();
            match answer {
                Ok(None) => {}
                Ok(Some(snapshot)) => drop(self.sender.send_replace(Some(Arc::new(snapshot)))),
                Err(error) => {
                    if !told {
                        tracing::warn!(error = chain(&error), "changes can't be followed");
                    }
                    self.sender.send_if_modified(|known| known.take().is_some());
                }
            }
            told = is_error;
            self.questions.answered.send_replace(number);
            if is_error {
                tokio::time::sleep(ASK_AGAIN).await;
            } else {
                tokio::time::timeout(ASK_EVERY, self.questions.hurry.notified()).await.ok();
            }
        }
    }
}

/// The store as it is now, where that is different.
async fn next(store: &Store, before: Option<&Snapshot>) -> Result<Option<Snapshot>, StoreError> {
    let mut head = store.load_feed_head().await?;
    if let Some(before) = before {
        head.keep_unreadable(&before.head);
    }
    if before.is_none_or(|before| before.head.frontends != head.frontends)
        && let Err(error) = store.list_frontends().await
    {
        // Once the newer record of a frontend was seen, an older one counts no more: somebody has put it back.
        tracing::warn!(error = chain(&error), "it can't be seen which frontends were changed");
    }
    let Some(before) = before else { return Ok(Some(Snapshot::at(head))) };
    if before.head == head {
        return Ok(None);
    }
    if before.head.epoch != head.epoch {
        return Ok(Some(Snapshot::at(head)));
    }
    let mut snapshot = Snapshot { head, ..before.clone() };
    for partition in Partition::all() {
        let (from, to) = (before.head.end(partition), snapshot.head.end(partition));
        if from != to {
            let new = if to > from {
                store.load_changed(partition, from, to, MOST_AT_ONCE + 1).await?
            } else {
                Vec::new()
            };
            let is_all = to > from && new.len() <= MOST_AT_ONCE;
            let groups = if is_all {
                let ids: Vec<_> = new.iter().map(|(_, id)| id.clone()).collect();
                store.load_followed(&ids).await?
            } else {
                Vec::new()
            };
            snapshot.append(partition, groups, is_all);
        }
    }
    Ok(Some(snapshot))
}

impl Snapshot {
    /// One that has nothing in memory yet.
    fn at(head: FeedHead) -> Self {
        Self { complete_after: head.ends.clone(), head, tail: VecDeque::new() }
    }

    fn append(&mut self, partition: Partition, groups: Vec<FollowedGroup>, is_all: bool) {
        if !is_all {
            self.tail.retain(|change| change.partition != partition);
            self.complete_after[partition.number()] = self.head.end(partition);
            return;
        }
        for group in groups {
            self.tail.retain(|change| change.group.id != group.id);
            // By the number that the group has now: later than the head where it has changed again meanwhile.
            // One that can't be read is told of last.
            let end = self.head.end(partition);
            let number = if group.number == 0 { end } else { group.number.min(end) };
            self.tail.push_back(Change { partition, number, group: Arc::new(group) });
        }
        while self.tail.len() > KEPT {
            if let Some(oldest) = self.tail.pop_front() {
                let after = &mut self.complete_after[oldest.partition.number()];
                *after = (*after).max(oldest.number);
            }
        }
    }

    /// The changes of a partition after `after`, in their order, where they are all in memory.
    pub(crate) fn after(
        &self,
        partition: Partition,
        after: u64,
    ) -> Option<impl Iterator<Item = (u64, &Arc<FollowedGroup>)>> {
        if after < *self.complete_after.get(partition.number())? {
            return None;
        }
        let of_partition =
            self.tail.iter().filter(move |change| change.partition == partition && change.number > after);
        Some(of_partition.map(|change| (change.number, &change.group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::domain::SiteId;

    fn group(id: &str, number: u64) -> FollowedGroup {
        FollowedGroup {
            id: SiteId::parse(id).unwrap(),
            number,
            wanted: None,
            former: Vec::new(),
            keeps: false,
            unkept: 0,
            damaged: None,
            certificates: Default::default(),
        }
    }

    fn snapshot(end: u64) -> Snapshot {
        let mut ends = vec![0; 64];
        ends[0] = end;
        Snapshot::at(FeedHead { ends, floors: vec![0; 64], ..FeedHead::default() })
    }

    fn numbers(snapshot: &Snapshot, after: u64) -> Option<Vec<u64>> {
        let found = snapshot.after(Partition::FIRST, after)?;
        Some(found.map(|(number, _)| number).collect())
    }

    #[test]
    fn only_what_is_complete_is_answered_from_memory() {
        let mut snapshot = snapshot(10);
        assert_eq!(numbers(&snapshot, 9), None);
        assert_eq!(numbers(&snapshot, 10), Some(vec![]));
        snapshot.head.ends[0] = 12;
        let groups = vec![group("00000000000000000001", 11), group("00000000000000000002", 12)];
        snapshot.append(Partition::FIRST, groups, true);
        assert_eq!(numbers(&snapshot, 9), None);
        assert_eq!(numbers(&snapshot, 10), Some(vec![11, 12]));
        snapshot.head.ends[0] = 13;
        snapshot.append(Partition::FIRST, vec![group("00000000000000000001", 13)], true);
        assert_eq!(numbers(&snapshot, 10), Some(vec![12, 13]), "a group stands in it once");
        snapshot.head.ends[0] = 900;
        snapshot.append(Partition::FIRST, Vec::new(), false);
        assert_eq!((numbers(&snapshot, 899), numbers(&snapshot, 900)), (None, Some(vec![])));
    }

    #[test]
    fn what_falls_out_of_memory_is_asked_of_the_store() {
        let mut snapshot = snapshot(0);
        for number in 1..=1_200 {
            snapshot.head.ends[0] = number;
            snapshot.append(Partition::FIRST, vec![group(&format!("{number:020x}"), number)], true);
        }
        assert_eq!(numbers(&snapshot, 199), None);
        assert_eq!(numbers(&snapshot, 200).map(|found| found.len()), Some(KEPT));
    }
}
