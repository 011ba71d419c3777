//! What one webhook message says: events, and in the place of many alike a summary. Pure.

use jiff::Timestamp;
use serde::Serialize;
use shared::{
    domain::{EventKind, Severity},
    store::{LostEvents, StoredEvent},
};
use std::collections::BTreeMap;

/// Events that are listed in one message, at most.
const MOST_LISTED: usize = 100;
/// Events that are looked at for one message, at most.
const MOST_READ: usize = 10_000;
/// More of one kind and class than this are summed up.
const MOST_ALIKE: u64 = 10;
/// Names in a summary.
const NAMES: usize = 20;

/// The body.
#[derive(Debug, Serialize)]
pub(super) struct Body<'a> {
    pub(super) id: &'a str,
    pub(super) sent: Timestamp,
    pub(super) events: &'a [StoredEvent],
    pub(super) groups: Vec<&'a Group>,
    /// Events that nobody will be told of: they were trimmed in between.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) lost: Vec<Lost>,
}

/// Many events alike, which are not listed.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    kind: EventKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    severity: Severity,
    pub(super) count: u64,
    /// The first of them.
    names: Vec<String>,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    since: Timestamp,
    until: Timestamp,
}

#[derive(Debug, Serialize)]
pub(super) struct Lost {
    after: Timestamp,
    before: Timestamp,
}

/// What has been gathered for a message.
#[derive(Debug, Default)]
pub(super) struct Window {
    listed: Vec<StoredEvent>,
    groups: BTreeMap<(EventKind, Option<String>), Group>,
    lost: Vec<LostEvents>,
    read: usize,
    warnings: u64,
    critical: bool,
}

impl Window {
    /// An event was looked at and is not to be told.
    pub(super) fn skip(&mut self) {
        self.read += 1;
    }

    pub(super) fn add(&mut self, stored: StoredEvent) {
        self.read += 1;
        let event = &stored.event;
        self.critical |= event.severity == Severity::Critical;
        if event.severity == Severity::Info && !event.kind.is_recovery() {
            self.listed.push(stored);
            return;
        }
        self.warnings += 1;
        let key = (event.kind, event.class());
        let group = self.groups.entry(key.clone()).or_insert_with(|| Group {
            kind: event.kind,
            class: event.class(),
            severity: event.severity,
            count: 0,
            names: Vec::new(),
            what: event.what.clone(),
            remedy: event.remedy.clone(),
            since: event.at,
            until: event.at,
        });
        group.count += 1;
        group.since = group.since.min(event.at);
        group.until = group.until.max(event.at);
        let room = NAMES.saturating_sub(group.names.len());
        group.names.extend(event.names.iter().take(room).map(ToString::to_string));
        if group.count <= MOST_ALIKE {
            self.listed.push(stored);
        } else if group.count == MOST_ALIKE + 1 {
            self.listed.retain(|listed| (listed.event.kind, listed.event.class()) != key);
        }
    }

    pub(super) fn lose(&mut self, lost: &[LostEvents]) {
        self.lost.extend(lost);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.groups.is_empty() && self.lost.is_empty()
    }

    /// No more belongs into one message.
    pub(super) fn is_full(&self) -> bool {
        self.listed.len() >= MOST_LISTED || self.read >= MOST_READ
    }

    /// How many warnings and recoveries there are; these are worth waiting for more of their kind.
    pub(super) fn warnings(&self) -> u64 {
        self.warnings
    }

    pub(super) fn is_critical(&self) -> bool {
        self.critical
    }

    pub(super) fn body<'a>(&'a self, id: &'a str, sent: Timestamp) -> Body<'a> {
        let lost = self.lost.iter().map(|lost| Lost { after: lost.after, before: lost.before });
        Body {
            id,
            sent,
            events: &self.listed,
            groups: self.groups.values().filter(|group| group.count > MOST_ALIKE).collect(),
            lost: lost.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::repeats::tests::{failed, recovered};
    use super::*;
    use shared::domain::{Event, FailureClass};

    fn stored(number: usize, event: Event) -> StoredEvent {
        StoredEvent { id: format!("{}-{number}-0", event.partition()).parse().unwrap(), event }
    }

    #[test]
    fn a_storm_is_one_summary_and_others_are_listed() {
        let mut window = Window::default();
        assert!(window.is_empty());
        for number in 0..1000 {
            let at = if number == 999 { "2026-11-24T10:01:00Z" } else { "2026-11-24T10:00:00Z" };
            let event = failed(&format!("n{number}.example.com"), FailureClass::Caa, 1, at);
            window.add(stored(number, event));
            assert!(!window.is_full());
        }
        window.add(stored(1000, failed("dns.example.com", FailureClass::Dns, 1, "2026-11-24T10:00:00Z")));
        window.add(stored(1001, recovered("back.example.com", "2026-11-24T10:00:00Z")));
        let body = serde_json::to_value(window.body("m1", Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(body["events"].as_array().unwrap().len(), 2, "{body:#}");
        let groups = body["groups"].as_array().unwrap();
        assert_eq!(groups.len(), 1, "{body:#}");
        assert_eq!((&groups[0]["count"], &groups[0]["class"]), (&1000.into(), &"caa".into()));
        assert_eq!(groups[0]["names"].as_array().unwrap().len(), 20);
        assert_eq!(groups[0]["until"], "2026-11-24T10:01:00Z");
        assert!(body.get("lost").is_none());
    }

    #[test]
    fn a_message_lists_a_hundred_events() {
        let mut window = Window::default();
        for number in 0..100 {
            assert!(!window.is_full());
            window.add(stored(number, Event::new(EventKind::Renewed, Timestamp::UNIX_EPOCH, "new")));
        }
        assert!(window.is_full());
    }
}
