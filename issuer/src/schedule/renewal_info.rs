//! Asking the CA whether a certificate is still to be renewed when it was to be: its own pace, one node for each certificate.

use super::{
    Node,
    work::{BRAKED, told_of},
};
use crate::{
    acme::Client,
    ca::Ca,
    issuance::{
        Follows, HeldLease, Oracle, Renewals, client_for, lacks_nothing, look_for_promotion, place_of_served,
        valid_certificates,
    },
};
use jiff::Timestamp;
use shared::{
    domain::{Class, EventKind},
    store::{Claimed, StoreError, StoredSite},
};
use std::time::{Duration, Instant};

/// How long a client is used: as long as a directory is kept.
const CLIENT_KEPT: Duration = Duration::from_secs(3600);
/// How long a CA whose directory could not be had is left alone.
const IN_VAIN: Duration = Duration::from_secs(60);

/// A CA that certificates are of.
#[derive(Clone, Debug)]
pub(super) struct Known {
    since: Instant,
    /// `None`: it did not answer.
    client: Option<Client>,
}

impl Known {
    /// Seconds that the CA's clock is ahead of ours, where it is known.
    pub(super) fn clock_offset_seconds(&self) -> Option<i64> {
        self.client.as_ref()?.clock_offset_seconds()
    }

    fn is_fresh(&self) -> bool {
        self.since.elapsed() < if self.client.is_some() { CLIENT_KEPT } else { IN_VAIN }
    }
}

/// Whether a group that was claimed may need nothing but the question.
pub(super) fn may_only_be_asked_about(claimed: &Claimed, stored: &StoredSite) -> bool {
    claimed.class == Class::Check
        && !stored.serving.current.is_empty()
        && !stored.retry
        && stored.force.is_none()
        && stored.failure.is_none()
        && stored.parked.is_none()
}

impl Node {
    /// Neither a brake nor trouble with orders stands in the way: nothing is ordered here. `false`: something is lacking, and
    /// nothing was done.
    pub(super) async fn ask_about_renewal(
        &self,
        claimed: &Claimed,
        stored: &StoredSite,
    ) -> Result<bool, StoreError> {
        // A CA that is slow to answer must not cost it the lease.
        let _held = HeldLease::keep(&self.store, claimed.lease.clone());
        let (mut served, has_open_order) =
            tokio::try_join!(valid_certificates(&self.store, stored), self.store.has_open_order(&stored.id))?;
        if has_open_order || !lacks_nothing(stored, &served, Timestamp::now()) {
            return Ok(false);
        }
        let mut renewals = Renewals::of(stored);
        let now = Timestamp::now();
        for published in served.values_mut() {
            if published.plan.as_ref().is_some_and(|plan| plan.ask.is_none_or(|ask| ask > now)) {
                continue;
            }
            let client = self.client_of(&published.ca).await;
            let oracle = match &client {
                Ok(Some(client)) => Oracle::Ca(client),
                Ok(None) => Oracle::Later,
                Err(_) => Oracle::Nobody,
            };
            let site = &stored.id;
            renewals.plan(&self.store, site, published, Follows::ITSELF, oracle).await?;
        }
        let now = Timestamp::now();
        let Some(mut place) = place_of_served(&served, stored.held, &stored.cut, now) else {
            return Ok(false);
        };
        if let Some(moment) = look_for_promotion(stored.serving.staged.as_ref(), now, BRAKED) {
            place.moment = place.moment.min(moment);
        }
        let mut events = Vec::new();
        if renewals.moved {
            let mut what = format!(
                "{}: the CA wants its certificate renewed sooner than planned",
                stored.site.names.to_unicode()
            );
            if let Some(url) = renewals.explanation_url() {
                what.push_str(&format!(", and explains why: {url}"));
            }
            let moment = served.values().map(|published| published.renewal_moment(now)).min();
            let event = told_of(stored, EventKind::RenewalMoved, now, &what)
                .remedy("nothing: it is renewed by itself")
                .with("renewal", moment.map(|moment| moment.to_string()))
                .with("explanation_url", renewals.explanation_url());
            events.push(event);
        }
        self.settle(claimed, stored, place, renewals.fields(stored), events).await?;
        Ok(true)
    }

    /// The CA's client, or `None` where it can't be asked now.
    async fn client_of(&self, ca: &str) -> Result<Option<Client>, crate::ca::CaError> {
        // One fetches the directory, the others wait for it.
        let mut known = self.clients.lock().await;
        if let Some(known) = known.get(ca).filter(|known| known.is_fresh()) {
            return Ok(known.client.clone());
        }
        let authority = Ca::of_site(&self.config, ca)?;
        let client = match client_for(&self.store, &authority).await {
            Ok(client) => Some(client),
            Err(error) => {
                tracing::debug!(error = shared::error::chain(&error), ca, "it can't be asked when to renew");
                None
            }
        };
        known.insert(ca.to_owned(), Known { since: Instant::now(), client: client.clone() });
        Ok(client)
    }
}
