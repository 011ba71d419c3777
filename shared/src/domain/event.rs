//! What happened, as the operator is told: one record for each thing, in plain words.

use super::{DnsName, Failure, LONGEST_SENTENCE, Partition, SiteId, bounded};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{fmt, str::FromStr};

/// Entries of a list that an event carries: as many as a certificate has names at most.
const MOST_ENTRIES: usize = 100;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Version of this record.
    pub v: u32,
    pub at: Timestamp,
    pub kind: EventKind,
    /// Follows from the kind; written for whoever reads the record without knowing the kinds.
    pub severity: Severity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<DnsName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// One sentence in plain words.
    pub what: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Serials, ends of validity, the next attempt: what a program may want to know.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
}

/// How much an event matters, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record.
    Info,
    /// Somebody should look at it, in the course of the day.
    Warning,
    /// Visitors are about to see errors, or do already.
    Critical,
}

macro_rules! kinds {
    ($($kind:ident, $text:literal, $severity:ident, $meaning:literal;)*) => {
        /// The kinds of events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EventKind {
            $(#[doc = $meaning] #[serde(rename = $text)] $kind,)*
        }

        impl EventKind {
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $text,)* }
            }

            pub const fn severity(self) -> Severity {
                match self { $(Self::$kind => Severity::$severity,)* }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$kind => $meaning,)* }
            }
        }
    };
}

kinds! {
    SiteAdded, "site-added", Info, "A site is wanted from now on.";
    SiteChanged, "site-changed", Info, "What is wanted of a site was changed.";
    SiteRemoved, "site-removed", Info, "A site is no longer wanted; its certificates are deleted after a grace time.";
    SitePaused, "site-paused", Info, "An operator paused a site: nothing is ordered for it.";
    SiteResumed, "site-resumed", Info, "An operator resumed a site.";
    Issued, "issued", Info, "A site has its first certificate.";
    Renewed, "renewed", Info, "A site has a new certificate in the place of the one before.";
    Revoked, "revoked", Info, "An operator had the CA revoke a certificate; the daemon orders another one.";
    RenewalMoved, "renewal-moved", Warning, "The CA wants a certificate renewed sooner than planned: often one that it will revoke.";
    Failed, "failed", Warning, "No certificate could be had; what is there is served on, and it is tried again.";
    Waiting, "waiting", Info, "A limit of the CA is used up, or a certificate is not valid yet: what is wanted waits for its moment.";
    Recovered, "recovered", Info, "What had failed works again.";
    HstsLowered, "hsts-lowered", Warning, "HSTS of a site is lowered for as long as its certificate can't be renewed.";
    NameCut, "name-cut", Warning, "A name that fails was left out of a certificate so that the others get theirs.";
    NameRejoined, "name-rejoined", Info, "A name that was left out is in the certificate again.";
    Departed, "departed", Warning, "A name no longer leads to the frontends: nothing is ordered for it until it is back.";
    Returned, "returned", Info, "A name that had departed leads to the frontends again.";
    CaPaused, "ca-paused", Warning, "The CA has paused a name for this account; a person has to open its link.";
    ExpiryWarning, "expiry-warning", Warning, "A certificate has used up most of its life and could not be renewed.";
    ExpiryCritical, "expiry-critical", Critical, "A certificate is about to expire and could not be renewed.";
    Expired, "expired", Critical, "A certificate has expired: visitors see an error.";
    BrakeOn, "brake-on", Warning, "Issuance or publication was stopped, for all, a CA or a tag.";
    BrakeOff, "brake-off", Info, "What a brake had stopped goes on.";
    Promoted, "promoted", Info, "A certificate that was published to the canaries first is published to all.";
    RolledBack, "rolled-back", Warning, "A site serves its previous certificate again.";
    StoreLost, "store-lost", Critical, "The store did not answer: nothing was ordered in that time.";
    ScheduleRepaired, "schedule-repaired", Warning, "A site had fallen out of the schedule, or its place there could not be read: it was put back.";
    RecordDamaged, "record-damaged", Critical, "A record in the store can't be read; everything else goes on.";
    RecordRecovered, "record-recovered", Info, "A record that could not be read can be read again, or is gone.";
    TaskRestarted, "task-restarted", Warning, "A part of a program ended unexpectedly, and was started again.";
    ClocksDiffer, "clocks-differ", Warning, "The clocks of this machine, the store and a CA are too far apart.";
    ClocksAgree, "clocks-agree", Info, "Clocks that were too far apart agree again.";
    StoreBack, "store-back", Info, "The store answers again.";
    StoreNearlyFull, "store-nearly-full", Critical, "The store has used up nearly all of its memory: once it is full, nothing can be ordered or changed.";
    StoreHasRoom, "store-has-room", Info, "The store has room again.";
    CaTrouble, "ca-trouble", Warning, "A CA does not work as it should: its orders wait.";
    CaRecovered, "ca-recovered", Info, "A CA works again.";
    CaChanged, "ca-changed", Warning, "A CA changed its directory, its terms or its profiles.";
    Failover, "failover", Warning, "The store has another primary; what was in flight is looked at again.";
    FrontendLags, "frontend-lags", Warning, "A frontend does not serve what it should, or is silent.";
    FrontendRecovered, "frontend-recovered", Info, "A frontend serves what it should again.";
    RecordUnverified, "record-unverified", Critical, "A record in the store that grants something was not written by this fleet: it grants nothing, and somebody else can write to the store.";
    KeyRotation, "key-rotation", Info, "A rotation of the key-encryption key began or ended.";
    NotificationRefused, "notification-refused", Warning, "A mail server refused a mail for good: it was given up, and the next ones are sent.";
    Drained, "drained", Info, "A node has finished its orders and ended.";
}

/// The text names no kind of event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of event {0:?}: `issuer events --help` lists them")]
pub struct UnknownEventKind(String);

impl EventKind {
    /// Whether it ends what a warning began.
    pub const fn is_recovery(self) -> bool {
        matches!(
            self,
            Self::Recovered
                | Self::NameRejoined
                | Self::Returned
                | Self::BrakeOff
                | Self::StoreBack
                | Self::StoreHasRoom
                | Self::RecordRecovered
                | Self::ClocksAgree
                | Self::CaRecovered
                | Self::FrontendRecovered
        )
    }
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Texts within a value, and lists, are no longer than what an event may say.
fn bounded_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(bounded(&text, LONGEST_SENTENCE)),
        Value::Array(entries) => entries.into_iter().take(MOST_ENTRIES).map(bounded_value).collect(),
        other => other,
    }
}

impl Event {
    /// The newest version of this record that this program can read.
    pub const VERSION: u32 = 1;

    /// `what` is one sentence in plain words.
    pub fn new(kind: EventKind, at: Timestamp, what: impl Into<String>) -> Self {
        Self {
            v: Self::VERSION,
            at,
            kind,
            severity: kind.severity(),
            site: None,
            names: Vec::new(),
            ca: None,
            tags: Vec::new(),
            failure: None,
            what: bounded(&what.into(), LONGEST_SENTENCE),
            remedy: None,
            data: Map::new(),
        }
    }

    #[must_use]
    pub fn for_site(mut self, id: &SiteId) -> Self {
        self.site = Some(id.clone());
        self
    }

    #[must_use]
    pub fn names<'a>(mut self, names: impl IntoIterator<Item = &'a DnsName>) -> Self {
        self.names = names.into_iter().cloned().collect();
        self
    }

    #[must_use]
    pub fn ca(mut self, ca: impl Into<String>) -> Self {
        self.ca = Some(ca.into());
        self
    }

    #[must_use]
    pub fn tags(mut self, tags: &[String]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// The failure behind it, and its remedy.
    #[must_use]
    pub fn because(mut self, failure: &Failure) -> Self {
        self.remedy = Some(bounded(&failure.remedy, LONGEST_SENTENCE)).filter(|remedy| !remedy.is_empty());
        let what = bounded(&failure.what, LONGEST_SENTENCE);
        let remedy = bounded(&failure.remedy, LONGEST_SENTENCE);
        self.failure = Some(Failure { what, remedy, ..failure.clone() });
        self
    }

    /// The failure that is over: nothing is to be done about it any more.
    #[must_use]
    pub fn after(mut self, failure: &Failure) -> Self {
        self = self.because(failure);
        self.remedy = None;
        if let Some(failure) = &mut self.failure {
            failure.remedy.clear();
        }
        self
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(bounded(&remedy.into(), LONGEST_SENTENCE));
        self
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.data.insert(key.to_owned(), bounded_value(value.into()));
        self
    }

    /// Where it is kept: with its site, and in the first partition where it has none.
    pub fn partition(&self) -> Partition {
        self.site.as_ref().map_or(Partition::FIRST, SiteId::partition)
    }

    /// The class of its failure as it stands in the record, such as `redirect-rule`.
    pub fn class(&self) -> Option<String> {
        let class = serde_json::to_value(self.failure.as_ref()?.class).ok()?;
        class.as_str().map(str::to_owned)
    }
}

macro_rules! textual {
    ($($word:ty),*) => {
        $(impl fmt::Display for $word {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        })*
    };
}
textual!(EventKind, Severity);

impl FromStr for EventKind {
    type Err = UnknownEventKind;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|kind| kind.as_str() == text);
        found.copied().ok_or_else(|| UnknownEventKind(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{FailureClass, NameSet};
    use crate::error::Fault;

    /// Records of version 1, as the first release wrote them. Samples stay for ever: a newer program reads them.
    const SAMPLES: [&str; 3] = [
        r#"{"v":1,"at":"2026-11-24T15:00:00Z","kind":"failed","severity":"warning","site":"00112233445566778899","names":["shop.example.com"],"ca":"letsencrypt","tags":["customer-7"],"failure":{"at":"2026-11-24T15:00:00Z","count":3,"fault":"customer","class":"caa","what":"CAA record for shop.example.com prevents issuance","remedy":"Allow letsencrypt.org in the CAA record","not_before":"2026-11-24T16:00:00Z"},"what":"The CA refuses shop.example.com.","remedy":"Allow letsencrypt.org in the CAA record","data":{"next_attempt":"2026-11-24T16:40:00Z"}}"#,
        r#"{"v":1,"at":"2026-11-24T15:00:00Z","kind":"renewed","severity":"info","site":"00112233445566778899","names":["shop.example.com"],"what":"shop.example.com has a new certificate.","data":{"not_after":"2027-02-22T15:00:00Z","serial":"04a1"}}"#,
        r#"{"v":1,"at":"2026-11-24T15:00:00Z","kind":"store-back","severity":"info","what":"The store answers again."}"#,
    ];

    #[test]
    fn records_of_version_1_are_read_and_written_unchanged() {
        for sample in SAMPLES {
            let event: Event = serde_json::from_str(sample).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), sample);
            assert_eq!(event.severity, event.kind.severity());
        }
    }

    #[test]
    fn of_what_is_over_nothing_is_to_be_done() {
        let failed: Event = serde_json::from_str(SAMPLES[0]).unwrap();
        let failure = failed.failure.clone().unwrap();
        let event = Event::new(EventKind::Recovered, failed.at, "it works again").after(&failure);
        assert_eq!(event.remedy, None);
        assert_eq!(event.class().as_deref(), Some("caa"));
        assert!(!serde_json::to_string(&event).unwrap().contains("Allow"));
    }

    #[test]
    fn the_builder_makes_the_record() {
        let expected: Event = serde_json::from_str(SAMPLES[0]).unwrap();
        let at: Timestamp = "2026-11-24T15:00:00Z".parse().unwrap();
        let failure = Failure {
            at,
            count: 3,
            fault: Fault::Customer,
            class: FailureClass::Caa,
            what: "CAA record for shop.example.com prevents issuance".into(),
            remedy: "Allow letsencrypt.org in the CAA record".into(),
            not_before: "2026-11-24T16:00:00Z".parse().ok(),
            since: None,
            next: None,
            waits: false,
            remembered: false,
        };
        let names = NameSet::one(DnsName::parse("shop.example.com").unwrap());
        let made = Event::new(EventKind::Failed, at, "The CA refuses shop.example.com.")
            .for_site(&SiteId::parse("00112233445566778899").unwrap())
            .names(names.iter())
            .ca("letsencrypt")
            .tags(&["customer-7".into()])
            .because(&failure)
            .with("next_attempt", "2026-11-24T16:40:00Z");
        assert_eq!(made, expected);
        assert_eq!(made.class().as_deref(), Some("caa"));
        assert_eq!(made.partition().to_string(), "p00");
    }

    #[test]
    fn every_kind_reads_back_from_its_name() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert!(kind.meaning().ends_with('.') && kind.meaning().len() > 10, "{kind}");
        }
        assert!("fialed".parse::<EventKind>().unwrap_err().to_string().contains("fialed"));
        assert!(Severity::Critical > Severity::Warning && Severity::Warning > Severity::Info);
    }
}
