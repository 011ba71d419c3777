//! Back to the certificate before the present one.

use super::registry::{Registry, SiteError};
use jiff::{SignedDuration, Timestamp};
use shared::{
    domain::{Class, Event, EventKind, Place, SiteId, Slot, urgent_from},
    store::{
        Field, Lease, LeaseAnswer, Owner, Pointers, Serving, Settlement, StoreError, StoredSite, WantedSite,
    },
};

/// What was rolled back.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RolledBack {
    pub site: SiteId,
    pub slot: Slot,
    pub serial: String,
    pub not_after: Timestamp,
    #[serde(skip)]
    urgent_from: Timestamp,
}

/// How long what was rolled back to can be left alone: a year.
pub const MOST_HOURS_HELD: u16 = 24 * 365;

impl Registry {
    /// Serves what was served before, in every group and slot that has something before which is still valid, and leaves it
    /// alone for `hold`, or until its end is near. What was rolled back from
    /// is not returned to: a second time is refused until there is another certificate.
    ///
    /// # Errors
    /// [`SiteError::NothingBefore`], [`SiteError::Changed`] where somebody works on the site in this moment.
    pub async fn roll_back(
        &self,
        wanted: &WantedSite,
        hold: SignedDuration,
    ) -> Result<Vec<RolledBack>, SiteError> {
        let mut all = Vec::new();
        for number in wanted.groups.keys() {
            all.extend(self.roll_back_group(&wanted.id.group(*number), hold).await?);
        }
        if all.is_empty() { Err(SiteError::NothingBefore(wanted.id.clone())) } else { Ok(all) }
    }

    async fn roll_back_group(&self, id: &SiteId, hold: SignedDuration) -> Result<Vec<RolledBack>, SiteError> {
        let Some(stored) = self.store.load_site(id).await? else { return Ok(Vec::new()) };
        // Whoever had the lease for nothing would have its pauses end.
        if self.before(&stored).await?.0.is_empty() {
            return Ok(Vec::new());
        }
        let owner = Owner::this_process();
        let length = self.config.issuer.lease_length();
        let answer = self.store.acquire_lease(id, &stored.site, &owner, &owner.attempt(), length).await?;
        let LeaseAnswer::Acquired(lease) = answer else { return Err(SiteError::Changed) };
        let done = self.roll_back_under(&lease, hold).await;
        if !matches!(&done, Ok(back) if !back.is_empty()) {
            self.store.release_lease(&lease).await?;
        }
        Ok(done?)
    }

    /// Settles the group where something was rolled back.
    async fn roll_back_under(
        &self,
        lease: &Lease,
        hold: SignedDuration,
    ) -> Result<Vec<RolledBack>, StoreError> {
        let id = &lease.site;
        let Some(stored) = self.store.load_site(id).await? else { return Ok(Vec::new()) };
        let (back, serving) = self.before(&stored).await?;
        if back.is_empty() {
            return Ok(back);
        }
        let now = Timestamp::now();
        let held = now.saturating_add(hold).unwrap_or(Timestamp::MAX);
        let ends = back.iter().map(|back| back.not_after).min().unwrap_or(held);
        let urgent = back.iter().map(|back| back.urgent_from).min().unwrap_or(held);
        let place = Place {
            class: Class::Renewal,
            moment: held.min(urgent),
            deadline: ends,
            urgent_from: Some(urgent),
            renewal: Some(held.min(urgent)),
        };
        let what = format!(
            "{} serves its previous certificate again, until {}",
            stored.site.names.to_unicode(),
            held.strftime("%F %T UTC")
        );
        let event = Event::new(EventKind::RolledBack, now, what)
            .for_site(id)
            .names(stored.site.names.iter())
            .ca(&stored.site.ca)
            .tags(&stored.site.tags);
        let settlement = Settlement {
            revision: stored.revision,
            place,
            done: Vec::new(),
            fields: Vec::new(),
            events: Vec::new(),
        };
        // At once: what is rolled back and not held would be renewed by whoever looks next.
        let hold = [(Field::Held, held.as_second().to_string())];
        let events: Vec<String> = serde_json::to_string(&event).into_iter().collect();
        self.store.publish(lease, &serving, &hold, &events).await?;
        self.store.settle(lease, &settlement).await?;
        Ok(back)
    }

    /// What can be gone back to. What only the canaries have is taken from them: all serve the present one, as they do.
    async fn before(&self, stored: &StoredSite) -> Result<(Vec<RolledBack>, Serving), StoreError> {
        let serving = &stored.serving;
        let targets = match &serving.staged {
            Some(staged) => {
                let current = serving.current.clone().into_iter();
                current.filter(|(slot, _)| staged.pointers.contains_key(slot)).collect()
            }
            // What stands before it now is what was rolled back from.
            None if stored.held.is_some() => Pointers::new(),
            None => serving.previous.clone(),
        };
        let (mut back, mut pointers) = (Vec::new(), Pointers::new());
        for (slot, certificate) in targets {
            let Some(found) = self.store.load_certificate(&stored.id, &certificate).await? else { continue };
            let leaf = found
                .leaf()
                .map_err(|e| StoreError::Corrupt { key: certificate.to_string(), source: e.into() })?;
            if leaf.is_valid_at(Timestamp::now()) {
                let urgent_from = urgent_from(leaf.not_before, leaf.not_after);
                let (serial, not_after) = (leaf.serial, leaf.not_after);
                back.push(RolledBack { site: stored.id.clone(), slot, serial, not_after, urgent_from });
                pointers.insert(slot, certificate);
            }
        }
        let serving = serving.with(&pointers, &stored.revoked);
        Ok((back, serving))
    }
}
