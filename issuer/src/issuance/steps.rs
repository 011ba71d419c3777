//! The order machine: each step does one thing with the CA, and persists what came of it before anything relies on it.

use super::{
    Issuance,
    issuing::unsettled,
    look::{Look, Until, at_once, names_of},
    patience::{Age, Pauses, ask, write},
    progress::Timeline,
    proofs::{Proofs, is_over_http},
    verdict::Verdict,
};
use crate::{
    acme::{
        self, AccountKey, Answer, AuthorizationStatus, Challenge, ChallengeReply, ChallengeStatus,
        RequestCounter, RequestError,
    },
    limits::{Asked, Ticket},
};
use shared::{
    domain::{
        AuthorizationRef, CertificateId, Challenged, OrderState, Ordered, Planned, PublishedToken, Slot,
        Thumbprint,
    },
    store::{Lease, StoredOrder},
};
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Orders that are placed in one run, where the CA forgets them.
const MOST_STARTS: u32 = 2;
/// So long after it was made, what belongs to an order may not be everywhere yet.
const YOUNG: Duration = Duration::from_secs(60);

/// Work on one order.
pub(super) struct Work<'a> {
    pub(super) issuance: &'a Issuance,
    pub(super) account: acme::Account,
    pub(super) lease: &'a Lease,
    pub(super) slot: Slot,
    pub(super) timeline: &'a Timeline,
    pub(super) proofs: Proofs,
    pub(super) asked: Asked<'a>,
    /// What it was given of the CA's limits, for the order that it is about to place or has placed.
    ticket: Mutex<Option<Ticket>>,
    /// The thumbprint of the key that answers over HTTP were published with last.
    said_with: Mutex<Option<Thumbprint>>,
    pub(super) nameless: AtomicBool,
    /// Whether the CA may have made it: another run has planned it.
    pub(super) may_be_placed: AtomicBool,
    /// Whether it was asked for a second time, not knowing what came of the first.
    pub(super) asked_twice: AtomicBool,
    /// How often in a row the CA has refused it before.
    pub(super) refused_before: u32,
    /// Whether a person wants another order, unless this one comes to something now.
    pub(super) insists: bool,
    /// When the CA made something for it last, where that was here.
    made_at: Mutex<Option<Instant>>,
    /// Whether the CA has issued for it.
    pub(super) is_issued: AtomicBool,
    /// Where the CA has said last that the order is finalized.
    finalize_url: Mutex<Option<String>>,
    /// Whether it was found lacking a proof once it had been ready.
    pub(super) proved_again: AtomicBool,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        issuance: &'a Issuance,
        lease: &'a Lease,
        slot: Slot,
        timeline: &'a Timeline,
        counter: &RequestCounter,
        proofs: Proofs,
        asked: Asked<'a>,
    ) -> Self {
        let account = issuance.account.counted(counter.clone());
        let account = if asked.by_hand { account.by_hand() } else { account };
        Self {
            account,
            issuance,
            lease,
            slot,
            timeline,
            proofs,
            asked,
            ticket: Mutex::default(),
            said_with: Mutex::default(),
            nameless: AtomicBool::new(false),
            may_be_placed: AtomicBool::new(false),
            asked_twice: AtomicBool::new(false),
            refused_before: 0,
            insists: false,
            made_at: Mutex::default(),
            is_issued: AtomicBool::new(false),
            finalize_url: Mutex::default(),
            proved_again: AtomicBool::new(false),
        }
    }

    /// With what the order was given for its turn.
    pub(super) fn holding(self, ticket: Option<Ticket>) -> Self {
        Self { ticket: Mutex::new(ticket), ..self }
    }

    /// After so many orders in a row that the CA has refused.
    pub(super) fn after_refusals(self, refused_before: u32) -> Self {
        Self { refused_before, ..self }
    }

    /// Where a person wants another order, unless this one comes to something now.
    pub(super) fn insisting(self, insists: bool) -> Self {
        Self { insists, ..self }
    }

    /// The CA has made something for the order.
    pub(super) fn has_made_something(&self) {
        *self.made_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether what the CA has made for the order may be on its way still to all of its servers.
    pub(super) fn age(&self) -> Age {
        let made_at = *self.made_at.lock().unwrap_or_else(PoisonError::into_inner);
        if made_at.is_some_and(|at| at.elapsed() < YOUNG) { Age::Young } else { Age::Old }
    }

    /// Whether the CA has issued a certificate for the order.
    pub(super) fn has_issued(&self) -> bool {
        self.is_issued.load(Ordering::Relaxed)
    }

    /// What the order was given, here or by the run that placed it.
    pub(super) fn into_ticket(self) -> Ticket {
        let ticket = self.ticket.into_inner().unwrap_or_else(PoisonError::into_inner);
        ticket.unwrap_or_else(|| self.issuance.twin.ticket_of(&self.asked))
    }

    /// Whether the CA did not take the certificate that it serves for one that is replaced.
    pub(super) fn is_nameless(&self) -> bool {
        self.nameless.load(Ordering::Relaxed)
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Option<Ticket>> {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn learn_finalize_url(&self, order: &acme::Order) {
        if let Some(url) = &order.finalize {
            *self.finalize_url.lock().unwrap_or_else(PoisonError::into_inner) = Some(url.clone());
        }
    }

    /// Where the order is finalized: what the CA has said last counts before what was stored.
    pub(super) fn finalize_url_of(&self, stored: &str) -> Option<String> {
        let said = self.finalize_url.lock().unwrap_or_else(PoisonError::into_inner).clone();
        said.or_else(|| acme::is_reachable(stored).then(|| stored.to_owned()))
    }

    /// Remembers which key the answers were published with.
    pub(super) fn said_with(&self, key: &AccountKey) {
        let said = Some(key.thumbprint());
        *self.said_with.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    fn was_said_with_the_present_key(&self) -> bool {
        let said = self.said_with.lock().unwrap_or_else(PoisonError::into_inner);
        said.as_ref() == Some(&self.account.key().thumbprint())
    }

    /// From wherever the order stands to a stored certificate.
    pub(super) async fn finish(&self, order: StoredOrder) -> Result<CertificateId, Verdict> {
        let mut order = order;
        // What was read from the store may be long past at the CA.
        let mut resumed = !matches!(order.order.state, OrderState::Planned(_));
        if resumed {
            self.timeline.tell(
                "resumed",
                Some(self.slot),
                format!("the order was {}", order.order.state.as_str()),
            );
        }
        let is_new = self.held().is_some();
        self.may_be_placed.store(!is_new, Ordering::Relaxed);
        let mut starts = 0;
        loop {
            if matches!(order.order.state, OrderState::Planned(_)) {
                starts += 1;
                if starts > MOST_STARTS {
                    return Err(Verdict::new(
                        shared::error::Fault::Ca,
                        shared::domain::FailureClass::Ca,
                        "the CA forgets every order right after it was placed",
                        "ask the CA; nothing more is ordered until the next run",
                    ));
                }
            }
            order = match order.order.state.clone() {
                OrderState::Planned(planned) => {
                    resumed = false;
                    self.place(&order, planned).await?
                }
                OrderState::Ordered(ordered) => self.challenge(&order, ordered).await?,
                OrderState::Challenged(challenged) => self.prove(&order, challenged, resumed).await?,
                OrderState::Ready(ready) => self.make_key(&order, ready).await?,
                OrderState::Finalizing(finalizing) => self.finalize(&order, finalizing, resumed).await?,
                OrderState::Issued(issued) => self.download(&order, issued).await?,
                OrderState::Stored(stored) => return Ok(stored.certificate),
            };
        }
    }

    /// `Ordered -> Challenged`, or `Ready` where nothing is left to prove
    async fn challenge(&self, order: &StoredOrder, ordered: Ordered) -> Result<StoredOrder, Verdict> {
        let mut urls = ordered.authorization_urls.clone();
        if urls.is_empty() || !urls.iter().all(|url| acme::is_reachable(url)) {
            // The order may say by now what it did not where it was placed.
            urls = match self.look(&ordered.order_url).await? {
                Look::Gone => return self.start_over(order).await,
                Look::Pending(urls) => urls,
                Look::Ready | Look::Processing | Look::Valid { .. } => {
                    return self.persist(order, ordered.ready()).await;
                }
            };
            if urls.is_empty() {
                return Err(unsettled("the CA does not say where the order's authorizations are".to_owned()));
            }
        }
        let authorizations = match self.authorizations(&urls).await {
            Err(error) if error.is_gone() => return self.start_over(order).await,
            answer => answer.map_err(|error| self.refused(&error))?,
        };
        let names = names_of(&authorizations, &order.order.names)?;
        let mut tokens = Vec::new();
        for ((authorization_url, authorization), name) in authorizations.into_iter().zip(names) {
            match authorization.status {
                AuthorizationStatus::Valid => {}
                AuthorizationStatus::Pending => {
                    tokens.push(self.proof_of(name, authorization_url, &authorization).await?);
                }
                // Dead: so is the order. A new one is placed.
                _ if authorization.problem().is_none() => return self.start_over(order).await,
                _ => return Err(self.failed(&[(authorization_url, authorization)])),
            }
        }
        if tokens.is_empty() {
            return self.persist(order, ordered.ready()).await;
        }
        self.answer_over_http(&tokens, ordered.expires).await?;
        let next = self.persist(order, ordered.challenged(tokens)).await?;
        self.timeline.tell("challenged", Some(self.slot), "");
        Ok(next)
    }

    /// `Challenged -> Ready`
    async fn prove(
        &self,
        order: &StoredOrder,
        challenged: Challenged,
        resumed: bool,
    ) -> Result<StoredOrder, Verdict> {
        let order_url = &challenged.ordered.order_url;
        let tokens = &challenged.tokens;
        if resumed {
            match self.look(order_url).await {
                Ok(Look::Gone) => {
                    self.take_back(tokens).await;
                    return self.start_over(order).await;
                }
                Ok(Look::Valid { .. } | Look::Ready) => return self.proved(order, challenged).await,
                Ok(Look::Pending(_) | Look::Processing) => {
                    self.answer_over_http(tokens, challenged.ordered.expires).await?
                }
                Err(verdict) => {
                    if !verdict.keep_order {
                        self.take_back(tokens).await;
                    }
                    return Err(verdict);
                }
            }
        }
        // Records of a key that the account no longer has prove nothing.
        if let Some(renewed) = self.renewed(tokens) {
            self.take_back(tokens).await;
            let renewed = Challenged { tokens: renewed, ..challenged };
            return self.persist(order, renewed).await;
        }
        if let Err(verdict) = self.write_records(tokens).await {
            if !verdict.keep_order {
                self.take_back(tokens).await;
            }
            return Err(verdict);
        }
        let over_http: Vec<_> = tokens.iter().filter(|token| is_over_http(token)).cloned().collect();
        let advice =
            self.issuance.checker.check(&over_http, &self.account.key(), self.slot, self.timeline).await?;
        let _looking = self.issuance.begin_looking(&self.asked.order).await?;
        if self.renewed(tokens).is_some() {
            // Begun anew, with the key of now.
            return Ok(order.clone());
        }
        if !self.was_said_with_the_present_key() {
            self.answer_over_http(tokens, challenged.ordered.expires).await?;
        }
        let (asked, answered) = self.answer(tokens).await?;
        self.timeline.tell("answered", Some(self.slot), "the CA was told to look");
        let pace = &self.issuance.validation_pace;
        let look = self.watch(order_url, pace, asked, Until::Proved(tokens), answered);
        match look.await {
            Ok(Look::Gone) => {
                self.take_back(tokens).await;
                self.start_over(order).await
            }
            // Whatever else it is, everything was proved.
            Ok(_) => self.proved(order, challenged).await,
            Err(verdict) => {
                if !verdict.keep_order {
                    self.take_back(tokens).await;
                }
                Err(advice.explain(verdict))
            }
        }
    }

    async fn proved(&self, order: &StoredOrder, challenged: Challenged) -> Result<StoredOrder, Verdict> {
        self.withdraw(&challenged.tokens);
        let records = self.records(&challenged.tokens);
        let next = self.persist(order, challenged.ready()).await?;
        self.timeline.tell("ready", Some(self.slot), "the CA has seen every name");
        self.issuance.prover.remove(&records).await;
        Ok(next)
    }

    /// The order is dead at the CA: the same wish, planned anew.
    pub(super) async fn start_over(&self, order: &StoredOrder) -> Result<StoredOrder, Verdict> {
        self.timeline.tell("expired", Some(self.slot), "the CA no longer has the order: a new one is placed");
        // Which the CA counts anew.
        let ticket = self.held().take();
        if self.is_issued.swap(false, Ordering::Relaxed) {
            let ticket = ticket.unwrap_or_else(|| self.issuance.twin.ticket_of(&self.asked));
            ticket.issued(&self.issuance.twin, None).await;
        }
        self.persist(order, Planned {}).await
    }

    pub(super) async fn persist(
        &self,
        order: &StoredOrder,
        state: impl Into<OrderState>,
    ) -> Result<StoredOrder, Verdict> {
        let state = state.into();
        write(|| self.issuance.store.advance_order(self.lease, order, state.clone()))
            .await
            .map_err(|e| Verdict::from_store(&e))
    }

    /// Tells the CA to look; answers with the pause that it wishes for, where it does, and whether it has found something wrong
    /// already.
    async fn answer(&self, tokens: &[PublishedToken]) -> Result<(Option<Duration>, bool), Verdict> {
        let at: Vec<AuthorizationRef> = tokens.iter().map(|published| published.at.clone()).collect();
        let age = self.age();
        let answers = at_once(at, &self.account, move |account, at| answer_one(account, at, age));
        let answers = answers.await.map_err(|error| self.of_what_is_there(error))?;
        let asked = answers.iter().filter_map(|(asked, _)| *asked).max();
        Ok((asked, answers.iter().any(|(_, has_failed)| *has_failed)))
    }
}

/// Answers one challenge. A refusal may come of a first answer that nobody has heard the CA's reply to: the authorization tells.
async fn answer_one(
    account: acme::Account,
    at: AuthorizationRef,
    age: Age,
) -> Result<(Option<Duration>, bool), RequestError> {
    let has_failed = |challenge: &Challenge| {
        challenge.error.is_some()
            && matches!(challenge.status, ChallengeStatus::Pending | ChallengeStatus::Invalid)
    };
    let mut pauses = Pauses::begin();
    loop {
        let answer = age.ask(|| async {
            match account.answer_challenge(&at.challenge_url).await {
                // The authorization knows whether it was heard.
                Err(error) if error.is_doubtful() => Ok(Err(error)),
                answer => answer.map(Ok),
            }
        });
        let error = match answer.await.and_then(|answer| answer) {
            Ok(Answer { value: ChallengeReply::Accepted(challenge), retry_after }) => {
                return Ok((retry_after, has_failed(&challenge)));
            }
            Ok(Answer { value: ChallengeReply::AlreadyAnswered, retry_after }) => {
                return Ok((retry_after, false));
            }
            Err(error) => error,
        };
        let is_refusal = error.problem().is_some()
            && error.status().is_some_and(|status| (400..500).contains(&status) && status != 429);
        if !is_refusal && !error.is_doubtful() {
            return Err(error);
        }
        if let Ok(Answer { value: authorization, retry_after }) =
            ask(|| account.fetch_authorization(&at.authorization_url)).await
            && is_answered(&authorization, &at.challenge_url)
        {
            return Ok((retry_after, authorization.status != AuthorizationStatus::Valid));
        }
        if is_refusal {
            return Err(error);
        }
        pauses.before_asking_again(error).await?;
    }
}

/// Whether the CA has heard the answer to a challenge, as far as the authorization tells.
fn is_answered(authorization: &acme::Authorization, challenge_url: &str) -> bool {
    let answered = authorization.challenges.iter().find(|challenge| challenge.url == challenge_url);
    authorization.status != AuthorizationStatus::Pending
        || answered.is_some_and(|challenge| {
            challenge.status != ChallengeStatus::Pending || challenge.error.is_some()
        })
}
