//! What a receiver was told of a site's failures, so that it isn't told again and again. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::{
    domain::{Event, EventKind, Severity, SiteId},
    store::ToldChange,
};
use std::collections::{BTreeMap, BTreeSet};

/// The same failure of the same site is told again after this time, not earlier.
const AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// What one receiver knows of one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    /// One of the site's names, for people.
    pub(super) name: String,
    /// When the first of the failures was.
    pub(super) since: Timestamp,
    /// By class of failure: when it was last told.
    pub(super) classes: BTreeMap<String, Timestamp>,
}

/// What a receiver knows, as far as it was looked up, with what it is about to be told.
#[derive(Debug, Default)]
pub(super) struct Memory {
    known: BTreeMap<SiteId, Option<Told>>,
    changed: BTreeSet<SiteId>,
}

/// Which events a receiver wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Empty: every kind.
    pub(super) kinds: Vec<EventKind>,
    pub(super) least: Severity,
}

impl Wanted {
    pub(super) const EVERYTHING: Self = Self { kinds: Vec::new(), least: Severity::Info };

    /// Whoever wants warnings also wants to hear that they are over. A site's recovery goes where its failure went, so its
    /// severity isn't asked for.
    fn includes(&self, event: &Event) -> bool {
        let kind = self.kinds.is_empty() || self.kinds.contains(&event.kind);
        let recovery = event.kind == EventKind::Recovered
            || (event.kind.is_recovery() && self.least <= Severity::Warning);
        kind && (event.severity >= self.least || recovery)
    }
}

impl Memory {
    /// The sites of these events that [`Memory::judge`] must know of.
    pub(super) fn unknown_sites<'a>(&self, events: impl Iterator<Item = &'a Event>) -> Vec<SiteId> {
        let matters =
            |kind| matches!(kind, EventKind::Failed | EventKind::Recovered | EventKind::SiteRemoved);
        let sites: BTreeSet<&SiteId> = events
            .filter(|event| matters(event.kind))
            .filter_map(|event| event.site.as_ref())
            .filter(|site| !self.known.contains_key(*site))
            .collect();
        sites.into_iter().cloned().collect()
    }

    /// What the store has of a site. A record that can't be read is none: the worst is a repetition.
    pub(super) fn learn(&mut self, site: SiteId, record: Option<&str>) {
        self.known.insert(site, record.and_then(|text| serde_json::from_str(text).ok()));
    }

    /// Whether the receiver is to be told; takes it as told.
    pub(super) fn judge(&mut self, event: &Event, wanted: &Wanted) -> bool {
        let is_wanted = wanted.includes(event);
        let Some(site) = &event.site else { return is_wanted };
        match event.kind {
            EventKind::Failed => {
                let Some(class) = event.class() else { return is_wanted };
                let known = self.known.entry(site.clone()).or_default();
                let told = known.as_ref().and_then(|told| told.classes.get(&class));
                let is_repeat = told.is_some_and(|told| event.at.duration_since(*told) < AGAIN_AFTER);
                if !is_wanted || is_repeat {
                    return false;
                }
                let told = known.get_or_insert_with(|| Told {
                    name: event.names.first().map(|name| name.to_unicode()).unwrap_or_default(),
                    since: event.at,
                    classes: BTreeMap::new(),
                });
                told.classes.insert(class, event.at);
                self.changed.insert(site.clone());
                true
            }
            EventKind::Recovered | EventKind::SiteRemoved => {
                let was_told = self.known.insert(site.clone(), None).flatten().is_some();
                if was_told {
                    self.changed.insert(site.clone());
                }
                is_wanted && (was_told || event.kind == EventKind::SiteRemoved)
            }
            _ => is_wanted,
        }
    }

    /// What the store has to remember once it was told.
    pub(super) fn changes(&self) -> Vec<ToldChange> {
        let record = |site: &SiteId| {
            let told = self.known.get(site)?.as_ref()?;
            Some(serde_json::to_string(told).expect("plain data"))
        };
        self.changed.iter().map(|site| (site.clone(), record(site))).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use shared::{
        domain::{DnsName, Failure, FailureClass, NameSet},
        error::Fault,
    };

    pub(in crate::notify) fn failed(name: &str, class: FailureClass, count: u32, at: &str) -> Event {
        let at: Timestamp = at.parse().unwrap();
        let names = NameSet::one(DnsName::parse(name).unwrap());
        let failure = Failure {
            at,
            count,
            fault: Fault::Customer,
            class,
            what: "it fails".into(),
            remedy: "Repair it.".into(),
            not_before: None,
            since: None,
            next: None,
            waits: false,
            remembered: false,
        };
        Event::new(EventKind::Failed, at, format!("{name} fails."))
            .for_site(&SiteId::of(&names))
            .names(names.iter())
            .because(&failure)
    }

    pub(in crate::notify) fn recovered(name: &str, at: &str) -> Event {
        let names = NameSet::one(DnsName::parse(name).unwrap());
        Event::new(EventKind::Recovered, at.parse().unwrap(), format!("{name} works again."))
            .for_site(&SiteId::of(&names))
            .names(names.iter())
    }

    #[test]
    fn a_failure_is_told_once_then_daily_and_its_end_once() {
        let mut memory = Memory::default();
        let all = Wanted::EVERYTHING;
        let mut told = |event: Event| memory.judge(&event, &all);
        let caa = |count, at| failed("a.example.com", FailureClass::Caa, count, at);
        assert!(told(caa(1, "2026-11-24T10:00:00Z")));
        assert!(!told(caa(2, "2026-11-24T10:01:00Z")));
        assert!(!told(caa(3, "2026-11-25T09:59:59Z")));
        assert!(told(caa(4, "2026-11-25T10:00:00Z")), "a day later");
        assert!(told(failed("a.example.com", FailureClass::Dns, 5, "2026-11-25T11:00:00Z")), "another cause");
        assert!(told(failed("b.example.com", FailureClass::Caa, 1, "2026-11-25T11:00:00Z")), "another site");
        assert!(told(recovered("a.example.com", "2026-11-25T12:00:00Z")));
        assert!(!told(recovered("a.example.com", "2026-11-25T12:00:01Z")), "it was well already");
        assert!(!told(recovered("c.example.com", "2026-11-25T12:00:01Z")), "its failure was never told");
        assert!(told(caa(1, "2026-11-25T13:00:00Z")), "it fails anew");
    }

    #[test]
    fn memory_goes_through_the_store_unchanged() {
        let mut memory = Memory::default();
        let event = failed("a.example.com", FailureClass::Caa, 1, "2026-11-24T10:00:00Z");
        let site = event.site.clone().unwrap();
        assert_eq!(memory.unknown_sites([&event, &event].into_iter()), std::slice::from_ref(&site));
        assert!(memory.judge(&event, &Wanted::EVERYTHING));
        let changes = memory.changes();
        let [(changed, Some(record))] = &changes[..] else { panic!("{changes:?}") };
        let expected = r#"{"name":"a.example.com","since":"2026-11-24T10:00:00Z","classes":{"caa":"2026-11-24T10:00:00Z"}}"#;
        assert_eq!((changed, record.as_str()), (&site, expected));

        let mut later = Memory::default();
        later.learn(site.clone(), Some(record));
        assert!(!later.judge(&event, &Wanted::EVERYTHING));
        assert!(later.changes().is_empty());
        assert!(later.judge(&recovered("a.example.com", "2026-11-24T11:00:00Z"), &Wanted::EVERYTHING));
        assert_eq!(later.changes(), [(site, None)]);
    }

    #[test]
    fn what_is_not_wanted_is_not_told_and_neither_is_its_end() {
        let mut memory = Memory::default();
        let event = failed("a.example.com", FailureClass::Caa, 1, "2026-11-24T10:00:00Z");
        let over = recovered("a.example.com", "2026-11-24T11:00:00Z");
        let critical = Wanted { kinds: Vec::new(), least: Severity::Critical };
        assert!(!memory.judge(&event, &critical) && !memory.judge(&over, &critical));
        let warnings = Wanted { kinds: Vec::new(), least: Severity::Warning };
        assert!(memory.judge(&event, &warnings) && memory.judge(&over, &warnings));
        let renewed = Event::new(EventKind::Renewed, event.at, "new");
        let store_back = Event::new(EventKind::StoreBack, event.at, "back");
        assert!(!memory.judge(&renewed, &warnings) && memory.judge(&store_back, &warnings));
        let some = Wanted { kinds: vec![EventKind::Expired], least: Severity::Info };
        assert!(!memory.judge(&event, &some));
        assert!(memory.judge(&Event::new(EventKind::Expired, event.at, "over"), &some));
    }
}
