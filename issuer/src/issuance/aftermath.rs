//! What is written when a group is given back: how it stands, when it is looked at next, and what the operator is told.

use super::{
    Issuance, Outcome, Verdict,
    attempt::Tally,
    hsts,
    publication::look_for_promotion,
    renewal::{Renewals, place_of_served, urgent},
    site::Published,
};
use jiff::{SignedDuration, Timestamp};
use shared::{
    domain::{
        Class, DnsName, Event, EventKind, ExpiryStage, Failure, FailureClass, Parked, ParkedReason, Place,
        Slot, expiry_stage,
    },
    error::Fault,
    store::{Cut, Field, Settlement, Staged},
};
use std::collections::BTreeMap;

/// A store that stumbles is tried again after this; nothing is remembered against the site.
const STORE_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// What a brake stops is looked at again after this.
const BRAKE_PAUSE: SignedDuration = SignedDuration::from_secs(30);
/// A limit whose end the CA does not name.
const LIMIT_PAUSE: SignedDuration = SignedDuration::from_hours(1);
/// How often a group that nothing can be done for is looked at, for its alerts.
const PARKED_PAUSE: SignedDuration = SignedDuration::from_hours(12);
/// The CA's fault is not the site's: its pauses do not grow beyond this failure.
const MOST_OF_CA: u32 = 3;
/// What a policy forbids is not tried again within the hour.
const LEAST_OF_POLICY: u32 = 4;

pub(super) struct Aftermath<'a> {
    pub(super) issuance: &'a Issuance,
    pub(super) tally: &'a Tally,
    /// What the canaries have, after the attempt.
    pub(super) staged: Option<Staged>,
    /// When what is served is renewed.
    pub(super) renewals: &'a Renewals,
    pub(super) now: Timestamp,
}

impl Issuance {
    /// When what failed is tried again; `None` where only a person can help.
    pub(super) fn next_attempt(&self, failure: &Failure, now: Timestamp) -> Option<Timestamp> {
        let count = match failure.class {
            FailureClass::Paused => return None,
            FailureClass::Ca | FailureClass::Account | FailureClass::BadCertificate => {
                failure.count.min(MOST_OF_CA)
            }
            // Nor is what is amiss with our own resolvers and sections: all sites wait for the same.
            FailureClass::Dns if failure.fault == Fault::Operator => failure.count.min(MOST_OF_CA),
            FailureClass::Policy => failure.count.max(LEAST_OF_POLICY),
            _ => failure.count,
        };
        let pause = match failure.class {
            FailureClass::Limit => {
                LIMIT_PAUSE.min(failure.not_before.map_or(LIMIT_PAUSE, |end| end.duration_since(now)))
            }
            FailureClass::Store => STORE_PAUSE,
            _ => SignedDuration::try_from(self.backoff.pause(count, draw()))
                .unwrap_or(SignedDuration::from_hours(24)),
        };
        let moment = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        Some(failure.not_before.map_or(moment, |not_before| moment.max(not_before)))
    }
}

impl Aftermath<'_> {
    /// `served` is what can go on being served.
    pub(super) fn settlement(&self, outcome: &Outcome, served: &BTreeMap<Slot, Published>) -> Settlement {
        let mut settlement = Settlement {
            revision: self.tally.stored.revision,
            place: self.place_of_served(served),
            done: self.tally.done.clone(),
            fields: self.renewals.fields(&self.tally.stored),
            events: Vec::new(),
        };
        match outcome {
            Outcome::Issued(_) | Outcome::AlreadyValid(_) => self.succeeded(&mut settlement, outcome, served),
            Outcome::Failed(verdict) if verdict.class == FailureClass::Store => {
                settlement.place = self.unfinished(settlement.place, STORE_PAUSE);
            }
            Outcome::Failed(verdict) => self.failed(&mut settlement, verdict, served),
            Outcome::Waiting(failure) => self.waiting(&mut settlement, failure, served),
            Outcome::Stopped(_) => settlement.place = self.unfinished(settlement.place, BRAKE_PAUSE),
        }
        self.told_of_names(&mut settlement, served);
        if let Some(moment) = look_for_promotion(self.staged.as_ref(), self.now, BRAKE_PAUSE) {
            settlement.place.moment = settlement.place.moment.min(moment);
        }
        settlement
    }

    fn succeeded(&self, settlement: &mut Settlement, outcome: &Outcome, served: &BTreeMap<Slot, Published>) {
        let stored = &self.tally.stored;
        if self.tally.nothing_left {
            return self.warn_of_expiry(settlement);
        }
        for field in [Field::Failure, Field::Parked, Field::Alert, Field::Retry, Field::Force] {
            settlement.fields.push((field, None));
        }
        settlement.fields.extend(hsts::recovered(stored, self.now));
        if matches!(outcome, Outcome::Issued(_)) {
            settlement.fields.push((Field::Held, None));
            let (kind, word) = if self.tally.before.is_empty() && stored.serving.current.is_empty() {
                (EventKind::Issued, "has its certificate")
            } else {
                (EventKind::Renewed, "has a new certificate")
            };
            let ends = served.values().map(|published| published.leaf.not_after).min();
            let mut what = format!("{} {word}", stored.site.names.to_unicode());
            if let Some(staged) = &self.staged {
                what.push_str(&format!(
                    ", which the frontends of the tag {} serve first, and all from {} on",
                    staged.tag,
                    staged.until.strftime("%F %T UTC")
                ));
            }
            let mut event = self.event(kind, what);
            if let Some(ends) = ends {
                event = event.with("not_after", ends.to_string());
            }
            let serials: Vec<&str> =
                served.values().map(|published| published.leaf.serial.as_str()).collect();
            tell(settlement, &event.with("serials", serials));
        }
        let departed = stored.parked.as_ref().filter(|parked| parked.reason == ParkedReason::Departed);
        if let Some(parked) = departed {
            let what = format!("{} leads to the frontends again", stored.site.names.to_unicode());
            let event = self.event(EventKind::Returned, what);
            tell(settlement, &event.with("since", parked.since.to_string()));
        } else if let Some(failure) = stored.failure.as_ref().filter(|failure| !failure.is_wait()) {
            let what = format!("{}: what had failed works again", stored.site.names.to_unicode());
            tell(settlement, &self.event(EventKind::Recovered, what).after(failure));
        }
    }

    fn failed(&self, settlement: &mut Settlement, verdict: &Verdict, served: &BTreeMap<Slot, Published>) {
        let stored = &self.tally.stored;
        let mut failure = verdict.to_failure(stored.failure.as_ref(), self.now);
        failure.next = self.issuance.next_attempt(&failure, self.now);
        settlement.fields.push((Field::Retry, None));
        if failure.class == FailureClass::Paused {
            let parked = Parked {
                reason: ParkedReason::PausedByCa,
                since: self.now,
                what: failure.what.clone(),
                remedy: failure.remedy.clone(),
                looks: 0,
            };
            settlement.fields.push((Field::Parked, serde_json::to_string(&parked).ok()));
            settlement.place = self.parked_place(served);
            let what = format!("{}: the CA has paused it; it is left alone", stored.site.names.to_unicode());
            tell(settlement, &self.event(EventKind::CaPaused, what).because(&failure));
        } else {
            // It was worked on, so it is back from where it had departed to.
            settlement.fields.push((Field::Parked, None));
            self.retried(settlement, &failure, served);
            let what = stored.site.names.of_them(&failure.what);
            let kind = if failure.is_wait() { EventKind::Waiting } else { EventKind::Failed };
            let event = self.event(kind, what).because(&failure);
            let next = failure.next.map(|next| next.to_string());
            tell(settlement, &event.with("next_attempt", next));
        }
        settlement.fields.push((Field::Failure, serde_json::to_string(&failure).ok()));
        let ends = served.values().map(|published| published.leaf.not_after).min();
        let (fields, event) = hsts::lowered(stored, ends, self.now);
        settlement.fields.extend(fields);
        event.iter().for_each(|event| tell(settlement, event));
        self.warn_of_expiry(settlement);
    }

    /// A limit of the CA: no failure of the site's, so its count does not grow.
    fn waiting(&self, settlement: &mut Settlement, failure: &Failure, served: &BTreeMap<Slot, Published>) {
        let stored = &self.tally.stored;
        let mut failure = failure.clone();
        let is_new = stored.failure.as_ref().is_none_or(|before| before.class != failure.class);
        if failure.class == FailureClass::Limit {
            failure.count = stored.failure.as_ref().map_or(1, |before| before.count);
        }
        if failure.next.is_none_or(|next| next <= self.now) {
            failure.next = self.issuance.next_attempt(&failure, self.now);
        }
        self.retried(settlement, &failure, served);
        settlement.fields.push((Field::Retry, None));
        // What a single name waits for stands with that name.
        if !self.tally.cut.values().any(|cut| cut.what == failure.what) {
            if is_new {
                let what = stored.site.names.of_them(&failure.what);
                let kind = if failure.is_wait() { EventKind::Waiting } else { EventKind::Failed };
                let next = failure.next.map(|next| next.to_string());
                let event = self.event(kind, what).because(&failure);
                tell(settlement, &event.with("next_attempt", next));
            }
            settlement.fields.push((Field::Failure, serde_json::to_string(&failure).ok()));
        }
        self.warn_of_expiry(settlement);
    }

    fn retried(&self, settlement: &mut Settlement, failure: &Failure, served: &BTreeMap<Slot, Published>) {
        let next = failure.next.unwrap_or_else(|| self.after(PARKED_PAUSE));
        // What lives for days is not left alone for one.
        let soonest = served.values().map(|published| published.lifetime() / 20).min();
        let next = soonest.map_or(next, |most| next.min(self.after(most)));
        let next = failure.not_before.map_or(next, |not_before| next.max(not_before));
        let class = match failure.class {
            FailureClass::Limit if served.is_empty() => Class::New,
            FailureClass::Limit => Class::Renewal,
            _ => Class::Retry,
        };
        let deadline = served.values().map(|published| published.leaf.not_after).min();
        // It is renewed as planned, or by a later attempt where that has passed: never in the past, where it would count as
        // overdue for as long as it fails.
        let renewal = settlement.place.renewal.map(|planned| planned.max(next));
        let deadline = deadline.unwrap_or(next);
        settlement.place = Place { class, moment: next, deadline, urgent_from: urgent(served), renewal };
    }

    /// Where a group stands for which nothing has failed.
    fn place_of_served(&self, served: &BTreeMap<Slot, Published>) -> Place {
        let place = place_of_served(served, self.tally.stored.held, &self.tally.cut, self.now);
        place.unwrap_or_else(|| {
            let class = if self.tally.cut.is_empty() { Class::New } else { Class::Check };
            let moment = self.after(PARKED_PAUSE);
            Place { class, moment, deadline: self.now, urgent_from: None, renewal: None }
        })
    }

    /// Where it stands while something of it is lacking: as work, never as what only the CA is asked about.
    fn unfinished(&self, place: Place, pause: SignedDuration) -> Place {
        let class = if place.class == Class::Check { Class::Retry } else { place.class };
        Place { class, moment: self.after(pause), ..place }
    }

    fn parked_place(&self, served: &BTreeMap<Slot, Published>) -> Place {
        let soonest = served.values().map(|published| published.lifetime() / 20).min();
        let moment = self.after(soonest.map_or(PARKED_PAUSE, |soonest| soonest.min(PARKED_PAUSE)));
        Place { class: Class::Check, moment, deadline: moment, urgent_from: None, renewal: None }
    }

    /// Names that were cut out or that are back.
    fn told_of_names(&self, settlement: &mut Settlement, served: &BTreeMap<Slot, Published>) {
        let stored = &self.tally.stored;
        let covered = |name: &DnsName| {
            !served.is_empty()
                && served.values().all(|published| published.leaf.names.iter().any(|n| n == name.as_str()))
        };
        let mut cut: Cut = self.tally.cut.clone();
        cut.retain(|name, _| stored.site.names.contains(name) && !covered(name));
        for (name, failure) in &cut {
            if stored.cut.get(name).is_none_or(|before| before.class != failure.class) {
                let what = format!("{}: left out of its certificate: {}", name.to_unicode(), failure.what);
                let event = self.event(EventKind::NameCut, what).because(failure).names([name]);
                tell(settlement, &event.with("next_attempt", failure.next.map(|next| next.to_string())));
            }
        }
        for name in stored.cut.keys().filter(|name| covered(name)) {
            let what = format!("{} is in the certificate again", name.to_unicode());
            tell(settlement, &self.event(EventKind::NameRejoined, what).names([name]));
        }
        if cut != stored.cut {
            let record = if cut.is_empty() { None } else { serde_json::to_string(&cut).ok() };
            settlement.fields.push((Field::Cut, record));
        }
    }

    /// What could not be renewed is told again as its end comes nearer.
    fn warn_of_expiry(&self, settlement: &mut Settlement) {
        let stored = &self.tally.stored;
        let stages = self.tally.before.values().map(|published| {
            let stage = expiry_stage(published.leaf.not_before, published.leaf.not_after, self.now);
            (stage, published.leaf.not_after)
        });
        let nearest = stages.max_by_key(|(stage, _)| *stage);
        // Certificates that are valid no longer are not among those that can go on being served.
        let (stage, ends) = match nearest {
            Some((stage, ends)) => (stage, Some(ends)),
            None if stored.serving.current.is_empty() => return,
            None => (ExpiryStage::Expired, None),
        };
        let (kind, word) = match stage {
            ExpiryStage::Fine => return,
            ExpiryStage::Warning => (EventKind::ExpiryWarning, "warning"),
            ExpiryStage::Critical => (EventKind::ExpiryCritical, "critical"),
            ExpiryStage::Expired => (EventKind::Expired, "expired"),
        };
        if stored.alert.as_deref() == Some(word) {
            return;
        }
        settlement.fields.push((Field::Alert, Some(word.to_owned())));
        let what = match ends {
            Some(ends) => format!(
                "{}: its certificate ends at {} and could not be renewed",
                stored.site.names.to_unicode(),
                ends.strftime("%F %T UTC")
            ),
            None => format!(
                "{}: its certificate has expired and could not be renewed",
                stored.site.names.to_unicode()
            ),
        };
        let mut event = self.event(kind, what);
        if let Some(failure) = &stored.failure {
            event = event.because(failure);
        }
        tell(settlement, &event);
    }

    fn event(&self, kind: EventKind, what: String) -> Event {
        let stored = &self.tally.stored;
        Event::new(kind, self.now, what)
            .for_site(&stored.id)
            .names(stored.site.names.iter())
            .ca(&stored.site.ca)
            .tags(&stored.site.tags)
    }

    fn after(&self, pause: SignedDuration) -> Timestamp {
        self.now.saturating_add(pause).unwrap_or(Timestamp::MAX)
    }
}

/// The name that is tried again first, of those that are left out.
pub(super) fn next_of_cut(cut: &Cut) -> Option<&Failure> {
    cut.values().min_by_key(|failure| failure.next.unwrap_or(Timestamp::MAX))
}

fn tell(settlement: &mut Settlement, event: &Event) {
    match serde_json::to_string(event) {
        Ok(event) => settlement.events.push(event),
        Err(error) => tracing::error!(%error, "an event can't be written"),
    }
}

/// A number from 0.0 to 1.0, drawn.
pub(crate) fn draw() -> f64 {
    let mut bytes = [0; 4];
    openssl::rand::rand_bytes(&mut bytes)
        .expect("the system's random generator works, or no key could be made");
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}
