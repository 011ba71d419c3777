//! One group that was claimed: ordered, looked at, or deleted.

use super::{Node, node::UnusableError, renewal_info::may_only_be_asked_about, trouble::Change};
use crate::{
    acme::RequestCounter,
    issuance::{
        About, AccountError, HeldLease, Outcome, SetupError, Verdict, draw, hsts, look_for_promotion,
        promote_what_is_due,
    },
    preflight::{Canary, Whereabouts},
    sites::SiteError,
};
use jiff::{SignedDuration, Timestamp};
use shared::{
    domain::{
        Braked, ChallengeType, Class, DnsName, Event, EventKind, FailureClass, Parked, ParkedReason, Place,
        SiteId, brake_of,
    },
    error::Fault,
    store::{Claimed, Field, Settlement, Store, StoreError, StoredSite},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinSet};

/// Names of one group whose DNS is asked at once.
const LOOKS_AT_ONCE: usize = 16;
/// A paused site needs nobody until it is resumed; it is looked at for its alerts.
const PAUSED: SignedDuration = SignedDuration::from_hours(12);
/// What a brake stops is looked at again after this.
pub(super) const BRAKED: SignedDuration = SignedDuration::from_secs(30);
/// What can't be read is looked at again after this.
const DAMAGED: SignedDuration = SignedDuration::from_mins(10);
/// What can't be ordered because its account could not be opened a moment ago is looked at again after this.
const IN_VAIN: Duration = Duration::from_secs(10);

impl Node {
    /// `known` is the group, where it was read under this lease already. Never fails: what can't be written is looked at
    /// again when the lease ends.
    pub(super) async fn work(self: &Arc<Self>, claimed: Claimed, known: Option<StoredSite>) {
        if let Err(error) = self.work_on(&claimed, known).await {
            let site = &claimed.lease.site;
            if matches!(error, StoreError::Corrupt { .. } | StoreError::NewerSchema { .. }) {
                return self.put_aside(&claimed, &error).await;
            }
            tracing::warn!(error = shared::error::chain(&error), %site, "left until the lease ends");
        }
    }

    /// Leaves a group alone whose record can't be read: all others go on.
    async fn put_aside(&self, claimed: &Claimed, error: &StoreError) {
        let site = &claimed.lease.site;
        let key = match error {
            StoreError::Corrupt { key, .. } => key.clone(),
            _ => Store::key_of_group(site.partition(), site.as_str()),
        };
        self.note_damaged(&key, Some(site), &shared::error::chain(error)).await;
        let moment = Timestamp::now().saturating_add(DAMAGED).unwrap_or(Timestamp::MAX);
        if let Err(error) = self.store.release_lease_until(&claimed.lease, moment).await {
            tracing::warn!(error = shared::error::chain(&error), %site, "left until the lease ends");
        }
    }

    async fn work_on(
        self: &Arc<Self>,
        claimed: &Claimed,
        known: Option<StoredSite>,
    ) -> Result<(), StoreError> {
        let id = &claimed.lease.site;
        let stored = match known {
            Some(known) => Some(known),
            None => self.store.load_site(id).await?,
        };
        let Some(stored) = stored else { return self.delete_retired(claimed).await };
        // Whatever may stop an order, it is issued.
        let stored = promote_what_is_due(&self.store, &claimed.lease, stored).await?;
        let site = &stored.site;
        if self.registry.may_have_lost_names(&stored).await? {
            match self.registry.give_up_lost_names(id).await {
                Ok(lost) if lost.is_empty() => {}
                // What is left of the site is looked at again at once.
                Ok(_) | Err(SiteError::Changed) => {
                    return self.store.release_lease(&claimed.lease).await;
                }
                Err(SiteError::Store(error)) => return Err(error),
                Err(error) => {
                    tracing::warn!(error = shared::error::chain(&error), site = %id, "its lost names")
                }
            }
        }
        if may_only_be_asked_about(claimed, &stored) && self.ask_about_renewal(claimed, &stored).await? {
            return Ok(());
        }
        if site.paused.is_some() {
            return self.leave_alone(claimed, &stored).await;
        }
        if brake_of(&self.brakes().await?, Braked::Issuance, site).is_some() {
            return self.put_off(claimed, &stored, BRAKED).await;
        }
        if !stored.retry
            && let Some(wait) = self.troubles.wait(&site.ca, &site.account, id)
        {
            return self.put_off(claimed, &stored, spread(wait)).await;
        }
        if let Some(parked) = &stored.parked
            && parked.reason == ParkedReason::PausedByCa
            && !stored.retry
        {
            return self.leave_alone(claimed, &stored).await;
        }
        // A DNS or a CA that is slow to answer must not cost it the lease.
        let held = HeldLease::keep(&self.store, claimed.lease.clone());
        let departed = if stored.retry { Vec::new() } else { self.departed(&stored).await };
        if departed.len() == site.names.as_slice().len() {
            return self.park(claimed, &stored, &departed).await;
        }
        let issuance = match self.issuance(&site.ca, &site.account).await {
            Ok(issuance) => issuance,
            Err(UnusableError::InVain) => return self.put_off(claimed, &stored, spread(IN_VAIN)).await,
            Err(error) => return self.unusable(claimed, &stored, &error).await,
        };
        drop(held);
        let departed = departed.into_iter().map(|(name, verdict, _)| (name, verdict)).collect();
        let counter = RequestCounter::new();
        let outcome = issuance.work(claimed, &stored, departed, &counter).await;
        self.counters.outcome(&outcome, counter.count());
        if let Outcome::Issued(_) = outcome {
            tracing::info!(names = %site.names, site = %stored.id, requests = counter.count(), "issued");
        }
        self.learn(&stored, &outcome).await;
        Ok(())
    }

    async fn learn(&self, stored: &StoredSite, outcome: &Outcome) {
        let site = &stored.site;
        let names = &site.names;
        match outcome {
            Outcome::Failed(verdict) => {
                tracing::warn!(%names, site = %stored.id, what = verdict.what, remedy = verdict.remedy, "failed");
            }
            Outcome::Waiting(failure) => tracing::info!(%names, what = failure.what, "waiting"),
            Outcome::Stopped(why) => tracing::info!(%names, why, "stopped"),
            Outcome::Issued(_) | Outcome::AlreadyValid(_) => {}
        }
        if matches!(outcome, Outcome::Failed(verdict) if verdict.about == About::Account) {
            // Another node may have given the account a new key, or a person has mended it.
            self.forget_issuance(&site.ca, &site.account).await;
        }
        let event = match self.troubles.learn(&site.ca, &site.account, &stored.id, outcome) {
            Change::None => return,
            Change::Began { subject, what, remedy } => {
                let whose = subject.account.map_or(String::new(), |account| format!(", account {account:?}"));
                let what = format!("{}{whose}: orders wait: {what}", subject.ca);
                Event::new(EventKind::CaTrouble, Timestamp::now(), what).ca(subject.ca).remedy(remedy)
            }
            Change::Ended { subject } => {
                let what = format!("{} issues again", subject.ca);
                Event::new(EventKind::CaRecovered, Timestamp::now(), what).ca(subject.ca)
            }
        };
        self.tell(event).await;
    }

    /// Gives a group back as it is, for a time: nothing has failed.
    async fn put_off(
        &self,
        claimed: &Claimed,
        stored: &StoredSite,
        pause: SignedDuration,
    ) -> Result<(), StoreError> {
        self.give_back(claimed, stored, pause, stored.renewal).await
    }

    /// Gives back what nothing is ordered for until somebody acts: no renewal is planned.
    async fn leave_alone(&self, claimed: &Claimed, stored: &StoredSite) -> Result<(), StoreError> {
        self.give_back(claimed, stored, PAUSED, None).await
    }

    async fn give_back(
        &self,
        claimed: &Claimed,
        stored: &StoredSite,
        pause: SignedDuration,
        renewal: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let moment = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        let (class, urgent_from) = match claimed.class {
            Class::Urgent => (Class::Renewal, Some(now)),
            class => (class, None),
        };
        let place = Place { class, moment, deadline: now, urgent_from, renewal };
        self.settle(claimed, stored, place, Vec::new(), Vec::new()).await
    }

    pub(super) async fn settle(
        &self,
        claimed: &Claimed,
        stored: &StoredSite,
        mut place: Place,
        fields: Vec<(Field, Option<String>)>,
        events: Vec<Event>,
    ) -> Result<(), StoreError> {
        let staged = stored.serving.staged.as_ref();
        if let Some(moment) = look_for_promotion(staged, Timestamp::now(), BRAKED) {
            place.moment = place.moment.min(moment);
        }
        let events = events.iter().filter_map(|event| serde_json::to_string(event).ok()).collect();
        let settlement = Settlement { revision: stored.revision, place, done: Vec::new(), fields, events };
        self.store.settle(&claimed.lease, &settlement).await
    }

    /// The configuration lacks the site's CA, or its account can't be opened.
    async fn unusable(
        &self,
        claimed: &Claimed,
        stored: &StoredSite,
        error: &UnusableError,
    ) -> Result<(), StoreError> {
        let what = shared::error::chain(error);
        let verdict = match error {
            // No failure of the site, nor of its account.
            UnusableError::Setup(error) if error.is_of_store() => {
                return self.put_off(claimed, stored, spread(IN_VAIN)).await;
            }
            UnusableError::Setup(SetupError::Directory { .. }) => Verdict::new(
                Fault::Ca,
                FailureClass::Ca,
                what,
                "look at the CA's status page and at the way to it (outbound 443); it is asked again by itself",
            ),
            // The CA was asked to make the account, or which of its keys it has.
            UnusableError::Setup(SetupError::Account(AccountError::Ca(source))) => {
                let verdict = Verdict::from_request(source);
                // There is no order that it could be about.
                let of_account = verdict.about == About::AccountOrOrder;
                let about = if of_account { About::Account } else { verdict.about };
                Verdict { what, about, ..verdict }
            }
            UnusableError::Setup(SetupError::Account(AccountError::TooMany(_))) => Verdict::new(
                Fault::Operator,
                FailureClass::Limit,
                what,
                "wait: the account is made when the CA takes another one; `issuer limits` shows every limit",
            ),
            _ => Verdict::new(
                Fault::Operator,
                FailureClass::Account,
                what,
                "put the CA's section of the configuration right, or give the site another CA",
            ),
        };
        let now = Timestamp::now();
        let mut failure = verdict.to_failure(stored.failure.as_ref(), now);
        let pause = spread(self.config.issuer.backoff().pause(failure.count.min(2), draw()));
        let next = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        let next = failure.not_before.map_or(next, |not_before| next.max(not_before));
        failure.next = Some(next);
        let outcome = Outcome::Failed(verdict);
        self.counters.outcome(&outcome, 0);
        self.learn(stored, &outcome).await;
        let renewal = stored.renewal.map(|planned| planned.max(next));
        let place = Place { class: Class::Retry, moment: next, deadline: next, urgent_from: None, renewal };
        let kind = if failure.is_wait() { EventKind::Waiting } else { EventKind::Failed };
        let event = told_of(stored, kind, now, &failure.what).because(&failure);
        let (mut fields, lowered) = hsts::lowered(stored, hsts::ends(&self.store, stored).await?, now);
        fields.push((Field::Failure, serde_json::to_string(&failure).ok()));
        self.settle(claimed, stored, place, fields, [event].into_iter().chain(lowered).collect()).await
    }

    /// The names that lead elsewhere, each with what was found.
    async fn departed(self: &Arc<Self>, stored: &StoredSite) -> Vec<(DnsName, Verdict, Whereabouts)> {
        let Some(departure) = &self.departure else { return Vec::new() };
        if !departure.can_look().await {
            return Vec::new();
        }
        let places = Arc::new(Semaphore::new(LOOKS_AT_ONCE));
        let mut looks = JoinSet::new();
        let may_lead_elsewhere = |name: &&DnsName| {
            let by_record = match stored.site.challenge {
                ChallengeType::Http01 => false,
                ChallengeType::Dns01 | ChallengeType::DnsAccount01 | ChallengeType::DnsPersist01 => true,
                // Proved by a record where it has left, if somebody can write it.
                ChallengeType::Auto => !self.config.dns.is_empty(),
            };
            by_record || name.is_wildcard()
        };
        for name in stored.site.names.iter().filter(|name| !may_lead_elsewhere(name)).cloned() {
            let (node, places) = (Arc::clone(self), Arc::clone(&places));
            looks.spawn(async move {
                let _place = places.acquire_owned().await;
                let departure = node.departure.as_ref()?;
                let found = departure.look(&name).await;
                if !found.is_departed() || node.answers_all_the_same(&name, &found).await {
                    return None;
                }
                let found_so = found.explain(&name, &node.config.frontends);
                let what = format!("{found_so} Nothing is ordered for it.");
                let remedy = if name.address().is_some() {
                    "nothing, if it is a frontend's no longer; else name it in frontends.addresses"
                } else {
                    "nothing, if the customer has left; else the name's DNS must lead to the frontends again"
                };
                let verdict = Verdict::new(Fault::Customer, FailureClass::NotPointingHere, what, remedy);
                Some((name, verdict, found))
            });
        }
        let mut departed = Vec::new();
        while let Some(found) = looks.join_next().await {
            departed.extend(found.ok().flatten());
        }
        departed.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        departed
    }

    /// A name behind a customer's own proxy leads elsewhere, and yet its challenges reach us: asked for one that no CA
    /// knows.
    async fn answers_all_the_same(&self, name: &DnsName, found: &Whereabouts) -> bool {
        if matches!(found, Whereabouts::Gone) {
            return false;
        }
        // Where it can't be asked, nobody is parked.
        let Ok(canary) = Canary::publish(&self.store).await else { return true };
        self.reach.check(name.as_str(), &canary.token, &canary.expected).await.passes()
    }

    /// Every name has left: nothing is ordered, and the DNS is asked again from time to time.
    async fn park(
        &self,
        claimed: &Claimed,
        stored: &StoredSite,
        departed: &[(DnsName, Verdict, Whereabouts)],
    ) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let before = stored.parked.as_ref();
        let verdicts = departed.iter().map(|(_, verdict, _)| verdict.what.as_str()).collect::<Vec<_>>();
        let remedy = departed.first().map_or("", |(_, verdict, _)| verdict.remedy.as_str());
        let parked = Parked {
            reason: ParkedReason::Departed,
            since: before.map_or(now, |before| before.since),
            what: verdicts.join("; "),
            remedy: remedy.to_owned(),
            looks: before.map_or(0, |before| before.looks).saturating_add(1),
        };
        let pause = SignedDuration::try_from(self.parked.pause(parked.looks, draw())).unwrap_or(PAUSED);
        let moment = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        let place = Place { class: Class::Check, moment, deadline: moment, urgent_from: None, renewal: None };
        let departed = || told_of(stored, EventKind::Departed, now, &parked.what).remedy(remedy);
        let mut events: Vec<Event> = before.is_none().then(departed).into_iter().collect();
        let (mut fields, lowered) = hsts::lowered(stored, hsts::ends(&self.store, stored).await?, now);
        fields.extend([(Field::Parked, serde_json::to_string(&parked).ok()), (Field::Failure, None)]);
        events.extend(lowered);
        self.settle(claimed, stored, place, fields, events).await
    }

    /// A group that is no longer wanted: deleted once its grace time is over.
    async fn delete_retired(&self, claimed: &Claimed) -> Result<(), StoreError> {
        let id = &claimed.lease.site;
        let Some(retired) = self.store.load_retired(id).await? else {
            return self.store.delete_group(&claimed.lease).await.map(drop);
        };
        let now = Timestamp::now();
        // Where it can't be read any more, the grace time begins anew.
        let delete_at = retired.delete_at.unwrap_or_else(|| {
            let grace = SignedDuration::try_from(self.config.issuer.grace()).unwrap_or(SignedDuration::MAX);
            now.saturating_add(grace).unwrap_or(Timestamp::MAX)
        });
        // To the second: so is the moment's record.
        if delete_at > now {
            let place = Place {
                class: Class::Check,
                moment: delete_at,
                deadline: delete_at,
                urgent_from: None,
                renewal: None,
            };
            let settlement = Settlement {
                revision: retired.revision,
                place,
                done: Vec::new(),
                fields: Vec::new(),
                events: Vec::new(),
            };
            return self.store.settle(&claimed.lease, &settlement).await;
        }
        self.store.release_names(retired.names.as_slice(), &id.site(), Some(id)).await?;
        if self.store.delete_group(&claimed.lease).await? {
            tracing::info!(names = %retired.names, site = %id, "deleted after its grace time");
        }
        Ok(())
    }
}

pub(super) fn told_of(stored: &StoredSite, kind: EventKind, now: Timestamp, what: &str) -> Event {
    let id: &SiteId = &stored.id;
    let site = &stored.site;
    Event::new(kind, now, what).for_site(id).names(site.names.iter()).ca(&site.ca).tags(&site.tags)
}

/// Up to half as long again: what waits for one thing does not come back at one moment.
fn spread(pause: Duration) -> SignedDuration {
    SignedDuration::try_from(pause.mul_f64(1.0 + draw() / 2.0)).unwrap_or(PAUSED)
}
