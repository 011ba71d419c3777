//! The first step of the order machine: the order is placed, once its turn among the CA's limits has come.
//!
//! What is sent a second time may be made a second time. So an answer that is lost is waited for longer than any other; then the
//! order is looked for; and only then it is asked for once more, once in a run. What the CA has refused is another matter: it has
//! made nothing, and may take the order without what it did not like.

use super::{
    patience::{Pauses, write},
    refusal::may_blame_profile,
    steps::Work,
    turn::turn,
    verdict::{About, Verdict},
};
use crate::{
    acme::{Identifier, LostOrder, NewOrder, OrderStatus, PlacedOrder, ProblemKind, RequestError},
    limits::{Asked, Ticket},
};
use shared::{
    domain::{Failure, FailureClass, NameSet, Order, OrderState, Ordered, Planned, Slot},
    error::Fault,
    store::StoredOrder,
};
use std::sync::atomic::Ordering;

/// Runs in which a CA fails at an order that says what it replaces, before it is asked for one that doesn't.
const RUNS_OF_A_FAULT: u32 = 3;

impl Work<'_> {
    /// `Planned -> Ordered`
    pub(super) async fn place(&self, order: &StoredOrder, planned: Planned) -> Result<StoredOrder, Verdict> {
        let twin = &self.issuance.twin;
        let given = self.held().take();
        // Another run had planned it: the CA may have heard of it, and have made it.
        if given.is_none()
            && self.may_be_placed.swap(false, Ordering::Relaxed)
            && let Some(placed) = self.look_for_it(order).await
        {
            return self.placed(order, planned, placed).await;
        }
        let mut ticket = match given {
            Some(ticket) => ticket,
            None => turn(twin, &self.asked).await?,
        };
        let (mut order, mut asked) = (order.clone(), self.asked.clone());
        loop {
            let error = match self.send(&order, &asked, ticket).await {
                Ok(placed) => {
                    // It was what it replaces: the same order is taken without.
                    let is_nameless = self.asked.replaces.is_some() && asked.replaces.is_none();
                    self.nameless.fetch_or(is_nameless, Ordering::Relaxed);
                    return self.placed(&order, planned, placed).await;
                }
                Err(error) => error,
            };
            // Each is done without once: the next refusal has another reason.
            if order.order.profile.is_some() && may_blame_profile(&error, &order.order.names) {
                order = self.without_profile(&order, &error, planned).await?;
            } else if asked.replaces.is_some()
                && blames_replaces(&error, &order.order.names, self.refused_before)
            {
                let what = format!("the CA does not take it for a renewal ({error}): it is ordered without");
                self.timeline.tell("nameless", Some(self.slot), what);
                asked = asked.without_replacing();
            } else {
                return Err(Verdict::from_order(&error, &order.order.names));
            }
            ticket = turn(twin, &asked).await?;
        }
    }

    async fn placed(
        &self,
        order: &StoredOrder,
        planned: Planned,
        placed: PlacedOrder,
    ) -> Result<StoredOrder, Verdict> {
        let ordered = planned.ordered(Ordered {
            order_url: placed.url,
            finalize_url: placed.order.finalize.unwrap_or_default(),
            authorization_urls: placed.order.authorizations,
            expires: placed.order.expires,
        });
        let next = self.persist(order, ordered.clone()).await?;
        self.has_made_something();
        self.timeline.tell("ordered", Some(self.slot), "");
        // Every name was proved before: nothing to ask.
        if placed.order.status == OrderStatus::Ready {
            return self.persist(&next, ordered.ready()).await;
        }
        Ok(next)
    }

    /// Places the order with what it was given of the limits.
    async fn send(
        &self,
        order: &StoredOrder,
        asked: &Asked<'_>,
        ticket: Ticket,
    ) -> Result<PlacedOrder, RequestError> {
        let wanted = NewOrder {
            identifiers: identifiers(&order.order),
            profile: order.order.profile.clone(),
            replaces: asked.replaces.clone(),
        };
        let (twin, mut sent, mut pauses) = (&self.issuance.twin, 0, Pauses::begin());
        let placed = loop {
            sent += 1;
            let error = match self.account.new_order(&wanted).await {
                Ok(placed) => break Ok(placed),
                Err(error) => error,
            };
            if error.may_have_acted() {
                let is_again = self.asked_twice.swap(true, Ordering::Relaxed);
                // A refusal in so many words has made nothing, or will be found by the next run.
                if error.problem().is_none()
                    && let Some(found) = self.look_for_it(order).await
                {
                    break Ok(found);
                }
                if is_again {
                    break Err(error);
                }
            }
            // What was refused, by whomever, is not ordered again in the same run.
            if !error.is_no_refusal() {
                break Err(error);
            }
            if let Err(error) = pauses.before_asking_again(error).await {
                break Err(error);
            }
        };
        match &placed {
            Ok(_) => {
                ticket.placed(twin, sent, None).await;
                *self.held() = Some(ticket);
            }
            Err(error) => ticket.refused(twin, error, sent, None).await,
        }
        placed
    }

    /// The order, where the CA has made it and nobody here has heard of it. What can't be found is not there.
    async fn look_for_it(&self, order: &StoredOrder) -> Option<PlacedOrder> {
        let identifiers = identifiers(&order.order);
        // The other key type's order is for the same names.
        let mut known = Vec::new();
        for slot in Slot::ALL.into_iter().filter(|slot| *slot != self.slot) {
            let other = self.issuance.store.load_order(&self.lease.site, slot).await.ok()?;
            known.extend(other.and_then(|other| order_url(&other.order.state).map(str::to_owned)));
        }
        let lost =
            LostOrder { identifiers: &identifiers, known: &known, profile: order.order.profile.as_deref() };
        let found = match self.account.find_order(&lost).await {
            Ok(found) => found?,
            Err(error) => {
                tracing::debug!(%error, "an order that may be there can't be looked for");
                return None;
            }
        };
        self.timeline.tell("found", Some(self.slot), "the CA had made the order: its answer was lost");
        Some(found)
    }

    /// The same order without its profile, where that is only preferred.
    ///
    /// # Errors
    /// The profile is required: nothing is ordered without it.
    pub(super) async fn without_profile(
        &self,
        order: &StoredOrder,
        error: &RequestError,
        planned: Planned,
    ) -> Result<StoredOrder, Verdict> {
        let profile = order.order.profile.clone().unwrap_or_default();
        self.issuance.refuses_profile(&profile, error).await;
        if self.issuance.ca.section.profile_required {
            return Err(profile_refused(&self.issuance.ca.title, &profile, &error.to_string()));
        }
        let what = format!("the CA refuses the profile {profile:?} ({error}): it is ordered without one");
        self.timeline.tell("profile", Some(self.slot), what);
        let without = Order { profile: None, ..order.order.with(planned) };
        write(|| self.issuance.store.rewrite_order(self.lease, order, without.clone()))
            .await
            .map_err(|e| Verdict::from_store(&e))
    }
}

/// Whether a refusal of an order that said `replaces` leads to one without. In known words it does at once; whatever else the CA
/// refuses as a whole, the second time. That the CA fails is not about the order: only where it goes on for runs, it may be.
fn blames_replaces(error: &RequestError, names: &NameSet, refused_before: u32) -> bool {
    let Some(problem) = error.problem() else { return false };
    let verdict = Verdict::from_order(error, names);
    match problem.kind() {
        _ if matches!(verdict.about, About::Limit | About::Account) || error.status() == Some(429) => false,
        ProblemKind::BadNonce => false,
        _ if error.may_blame_replaces() => true,
        _ if !verdict.culprits.is_empty() => false,
        // Nobody's words: it is no name, no account and no fault of the CA's own.
        ProblemKind::Other if error.is_final() => true,
        _ if error.is_final() => refused_before > 0,
        _ => refused_before >= RUNS_OF_A_FAULT,
    }
}

/// How often in a row the CA has refused a group's order as a whole, as far as its last failure tells: what is amiss with names, limits
/// or the store is another matter.
pub(super) fn refused_before(failure: Option<&Failure>) -> u32 {
    let of_the_order = |failure: &&Failure| {
        use FailureClass as Class;
        matches!(failure.class, Class::Account | Class::Bug | Class::Ca | Class::Policy)
    };
    failure.filter(of_the_order).map_or(0, |failure| failure.count)
}

/// The profile that a site must have is not to be had.
pub(super) fn profile_refused(ca: &str, profile: &str, why: &str) -> Verdict {
    Verdict::new(
        Fault::Operator,
        FailureClass::Policy,
        format!("{ca} refuses the profile {profile:?}: {why}"),
        "set another `profile`, or none; with profile_required = false the CA would choose",
    )
    .about(About::Order)
    .heard()
}

fn identifiers(order: &Order) -> Vec<Identifier> {
    order.names.iter().map(Identifier::from).collect()
}

/// Where the CA keeps the order, as long as that is known.
pub(super) fn order_url(state: &OrderState) -> Option<&str> {
    match state {
        OrderState::Planned(_) | OrderState::Stored(_) => None,
        OrderState::Ordered(ordered) => Some(&ordered.order_url),
        OrderState::Challenged(challenged) => Some(&challenged.ordered.order_url),
        OrderState::Ready(ready) => Some(&ready.order_url),
        OrderState::Finalizing(finalizing) => Some(&finalizing.order_url),
        OrderState::Issued(issued) => Some(&issued.order_url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::{Problem, Refusal};
    use jiff::Timestamp;
    use shared::domain::DnsName;

    fn refused(status: u16, kind: &str, detail: &str) -> RequestError {
        RequestError::Problem(Box::new(Refusal {
            status,
            problem: Problem {
                type_urn: Some(format!("urn:ietf:params:acme:error:{kind}")),
                detail: Some(detail.to_owned()),
                ..Problem::default()
            },
            retry_after: None,
            help: None,
            terms_of_service: None,
            location: None,
        }))
    }

    #[test]
    fn what_an_order_replaces_is_blamed_for_what_may_be_about_it() {
        let names = NameSet::new([DnsName::parse_identifier("a.example").unwrap()]).unwrap();
        // From so many refusals before on; `None`: never.
        for (status, kind, detail, from) in [
            (409, "alreadyReplaced", "", Some(0)),
            (400, "malformed", "no such certificate", Some(0)),
            (500, "serverInternal", "Could not validate ARI 'replaces' field", Some(0)),
            (400, "somethingNew", "no", Some(0)),
            (400, "badCSR", "no", Some(1)),
            // That the CA stumbles twice is no reason to lose what a renewal is spared.
            (500, "serverInternal", "try again", Some(3)),
            (503, "somethingNew", "", Some(3)),
            (400, "rejectedIdentifier", "a.example is forbidden", None),
            (429, "rateLimited", "too many", None),
            (429, "somethingNew", "too many", None),
            (403, "userActionRequired", "", None),
            (400, "accountDoesNotExist", "", None),
            (403, "unauthorized", "the account is deactivated", None),
            (400, "badNonce", "", None),
        ] {
            let error = refused(status, kind, detail);
            let first = (0..=9).find(|before| blames_replaces(&error, &names, *before));
            assert_eq!(first, from, "{status} {kind} {detail}");
        }
        let page = RequestError::Body {
            url: String::new(),
            status: 502,
            excerpt: String::new(),
            retry_after: None,
            from_ca: false,
        };
        assert!(!blames_replaces(&page, &names, 9));
    }

    #[test]
    fn only_refusals_of_the_order_count_as_such() {
        let now = Timestamp::now();
        for (class, count) in [
            (FailureClass::Ca, 2),
            (FailureClass::Bug, 2),
            (FailureClass::Dns, 0),
            (FailureClass::Firewall, 0),
            (FailureClass::Limit, 0),
            (FailureClass::Store, 0),
        ] {
            let verdict = Verdict::new(Fault::Ca, class, "", "");
            let failure = verdict.to_failure(Some(&verdict.to_failure(None, now)), now);
            assert_eq!(refused_before(Some(&failure)), count, "{class:?}");
        }
        assert_eq!(refused_before(None), 0);
    }
}
