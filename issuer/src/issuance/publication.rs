//! From stored certificates to served ones: to all frontends at once, or to the canaries first.

use super::{
    Issuance,
    attempt::{Attempt, Tally},
    hsts,
    patience::write,
};
use jiff::Timestamp;
use shared::{
    config::Canary,
    domain::{Braked, DnsName, Event, EventKind, Leaf, Site, Slot, brake_of, urgent_from},
    store::{Lease, Pointers, Serving, Staged, Store, StoreError, StoredSite},
};
use std::collections::BTreeMap;

/// Leaves by slot.
type Leaves = BTreeMap<Slot, Leaf>;

impl Attempt<'_> {
    /// First the group, then the names that lead to it. The orders end after both. Safe to repeat.
    pub(super) async fn publish(&self, new: &Pointers) -> Result<(), StoreError> {
        let store = &self.issuance.store;
        // Removed while it was ordered: what it has stays with it.
        let stored = store.load_site(&self.lease.site).await?.ok_or(StoreError::Conflict)?;
        let leaves = load_leaves(store, &stored, new).await?;
        let serving = self.issuance.serving_with(&stored, new, &leaves).await?;
        let serving = wanted_of(&serving, &stored.site);
        let begun: Vec<_> = hsts::begun(&stored, Timestamp::now()).into_iter().collect();
        write(|| store.publish(self.lease, &serving, &begun, &[])).await?;
        // A name that was taken away while it was ordered leads nowhere.
        let mut names: Vec<DnsName> = leaves
            .values()
            .flat_map(|leaf| leaf.names.iter().filter_map(|name| DnsName::parse_identifier(name).ok()))
            .filter(|name| stored.site.names.contains(name))
            .collect();
        names.sort();
        names.dedup();
        write(|| store.point_names(&names, &self.lease.site)).await?;
        let word = if serving.staged.is_some() { "staged" } else { "published" };
        self.timeline.tell(word, None, "");
        Ok(())
    }

    /// A certificate of a kind of key that is wanted no longer is not served on once one that is wanted is there.
    pub(super) async fn withdraw_unwanted(&self, tally: &mut Tally) -> Result<(), StoreError> {
        let serving = wanted_of(&tally.stored.serving, &tally.stored.site);
        if serving == tally.stored.serving {
            return Ok(());
        }
        write(|| self.issuance.store.publish(self.lease, &serving, &[], &[])).await?;
        let newest = serving.newest();
        tally.before.retain(|slot, _| newest.contains_key(slot));
        tally.stored.serving = serving;
        Ok(())
    }
}

/// Without the slots that the site wants no longer, where it has something to serve all the same.
fn wanted_of(serving: &Serving, site: &Site) -> Serving {
    let is_wanted = |slot: &Slot| site.key_types.iter().any(|kind| kind.slot() == *slot);
    if !serving.current.keys().any(is_wanted) {
        return serving.clone();
    }
    let mut serving = serving.clone();
    for pointers in [&mut serving.current, &mut serving.previous, &mut serving.kept] {
        pointers.retain(|slot, _| is_wanted(slot));
    }
    if let Some(staged) = &mut serving.staged {
        staged.pointers.retain(|slot, _| is_wanted(slot));
    }
    serving.staged = serving.staged.filter(|staged| !staged.pointers.is_empty());
    serving
}

impl Issuance {
    /// What a group points to with new certificates.
    async fn serving_with(
        &self,
        stored: &StoredSite,
        new: &Pointers,
        leaves: &Leaves,
    ) -> Result<Serving, StoreError> {
        let (now, site) = (Timestamp::now(), &stored.site);
        let before = load_leaves(&self.store, stored, &stored.serving.current).await?;
        let mut good: BTreeMap<Slot, &Leaf> = before.iter().map(|(slot, leaf)| (*slot, leaf)).collect();
        good.retain(|slot, leaf| leaf.is_valid_at(now) && !stored.revoked.contains(slot));
        if let Some(canary) = &self.canary
            && new.iter().any(|(slot, id)| stored.serving.current.get(slot) != Some(id))
            && let Some(until) = moment_for_all(site, leaves, &good, canary, now)
        {
            return Ok(stored.serving.staging(new, until, &canary.tag));
        }
        let mut serving = stored.serving.with(new, &stored.revoked);
        let kept = load_leaves(&self.store, stored, &stored.serving.kept).await?;
        for (slot, leaf) in leaves {
            let missing: Vec<&DnsName> = site.names.iter().filter(|name| !leaf.covers(name)).collect();
            let rescues = |old: &Leaf| missing.iter().filter(|name| old.covers(name)).count();
            let of_kept = kept.get(slot).filter(|old| old.is_valid_at(now)).map(rescues).unwrap_or(0);
            let of_current = match good.get(slot) {
                Some(old) if stored.serving.current.get(slot) != new.get(slot) => rescues(old),
                _ => 0,
            };
            if of_current > 0 && of_current >= of_kept {
                serving.kept.extend(stored.serving.current.get(slot).map(|id| (*slot, id.clone())));
            } else if of_kept == 0 {
                serving.kept.remove(slot);
            }
        }
        Ok(serving)
    }
}

/// When all frontends get what the canaries get now; `None` where nobody may wait for it: something old is missing, near
/// its end, or for other names.
fn moment_for_all(
    site: &Site,
    new: &Leaves,
    good: &BTreeMap<Slot, &Leaf>,
    canary: &Canary,
    now: Timestamp,
) -> Option<Timestamp> {
    let until = now.checked_add(canary.head_start).ok()?;
    let can_wait = new.iter().all(|(slot, leaf)| {
        good.get(slot).is_some_and(|old| {
            until < urgent_from(old.not_before, old.not_after)
                && site.names.iter().all(|name| old.covers(name) == leaf.covers(name))
        })
    });
    can_wait.then_some(until)
}

async fn load_leaves(store: &Store, stored: &StoredSite, pointers: &Pointers) -> Result<Leaves, StoreError> {
    let mut leaves = Leaves::new();
    for (slot, id) in pointers {
        // What is gone or can't be read serves nobody.
        let certificate = match store.load_certificate(&stored.id, id).await {
            Ok(Some(certificate)) => certificate,
            Ok(None) | Err(StoreError::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        leaves.extend(certificate.leaf().ok().map(|leaf| (*slot, leaf)));
    }
    Ok(leaves)
}

/// Serves to all what the canaries have had for long enough, unless an operator has stopped publication. Answers the group
/// as it then is.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn promote_what_is_due(
    store: &Store,
    lease: &Lease,
    stored: StoredSite,
) -> Result<StoredSite, StoreError> {
    let Some(staged) = &stored.serving.staged else { return Ok(stored) };
    // What was revoked is replaced at once.
    let is_due = staged.until <= Timestamp::now() || !stored.revoked.is_empty();
    if !is_due || brake_of(&store.load_brakes().await?, Braked::Publication, &stored.site).is_some() {
        return Ok(stored);
    }
    let serving = stored.serving.promoted(&stored.revoked);
    let what = format!("{}: its new certificate is served to all frontends", stored.site.names.to_unicode());
    let event = Event::new(EventKind::Promoted, Timestamp::now(), what)
        .for_site(&stored.id)
        .names(stored.site.names.iter())
        .ca(&stored.site.ca)
        .tags(&stored.site.tags)
        .with("canary_tag", staged.tag.as_str());
    let events: Vec<String> = serde_json::to_string(&event).into_iter().collect();
    write(|| store.publish(lease, &serving, &[], &events)).await?;
    let revoked = stored
        .revoked
        .iter()
        .copied()
        .filter(|slot| stored.serving.current.get(slot) == serving.current.get(slot));
    Ok(StoredSite { revoked: revoked.collect(), serving, ..stored })
}

/// When a group must be looked at for what the canaries have; `braked` is how long to wait for a brake on publication.
pub(crate) fn look_for_promotion(
    staged: Option<&Staged>,
    now: Timestamp,
    braked: jiff::SignedDuration,
) -> Option<Timestamp> {
    let until = staged?.until;
    Some(if until > now { until } else { now.saturating_add(braked).unwrap_or(Timestamp::MAX) })
}
