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

/// What becomes of an order that a run could not go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It is nothing that the order is to blame for, or nothing was placed yet.
    None,
    /// It is given up at once.
    AtOnce,
    /// It is given up after so many runs.
    Over(u32),
    /// It has time left.
    Noted(Stuck),
}

impl Ending {
    fn of(order: &Order, verdict: &Verdict, insists: bool, now: Timestamp) -> Self {
        // What was not placed has nothing to be stuck with.
        if !verdict.is_of_the_order() || matches!(order.state, OrderState::Planned(_)) {
            return Self::None;
        }
        // What the CA may have issued for our key is given up for nothing that passes, whoever asks.
        let may_be_issued = matches!(order.state, OrderState::Finalizing(_) | OrderState::Issued(_));
        let (obstacle, is_over) = match verdict.prospect {
            Prospect::Nowhere => (Obstacle::DeadEnd, true),
            Prospect::Silent => (Obstacle::Silence, false),
            Prospect::Open | Prospect::Early => (Obstacle::Failing, !may_be_issued),
        };
        if insists && is_over {
            return Self::AtOnce;
        }
        let stuck = Stuck::again(order.stuck, now);
        if stuck.is_over(&order.state, obstacle, now) { Self::Over(stuck.runs) } else { Self::Noted(stuck) }
    }
}

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
        let stuck = match Ending::of(&open.order, &verdict, insists, Timestamp::now()) {
            Ending::None => return verdict,
            Ending::AtOnce => return Verdict { keep_order: false, given_up: true, ..verdict },
            Ending::Over(runs) => {
                let what = format!("{}; given up after {runs} runs", verdict.what);
                return Verdict { what, keep_order: false, given_up: was_open, ..verdict };
            }
            Ending::Noted(stuck) => stuck,
        };
        let noted = Order { stuck: Some(stuck), ..open.order.clone() };
        if let Err(error) = write(|| store.rewrite_order(self.lease, &open, noted.clone())).await {
            // It is given up a run later.
            tracing::debug!(error = shared::error::chain(&error), "a run that led nowhere is not counted");
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;
    use shared::{
        domain::{DnsName, FailureClass, Finalizing, KeyType, NameSet, Planned},
        error::Fault,
    };

    const BEGIN: Timestamp = Timestamp::UNIX_EPOCH;

    fn order(state: impl Into<OrderState>) -> Order {
        Order {
            v: Order::VERSION,
            names: NameSet::new([DnsName::parse_identifier("a.example").unwrap()]).unwrap(),
            key_type: KeyType::EcdsaP256,
            ca: "ca".to_owned(),
            account: "default".to_owned(),
            account_url: None,
            profile: None,
            created: BEGIN,
            stuck: None,
            state: state.into(),
        }
    }

    fn finalizing() -> Finalizing {
        Finalizing {
            order_url: "https://a/o".to_owned(),
            finalize_url: "https://a/f".to_owned(),
            sealed_key: String::new(),
            csr: String::new(),
        }
    }

    fn verdict(prospect: Prospect) -> Verdict {
        let kept = Verdict::new(Fault::Ca, FailureClass::Ca, "", "").keeping_the_order();
        Verdict { prospect, ..kept }
    }

    /// After so many runs before, and hours since the first of them.
    fn after(order: Order, runs: u32, hours: i64, prospect: Prospect) -> Ending {
        let stuck = (runs > 0).then_some(Stuck { since: BEGIN, runs });
        let now = BEGIN + hours.hours();
        Ending::of(&Order { stuck, ..order }, &verdict(prospect), false, now)
    }

    #[test]
    fn an_order_ends_once_it_has_had_its_time() {
        let ordered =
            || order(shared::domain::Ready { order_url: String::new(), finalize_url: String::new() });
        for (order, prospect, runs, hours) in [
            (ordered(), Prospect::Nowhere, 3, 0),
            (ordered(), Prospect::Open, 5, 1),
            (ordered(), Prospect::Silent, 5, 1),
            (order(finalizing()), Prospect::Nowhere, 3, 0),
            // It may have issued for our key.
            (order(finalizing()), Prospect::Open, 6, 24),
            (order(finalizing()), Prospect::Silent, 10, 72),
        ] {
            let what = format!("{:?} {prospect:?}", order.state.as_str());
            assert_eq!(after(order.clone(), runs - 1, hours, prospect), Ending::Over(runs), "{what}");
            assert!(matches!(after(order.clone(), runs - 2, hours, prospect), Ending::Noted(_)), "{what}");
            if hours > 0 {
                let sooner = after(order, runs + 9, hours - 1, prospect);
                assert!(matches!(sooner, Ending::Noted(_)), "{what}");
            }
        }
        let first = after(order(finalizing()), 0, 0, Prospect::Open);
        assert_eq!(first, Ending::Noted(Stuck { since: BEGIN, runs: 1 }));
    }

    #[test]
    fn a_person_need_not_wait_but_for_what_may_be_issued() {
        let insisted = |order: Order, prospect| Ending::of(&order, &verdict(prospect), true, BEGIN);
        assert_eq!(insisted(order(finalizing()), Prospect::Nowhere), Ending::AtOnce);
        for passing in [Prospect::Open, Prospect::Silent] {
            assert!(matches!(insisted(order(finalizing()), passing), Ending::Noted(_)), "{passing:?}");
        }
    }

    #[test]
    fn what_is_not_of_the_order_or_not_placed_ends_none() {
        assert_eq!(after(order(Planned {}), 9, 99, Prospect::Nowhere), Ending::None);
        let of_store = Verdict::new(Fault::Store, FailureClass::Store, "", "").keeping_the_order();
        let dropped = Verdict { keep_order: false, ..verdict(Prospect::Nowhere) };
        for other in [of_store, dropped, verdict(Prospect::Early)] {
            assert_eq!(Ending::of(&order(finalizing()), &other, true, BEGIN), Ending::None, "{other:?}");
        }
    }
}
