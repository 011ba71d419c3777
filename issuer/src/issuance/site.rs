//! What is asked for, and what the store has of it already.

use super::{
    Issuance,
    attempt::Attempt,
    lease::HeldLease,
    progress::{Progress, Step, Timeline},
    verdict::Verdict,
};
use crate::acme::RequestCounter;
use jiff::Timestamp;
use shared::{
    domain::{Failure, KeyType, Leaf, NameSet, Site, SiteId, Slot},
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
            && !self.has_open_order(id).await.map_err(of_store)?
        {
            let valid = self.valid_certificates(stored).await.map_err(of_store)?;
            if lacking(stored, wanted, &valid).is_empty()
                && wanted.tags.iter().all(|tag| stored.site.tags.contains(tag))
            {
                return Ok(Outcome::AlreadyValid(published(valid)));
            }
        }
        if let Some(embedded) = self.store.embedded() {
            embedded.check_free_space().map_err(|e| Verdict::from_store(&e.into()))?;
        }
        let new_site = self.new_site(wanted);
        let held = HeldLease::acquire(&self.store, id, &new_site, &self.owner, self.lease_length, timeline)
            .await
            .map_err(of_store)?;
        let attempt = Attempt::new(self, &held.lease, wanted, timeline, counter);
        let (outcome, done) = attempt.run().await;
        held.release(&done).await;
        outcome
    }

    pub(super) async fn has_open_order(&self, id: &SiteId) -> Result<bool, StoreError> {
        for slot in Slot::ALL {
            if self.store.load_order(id, slot).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the site serves and can go on serving.
    pub(super) async fn valid_certificates(
        &self,
        stored: &StoredSite,
    ) -> Result<BTreeMap<Slot, Published>, StoreError> {
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
                valid.insert(*slot, published);
            }
        }
        Ok(valid)
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
}

/// The key types that a certificate must be ordered for.
pub(super) fn lacking(
    stored: &StoredSite,
    wanted: &Wanted,
    valid: &BTreeMap<Slot, Published>,
) -> Vec<KeyType> {
    let site = merged(&stored.site, wanted);
    let has = |kind: KeyType| {
        valid
            .get(&kind.slot())
            .is_some_and(|published| published.key_type == kind || !wanted.key_types.contains(&kind))
    };
    site.key_types.into_iter().filter(|kind| !has(*kind)).collect()
}

/// The wanted state once this wish is part of it.
pub(super) fn merged(site: &Site, wanted: &Wanted) -> Site {
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

pub(super) fn published(valid: BTreeMap<Slot, Published>) -> Vec<Published> {
    valid.into_values().collect()
}
