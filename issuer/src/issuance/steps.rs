//! The order machine: each step does one thing with the CA, and persists what came of it before anything relies on it.

use super::{
    Issuance,
    directory::learn_chain_top,
    look::{Look, at_once, name_of, refused},
    patience::{ask, write},
    progress::Timeline,
    proofs::{Proofs, is_over_http},
    verdict::Verdict,
};
use crate::{
    acme::{
        self, AccountKey, Answer, AuthorizationStatus, Chain, Expectation, Identifier, OrderStatus,
        ProblemKind, RequestCounter, RequestError, csr, generate_certificate_key,
    },
    limits::{Asked, Ticket},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use openssl::pkey::{PKey, Private};
use shared::{
    domain::{
        Certificate, CertificateId, Challenged, Finalizing, Issued, OrderState, Ordered, Planned,
        PublishedToken, Ready, Slot, Thumbprint,
    },
    store::{Lease, StoredOrder, lineage_of},
    vault::{Binding, SealedKind},
};
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Orders that are placed in one run, where the CA forgets them.
const MOST_STARTS: u32 = 2;

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
    /// Whether the site's last order has failed, too.
    pub(super) failed_before: bool,
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
            failed_before: false,
        }
    }

    /// With what the order was given for its turn.
    pub(super) fn holding(self, ticket: Option<Ticket>) -> Self {
        Self { ticket: Mutex::new(ticket), ..self }
    }

    /// After another order of the site that failed.
    pub(super) fn after_failures(self, failed_before: bool) -> Self {
        Self { failed_before, ..self }
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
        let authorizations = match self.authorizations(&ordered.authorization_urls).await {
            Err(error) if error.is_gone() => return self.start_over(order).await,
            answer => answer.map_err(refused)?,
        };
        let mut tokens = Vec::new();
        for (authorization_url, authorization) in authorizations {
            let name = name_of(&authorization)?;
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
                Ok(Some(Look::Gone)) => {
                    self.take_back(tokens).await;
                    return self.start_over(order).await;
                }
                Ok(Some(Look::Valid { .. } | Look::Ready)) => return self.proved(order, challenged).await,
                Ok(None) => self.answer_over_http(tokens, challenged.ordered.expires).await?,
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
        let asked = self.answer(tokens).await?;
        self.timeline.tell("answered", Some(self.slot), "the CA was told to look");
        let look = self.watch(order_url, &self.issuance.validation_pace, asked, |status| {
            matches!(status, OrderStatus::Pending | OrderStatus::Unknown)
        });
        match look.await {
            Ok(Look::Gone) => {
                self.take_back(tokens).await;
                self.start_over(order).await
            }
            Ok(Look::Ready | Look::Valid { .. }) => self.proved(order, challenged).await,
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

    /// `Ready -> Finalizing`
    async fn make_key(&self, order: &StoredOrder, ready: Ready) -> Result<StoredOrder, Verdict> {
        let kind = order.order.key_type;
        // RSA keys take their time; other orders go on meanwhile.
        let key = tokio::task::spawn_blocking(move || generate_certificate_key(kind))
            .await
            .map_err(|e| Verdict::bug(e.to_string()))?
            .map_err(|e| Verdict::bug(e.to_string()))?;
        let identifiers: Vec<Identifier> = order.order.names.iter().map(Identifier::from).collect();
        let csr = csr::for_names(&key, &identifiers).map_err(|e| Verdict::bug(e.to_string()))?;
        let spki = spki_sha256(&key)?;
        let lineage = lineage_of(&self.lease.site, self.slot);
        let binding = Binding { kind: SealedKind::CertificateKey, owner: &lineage, spki_sha256: &spki };
        let der =
            zeroize::Zeroizing::new(key.private_key_to_pkcs8().map_err(|e| Verdict::bug(e.to_string()))?);
        // Under the lease: a rotation that finds the site free later on has been heard of here.
        let vault = &self.issuance.vault;
        write(|| self.issuance.store.learn_current_kek(vault)).await.map_err(|e| Verdict::from_store(&e))?;
        let sealed = vault.seal(&der, &binding).map_err(|e| Verdict::from_sealing(&e))?;
        let next =
            self.persist(order, ready.finalizing(STANDARD.encode(sealed), STANDARD.encode(csr))).await?;
        self.timeline.tell("finalizing", Some(self.slot), "the key is stored");
        Ok(next)
    }

    /// `Finalizing -> Issued`
    async fn finalize(
        &self,
        order: &StoredOrder,
        finalizing: Finalizing,
        resumed: bool,
    ) -> Result<StoredOrder, Verdict> {
        let order_url = &finalizing.order_url;
        if resumed {
            match self.look(order_url).await? {
                Some(Look::Gone) => return self.start_over(order).await,
                Some(Look::Valid { certificate_url }) => {
                    return self.issued(order, finalizing, certificate_url).await;
                }
                Some(Look::Ready) | None => {}
            }
        }
        let csr = STANDARD.decode(&finalizing.csr).map_err(|e| Verdict::bug(e.to_string()))?;
        let answer = ask(|| async {
            match self.account.finalize(&finalizing.finalize_url, &csr).await {
                // The CA has gone on, and we have not heard of it: the order knows.
                Err(error) if matches!(error.kind(), Some(ProblemKind::OrderNotReady)) => Ok(None),
                answer => answer.map(Some),
            }
        });
        let mut asked = None;
        match answer.await {
            Ok(Some(Answer { value, .. }))
                if value.status == OrderStatus::Valid && value.certificate.is_some() =>
            {
                let certificate_url = value.certificate.unwrap_or_default();
                return self.issued(order, finalizing, certificate_url).await;
            }
            Ok(answer) => asked = answer.and_then(|answer| answer.retry_after),
            // The key was refused for good: another one, for the same order.
            Err(error) if matches!(error.kind(), Some(ProblemKind::BadCsr | ProblemKind::BadPublicKey)) => {
                return Err(refused(error));
            }
            Err(error) if error.is_gone() => return self.start_over(order).await,
            // Whatever else was said: the order knows whether the CA went on all the same.
            Err(error) => match self.look(order_url).await {
                Ok(Some(Look::Valid { certificate_url })) => {
                    return self.issued(order, finalizing, certificate_url).await;
                }
                Ok(Some(Look::Ready)) => return Err(self.not_finalized(order, &error)),
                Ok(Some(Look::Gone)) => return self.start_over(order).await,
                Ok(None) => {}
                Err(verdict) => return Err(verdict),
            },
        }
        let look = self.watch(order_url, &self.issuance.issuing_pace, asked, |status| {
            matches!(status, OrderStatus::Processing | OrderStatus::Unknown | OrderStatus::Ready)
        });
        match look.await? {
            Look::Valid { certificate_url } => self.issued(order, finalizing, certificate_url).await,
            Look::Ready => {
                Err(Verdict::bug("an order that is watched until it leaves `ready` was found ready"))
            }
            Look::Gone => self.start_over(order).await,
        }
    }

    /// The order is ready still, and the CA refused to finalize it. Where names are to blame, it is of no use with them.
    fn not_finalized(&self, order: &StoredOrder, error: &RequestError) -> Verdict {
        let verdict = Verdict::from_order(error, &order.order.names);
        if verdict.culprits.is_empty() { verdict.keeping_the_order() } else { verdict }
    }

    async fn issued(
        &self,
        order: &StoredOrder,
        finalizing: Finalizing,
        certificate_url: String,
    ) -> Result<StoredOrder, Verdict> {
        let next = self.persist(order, finalizing.issued(certificate_url)).await?;
        self.timeline.tell("issued", Some(self.slot), "");
        Ok(next)
    }

    /// `Issued -> Stored`
    async fn download(&self, order: &StoredOrder, issued: Issued) -> Result<StoredOrder, Verdict> {
        let preferred = self.issuance.ca.section.preferred_chain.as_deref();
        let chain = ask(|| self.account.fetch_preferred_chain(&issued.certificate_url, preferred))
            .await
            .map_err(|error| match &error {
                RequestError::Chain { source, .. } => Verdict::from_chain(source),
                _ if error.is_gone() => refused(error),
                _ => refused(error).keeping_the_order(),
            })?
            .value;
        if !chain.matched {
            let wanted = preferred.unwrap_or_default();
            self.timeline.tell(
                "chain",
                Some(self.slot),
                format!("the CA offers no chain that ends at {wanted:?}: its own choice is used"),
            );
        }
        let certificate = self.checked(order, &issued, &chain.chain)?;
        let stored = issued.stored(certificate.id());
        let next =
            write(|| self.issuance.store.store_certificate(self.lease, order, &certificate, stored.clone()))
                .await
                .map_err(|e| Verdict::from_store(&e))?;
        self.timeline.tell("stored", Some(self.slot), "");
        if let Some(top) = chain.chain.topmost_issuer_common_name() {
            learn_chain_top(&self.issuance.store, &self.issuance.ca, self.slot, &top).await;
        }
        Ok(next)
    }

    /// A certificate is stored only if it is the one that was ordered, for the key that is stored.
    fn checked(&self, order: &StoredOrder, issued: &Issued, chain: &Chain) -> Result<Certificate, Verdict> {
        let sealed_key = STANDARD.decode(&issued.sealed_key).map_err(|e| Verdict::bug(e.to_string()))?;
        let lineage = lineage_of(&self.lease.site, self.slot);
        let binding =
            Binding { kind: SealedKind::CertificateKey, owner: &lineage, spki_sha256: chain.spki_sha256() };
        // The key is bound to its public key: it opens for the certificate of this key and for no other.
        let key = self
            .issuance
            .vault
            .open(&sealed_key, &binding)
            .map_err(|_| Verdict::from_chain(&acme::ChainError::WrongKey))?;
        let key = PKey::private_key_from_pkcs8(&key).map_err(|e| Verdict::bug(e.to_string()))?;
        let spki_der = key.public_key_to_der().map_err(|e| Verdict::bug(e.to_string()))?;
        let identifiers: Vec<Identifier> = order.order.names.iter().map(Identifier::from).collect();
        let now = Timestamp::now();
        let expected =
            Expectation { spki_der: &spki_der, identifiers: &identifiers, now_unix: now.as_second() };
        chain.check(&expected).map_err(|e| Verdict::from_chain(&e))?;
        Ok(Certificate {
            leaf_der: chain.leaf_der().to_vec(),
            chain_pem: chain.issuers_pem(),
            sealed_key,
            key_type: order.order.key_type,
            ca: order.order.ca.clone(),
            account: order.order.account.clone(),
            issued: now,
            known: None,
        })
    }

    /// The order is dead at the CA: the same wish, planned anew.
    async fn start_over(&self, order: &StoredOrder) -> Result<StoredOrder, Verdict> {
        self.timeline.tell("expired", Some(self.slot), "the CA no longer has the order: a new one is placed");
        // Which the CA counts anew.
        self.held().take();
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

    /// Tells the CA to look; answers with the pause that it wishes for, where it does.
    async fn answer(&self, tokens: &[PublishedToken]) -> Result<Option<Duration>, Verdict> {
        let urls = tokens.iter().map(|published| published.at.challenge_url.clone()).collect();
        let asked = at_once(urls, &self.account, |account, url| async move {
            Ok(ask(|| account.answer_challenge(&url)).await?.retry_after)
        });
        let asked = asked.await.map_err(|error| refused(error).keeping_the_order())?;
        Ok(asked.into_iter().flatten().max())
    }
}

fn spki_sha256(key: &PKey<Private>) -> Result<String, Verdict> {
    let der = key.public_key_to_der().map_err(|e| Verdict::bug(e.to_string()))?;
    Ok(shared::digest::sha256_hex(&der))
}
