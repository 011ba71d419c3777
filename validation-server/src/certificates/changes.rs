//! The feed as a frontend sees it: what has changed in its scope since its cursor. Metadata only.

use super::{
    Certificates,
    feed::Snapshot,
    item::Item,
    reader::Reader,
    refusal::{Refusal, Resync},
    route::ItemId,
};
use futures_util::future::OptionFuture;
use jiff::Timestamp;
use serde::Serialize;
use shared::{
    domain::{FeedCursor, Partition, TlsPolicy},
    store::{FollowedGroup, StoredSite},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Groups that are read from the store at once, and that one answer looks at, at most, until it says how far it has come.
const GROUPS_AT_ONCE: usize = 200;
const MOST_LOOKED_AT: usize = 5_000;

#[derive(Debug, Serialize)]
pub(crate) struct Changes {
    cursor: String,
    /// Whether there is more to be asked for at once.
    more: bool,
    items: Vec<Change>,
    /// What the frontend speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_policy: Option<TlsPolicy>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Change {
    Put(Item),
    /// It is gone, or out of the frontend's scope from now on.
    Del {
        id: ItemId,
    },
}

/// What was found so far.
struct Found {
    items: Vec<Change>,
    looked_at: usize,
}

impl Certificates {
    /// Everything after `cursor`; everything at all without one. Where that is nothing, waits for something, `wait` at most;
    /// whoever does not wait is told of all that is there by now. What waits for a client that has gone away ends with it.
    ///
    /// # Errors
    /// [`Refusal::Resync`] for a cursor that nothing can be said of any more.
    pub(crate) async fn changes(
        &self,
        reader: &Reader,
        cursor: Option<FeedCursor>,
        limit: usize,
        wait: Duration,
        connection: Option<&serving::Connection>,
    ) -> Result<Changes, Refusal> {
        let gone = OptionFuture::from(connection.map(serving::Connection::ended));
        tokio::pin!(gone);
        let until = Instant::now() + wait;
        if wait.is_zero() {
            self.feed.catch_up().await;
        }
        let mut feed = self.feed.changes();
        let mut reader = reader.clone();
        let mut cursor = cursor;
        loop {
            let snapshot = feed.borrow_and_update().clone().ok_or(Refusal::Away)?;
            let at = match cursor {
                Some(cursor) => checked(cursor, &snapshot, &reader).map_err(|why| self.resync(why))?,
                None => FeedCursor::new(&snapshot.head.epoch, reader.scope_version()),
            };
            let (changes, at) = self.page(&reader, &snapshot, at, limit).await?;
            if !changes.items.is_empty() || changes.more || wait.is_zero() {
                return Ok(changes);
            }
            cursor = Some(at);
            let frontends = snapshot.head.frontends;
            let ended = tokio::select! {
                changed = feed.changed() => changed.is_err(),
                () = tokio::time::sleep_until(until) => true,
                () = self.stop.cancelled() => true,
                Some(()) = &mut gone => return Ok(changes),
            };
            // While the store is away nobody is sent off to come back at once.
            if !ended && feed.borrow().is_none() {
                let back = feed.wait_for(Option::is_some);
                tokio::select! {
                    back = tokio::time::timeout_at(until, back) => {
                        back.map_err(|_| Refusal::Away)?.map_err(|_| Refusal::Away)?;
                    }
                    Some(()) = &mut gone => return Err(Refusal::Away),
                }
            }
            // A frontend may have been revoked, or may see other things now.
            let known = feed.borrow().as_ref().map(|snapshot| snapshot.head.frontends);
            if ended || known != Some(frontends) {
                reader = reader.again(&self.store).await?;
            }
            if ended {
                return Ok(changes);
            }
        }
    }

    /// Another epoch concerns every frontend: they come back one after the other.
    fn resync(&self, why: Resync) -> Refusal {
        let in_seconds = if why == Resync::Epoch { self.waiting.moment_to_resync() } else { 0 };
        Refusal::Resync { why, in_seconds }
    }

    /// One answer, and how far it goes.
    async fn page(
        &self,
        reader: &Reader,
        snapshot: &Snapshot,
        mut cursor: FeedCursor,
        limit: usize,
    ) -> Result<(Changes, FeedCursor), Refusal> {
        let now = Timestamp::now();
        let mut found = Found { items: Vec::new(), looked_at: 0 };
        for partition in Partition::all() {
            let end = snapshot.head.end(partition);
            while cursor.at(partition) < end {
                if found.items.len() >= limit || found.looked_at >= MOST_LOOKED_AT {
                    return Ok((found.into_answer(reader, snapshot, &cursor, true), cursor));
                }
                let after = cursor.at(partition);
                let in_memory: Option<Vec<(u64, Arc<FollowedGroup>)>> = snapshot
                    .after(partition, after)
                    .map(|changes| changes.map(|(number, group)| (number, Arc::clone(group))).collect());
                let (groups, last) = match in_memory {
                    Some(groups) => (groups, end),
                    None => self.load_changed(partition, after, end, limit - found.items.len()).await?,
                };
                let mut groups = groups.into_iter().peekable();
                while let Some((number, group)) = groups.next() {
                    found.add(reader, &group, after, now);
                    // Nobody goes on between two of the same number.
                    let is_last = groups.peek().is_none_or(|(next, _)| *next != number);
                    if found.items.len() >= limit && is_last {
                        cursor.advance(partition, number);
                        break;
                    }
                }
                if found.items.len() < limit {
                    cursor.advance(partition, last);
                }
            }
        }
        Ok((found.into_answer(reader, snapshot, &cursor, false), cursor))
    }

    /// Some changes in their order, and the number up to which these are all.
    async fn load_changed(
        &self,
        partition: Partition,
        after: u64,
        end: u64,
        limit: usize,
    ) -> Result<(Vec<(u64, Arc<FollowedGroup>)>, u64), Refusal> {
        let limit = limit.clamp(1, GROUPS_AT_ONCE);
        let changed = self.store.load_changed(partition, after, end, limit).await?;
        let last = match changed.last() {
            Some((number, _)) if changed.len() >= limit => *number,
            _ => end,
        };
        let ids: Vec<_> = changed.iter().map(|(_, id)| id.clone()).collect();
        let mut groups = self.store.load_followed(&ids).await?.into_iter().peekable();
        // Those without a record are left out of the answer.
        let mut found = Vec::with_capacity(ids.len());
        for (number, id) in changed {
            if let Some(group) = groups.next_if(|group| group.id == id) {
                found.push((number, Arc::new(group)));
            }
        }
        Ok((found, last))
    }
}

impl Found {
    /// What a change of a group means to a reader who has seen everything up to `after`.
    fn add(&mut self, reader: &Reader, group: &FollowedGroup, after: u64, now: Timestamp) {
        self.looked_at += 1;
        let items = reader.items(group, now);
        let has = |kept: bool| items.iter().any(|item| item.id().kept == kept);
        let (has_main, has_kept) = (has(false), has(true));
        self.items.extend(items.into_iter().map(Change::Put));
        // Whoever begins has nothing to let go of.
        if after == 0 || !(reader.sees(group) || reader.saw(group, after)) {
            return;
        }
        let id = |kept| ItemId { group: group.id.clone(), kept };
        // What is wanted here and has no certificate in this store may have one that it has lost: nobody lets go of that.
        let is_to_come = |wanted: &StoredSite| wanted.serving.given_to(reader.tags()).is_empty();
        let is_to_come = reader.sees(group) && group.wanted.as_ref().is_some_and(is_to_come);
        if !has_main && !is_to_come {
            self.items.push(Change::Del { id: id(false) });
        }
        if !has_kept && (group.keeps || group.unkept > after) {
            self.items.push(Change::Del { id: id(true) });
        }
    }

    fn into_answer(self, reader: &Reader, snapshot: &Snapshot, cursor: &FeedCursor, more: bool) -> Changes {
        let policies = snapshot.head.tls_policies.as_ref();
        let tls_policy = policies.map(|policies| policies.given_to(reader.tags()).clone());
        Changes { cursor: cursor.to_string(), more, items: self.items, tls_policy }
    }
}

/// A cursor of which can be said what came after it.
fn checked(cursor: FeedCursor, snapshot: &Snapshot, reader: &Reader) -> Result<FeedCursor, Resync> {
    let head = &snapshot.head;
    // A store that went back without another epoch has lost something as well.
    let is_ahead = Partition::all().any(|partition| cursor.at(partition) > head.end(partition));
    let is_too_old = |partition: Partition| {
        let at = cursor.at(partition);
        at > 0 && at < head.floor(partition)
    };
    if cursor.epoch != head.epoch || is_ahead {
        Err(Resync::Epoch)
    } else if cursor.scope != reader.scope_version() {
        Err(Resync::Scope)
    } else if Partition::all().any(is_too_old) {
        Err(Resync::Compacted)
    } else {
        Ok(cursor)
    }
}
