//! The end of an order that leads nowhere: whatever makes its URLs unusable, another one is placed by itself after a while, and at
//! once where a person asks. Before that, what the CA may have issued for our key is asked for again and again.

use super::{
    attempt::{Attempt, Tally},
    patience::write,
    site::Urge,
    verdict::{Prospect, Verdict},
};
use jiff::Timestamp;
use shared::domain::{Obstacle, Order, OrderState, Slot, Stuck};

impl Attempt<'_> {
    /// Whether a person wants another order, unless the one that is open comes to something now.
    pub(super) fn insists(&self, tally: &Tally) -> bool {
        matches!(self.urge, Urge::Since(_)) || tally.stored.force.is_some() || tally.stored.new_order
    }

    /// The verdict on an order that could not be gone on with, which is given up once it has had its time.
    pub(super) async fn bounded(
        &self,
        slot: Slot,
        verdict: Verdict,
        was_open: bool,
        insists: bool,
    ) -> Verdict {
        if !verdict.is_of_the_order() {
            return verdict;
        }
        let store = &self.issuance.store;
        let Ok(Some(open)) = store.load_order(&self.lease.site, slot).await else { return verdict };
        let (now, order) = (Timestamp::now(), &open.order);
        // What was not placed has nothing to be stuck with.
        if matches!(order.state, OrderState::Planned(_)) {
            return verdict;
        }
        // What the CA may have issued for our key is given up for nothing that passes, whoever asks.
        let may_be_issued = matches!(order.state, OrderState::Finalizing(_) | OrderState::Issued(_));
        let is_over = match verdict.prospect {
            Prospect::Nowhere => true,
            Prospect::Silent => false,
            Prospect::Open | Prospect::Early => !may_be_issued,
        };
        if insists && is_over {
            return Verdict { keep_order: false, given_up: true, ..verdict };
        }
        let stuck = Stuck::again(order.stuck, now);
        let obstacle = match verdict.prospect {
            Prospect::Nowhere => Obstacle::DeadEnd,
            Prospect::Silent => Obstacle::Silence,
            Prospect::Open | Prospect::Early => Obstacle::Failing,
        };
        if stuck.is_over(&order.state, obstacle, now) {
            let what = format!("{}; given up after {} runs", verdict.what, stuck.runs);
            return Verdict { what, keep_order: false, given_up: was_open, ..verdict };
        }
        let noted = Order { stuck: Some(stuck), ..order.clone() };
        if let Err(error) = write(|| store.rewrite_order(self.lease, &open, noted.clone())).await {
            // It is given up a run later.
            tracing::debug!(error = shared::error::chain(&error), "a run that led nowhere is not counted");
        }
        verdict
    }
}
