//! One key type of a group: orders until there is a certificate, without the names that spoil them, and in the place of those that
//! lead nowhere.

use super::{
    Verdict,
    attempt::{Attempt, Tally, of_store},
    patience::write,
    placing::refused_before,
    site::{is_of_profile, suffices},
    steps::Work,
    turn::turn,
    verdict::About,
};
use crate::acme::AccountStatus;
use jiff::Timestamp;
use shared::{
    domain::{
        CertificateId, DnsName, FailureClass, KeyType, NameSet, Order, OrderState, Planned, Site, Slot,
    },
    error::Fault,
    store::StoredOrder,
};

/// Orders for one key type in one run. Each but the last has lost a name to the cut, or led nowhere.
const MOST_ROUNDS: usize = 8;

impl Attempt<'_> {
    /// The certificate of one slot: from the order that another run left, or from a new one where `key_type` is lacking.
    /// Answers it and the names that are left once those that spoilt an order are cut out.
    pub(super) async fn finish_slot(
        &self,
        tally: &mut Tally,
        slot: Slot,
        key_type: Option<KeyType>,
        mut names: NameSet,
    ) -> Result<(Option<CertificateId>, NameSet), Verdict> {
        let store = &self.issuance.store;
        let mut open = store.load_order(&self.lease.site, slot).await.map_err(of_store)?;
        // A person wants another one. What the CA may have issued for our key is looked for first.
        let unwanted = |state: &OrderState| {
            tally.stored.new_order
                && matches!(
                    state,
                    OrderState::Planned(_)
                        | OrderState::Ordered(_)
                        | OrderState::Challenged(_)
                        | OrderState::Ready(_)
                )
        };
        if open.as_ref().is_some_and(|open| unwanted(&open.order.state)) {
            self.timeline.tell("given-up", Some(slot), "another order was asked for");
            write(|| store.end_order(self.lease, slot, None)).await.map_err(of_store)?;
            open = None;
        }
        if open.as_ref().is_some_and(|open| !self.can_finish(&open.order, &tally.stored.site, &names)) {
            write(|| store.end_order(self.lease, slot, None)).await.map_err(of_store)?;
            open = None;
        }
        for _ in 0..MOST_ROUNDS {
            let kind = match (&open, key_type) {
                (Some(open), _) => open.order.key_type,
                (None, Some(kind)) => {
                    // What is left once names were cut out may have a certificate already.
                    let valid = tally.before.get(&slot);
                    if valid.is_some_and(|valid| suffices(valid, kind, self.urge, &tally.stored, &names)) {
                        return Ok((None, names));
                    }
                    kind
                }
                (None, None) => return Ok((None, names)),
            };
            let verdict = match self.order(tally, &names, kind, open.take()).await {
                Ok(certificate) => {
                    tally.issued = Some(names.clone());
                    return Ok((Some(certificate), names));
                }
                Err(verdict) => verdict,
            };
            if verdict.given_up {
                self.timeline.tell("given-up", Some(slot), format!("{}: it is ordered anew", verdict.what));
                write(|| store.end_order(self.lease, slot, None)).await.map_err(of_store)?;
                continue;
            }
            let spoils = |name: &DnsName| verdict.culprits.iter().any(|(culprit, _)| culprit == name);
            let rest = NameSet::new(names.iter().filter(|name| !spoils(name)).cloned());
            let Ok(rest) = rest else { return Err(verdict) };
            if rest == names {
                return Err(verdict);
            }
            self.cut_out(tally, verdict.culprits, Timestamp::now());
            write(|| store.end_order(self.lease, slot, Some(&tally.cut))).await.map_err(of_store)?;
            self.timeline.tell(
                "cut",
                Some(slot),
                format!("{}; the others are ordered without", verdict.what),
            );
            names = rest;
        }
        Err(Verdict::new(
            Fault::Customer,
            FailureClass::Policy,
            format!("names were refused in {MOST_ROUNDS} orders in a row"),
            "the next run goes on without them",
        ))
    }

    /// One order, from its turn among the CA's limits to its certificate; or `open`, which another run has left.
    async fn order(
        &self,
        tally: &mut Tally,
        names: &NameSet,
        kind: KeyType,
        open: Option<StoredOrder>,
    ) -> Result<CertificateId, Verdict> {
        let twin = &self.issuance.twin;
        let names = open.as_ref().map_or_else(|| names.clone(), |open| open.order.names.clone());
        let asked = self.asked(tally, kind.slot(), &names);
        let place = self.issuance.take_place(&asked.order, kind.slot(), self.timeline).await?;
        let was_open = open.is_some();
        let insists = was_open && self.insists(tally);
        let (order, ticket) = match open {
            Some(open) => (open, None),
            // Asked before anything is written: what waits leaves nothing behind.
            None => {
                let profile = self.profile(&tally.stored.site, kind.slot()).await?;
                let ticket = turn(twin, &asked).await?;
                let order = self.plan(&names, kind, profile);
                match write(|| self.issuance.store.begin_order(self.lease, order.clone())).await {
                    Ok(begun) => (begun, Some(ticket)),
                    Err(error) => {
                        ticket.unused(twin).await;
                        return Err(of_store(error));
                    }
                }
            }
        };
        let work = Work::new(
            self.issuance,
            self.lease,
            kind.slot(),
            self.timeline,
            self.counter,
            tally.proofs.clone(),
            asked,
        )
        .holding(ticket)
        .after_refusals(refused_before(tally.stored.failure.as_ref()))
        .insisting(insists);
        let outcome = match work.finish(order).await {
            Err(verdict) => {
                let verdict = self.laid_to(verdict).await;
                Err(self.bounded(kind.slot(), verdict, was_open, insists).await)
            }
            answer => answer,
        };
        if work.is_nameless() {
            tally.nameless.push(kind.slot());
        }
        if let Some(place) = place {
            place.leave().await;
        }
        let has_issued = work.has_issued();
        let ticket = work.into_ticket();
        match &outcome {
            Ok(_) => ticket.issued(twin, None).await,
            // The CA has counted it, whatever we have of it.
            Err(verdict) if !verdict.keep_order && has_issued => ticket.issued(twin, None).await,
            Err(verdict) if !verdict.keep_order => {
                ticket.failed(twin, &verdict.failed_validations, None).await;
            }
            Err(_) => {}
        }
        outcome
    }

    /// Where the CA's words don't tell whether they are about the account, the account itself does.
    async fn laid_to(&self, verdict: Verdict) -> Verdict {
        if verdict.about != About::AccountOrOrder {
            return verdict;
        }
        let account = self.issuance.account.counted(self.counter.clone());
        match account.fetch().await {
            Ok(state) if !matches!(state.status, AccountStatus::Deactivated | AccountStatus::Revoked) => {
                let remedy = "the account is in order: see what the CA says of this one";
                let class = FailureClass::Policy;
                Verdict { class, remedy: remedy.to_owned(), ..verdict }.about(About::Order)
            }
            // Nothing was said of the account.
            Err(error)
                if error.problem().is_none()
                    || error.status().is_some_and(|status| status == 429 || status >= 500) =>
            {
                verdict.about(About::Order)
            }
            _ => verdict.about(About::Account),
        }
    }

    /// Whether an order that another run left is still what is wanted, from whom it is wanted. One whose certificate is
    /// stored needs nobody any more; one that the CA was asked to finalize is finished, whatever else is wanted by now.
    fn can_finish(&self, order: &Order, site: &Site, names: &NameSet) -> bool {
        let wanted = order.names.iter().all(|name| site.names.contains(name));
        let is_far = matches!(order.state, OrderState::Finalizing(_) | OrderState::Issued(_));
        matches!(order.state, OrderState::Stored(_))
            || (self.issuance.is_by_our_account(order)
                && (order.names == *names || (is_far && wanted))
                && is_of_profile(order, site, self.issuance.ca.section.profile.as_deref())
                && site.key_types.contains(&order.key_type))
    }

    fn plan(&self, names: &NameSet, key_type: KeyType, profile: Option<String>) -> Order {
        Order {
            v: Order::VERSION,
            names: names.clone(),
            key_type,
            ca: self.issuance.ca.name.clone(),
            account: self.issuance.account_name.clone(),
            account_url: Some(self.issuance.account.url().to_string()),
            profile,
            created: Timestamp::now(),
            stuck: None,
            state: Planned {}.into(),
        }
    }
}
