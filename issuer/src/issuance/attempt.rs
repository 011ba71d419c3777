//! One attempt at what a group lacks, under its lease: an order for each key type, one after the other, published together.
//! Names that spoil an order are cut out, and the others are ordered in the same run.

use super::{
    Issuance, Outcome, Verdict, Wanted,
    aftermath::{Aftermath, next_of_cut},
    patience::write,
    progress::Timeline,
    proofs::Proofs,
    publication::promote_what_is_due,
    renewal::{Follows, Oracle, Renewals},
    site::{Published, Urge, lacking, merged, orderable, published},
    verdict::{About, Prospect},
};
use crate::acme::RequestCounter;
use jiff::Timestamp;
use shared::{
    domain::{Braked, CertificateId, DnsName, FailureClass, NameSet, OrderState, Site, Slot, brake_of},
    store::{Cut, Lease, Pointers, Settlement, StoreError, StoredSite},
};
use std::collections::BTreeMap;

/// What an attempt works with.
pub(super) struct Attempt<'a> {
    pub(super) issuance: &'a Issuance,
    pub(super) lease: &'a Lease,
    /// What is asked for by hand; absent where the schedule asks.
    pub(super) wanted: Option<&'a Wanted>,
    pub(super) urge: Urge,
    pub(super) timeline: &'a Timeline,
    pub(super) counter: &'a RequestCounter,
}

/// How an attempt ended.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    /// What is written with the lease's return; `None` where too little is known.
    pub(super) settlement: Option<Settlement>,
}

/// What has come of it so far.
pub(super) struct Tally {
    pub(super) stored: StoredSite,
    pub(super) cut: Cut,
    /// What was valid before.
    pub(super) before: BTreeMap<Slot, Published>,
    /// Orders that can be ended, each with the certificate that it brought and that is published.
    pub(super) done: Vec<(Slot, Option<CertificateId>)>,
    /// The names of the certificate that this attempt has brought.
    pub(super) issued: Option<NameSet>,
    /// Slots whose certificate the CA did not take for one that is replaced.
    pub(super) nameless: Vec<Slot>,
    pub(super) proofs: Proofs,
    /// Nothing was ordered and nothing published: what was valid before is what is served.
    pub(super) untouched: bool,
    /// Every name is left out for now: what had failed was not tried.
    pub(super) nothing_left: bool,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        issuance: &'a Issuance,
        lease: &'a Lease,
        wanted: Option<&'a Wanted>,
        urge: Urge,
        timeline: &'a Timeline,
        counter: &'a RequestCounter,
    ) -> Self {
        Self { issuance, lease, wanted, urge, timeline, counter }
    }

    /// `known` is the group, where it was read under this lease already; `departed` are names that nothing is ordered for,
    /// each with the reason.
    pub(super) async fn run(&self, known: Option<StoredSite>, departed: Vec<(DnsName, Verdict)>) -> Done {
        let stored = match self.site_as_wanted(known).await {
            Ok(stored) => stored,
            Err(verdict) => {
                return Done { outcome: Outcome::Failed(verdict), settlement: None };
            }
        };
        let mut tally = Tally {
            cut: stored.cut.clone(),
            proofs: Proofs { wanted: stored.site.challenge, ..Proofs::default() },
            stored,
            before: BTreeMap::new(),
            done: Vec::new(),
            issued: None,
            nameless: Vec::new(),
            untouched: false,
            nothing_left: false,
        };
        let outcome = self.issue(&mut tally, departed).await.unwrap_or_else(Outcome::Failed);
        // Asked anew: what was published counts, not what was meant to be.
        let (mut served, staged) = if tally.untouched {
            (Some(tally.before.clone()), tally.stored.serving.staged.clone())
        } else {
            match self.site().await {
                Ok(stored) => (self.issuance.valid_certificates(&stored).await.ok(), stored.serving.staged),
                Err(_) => (None, None),
            }
        };
        let renewals = self.plan_renewals(&tally, &outcome, served.as_mut()).await;
        let aftermath = Aftermath {
            issuance: self.issuance,
            tally: &tally,
            staged,
            renewals: &renewals,
            now: Timestamp::now(),
        };
        let settlement = match (served, &outcome) {
            (Some(served), _) => Some(aftermath.settlement(&outcome, &served)),
            // What it serves can't be read: told and tried again as any failure, or its worker would turn in circles.
            (None, Outcome::Failed(_)) => Some(aftermath.settlement(&outcome, &BTreeMap::new())),
            (None, _) => None,
        };
        Done { outcome, settlement }
    }

    /// When what is served now is renewed. What can't be planned is, at the next look.
    async fn plan_renewals(
        &self,
        tally: &Tally,
        outcome: &Outcome,
        served: Option<&mut BTreeMap<Slot, Published>>,
    ) -> Renewals {
        let mut renewals = Renewals::of(&tally.stored);
        // A CA that has just failed is not asked more.
        let is_well = matches!(outcome, Outcome::Issued(_) | Outcome::AlreadyValid(_));
        let oracle = if is_well { Oracle::Ca(self.issuance.account.client()) } else { Oracle::Later };
        for published in served.into_iter().flat_map(BTreeMap::values_mut) {
            if tally.nameless.contains(&published.slot) {
                renewals.forget_name(published);
            }
            if published.plan.is_some() {
                continue;
            }
            let oracle = if published.ca == self.issuance.ca.name { oracle } else { Oracle::Later };
            let follows = Follows::upon(tally.before.get(&published.slot), published);
            let (store, site) = (&self.issuance.store, &self.lease.site);
            if let Err(error) = renewals.plan(store, site, published, follows, oracle).await {
                tracing::debug!(error = shared::error::chain(&error), %site, "its renewal is planned later");
            }
        }
        renewals
    }

    async fn issue(&self, tally: &mut Tally, departed: Vec<(DnsName, Verdict)>) -> Result<Outcome, Verdict> {
        tally.stored = promote_what_is_due(&self.issuance.store, self.lease, tally.stored.clone())
            .await
            .map_err(of_store)?;
        // Asked again under the lease: another issuer may just have finished.
        let (valid, has_open_order) = tokio::try_join!(
            self.issuance.valid_certificates(&tally.stored),
            self.issuance.store.has_open_order(&tally.stored.id)
        )
        .map_err(of_store)?;
        tally.before = valid;
        self.lead_back(tally).await.map_err(of_store)?;
        self.withdraw_unwanted(tally).await.map_err(of_store)?;
        let now = Timestamp::now();
        self.cut_out(tally, departed, now);
        let mut names = orderable(&StoredSite { cut: tally.cut.clone(), ..tally.stored.clone() }, now);
        let lacks = lacking(&tally.stored, self.wanted, self.urge, &names, &tally.before);
        if lacks.is_empty() && !has_open_order {
            tally.untouched = true;
            return self.nothing_lacks(tally, names.is_some());
        }
        if let Some(failure) = self.must_wait(tally, now) {
            return Ok(Outcome::Waiting(failure));
        }
        if let Some(stop) = self.stopped(&tally.stored.site, Braked::Issuance).await?
            && !has_open_order
        {
            return Ok(Outcome::Stopped(stop));
        }
        if let Some(wanted) = names.clone()
            && has_open_order
        {
            // It is gone on with as it was begun, as far as that can be seen.
            let wanted = wanted.iter().cloned().collect();
            tally.proofs.unreachable = self.issuance.look_over_http(&tally.stored, wanted).await?.0;
        } else if let Some(wanted) = names.clone() {
            let looked = self.issuance.look_ahead(&tally.stored, &wanted, &tally.before, self.timeline);
            let ahead = looked.await?;
            tally.proofs.unreachable = ahead.unreachable;
            names = self.without(tally, wanted, ahead.doomed)?;
        }
        self.issuance.know_directory().await?;
        let mut certificates = Pointers::new();
        let mut failed = None;
        for slot in Slot::ALL {
            // Where no name is left, what the CA was asked to issue is fetched all the same.
            let ordered = match &names {
                Some(names) => names.clone(),
                None => match self.names_of_far_order(slot).await? {
                    Some(names) => names,
                    None => continue,
                },
            };
            let key_type = lacks.iter().copied().find(|kind| kind.slot() == slot);
            match self.finish_slot(tally, slot, key_type, ordered).await {
                Ok((certificate, rest)) => {
                    certificates.extend(certificate.map(|id| (slot, id)));
                    names = names.map(|_| rest);
                }
                Err(verdict) => {
                    if !verdict.keep_order {
                        tally.done.push((slot, None));
                    }
                    let is_of_the_key = verdict.about == About::Key;
                    failed = Some(verdict);
                    if !is_of_the_key {
                        break;
                    }
                }
            }
        }
        // One that was issued is served, even where its other half could not be.
        if !certificates.is_empty() {
            if let Some(stop) = self.stopped(&tally.stored.site, Braked::Publication).await? {
                return Ok(Outcome::Stopped(stop));
            }
            self.publish(&certificates).await.map_err(of_store)?;
            tally.done.extend(certificates.iter().map(|(slot, id)| (*slot, Some(id.clone()))));
        }
        if let Some(verdict) = failed {
            let is_limit = verdict.class == FailureClass::Limit && verdict.wait.is_some();
            let waits = is_limit || verdict.prospect == Prospect::Early;
            return if waits {
                let before = tally.stored.failure.as_ref();
                let mut failure = verdict.to_failure(before, Timestamp::now());
                if verdict.prospect == Prospect::Early {
                    // Nothing has failed.
                    failure.count = before.map_or(1, |before| before.count);
                    failure.next = failure.not_before;
                }
                Ok(Outcome::Waiting(failure))
            } else {
                Err(verdict)
            };
        }
        if names.is_none() && certificates.is_empty() {
            tally.untouched = true;
            return self.nothing_lacks(tally, false);
        }
        let mut valid = self.issuance.valid_certificates(&self.site().await?).await.map_err(of_store)?;
        for (slot, published) in &mut valid {
            published.ordered = certificates.get(slot) == Some(&published.id);
        }
        if certificates.is_empty() {
            Ok(Outcome::AlreadyValid(published(valid)))
        } else {
            Ok(Outcome::Issued(published(valid)))
        }
    }

    /// Nothing is ordered: all is there, or no name is left that could be ordered.
    fn nothing_lacks(&self, tally: &mut Tally, has_names: bool) -> Result<Outcome, Verdict> {
        tally.nothing_left = !has_names;
        if has_names || !tally.before.is_empty() {
            return Ok(Outcome::AlreadyValid(published(tally.before.clone())));
        }
        match next_of_cut(&tally.cut) {
            Some(failure) => Ok(Outcome::Waiting(failure.clone())),
            None => Ok(Outcome::AlreadyValid(Vec::new())),
        }
    }

    /// The names of an open order that the CA was asked to finalize, or has.
    async fn names_of_far_order(&self, slot: Slot) -> Result<Option<NameSet>, Verdict> {
        let open = self.issuance.store.load_order(&self.lease.site, slot).await.map_err(of_store)?;
        let is_far = |state: &OrderState| {
            matches!(state, OrderState::Finalizing(_) | OrderState::Issued(_) | OrderState::Stored(_))
        };
        Ok(open.filter(|open| is_far(&open.order.state)).map(|open| open.order.names))
    }

    /// The names that are left once these are cut out.
    ///
    /// # Errors
    /// None is.
    fn without(
        &self,
        tally: &mut Tally,
        names: NameSet,
        doomed: Vec<(DnsName, Verdict)>,
    ) -> Result<Option<NameSet>, Verdict> {
        let is_doomed = |name: &DnsName| doomed.iter().any(|(other, _)| other == name);
        let rest = NameSet::new(names.iter().filter(|name| !is_doomed(name)).cloned());
        match (rest, Verdict::of_culprits(doomed.clone())) {
            (_, None) => Ok(Some(names)),
            (Ok(rest), Some(verdict)) => {
                self.cut_out(tally, doomed, Timestamp::now());
                self.timeline.tell("cut", None, format!("{}; the others are ordered without", verdict.what));
                Ok(Some(rest))
            }
            (Err(_), Some(verdict)) => Err(verdict),
        }
    }

    pub(super) fn cut_out(&self, tally: &mut Tally, culprits: Vec<(DnsName, Verdict)>, now: Timestamp) {
        for (name, verdict) in culprits {
            let before = tally.cut.get(&name);
            let mut failure = verdict.to_failure(before, now);
            failure.next = self.issuance.next_attempt(&failure, now);
            tally.cut.insert(name, failure);
        }
    }

    /// The site, with this wish as part of its wanted state.
    async fn site_as_wanted(&self, known: Option<StoredSite>) -> Result<StoredSite, Verdict> {
        let mut stored = match known {
            Some(known) => known,
            None => self.site().await?,
        };
        let Some(wanted) = self.wanted else { return Ok(stored) };
        // Who asks by hand wants everything tried.
        stored.retry = true;
        let site = merged(&stored.site, wanted);
        if site != stored.site {
            write(|| self.issuance.store.write_site(self.lease, &site)).await.map_err(of_store)?;
            stored.site = site;
        }
        Ok(stored)
    }

    async fn site(&self) -> Result<StoredSite, Verdict> {
        let id = &self.lease.site;
        let stored = self.issuance.store.load_site(id).await.map_err(of_store)?;
        stored.ok_or_else(|| Verdict::bug(format!("the site {id} was removed while it was worked on")))
    }

    /// Why an operator has stopped this, if one has.
    async fn stopped(&self, site: &Site, what: Braked) -> Result<Option<String>, Verdict> {
        let brakes = self.issuance.store.load_brakes().await.map_err(of_store)?;
        if let Some(brake) = brake_of(&brakes, what, site) {
            return Ok(Some(brake.to_string()));
        }
        // Whoever asks, and how urgently.
        Ok(site.paused.filter(|_| what == Braked::Issuance).map(|since| paused(&site.names, since)))
    }

    /// A site that was removed and is wanted again has kept its certificates: its names lead to them again.
    async fn lead_back(&self, tally: &Tally) -> Result<(), StoreError> {
        let (store, id) = (&self.issuance.store, &self.lease.site);
        if tally.before.is_empty() {
            return Ok(());
        }
        let names = tally.stored.site.names.as_slice();
        let pointers = store.load_pointers(names).await?;
        let covered = |name: &DnsName| {
            let has = |published: &Published| published.leaf.names.iter().any(|n| n == name.as_str());
            tally.before.values().any(has)
        };
        let strayed = names
            .iter()
            .zip(pointers)
            .filter(|(name, pointer)| pointer.serving.as_ref() != Some(id) && covered(name))
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>();
        write(|| store.point_names(&strayed, id)).await
    }
}

/// Why nothing is ordered for a paused site, and how to go on.
pub(crate) fn paused(names: &NameSet, since: Timestamp) -> String {
    let name = names.as_slice().first().map(DnsName::to_unicode).unwrap_or_default();
    let since = since.strftime("%F %T UTC");
    format!("the site was paused by an operator at {since} (`issuer site resume {name}` lets it go on)")
}

pub(super) fn of_store(error: StoreError) -> Verdict {
    Verdict::from_store(&error)
}
