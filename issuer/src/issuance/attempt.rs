//! One attempt at what a site lacks, under its lease: an order for each key type, one after the other, published together.

use super::{
    Issuance, Outcome, Verdict, Wanted,
    patience::write,
    progress::Timeline,
    site::{lacking, merged, published},
    steps::Work,
};
use crate::acme::RequestCounter;
use jiff::Timestamp;
use shared::{
    domain::{CertificateId, Failure, FailureClass, KeyType, Order, OrderState, Planned, Site, Slot},
    store::{Lease, StoreError, StoredSite},
};

/// What an attempt works with.
pub(super) struct Attempt<'a> {
    issuance: &'a Issuance,
    lease: &'a Lease,
    wanted: &'a Wanted,
    timeline: &'a Timeline,
    counter: &'a RequestCounter,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        issuance: &'a Issuance,
        lease: &'a Lease,
        wanted: &'a Wanted,
        timeline: &'a Timeline,
        counter: &'a RequestCounter,
    ) -> Self {
        Self { issuance, lease, wanted, timeline, counter }
    }

    /// The outcome, and the slots whose orders are published and can be ended.
    pub(super) async fn run(&self) -> (Result<Outcome, Verdict>, Vec<Slot>) {
        let mut done = Vec::new();
        let outcome = self.issue(&mut done).await;
        (outcome, done)
    }

    async fn issue(&self, done: &mut Vec<Slot>) -> Result<Outcome, Verdict> {
        // Asked again under the lease: another issuer may just have finished.
        let stored = self.site_as_wanted().await?;
        let valid = self.issuance.valid_certificates(&stored).await.map_err(of_store)?;
        let lacking = lacking(&stored, self.wanted, &valid);
        if lacking.is_empty() && !self.issuance.has_open_order(&stored.id).await.map_err(of_store)? {
            return Ok(Outcome::AlreadyValid(published(valid)));
        }
        if let Some(failure) = &stored.failure
            && failure.not_before.is_some_and(|moment| moment > Timestamp::now())
        {
            return Ok(Outcome::Waiting(failure.clone()));
        }
        self.issuance.know_directory().await?;
        let mut certificates = Vec::new();
        let mut failed = None;
        for slot in Slot::ALL {
            let key_type = lacking.iter().copied().find(|kind| kind.slot() == slot);
            match self.finish_slot(&stored.site, slot, key_type).await {
                Ok(certificate) => certificates.extend(certificate.map(|id| (slot, id))),
                Err(verdict) => {
                    failed = Some((slot, verdict));
                    break;
                }
            }
        }
        // One that was issued is served, even where its other half could not be.
        if !certificates.is_empty() {
            self.publish(&stored.site, &certificates).await.map_err(of_store)?;
            done.extend(certificates.iter().map(|(slot, _)| *slot));
        }
        if let Some((slot, verdict)) = failed {
            let failure = verdict.to_failure(stored.failure.as_ref(), Timestamp::now());
            self.remember(slot, &verdict, &failure).await.map_err(of_store)?;
            return if verdict.wait.is_some() { Ok(Outcome::Waiting(failure)) } else { Err(verdict) };
        }
        let valid = self.issuance.valid_certificates(&self.site().await?).await.map_err(of_store)?;
        Ok(Outcome::Issued(published(valid)))
    }

    /// The certificate of one slot: from the order that another run left, or from a new one where `key_type` is lacking.
    async fn finish_slot(
        &self,
        site: &Site,
        slot: Slot,
        key_type: Option<KeyType>,
    ) -> Result<Option<CertificateId>, Verdict> {
        let store = &self.issuance.store;
        let mut open = store.load_order(&self.lease.site, slot).await.map_err(of_store)?;
        if open.as_ref().is_some_and(|open| !self.can_finish(&open.order, site)) {
            write(|| store.end_order(self.lease, slot, None)).await.map_err(of_store)?;
            open = None;
        }
        let order = match (open, key_type) {
            (Some(open), _) => open,
            (None, Some(key_type)) => {
                let order = self.plan(site, key_type);
                write(|| store.begin_order(self.lease, order.clone())).await.map_err(of_store)?
            }
            (None, None) => return Ok(None),
        };
        let work = Work::new(self.issuance, self.lease, slot, self.timeline, self.counter);
        work.finish(order).await.map(Some)
    }

    /// The site, with this wish as part of its wanted state.
    async fn site_as_wanted(&self) -> Result<StoredSite, Verdict> {
        let mut stored = self.site().await?;
        let site = merged(&stored.site, self.wanted);
        if site != stored.site {
            write(|| self.issuance.store.write_site(self.lease, &site)).await.map_err(of_store)?;
            stored.site = site;
        }
        Ok(stored)
    }

    async fn site(&self) -> Result<StoredSite, Verdict> {
        let id = &self.lease.site;
        let stored = self.issuance.store.load_site(id).await.map_err(of_store)?;
        stored.ok_or_else(|| Verdict::bug(format!("the site {id} vanished under its lease")))
    }

    async fn publish(&self, site: &Site, certificates: &[(Slot, CertificateId)]) -> Result<(), StoreError> {
        let store = &self.issuance.store;
        // First the site, then the names that lead to it. The orders end after both.
        write(|| store.publish(self.lease, certificates)).await?;
        write(|| store.point_names(site.names.as_slice(), &self.lease.site)).await?;
        self.timeline.tell("published", None, "");
        Ok(())
    }

    async fn remember(&self, slot: Slot, verdict: &Verdict, failure: &Failure) -> Result<(), StoreError> {
        let store = &self.issuance.store;
        if verdict.class == FailureClass::Store {
            Ok(()) // what can't be written can't be remembered either
        } else if verdict.keep_order {
            write(|| store.write_failure(self.lease, failure)).await
        } else {
            write(|| store.end_order(self.lease, slot, Some(failure))).await
        }
    }

    /// Whether an order that another run left is still what is wanted, from whom it is wanted. One whose certificate is
    /// stored needs nobody any more.
    fn can_finish(&self, order: &Order, site: &Site) -> bool {
        matches!(order.state, OrderState::Stored(_))
            || (order.ca == self.issuance.ca.name
                && order.account == self.issuance.account_name
                && order.names == site.names
                && site.key_types.contains(&order.key_type))
    }

    fn plan(&self, site: &Site, key_type: KeyType) -> Order {
        Order {
            v: Order::VERSION,
            names: site.names.clone(),
            key_type,
            ca: self.issuance.ca.name.clone(),
            account: self.issuance.account_name.clone(),
            profile: self.issuance.ca.section.profile.clone(),
            created: Timestamp::now(),
            state: Planned {}.into(),
        }
    }
}

fn of_store(error: StoreError) -> Verdict {
    Verdict::from_store(&error)
}
