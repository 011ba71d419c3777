//! The first step of the order machine: the order is placed, once its turn among the CA's limits has come.

use super::{patience::ask, steps::Work, turn::turn, verdict::Verdict};
use crate::{
    acme::{Identifier, NewOrder, OrderStatus, PlacedOrder, RequestError},
    limits::{Asked, Ticket},
};
use shared::{
    domain::{Ordered, Planned},
    store::StoredOrder,
};
use std::sync::atomic::{AtomicU32, Ordering};

impl Work<'_> {
    /// `Planned -> Ordered`
    pub(super) async fn place(&self, order: &StoredOrder, planned: Planned) -> Result<StoredOrder, Verdict> {
        let twin = &self.issuance.twin;
        let given = self.held().take();
        let ticket = match given {
            Some(ticket) => ticket,
            // Another run had planned it, or the CA has forgotten the one before.
            None => turn(twin, &self.asked).await?,
        };
        let placed = match self.send(order, &self.asked, ticket).await {
            Err(error) if self.asked.replaces.is_some() && error.may_blame_replaces() => {
                let what = format!("the CA does not take it for a renewal ({error}): it is ordered without");
                self.timeline.tell("nameless", Some(self.slot), what);
                self.nameless.store(true, Ordering::Relaxed);
                let asked = self.asked.without_replacing();
                let ticket = turn(twin, &asked).await?;
                self.send(order, &asked, ticket).await
            }
            answer => answer,
        };
        let placed = placed.map_err(|error| Verdict::from_order(&error, &order.order.names))?;
        let ordered = planned.ordered(Ordered {
            order_url: placed.url,
            finalize_url: placed.order.finalize,
            authorization_urls: placed.order.authorizations,
            expires: placed.order.expires,
        });
        let next = self.persist(order, ordered.clone()).await?;
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
            identifiers: order.order.names.iter().map(Identifier::from).collect(),
            profile: order.order.profile.clone(),
            replaces: asked.replaces.clone(),
        };
        let (twin, sent) = (&self.issuance.twin, AtomicU32::new(0));
        let placed = ask(|| {
            sent.fetch_add(1, Ordering::Relaxed);
            self.account.new_order(&wanted)
        });
        let placed = placed.await;
        let sent = sent.into_inner();
        match &placed {
            Ok(_) => {
                ticket.placed(twin, sent, None).await;
                *self.held() = Some(ticket);
            }
            Err(error) => ticket.refused(twin, error, sent, None).await,
        }
        placed
    }
}
