//! What a site lacks: found under its lease, ordered key type by key type, published together.

use super::{
    Issuance,
    lease::HeldLease,
    progress::{Progress, Timeline},
    steps::Work,
    verdict::Verdict,
};
use crate::{acme::RequestCounter, issuance::progress::Step};
use jiff::Timestamp;
use shared::{
    domain::{
        CertificateId, Failure, FailureClass, KeyType, Leaf, NameSet, Order, OrderState, Planned, Site,
        SiteId, Slot,
    },
    store::{StoreError, StoredSite},
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
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Issue {
    pub names: NameSet,
    pub site: SiteId,
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
}

/// A certificate that is served.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Published {
    pub slot: Slot,
    pub key_type: KeyType,
    #[serde(flatten)]
    pub leaf: Leaf,
}

impl Issuance {
    /// Gets what is asked for: from the store where it is there, from the CA where it isn't. Goes on with what another
    /// run left.
    pub async fn issue(&self, wanted: &Wanted, progress: &Progress) -> Issue {
        let timeline = Timeline::begin(&wanted.names, progress);
        let counter = RequestCounter::new();
        let (site, outcome) = match self.site_for(&wanted.names).await {
            Ok(site) => {
                let outcome = self.issue_site(&site, wanted, &timeline, &counter).await;
                (site, outcome.unwrap_or_else(Outcome::Failed))
            }
            Err(error) => (SiteId::of(&wanted.names), Outcome::Failed(Verdict::from_store(&error))),
        };
        Issue {
            names: wanted.names.clone(),
            site,
            outcome,
            requests: counter.count(),
            steps: timeline.steps(),
        }
    }

    /// The site that serves all of these names already, or the one that is made for them.
    async fn site_for(&self, names: &NameSet) -> Result<SiteId, StoreError> {
        let own = SiteId::of(names);
        let mut serving = None;
        for name in names.iter() {
            match self.store.site_of(name).await? {
                Some(site) if serving.as_ref().is_none_or(|known| *known == site) => serving = Some(site),
                _ => return Ok(own),
            }
        }
        Ok(serving.unwrap_or(own))
    }

    async fn issue_site(
        &self,
        id: &SiteId,
        wanted: &Wanted,
        timeline: &Timeline,
        counter: &RequestCounter,
    ) -> Result<Outcome, Verdict> {
        let of_store = |error: StoreError| Verdict::from_store(&error);
        let before = self.store.load_site(id).await.map_err(of_store)?;
        if let Some(stored) = &before
            && self.has_open_order(id).await.map_err(of_store)?.is_none()
        {
            let valid = self.valid_certificates(stored).await.map_err(of_store)?;
            if lacking(stored, wanted, &valid).is_empty()
                && wanted.tags.iter().all(|tag| stored.site.tags.contains(tag))
            {
                return Ok(Outcome::AlreadyValid(
                    valid.into_values().map(|(published, _)| published).collect(),
                ));
            }
        }
        if let Some(embedded) = self.store.embedded() {
            embedded.check_free_space().map_err(|e| Verdict::from_store(&e.into()))?;
        }
        let new_site = self.new_site(wanted);
        let held = HeldLease::acquire(&self.store, id, &new_site, &self.owner, self.lease_length, timeline)
            .await
            .map_err(of_store)?;
        let mut done = Vec::new();
        let outcome = self.issue_held(&held, wanted, timeline, counter, &mut done).await;
        held.release(&done).await;
        outcome
    }

    async fn issue_held(
        &self,
        held: &HeldLease,
        wanted: &Wanted,
        timeline: &Timeline,
        counter: &RequestCounter,
        done: &mut Vec<Slot>,
    ) -> Result<Outcome, Verdict> {
        let of_store = |error: StoreError| Verdict::from_store(&error);
        let id = &held.lease.site;
        let missing = || Verdict::bug(format!("the site {id} vanished under its lease"));
        let mut stored = self.store.load_site(id).await.map_err(of_store)?.ok_or_else(missing)?;
        let site = merged(&stored.site, wanted);
        if site != stored.site {
            super::patience::write(|| self.store.write_site(&held.lease, &site)).await.map_err(of_store)?;
            stored.site = site;
        }
        let valid = self.valid_certificates(&stored).await.map_err(of_store)?;
        let lacking = lacking(&stored, wanted, &valid);
        let has_order = self.has_open_order(id).await.map_err(of_store)?;
        if lacking.is_empty() && has_order.is_none() {
            return Ok(Outcome::AlreadyValid(valid.into_values().map(|(published, _)| published).collect()));
        }
        if let Some(failure) = &stored.failure
            && failure.not_before.is_some_and(|moment| moment > Timestamp::now())
        {
            return Ok(Outcome::Waiting(failure.clone()));
        }
        let mut certificates = Vec::new();
        let mut failed = None;
        for slot in Slot::ALL {
            let mut open = self.store.load_order(id, slot).await.map_err(of_store)?;
            if open.as_ref().is_some_and(|open| !self.can_finish(&open.order, &stored.site)) {
                super::patience::write(|| self.store.end_order(&held.lease, slot, None))
                    .await
                    .map_err(of_store)?;
                open = None;
            }
            let key_type = lacking.iter().copied().find(|kind| kind.slot() == slot);
            let order = match (open, key_type) {
                (Some(open), _) => open,
                (None, None) => continue,
                (None, Some(key_type)) => {
                    let order = self.plan(&stored.site, key_type);
                    super::patience::write(|| self.store.begin_order(&held.lease, order.clone()))
                        .await
                        .map_err(of_store)?
                }
            };
            let work = Work::new(self, &held.lease, slot, timeline, counter);
            match work.finish(order).await {
                Ok(certificate) => certificates.push((slot, certificate)),
                Err(verdict) => {
                    failed = Some((slot, verdict));
                    break;
                }
            }
        }
        // One that was issued is served, even where its other half could not be.
        if !certificates.is_empty() {
            self.publish(held, &stored.site, &certificates).await.map_err(of_store)?;
            done.extend(certificates.iter().map(|(slot, _)| *slot));
            timeline.tell("published", None, "");
        }
        if let Some((slot, verdict)) = failed {
            self.remember(held, slot, &verdict, stored.failure.as_ref()).await.map_err(of_store)?;
            if verdict.wait.is_some() {
                return Ok(Outcome::Waiting(verdict.to_failure(stored.failure.as_ref(), Timestamp::now())));
            }
            return Err(verdict);
        }
        let stored = self.store.load_site(id).await.map_err(of_store)?.ok_or_else(missing)?;
        let valid = self.valid_certificates(&stored).await.map_err(of_store)?;
        Ok(Outcome::Issued(valid.into_values().map(|(published, _)| published).collect()))
    }

    async fn publish(
        &self,
        held: &HeldLease,
        site: &Site,
        certificates: &[(Slot, CertificateId)],
    ) -> Result<(), StoreError> {
        // First the site, then the names that lead to it. The orders end after both.
        super::patience::write(|| self.store.publish(&held.lease, certificates)).await?;
        super::patience::write(|| self.store.point_names(site.names.as_slice(), &held.lease.site)).await
    }

    async fn remember(
        &self,
        held: &HeldLease,
        slot: Slot,
        verdict: &Verdict,
        before: Option<&Failure>,
    ) -> Result<(), StoreError> {
        if verdict.class == FailureClass::Store {
            return Ok(()); // what can't be written can't be remembered either
        }
        let failure = verdict.to_failure(before, Timestamp::now());
        if verdict.keep_order {
            super::patience::write(|| self.store.write_failure(&held.lease, &failure)).await
        } else {
            super::patience::write(|| self.store.end_order(&held.lease, slot, Some(&failure))).await
        }
    }

    async fn has_open_order(&self, id: &SiteId) -> Result<Option<Slot>, StoreError> {
        for slot in Slot::ALL {
            if self.store.load_order(id, slot).await?.is_some() {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    /// What the site serves and can go on serving.
    async fn valid_certificates(
        &self,
        stored: &StoredSite,
    ) -> Result<BTreeMap<Slot, (Published, CertificateId)>, StoreError> {
        let now = Timestamp::now();
        let mut valid = BTreeMap::new();
        for (slot, id) in &stored.current {
            let certificate =
                self.store.load_certificate(&stored.id, id).await?.ok_or_else(|| StoreError::Corrupt {
                    key: stored.id.to_string(),
                    source: format!("the certificate {id} that it serves is missing").into(),
                })?;
            let leaf = certificate
                .leaf()
                .map_err(|e| StoreError::Corrupt { key: id.to_string(), source: e.into() })?;
            let covers = stored
                .site
                .names
                .iter()
                .all(|name| leaf.names.iter().any(|covered| covered == name.as_str()));
            if leaf.is_valid_at(now) && covers && !stored.revoked.contains(slot) {
                let published = Published { slot: *slot, key_type: certificate.key_type, leaf };
                valid.insert(*slot, (published, id.clone()));
            }
        }
        Ok(valid)
    }

    /// Whether an order that another run left is still what is wanted, from whom it is wanted. One whose certificate is
    /// stored needs nobody any more.
    fn can_finish(&self, order: &Order, site: &Site) -> bool {
        matches!(order.state, OrderState::Stored(_))
            || (order.ca == self.ca.name
                && order.account == self.account_name
                && order.names == site.names
                && site.key_types.contains(&order.key_type))
    }

    fn new_site(&self, wanted: &Wanted) -> Site {
        let key_types =
            if wanted.key_types.is_empty() { &wanted.default_key_types } else { &wanted.key_types };
        Site {
            v: Site::VERSION,
            names: wanted.names.clone(),
            key_types: key_types.clone(),
            ca: self.ca.name.clone(),
            account: self.account_name.clone(),
            profile: self.ca.section.profile.clone(),
            tags: wanted.tags.clone(),
            created: Timestamp::now(),
        }
    }

    fn plan(&self, site: &Site, key_type: KeyType) -> Order {
        Order {
            v: Order::VERSION,
            names: site.names.clone(),
            key_type,
            ca: self.ca.name.clone(),
            account: self.account_name.clone(),
            profile: self.ca.section.profile.clone(),
            created: Timestamp::now(),
            state: Planned {}.into(),
        }
    }
}

/// The key types that a certificate must be ordered for.
fn lacking(
    stored: &StoredSite,
    wanted: &Wanted,
    valid: &BTreeMap<Slot, (Published, CertificateId)>,
) -> Vec<KeyType> {
    let site = merged(&stored.site, wanted);
    let has = |kind: KeyType| {
        valid
            .get(&kind.slot())
            .is_some_and(|(published, _)| published.key_type == kind || !wanted.key_types.contains(&kind))
    };
    site.key_types.into_iter().filter(|kind| !has(*kind)).collect()
}

/// The wanted state once this wish is part of it.
fn merged(site: &Site, wanted: &Wanted) -> Site {
    let mut site = site.clone();
    for kind in &wanted.key_types {
        site.key_types.retain(|known| known.slot() != kind.slot());
        site.key_types.push(*kind);
    }
    site.key_types.sort();
    for tag in &wanted.tags {
        if !site.tags.contains(tag) {
            site.tags.push(tag.clone());
        }
    }
    site
}
