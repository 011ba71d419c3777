//! What is asked for, and what the store has of it already.

use super::{
    Issuance,
    attempt::{Attempt, Done},
    lease::HeldLease,
    progress::{Progress, Step, Timeline},
    verdict::Verdict,
};
use crate::{
    acme::{self, RequestCounter},
    sites::{SiteError, Whose, whose},
};
use jiff::{SignedDuration, Timestamp};
use openssl::x509::X509;
use shared::{
    domain::{
        Certificate, CertificateId, ChallengeType, DnsName, Failure, FailureClass, KeyType, Leaf, NameSet,
        Order, RenewalPlan, Site, SiteId, Slot, life_begin, renewal_moment, urgent_from,
    },
    error::Fault,
    store::{Claimed, NamePointer, Store, StoreError, StoredSite},
};
use std::collections::BTreeMap;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub names: NameSet,
    /// Empty: what the site has been asked for before, or the configured default.
    pub key_types: Vec<KeyType>,
    pub default_key_types: Vec<KeyType>,
    pub tags: Vec<String>,
    /// `None`: as the site has it; for a new one over HTTP, a wildcard in the DNS.
    pub challenge: Option<ChallengeType>,
    /// Of a new site; `None`: that of the configuration, or of the CA's choice.
    pub profile: Option<String>,
    pub urge: Urge,
}

/// What counts as lacking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urge {
    /// A valid certificate is used for as long as it lasts.
    Lack,
    /// What is due for renewal is renewed.
    Due,
    /// What was issued before this moment is renewed.
    Since(Timestamp),
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Issue {
    pub names: NameSet,
    pub site: SiteId,
    /// No site had the names before.
    pub is_new: bool,
    pub outcome: Outcome,
    /// Requests sent to the CA for this site.
    pub requests: u64,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    /// The store had what was asked for: nothing was ordered.
    AlreadyValid(Vec<Published>),
    Issued(Vec<Published>),
    Failed(Verdict),
    /// The CA would refuse before the failure's moment: it was not asked.
    Waiting(Failure),
    /// An operator's pause or brake; what is served is served on.
    Stopped(String),
}

/// A certificate that is served.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Published {
    #[serde(skip)]
    pub id: CertificateId,
    pub slot: Slot,
    pub key_type: KeyType,
    /// Who issued it, and to which account.
    #[serde(skip)]
    pub ca: String,
    #[serde(skip)]
    pub account: String,
    #[serde(skip)]
    pub issued: Timestamp,
    /// When it is renewed; `None` where that was not planned yet.
    #[serde(skip)]
    pub plan: Option<RenewalPlan>,
    #[serde(skip)]
    leaf_der: Vec<u8>,
    /// It was ordered by this run; else it was there.
    #[serde(skip)]
    pub ordered: bool,
    #[serde(flatten)]
    pub leaf: Leaf,
}

impl Wanted {
    fn default_challenge(&self) -> ChallengeType {
        if self.names.iter().any(DnsName::is_wildcard) { ChallengeType::Auto } else { ChallengeType::Http01 }
    }
}

impl Issuance {
    /// Gets what is asked for: from the store where it is there, from the CA where it isn't. Goes on with what another
    /// run left.
    pub async fn issue(&self, wanted: &Wanted, progress: &Progress) -> Issue {
        let timeline = Timeline::begin(&wanted.names, progress);
        let counter = RequestCounter::new();
        let (site, is_new, outcome) = match whose(&self.store, &wanted.names).await {
            Ok((whose, pointers)) => {
                let outcome = self.issue_site(&whose, &pointers, wanted, &timeline, &counter).await;
                let is_new = matches!(whose, Whose::Nobody(_));
                (whose.group().clone(), is_new, outcome.unwrap_or_else(Outcome::Failed))
            }
            Err(error) => (SiteId::of(&wanted.names), false, Outcome::Failed(of_site(error))),
        };
        Issue {
            names: wanted.names.clone(),
            site,
            is_new,
            outcome,
            requests: counter.count(),
            steps: timeline.steps(),
        }
    }

    /// Works on a group that was due, and gives it back with what came of it.
    ///
    /// `departed` are names that don't lead to the frontends, each with the reason: nothing is ordered for them.
    pub async fn work(
        &self,
        claimed: &Claimed,
        stored: &StoredSite,
        departed: Vec<(DnsName, Verdict)>,
        counter: &RequestCounter,
    ) -> Outcome {
        let timeline = Timeline::begin(&stored.site.names, &Progress::silent());
        let held = HeldLease::keep(&self.store, claimed.lease.clone());
        let attempt = Attempt::new(self, &held.lease, None, Urge::Due, &timeline, counter);
        let done = attempt.run(Some(stored.clone()), departed).await;
        self.settle(held, done).await
    }

    async fn issue_site(
        &self,
        whose: &Whose,
        pointers: &[NamePointer],
        wanted: &Wanted,
        timeline: &Timeline,
        counter: &RequestCounter,
    ) -> Result<Outcome, Verdict> {
        let of_store = |error: StoreError| Verdict::from_store(&error);
        let id = whose.group();
        let before = self.store.load_site(id).await.map_err(of_store)?;
        if let Some(stored) = &before
            && !self.store.has_open_order(id).await.map_err(of_store)?
        {
            let valid = self.valid_certificates(stored).await.map_err(of_store)?;
            let names = orderable(stored, Timestamp::now());
            if lacking(stored, Some(wanted), wanted.urge, &names, &valid).is_empty()
                && wanted.tags.iter().all(|tag| stored.site.tags.contains(tag))
                && covers_all(&stored.site.names, &valid)
            {
                return Ok(Outcome::AlreadyValid(published(valid)));
            }
        }
        if let Some(embedded) = self.store.embedded() {
            embedded.check_free_space().map_err(|e| Verdict::from_store(&e.into()))?;
        }
        // Kept for the site before it is made: killed in between, a name that leads to nothing is anybody's.
        for (name, pointer) in wanted.names.iter().zip(pointers) {
            if pointer.owner() != Some(id.site()) {
                self.store.keep_name(name, pointer, &id.site()).await.map_err(|error| match error {
                    StoreError::Conflict => of_site(SiteError::Changed),
                    other => of_store(other),
                })?;
            }
        }
        let new_site = self.new_site(wanted);
        let held = HeldLease::acquire(&self.store, id, &new_site, &self.owner, self.lease_length, timeline)
            .await
            .map_err(of_store)?;
        if let Whose::Nobody(_) = whose {
            let restored = self.store.restore_failures(&held.lease, wanted.names.as_slice()).await;
            restored.map_err(of_store)?;
        }
        let attempt = Attempt::new(self, &held.lease, Some(wanted), wanted.urge, timeline, counter);
        let done = attempt.run(None, Vec::new()).await;
        Ok(self.settle(held, done).await)
    }

    /// Gives a group back with what came of the work. What can't be written is worked on again when the lease ends.
    async fn settle(&self, held: HeldLease, done: Done) -> Outcome {
        match done.settlement {
            Some(settlement) => held.settle(&settlement).await,
            None => held.release().await,
        }
        done.outcome
    }

    pub(super) async fn valid_certificates(
        &self,
        stored: &StoredSite,
    ) -> Result<BTreeMap<Slot, Published>, StoreError> {
        valid_certificates(&self.store, stored).await
    }

    fn new_site(&self, wanted: &Wanted) -> Site {
        let key_types =
            if wanted.key_types.is_empty() { &wanted.default_key_types } else { &wanted.key_types };
        Site {
            profile: wanted.profile.clone(),
            tags: wanted.tags.clone(),
            challenge: wanted.challenge.unwrap_or_else(|| wanted.default_challenge()),
            redirect: Some(true),
            hsts: None,
            ..Site::new(wanted.names.clone(), key_types, &self.ca.name, &self.account_name, Timestamp::now())
        }
    }
}

/// What the site serves and can go on serving, whatever names it is for; where the canaries have something newer, that.
pub(crate) async fn valid_certificates(
    store: &Store,
    stored: &StoredSite,
) -> Result<BTreeMap<Slot, Published>, StoreError> {
    let now = Timestamp::now();
    let mut valid = BTreeMap::new();
    for (slot, id) in &stored.serving.newest() {
        let (certificate, leaf) = match readable(store, stored, id).await {
            Ok(read) => read,
            // Whoever asks for another one, or whose turn it is to be renewed, is not kept from it by a record that can't be read.
            Err(StoreError::Corrupt { .. }) if is_to_be_renewed(stored, now) => continue,
            Err(error) => return Err(error),
        };
        if leaf.is_valid_at(now) && !stored.is_revoked(*slot, id) {
            let published = Published {
                id: id.clone(),
                slot: *slot,
                key_type: certificate.key_type,
                ca: certificate.ca,
                account: certificate.account,
                issued: certificate.issued,
                plan: stored.renewals.get(*slot, id).cloned(),
                leaf_der: certificate.leaf_der,
                ordered: false,
                leaf,
            };
            valid.insert(*slot, published);
        }
    }
    Ok(valid)
}

async fn readable(
    store: &Store,
    stored: &StoredSite,
    id: &CertificateId,
) -> Result<(Certificate, Leaf), StoreError> {
    let certificate = store.load_certificate(&stored.id, id).await?.ok_or_else(|| StoreError::Corrupt {
        key: stored.id.to_string(),
        source: format!("the certificate {id} that it serves is missing").into(),
    })?;
    let leaf =
        certificate.leaf().map_err(|e| StoreError::Corrupt { key: id.to_string(), source: e.into() })?;
    Ok((certificate, leaf))
}

/// Whether a person has asked, or the moment has come that was planned while its certificate could be read.
fn is_to_be_renewed(stored: &StoredSite, now: Timestamp) -> bool {
    stored.force.is_some() || stored.retry || stored.renewal.is_some_and(|planned| planned <= now)
}

impl Published {
    /// Whether it is of the CA that is wanted, and of the account with it: a staging CA's certificate is none of production's.
    pub(crate) fn is_of(&self, site: &Site) -> bool {
        // Records of earlier releases name no account.
        self.ca == site.ca && (self.account.is_empty() || self.account == site.account)
    }

    pub(super) fn covers(&self, names: &NameSet) -> bool {
        names.iter().all(|name| self.leaf.covers(name))
    }

    /// Whether it is for these names and no others.
    pub(super) fn is_for_exactly(&self, names: &NameSet) -> bool {
        let mut own: Vec<&str> = self.leaf.names.iter().map(String::as_str).collect();
        own.sort_unstable();
        own.dedup();
        let mut wanted: Vec<&str> = names.iter().map(DnsName::as_str).collect();
        wanted.sort_unstable();
        own == wanted
    }

    /// When it is renewed. Where nothing was planned yet, always the same moment for the same certificate.
    pub(crate) fn renewal_moment(&self, now: Timestamp) -> Timestamp {
        let (from, until) = (self.life_begin(), self.leaf.not_after);
        match &self.plan {
            Some(plan) => plan.due(&self.id, from, until, now),
            None => renewal_moment(from, until, self.id.draw()),
        }
    }

    /// From when on its life counts.
    pub(super) fn life_begin(&self) -> Timestamp {
        life_begin(self.leaf.not_before, self.leaf.not_after, self.issued)
    }

    /// As the CA names it; `None` where it can't be named (RFC 9773 section 4.1).
    pub(super) fn name_at_ca(&self) -> Option<acme::CertificateId> {
        acme::CertificateId::of(X509::from_der(&self.leaf_der).ok()?.as_ref()).ok()
    }

    pub(super) fn lifetime(&self) -> SignedDuration {
        self.leaf.not_after.duration_since(self.leaf.not_before)
    }
}

/// Names that can't be had by hand, since a site has them or because of the store.
fn of_site(error: SiteError) -> Verdict {
    match error {
        SiteError::Store(error) => Verdict::from_store(&error),
        other => Verdict::new(
            Fault::Operator,
            FailureClass::Policy,
            other.to_string(),
            "ask for the names of one site alone, or change the site with `issuer site set`",
        ),
    }
}

/// The names that may be ordered now: all but those that are left out for a time. `None` where none is left.
pub(super) fn orderable(stored: &StoredSite, now: Timestamp) -> Option<NameSet> {
    let left_out = |name: &DnsName| {
        !stored.retry && stored.cut.get(name).is_some_and(|cut| cut.next.is_none_or(|next| next > now))
    };
    NameSet::new(stored.site.names.iter().filter(|name| !left_out(name)).cloned()).ok()
}

/// The key types that a certificate must be ordered for.
pub(super) fn lacking(
    stored: &StoredSite,
    wanted: Option<&Wanted>,
    urge: Urge,
    names: &Option<NameSet>,
    valid: &BTreeMap<Slot, Published>,
) -> Vec<KeyType> {
    let Some(names) = names else { return Vec::new() };
    let site = wanted.map_or_else(|| stored.site.clone(), |wanted| merged(&stored.site, wanted));
    site.key_types
        .into_iter()
        .filter(|kind| {
            !valid.get(&kind.slot()).is_some_and(|published| suffices(published, *kind, urge, stored, names))
        })
        .collect()
}

/// Whether nothing has to be ordered now for a group that serves `valid`.
pub(crate) fn lacks_nothing(stored: &StoredSite, valid: &BTreeMap<Slot, Published>, now: Timestamp) -> bool {
    lacking(stored, None, Urge::Due, &orderable(stored, now), valid).is_empty()
}

/// Whether a valid certificate is all that is wanted of its slot.
pub(super) fn suffices(
    published: &Published,
    kind: KeyType,
    urge: Urge,
    stored: &StoredSite,
    names: &NameSet,
) -> bool {
    let now = Timestamp::now();
    let leaf = &published.leaf;
    // What was gone back to is left alone, whoever issued it.
    let is_held =
        stored.held.is_some_and(|held| held > now) && urgent_from(leaf.not_before, leaf.not_after) > now;
    let is_due = match urge {
        Urge::Lack => false,
        Urge::Due => published.renewal_moment(now) <= now && !is_held,
        Urge::Since(moment) => published.issued < moment,
    };
    let is_forced = urge != Urge::Lack && stored.force.is_some_and(|force| published.issued < force);
    published.key_type == kind
        && published.covers(names)
        && (published.is_of(&stored.site) || is_held)
        && !is_due
        && !is_forced
}

/// Whether an order that another run has placed asks for the profile that is wanted now, as far as it asks for one. `default` is
/// that of the CA's section.
pub(super) fn is_of_profile(order: &Order, site: &Site, default: Option<&str>) -> bool {
    order.profile.as_deref().is_none_or(|profile| site.profile.as_deref().or(default) == Some(profile))
}

fn covers_all(names: &NameSet, valid: &BTreeMap<Slot, Published>) -> bool {
    valid.values().all(|published| published.covers(names))
}

/// The wanted state once this wish is part of it.
pub(super) fn merged(site: &Site, wanted: &Wanted) -> Site {
    let mut site = site.clone();
    for kind in &wanted.key_types {
        site.key_types.retain(|known| known.slot() != kind.slot());
        site.key_types.push(*kind);
    }
    site.key_types.sort();
    site.challenge = wanted.challenge.unwrap_or(site.challenge);
    for tag in &wanted.tags {
        if !site.tags.contains(tag) {
            site.tags.push(tag.clone());
        }
    }
    site
}

pub(super) fn published(valid: BTreeMap<Slot, Published>) -> Vec<Published> {
    valid.into_values().collect()
}
