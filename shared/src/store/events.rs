//! What happened: a stream in each partition, so that the script that changes a site also says so.
//!
//! An entry has one field, `e`, with the event as JSON; about [`KEPT`] of each partition are kept. Scripts append with
//! exactly what [`Store::append_event`] sends.

use super::{Store, StoreError, event_cursor::EventCursor, event_cursor::EventId, keys};
use crate::domain::{DnsName, Event, EventKind, Partition, SiteId};
use jiff::Timestamp;
use redis::{Cmd, cmd};
use serde::{Deserialize, Serialize};

/// Entries that are kept of each partition, about.
const KEPT: usize = 20_000;
/// Entries of one partition that are asked for at once, at most.
const LARGEST_PAGE: usize = 256;

/// An event, and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredEvent {
    pub id: EventId,
    #[serde(flatten)]
    pub event: Event,
}

/// Which events are wanted. The default is all of them.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Empty: every kind.
    pub kinds: Vec<EventKind>,
    /// Events of this site, or that mention this name.
    pub site: Option<SiteId>,
    pub name: Option<DnsName>,
    pub since: Option<Timestamp>,
}

/// What was read after a cursor.
#[derive(Clone, Debug)]
pub struct EventPage {
    /// In the order of their time.
    pub events: Vec<StoredEvent>,
    /// Behind all of them.
    pub cursor: EventCursor,
    /// What is gone: it was trimmed before it could be read.
    pub lost: Vec<LostEvents>,
    /// Whether more may be there already.
    pub more: bool,
}

/// Events of a partition that were trimmed before they were read: at least one, of the time in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostEvents {
    pub partition: Partition,
    /// The last one that was read.
    pub after: Timestamp,
    /// The oldest that is left.
    pub before: Timestamp,
}

type Entries = Vec<(String, Vec<(String, String)>)>;
type RawEntries = Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>;

impl EventFilter {
    pub fn wants(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.since.is_none_or(|since| event.at >= since)
            && self.wants_site(event)
    }

    fn wants_site(&self, event: &Event) -> bool {
        if self.site.is_none() && self.name.is_none() {
            return true;
        }
        let is_site = self.site.is_some() && event.site == self.site;
        is_site || self.name.as_ref().is_some_and(|name| event.names.contains(name))
    }

    fn partitions(&self) -> Vec<Partition> {
        match &self.site {
            Some(site) => vec![site.partition()],
            None => Partition::all().collect(),
        }
    }
}

impl Store {
    /// Appends to the stream of the event's partition.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn append_event(&self, event: &Event) -> Result<EventId, StoreError> {
        let partition = event.partition();
        let key = keys::events(partition);
        let record = serde_json::to_string(event).map_err(|e| StoreError::corrupt(&key, e))?;
        let mut add = cmd("XADD");
        add.arg(&key).arg("MAXLEN").arg("~").arg(KEPT).arg("*").arg("e").arg(record);
        let id: String = self.link.query(&add).await?;
        EventId::parse(partition, &id)
            .ok_or_else(|| StoreError::corrupt(key, format!("no stream id: {id:?}")))
    }

    /// The newest events that are wanted, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn latest_events(
        &self,
        limit: usize,
        filter: &EventFilter,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let mut open: Vec<(Partition, String)> =
            filter.partitions().into_iter().map(|partition| (partition, "+".to_owned())).collect();
        let mut page = (limit / open.len().max(1) + 16).min(LARGEST_PAGE);
        let mut found: Vec<StoredEvent> = Vec::new();
        let oldest_wanted_ms = filter.since.map_or(0, |since| since.as_millisecond());
        while !open.is_empty() && limit > 0 {
            let question = |(partition, end): &(Partition, String)| {
                let mut range = cmd("XREVRANGE");
                range.arg(keys::events(*partition)).arg(end).arg("-").arg("COUNT").arg(page);
                range
            };
            let answers = self.read_streams(open.iter().map(question)).await?;
            let mut left = Vec::new();
            for ((partition, _), entries) in open.into_iter().zip(answers) {
                let exhausted = entries.len() < page;
                let mut oldest = None;
                for (id, fields) in entries {
                    oldest = Some(id.clone());
                    found.extend(parse(partition, &id, fields).filter(|stored| filter.wants(&stored.event)));
                }
                if let (false, Some(oldest)) = (exhausted, oldest) {
                    left.push((partition, oldest));
                }
            }
            found.sort_unstable_by_key(|stored| std::cmp::Reverse(stored.id));
            found.truncate(limit);
            // What lies behind the oldest one that will be shown needn't be looked at, nor what is too old anyway. A
            // record's own time can be a little before its place in the stream.
            let full = (found.len() == limit).then(|| found.last().map(|stored| stored.id)).flatten();
            left.retain(|(partition, oldest)| {
                let reached = EventId::parse(*partition, oldest);
                reached.is_some_and(|reached| {
                    full.is_none_or(|full| reached > full) && reached.milliseconds() >= oldest_wanted_ms
                })
            });
            open = left.into_iter().map(|(partition, oldest)| (partition, format!("({oldest}"))).collect();
            page = (page * 2).min(LARGEST_PAGE);
        }
        found.reverse();
        Ok(found)
    }

    /// What happened after `cursor`, at most so many of each partition. Asking again with the page's cursor goes on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events_after(
        &self,
        cursor: &EventCursor,
        limit_per_partition: usize,
    ) -> Result<EventPage, StoreError> {
        let question = |partition| {
            let after = format!("({}", cursor.stream_id(partition));
            let mut range = cmd("XRANGE");
            range.arg(keys::events(partition)).arg(after).arg("+").arg("COUNT").arg(limit_per_partition);
            range
        };
        let answers = self.read_streams(Partition::all().map(question)).await?;
        let mut events = Vec::new();
        let mut next = cursor.clone();
        let mut full = Vec::new();
        for (partition, entries) in Partition::all().zip(answers) {
            if entries.len() >= limit_per_partition {
                full.push(partition);
            }
            for (id, fields) in entries {
                if let Some(id) = EventId::parse(partition, &id) {
                    next.advance_to(id);
                }
                events.extend(parse(partition, &id, fields));
            }
        }
        events.sort_unstable_by_key(|stored: &StoredEvent| stored.id);
        let lost = self.lost_events(cursor, &full).await?;
        Ok(EventPage { events, cursor: next, lost, more: !full.is_empty() })
    }

    /// The place behind everything that has happened.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events_now(&self) -> Result<EventCursor, StoreError> {
        let question = |partition| {
            let mut range = cmd("XREVRANGE");
            range.arg(keys::events(partition)).arg("+").arg("-").arg("COUNT").arg(1);
            range
        };
        let answers = self.read_streams(Partition::all().map(question)).await?;
        let mut cursor = EventCursor::default();
        for (partition, entries) in Partition::all().zip(answers) {
            if let Some(id) = entries.first().and_then(|(id, _)| EventId::parse(partition, id)) {
                cursor.advance_to(id);
            }
        }
        Ok(cursor)
    }

    /// What each of these streams has. One that is none has nothing: the watchdog tells of it.
    async fn read_streams(&self, questions: impl Iterator<Item = Cmd>) -> Result<Vec<Entries>, StoreError> {
        let questions: Vec<Cmd> = questions.collect();
        let answers = self.read_each(&questions).await?;
        let of_one = |answer: Result<RawEntries, StoreError>| {
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let entries = answer.unwrap_or_default().into_iter();
            let fields = |fields: Vec<(Vec<u8>, Vec<u8>)>| {
                fields.into_iter().map(|(field, value)| (text(field), text(value))).collect()
            };
            entries.map(|(id, all)| (id, fields(all))).collect()
        };
        Ok(answers.into_iter().map(of_one).collect())
    }

    /// Trimming leaves the newest [`KEPT`], so only a partition with a full page can have been trimmed behind the cursor.
    async fn lost_events(
        &self,
        cursor: &EventCursor,
        full: &[Partition],
    ) -> Result<Vec<LostEvents>, StoreError> {
        let begun: Vec<Partition> =
            full.iter().copied().filter(|partition| !cursor.is_at_the_beginning(*partition)).collect();
        if begun.is_empty() {
            return Ok(Vec::new());
        }
        let question = |partition: &Partition| {
            let mut range = cmd("XRANGE");
            range.arg(keys::events(*partition)).arg("-").arg("+").arg("COUNT").arg(1);
            range
        };
        let answers = self.read_streams(begun.iter().map(question)).await?;
        let oldest_of = |partition: Partition, entries: Entries| {
            let oldest = EventId::parse(partition, &entries.first()?.0)?;
            let read = cursor.id(partition);
            (oldest > read).then(|| LostEvents { partition, after: read.time(), before: oldest.time() })
        };
        Ok(begun
            .into_iter()
            .zip(answers)
            .filter_map(|(partition, entries)| oldest_of(partition, entries))
            .collect())
    }
}

/// An entry that a newer program wrote in a way this one doesn't know is left out, and said.
fn parse(partition: Partition, id: &str, fields: Vec<(String, String)>) -> Option<StoredEvent> {
    let id = EventId::parse(partition, id)?;
    let (_, record) = fields.into_iter().find(|(field, _)| field == "e")?;
    match serde_json::from_str(&record) {
        Ok(event) => Some(StoredEvent { id, event }),
        Err(error) => {
            tracing::warn!(%id, %error, "an event can't be read, it is left out");
            None
        }
    }
}
