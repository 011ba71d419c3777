//! Holding a site: the lease is renewed while work goes on, and given back at its end.

use super::progress::Timeline;
use shared::{
    domain::{Site, SiteId},
    store::{Lease, LeaseAnswer, Owner, Settlement, Store, StoreError},
};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The longest pause between two questions whether another issuer has finished.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A lease that is renewed for as long as this lives.
pub(crate) struct HeldLease {
    pub(super) lease: Lease,
    store: Store,
    renewal: JoinHandle<()>,
}

impl HeldLease {
    /// Waits until nobody else works on the site.
    pub(super) async fn acquire(
        store: &Store,
        id: &SiteId,
        wanted: &Site,
        owner: &Owner,
        length: Duration,
        timeline: &Timeline,
    ) -> Result<Self, StoreError> {
        let mut told = false;
        let attempt = owner.attempt();
        loop {
            let answer =
                super::patience::write(|| store.acquire_lease(id, wanted, owner, &attempt, length)).await?;
            match answer {
                LeaseAnswer::Acquired(lease) => return Ok(Self::keep(store, lease)),
                LeaseAnswer::Held { owner, remaining } => {
                    if !told {
                        let seconds = remaining.as_secs() + 1;
                        timeline.tell(
                            "waiting",
                            None,
                            format!("{owner} works on it; its lease ends in {seconds} s unless it goes on"),
                        );
                        told = true;
                    }
                    tokio::time::sleep(remaining.clamp(Duration::from_millis(50), LONGEST_PAUSE)).await;
                }
            }
        }
    }

    /// Renews a lease that was acquired.
    pub(crate) fn keep(store: &Store, lease: Lease) -> Self {
        let renewal = tokio::spawn(renew(store.clone(), lease.clone()));
        Self { lease, store: store.clone(), renewal }
    }

    /// Gives the site back with what came of the work. Where that can't be written, the lease ends by itself, and what
    /// was done is found done by the next run.
    pub(super) async fn settle(self, settlement: &Settlement) {
        let settled = super::patience::write(|| self.store.settle(&self.lease, settlement)).await;
        if let Err(error) = settled {
            tracing::warn!(error = shared::error::chain(&error), site = %self.lease.site, "what came of the work was not written; it is looked at again when the lease ends");
        }
    }

    /// Gives the site back as it is. A lease that can't be given back ends by itself.
    pub(super) async fn release(self) {
        self.renewal.abort();
        if let Err(error) = self.store.release_lease(&self.lease).await {
            tracing::warn!(error = shared::error::chain(&error), site = %self.lease.site, "the lease was not given back; it ends by itself");
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

async fn renew(store: Store, lease: Lease) {
    loop {
        tokio::time::sleep(lease.length / 3).await;
        match store.renew_lease(&lease).await {
            Ok(()) => {}
            // Every write is fenced: whoever lost the lease finds out at the next one.
            Err(StoreError::Fenced) => return,
            Err(error) => tracing::warn!(error = shared::error::chain(&error), "the lease was not renewed"),
        }
    }
}
