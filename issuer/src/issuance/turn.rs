//! An order's turn among the CA's limits: what it asks of them, and the wait for its turn where that is short.

use super::{
    attempt::{Attempt, Tally},
    site::Published,
    verdict::Verdict,
};
use crate::limits::{Asked, Ticket, Turn, Twin};
use jiff::{SignedDuration, Timestamp};
use shared::{
    domain::{Failure, FailureClass, NameSet, OrderClass, Origin, Slot, urgent_from},
    error::Fault,
    store::Claimant,
};
use std::time::{Duration, Instant};

/// A turn that comes within this is waited for by the worker itself,
const SOON: Duration = Duration::from_secs(2);
/// for so long at most,
const PATIENCE: Duration = Duration::from_secs(20);
/// and not less than this between two looks.
const SHORTEST: Duration = Duration::from_millis(5);

impl Attempt<'_> {
    /// What an order for this slot replaces: what is served, where the CA has named a window for its renewal, and so knows it,
    /// and the account is the same.
    fn replaceable<'t>(&self, tally: &'t Tally, slot: Slot, names: &NameSet) -> Option<&'t Published> {
        let served = tally.before.get(&slot).filter(|_| !tally.nameless.contains(&slot))?;
        let is_ours = served.ca == self.issuance.ca.name && served.account == self.issuance.account_name;
        let is_known = served.plan.as_ref().is_some_and(|plan| plan.heard.is_some() && !plan.nameless);
        let shares = names.iter().any(|name| served.leaf.names.iter().any(|own| own == name.as_str()));
        (is_ours && is_known && shares).then_some(served)
    }

    /// What an order of these names asks of the CA's limits.
    pub(super) fn asked<'n>(&self, tally: &Tally, slot: Slot, names: &'n NameSet) -> Asked<'n> {
        let now = Timestamp::now();
        let ca = &self.issuance.ca;
        let lately = SignedDuration::try_from_secs_f64(ca.limits.same_set_days * 86_400.0)
            .ok()
            .and_then(|window| now.checked_sub(window).ok())
            .unwrap_or(Timestamp::MIN);
        let is_same = |published: &Published| {
            published.ca == ca.name && published.issued > lately && published.is_for_exactly(names)
        };
        let same_set = ca.limits.same_set_days > 0.0
            && (tally.before.values().any(is_same) || tally.issued.as_ref() == Some(names));
        let stored = &tally.stored;
        let claimant = if self.wanted.is_some() || stored.retry || self.is_urgent(tally) {
            Claimant::Operator
        } else if !tally.before.is_empty() {
            Claimant::Renewal
        } else if stored.site.origin == Origin::File {
            Claimant::New
        } else {
            Claimant::Operator
        };
        let replaceable = self.replaceable(tally, slot, names);
        let is_inside = |served: &Published| served.plan.as_ref().is_some_and(|plan| plan.is_inside(now));
        Asked {
            order: format!("{}/{slot}", self.lease.site),
            names,
            replaces: replaceable.and_then(Published::name_at_ca),
            class: match replaceable {
                Some(served) if is_inside(served) => OrderClass::Ari,
                _ => OrderClass::of_names(same_set),
            },
            same_set,
            claimant,
            by_hand: self.is_by_hand(tally),
            promised: stored.failure.as_ref().is_some_and(|failure| failure.class == FailureClass::Limit),
        }
    }

    /// Whether somebody asks for it.
    pub(super) fn is_by_hand(&self, tally: &Tally) -> bool {
        self.wanted.is_some() || tally.stored.retry
    }

    /// Until when nothing is asked, because of what failed before. A limit holds for everybody; a pause that the CA has asked for
    /// is tried by who asks by hand.
    pub(super) fn must_wait(&self, tally: &Tally, now: Timestamp) -> Option<Failure> {
        let failure = tally.stored.failure.as_ref()?;
        let lasts = failure.holds_back(now, tally.stored.retry);
        let may_try = failure.fault == Fault::Ca && self.is_by_hand(tally);
        (lasts && !may_try).then(|| failure.clone())
    }

    /// Whether what is served ends soon.
    fn is_urgent(&self, tally: &Tally) -> bool {
        let now = Timestamp::now();
        let mut leaves = tally.before.values().map(|published| &published.leaf);
        leaves.any(|leaf| urgent_from(leaf.not_before, leaf.not_after) <= now)
    }
}

/// The right to place an order, once its turn has come: where that is soon, it is waited for here.
pub(super) async fn turn(twin: &Twin, asked: &Asked<'_>) -> Result<Ticket, Verdict> {
    let until = Instant::now() + PATIENCE;
    let mut asked = asked.clone();
    loop {
        match twin.ask(&asked, None).await.map_err(|e| Verdict::from_store(&e))? {
            Turn::Now(ticket) => return Ok(ticket),
            Turn::Later(later) if later.wait <= SOON && Instant::now() < until => {
                asked.promised = true;
                tokio::time::sleep(later.wait.max(SHORTEST)).await;
            }
            Turn::Later(later) => return Err(Verdict::from_limits(&later, asked.names)),
        }
    }
}
