//! `/events`: what happened, from a cursor on.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read},
    refusal::{Code, Refusal},
};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    domain::EventKind,
    store::{EventCursor, EventFilter, EventPage, LostEvents, Store, StoredEvent},
};

const LIMIT: usize = 100;
const MOST: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    after: Option<EventCursor>,
    limit: Option<usize>,
    kind: Option<String>,
}

pub(super) async fn list(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let wanted: Wanted = asked.query()?;
    let limit = wanted.limit.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(Refusal::new(Code::BadRequest, format!("limit: 1 to {MOST}")));
    }
    let kinds = wanted.kind.iter().flat_map(|kinds| kinds.split(','));
    let kinds = kinds.map(str::parse::<EventKind>).collect::<Result<Vec<_>, _>>();
    let kinds = kinds.map_err(|e| Refusal::new(Code::BadRequest, format!("kind: {e}")))?;
    let filter = EventFilter { kinds, ..EventFilter::default() };
    let store = &asked.api.store;
    let document = match wanted.after {
        Some(cursor) => after(store, &cursor, limit, &filter).await?,
        None => newest(store, limit, &filter).await?,
    };
    Ok(Answer::ok(&document))
}

/// The newest, and the place behind them.
async fn newest(store: &Store, limit: usize, filter: &EventFilter) -> Result<Value, Refusal> {
    let now = store.events_now().await?;
    let mut events = store.latest_events(limit, filter).await?;
    // What came in between is left to whoever goes on from the cursor.
    events.retain(|stored| now.is_past(stored.id));
    Ok(json!({ "events": events, "cursor": now, "more": false, "lost": [] }))
}

/// What came after a cursor.
async fn after(
    store: &Store,
    cursor: &EventCursor,
    limit: usize,
    filter: &EventFilter,
) -> Result<Value, Refusal> {
    // All partitions are read; one of them rarely holds most of it.
    let page = store.events_after(cursor, limit.div_ceil(16).max(8)).await?;
    let lost: Vec<Value> = page.lost.iter().map(describe_lost).collect();
    let (events, cursor, more) = cut(page, cursor, limit, filter);
    Ok(json!({ "events": events, "cursor": cursor, "more": more, "lost": lost }))
}

/// The first `limit` that pass, and the place behind what was looked at for them: within a partition nothing is passed
/// over.
fn cut(
    page: EventPage,
    from: &EventCursor,
    limit: usize,
    filter: &EventFilter,
) -> (Vec<StoredEvent>, EventCursor, bool) {
    let passing = page.events.iter().filter(|stored| filter.wants(&stored.event)).count();
    if passing <= limit {
        let events = page.events.into_iter().filter(|stored| filter.wants(&stored.event)).collect();
        return (events, page.cursor, page.more);
    }
    let mut cursor = from.clone();
    let mut events = Vec::new();
    for stored in page.events {
        if filter.wants(&stored.event) {
            if events.len() == limit {
                break;
            }
            cursor.advance_to(stored.id);
            events.push(stored);
        } else {
            cursor.advance_to(stored.id);
        }
    }
    (events, cursor, true)
}

fn describe_lost(lost: &LostEvents) -> Value {
    json!({ "partition": lost.partition.to_string(), "after": lost.after, "before": lost.before })
}
