//! The last steps of the order machine: from proved names to a certificate in the store. What the CA has issued for our key is
//! fetched with patience.

use super::{
    directory::{learn_chain_top, tell_of_lone_leaf, tell_of_short_life},
    look::{Look, Until},
    patience::write,
    refusal::may_blame_profile,
    steps::Work,
    verdict::{About, Prospect, Verdict},
};
use crate::acme::{
    Answer, AuthorizationStatus, Chain, ChainError, Expectation, Identifier, OrderStatus, ProblemKind,
    RequestError, csr, generate_certificate_key, is_reachable,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use openssl::{
    pkey::{PKey, Private},
    x509::X509Req,
};
use shared::{
    domain::{Certificate, FailureClass, Finalizing, Issued, Ordered, Planned, Ready},
    error::Fault,
    store::{StoredOrder, lineage_of},
    vault::{Binding, OpenError, SealedKind},
};
use std::{sync::atomic::Ordering, time::Duration};

/// Pauses before a ready order is finalized again that the CA calls not ready.
const READY_PAUSES_MS: [u64; 4] = [500, 1_500, 4_000, 8_000];
/// Pauses before a certificate is fetched again that is not the one that was ordered.
const CERTIFICATE_PAUSES_MS: [u64; 3] = [500, 1_500, 4_000];
/// A certificate that begins later than this is of no use.
const LONGEST_AHEAD: SignedDuration = SignedDuration::from_hours(7 * 24);

impl Work<'_> {
    /// `Ready -> Finalizing`
    pub(super) async fn make_key(&self, order: &StoredOrder, ready: Ready) -> Result<StoredOrder, Verdict> {
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

    /// `Finalizing -> Issued`, or back to where something is to be proved.
    pub(super) async fn finalize(
        &self,
        order: &StoredOrder,
        finalizing: Finalizing,
        resumed: bool,
    ) -> Result<StoredOrder, Verdict> {
        // A key is at stake: that the CA has nothing is believed only if it says so for some seconds.
        self.has_made_something();
        let order_url = &finalizing.order_url;
        let csr = STANDARD.decode(&finalizing.csr).map_err(|e| Verdict::bug(e.to_string()))?;
        let mut look = if resumed { self.look(order_url).await? } else { Look::Ready };
        let mut pauses = READY_PAUSES_MS.into_iter().map(Duration::from_millis);
        loop {
            match look {
                Look::Valid { certificate_url } => {
                    return self.issued(order, finalizing, certificate_url).await;
                }
                Look::Gone => return self.start_over(order).await,
                Look::Pending(urls) => return self.prove_again(order, finalizing, urls).await,
                Look::Processing => {
                    look = self.watch_issuing(order_url, None).await?;
                    continue;
                }
                Look::Ready => {}
            }
            let mut finalize_url = self.finalize_url_of(&finalizing.finalize_url);
            if finalize_url.is_none() {
                // It may say by now what it did not where it was placed.
                look = self.look(order_url).await?;
                if !matches!(look, Look::Ready) {
                    continue;
                }
                finalize_url = self.finalize_url_of(&finalizing.finalize_url);
            }
            let finalize_url = finalize_url
                .ok_or_else(|| unsettled("the CA does not say where the order is finalized".to_owned()))?;
            let answer = self.age().ask(|| async {
                match self.account.finalize(&finalize_url, &csr).await {
                    // The order knows more than a second try.
                    Err(error) if error.kind() == Some(ProblemKind::OrderNotReady) || error.is_doubtful() => {
                        Ok(Err(error))
                    }
                    answer => answer.map(Ok),
                }
            });
            let error = match answer.await.and_then(|answer| answer) {
                Ok(Answer { value, retry_after }) => {
                    let certificate = value.certificate.filter(|url| !url.is_empty());
                    look = match certificate.filter(|_| value.status == OrderStatus::Valid) {
                        Some(certificate_url) => Look::Valid { certificate_url },
                        None => self.watch_issuing(order_url, retry_after).await?,
                    };
                    if matches!(look, Look::Ready) {
                        let what = "the CA takes the order's request, and leaves it ready";
                        self.pause_or(pauses.next(), || unsettled(what.to_owned())).await?;
                    }
                    continue;
                }
                Err(error) => error,
            };
            match error.kind() {
                // The key was refused for good: another one, for the same order.
                Some(ProblemKind::BadCsr | ProblemKind::BadPublicKey) => return Err(self.refused(&error)),
                _ if order.order.profile.is_some() && may_blame_profile(&error, &order.order.names) => {
                    // Which the CA counts anew.
                    drop(self.held().take());
                    return self.without_profile(order, &error, Planned {}).await;
                }
                _ => {}
            }
            // Whatever else was said: the order knows whether the CA went on all the same.
            look = self.look(order_url).await?;
            if matches!(look, Look::Ready) {
                // The CA has issued nothing for it, and takes nothing for it any more.
                if error.is_gone() {
                    return self.start_over(order).await;
                }
                if error.is_doubtful() {
                    self.pause_or(pauses.next(), || self.not_finalized(order, &error)).await?;
                    continue;
                }
                if error.kind() != Some(ProblemKind::OrderNotReady) {
                    return Err(self.not_finalized(order, &error));
                }
                let what = format!("the CA says that the order is ready, and that it is not: {error}");
                self.pause_or(pauses.next(), || unsettled(what)).await?;
            }
        }
    }

    async fn pause_or(
        &self,
        pause: Option<Duration>,
        verdict: impl FnOnce() -> Verdict,
    ) -> Result<(), Verdict> {
        tokio::time::sleep(pause.ok_or_else(verdict)?).await;
        Ok(())
    }

    async fn watch_issuing(&self, order_url: &str, asked: Option<Duration>) -> Result<Look, Verdict> {
        self.watch(order_url, &self.issuance.issuing_pace, asked, Until::Issued, false).await
    }

    /// The order was proved, and lacks something again: what that is, is looked at and proved. Its key was never used.
    async fn prove_again(
        &self,
        order: &StoredOrder,
        finalizing: Finalizing,
        urls: Vec<String>,
    ) -> Result<StoredOrder, Verdict> {
        let authorizations = self.authorizations(&urls).await;
        let authorizations = authorizations.map_err(|error| self.of_what_is_there(error))?;
        let lacking: Vec<String> = authorizations
            .iter()
            .filter(|(_, authorization)| authorization.status != AuthorizationStatus::Valid)
            .map(|(_, authorization)| {
                let name = authorization.identifier.as_ref().map_or("a name", |name| name.value.as_str());
                format!("the authorization of {name} is {}", authorization.status)
            })
            .collect();
        let what = if lacking.is_empty() {
            "every authorization of the order is valid, and the CA leaves it pending".to_owned()
        } else {
            format!("the order was ready and is pending again: {}", lacking.join("; "))
        };
        if lacking.is_empty() || self.proved_again.swap(true, Ordering::Relaxed) {
            return Err(unsettled(what));
        }
        self.timeline.tell("pending", Some(self.slot), what);
        let ordered = Ordered {
            order_url: finalizing.order_url,
            finalize_url: finalizing.finalize_url,
            authorization_urls: urls,
            expires: None,
        };
        self.persist(order, ordered).await
    }

    /// The order is ready still, and the CA refused to finalize it. Where names are to blame, it is of no use with them.
    fn not_finalized(&self, order: &StoredOrder, error: &RequestError) -> Verdict {
        let verdict = self.laid_to_the_server(error, Verdict::from_order(error, &order.order.names));
        match verdict.culprits.is_empty() {
            true if error.is_final() => verdict.keeping_the_order().leading_nowhere(),
            true => verdict.keeping_the_order(),
            false => verdict,
        }
    }

    async fn issued(
        &self,
        order: &StoredOrder,
        finalizing: Finalizing,
        certificate_url: String,
    ) -> Result<StoredOrder, Verdict> {
        let next = self.persist(order, finalizing.issued(certificate_url)).await?;
        self.has_made_something();
        self.timeline.tell("issued", Some(self.slot), "");
        Ok(next)
    }

    /// `Issued -> Stored`
    pub(super) async fn download(&self, order: &StoredOrder, issued: Issued) -> Result<StoredOrder, Verdict> {
        self.is_issued.store(true, Ordering::Relaxed);
        let mut pauses = CERTIFICATE_PAUSES_MS.into_iter().map(Duration::from_millis);
        let (mut order, mut issued) = (order.clone(), issued);
        if !is_reachable(&issued.certificate_url)
            && let Look::Valid { certificate_url } = self.look(&issued.order_url).await?
        {
            issued.certificate_url = certificate_url;
        }
        loop {
            let verdict = match self.fetch_certificate(&order, &issued).await {
                Ok((certificate, top)) => return self.store(&order, issued, &certificate, top).await,
                Err(verdict) => verdict,
            };
            let Some(pause) = pauses.next().filter(|_| verdict.prospect == Prospect::Nowhere) else {
                return Err(verdict);
            };
            tokio::time::sleep(pause).await;
            // The order may have another URL for it by now, or have had it all along.
            if let Ok(Look::Valid { certificate_url }) = self.look(&issued.order_url).await
                && certificate_url != issued.certificate_url
            {
                issued.certificate_url = certificate_url;
                order = self.persist(&order, issued.clone()).await?;
            }
        }
    }

    async fn store(
        &self,
        order: &StoredOrder,
        issued: Issued,
        certificate: &Certificate,
        top: Option<String>,
    ) -> Result<StoredOrder, Verdict> {
        let stored = issued.stored(certificate.id());
        let next =
            write(|| self.issuance.store.store_certificate(self.lease, order, certificate, stored.clone()))
                .await
                .map_err(|e| Verdict::from_store(&e))?;
        let leaf = certificate.leaf().map_err(|e| Verdict::bug(e.to_string()))?;
        if certificate.life(&leaf).0 == leaf.not_before {
            self.timeline.tell("stored", Some(self.slot), "");
        } else {
            let what = format!(
                "it is valid from {} until {}: much of its life was over when it was issued, and what is left of it counts",
                leaf.not_before, leaf.not_after
            );
            self.timeline.tell("stored", Some(self.slot), what);
            tell_of_short_life(&self.issuance.store, &self.issuance.ca, &leaf).await;
        }
        if let Some(top) = top {
            learn_chain_top(&self.issuance.store, &self.issuance.ca, self.slot, &top).await;
        }
        Ok(next)
    }

    /// The certificate, once it is what was ordered; and where its chain ends.
    async fn fetch_certificate(
        &self,
        order: &StoredOrder,
        issued: &Issued,
    ) -> Result<(Certificate, Option<String>), Verdict> {
        let preferred = self.issuance.ca.section.preferred_chain.as_deref();
        let url = &issued.certificate_url;
        let fetched = self.age().ask(|| async {
            match self.account.fetch_preferred_chain(url, preferred).await {
                // The order is looked at first.
                Err(error) if error.is_not_found() && error.is_of_the_way() => Ok(Err(error)),
                answer => answer.map(Ok),
            }
        });
        let mut chain = match fetched.await.and_then(|fetched| fetched) {
            Ok(fetched) => fetched.value,
            Err(error) => return Err(self.not_fetched(issued, error).await),
        };
        if !chain.matched {
            let wanted = preferred.unwrap_or_default();
            self.timeline.tell(
                "chain",
                Some(self.slot),
                format!("the CA offers no chain that ends at {wanted:?}: its own choice is used"),
            );
        }
        if chain.chain.put_in_order() {
            let what =
                "the CA sent the chain in another order, or with what does not belong to it: put right";
            self.timeline.tell("chain", Some(self.slot), what);
        }
        if chain.chain.issuers().is_empty() {
            self.timeline.tell("chain", Some(self.slot), "the CA sent the certificate without a chain");
            tell_of_lone_leaf(&self.issuance.store, &self.issuance.ca).await;
        }
        let certificate = self.checked(order, issued, &chain.chain)?;
        Ok((certificate, chain.chain.topmost_issuer_common_name()))
    }

    /// The verdict on a certificate that can't be had. Whoever says that it is not there, the order knows whether the CA is heard
    /// at all, and still says that it has issued.
    async fn not_fetched(&self, issued: &Issued, error: RequestError) -> Verdict {
        match &error {
            RequestError::Chain { source, .. } => {
                Verdict::from_chain(source).keeping_the_order().leading_nowhere()
            }
            _ if error.is_gone() => lost(&error),
            _ if error.is_not_found() => match self.look(&issued.order_url).await {
                Ok(Look::Valid { certificate_url }) if certificate_url == issued.certificate_url => {
                    lost(&error)
                }
                _ => self.of_what_is_there(error),
            },
            _ => self.of_what_is_there(error),
        }
    }

    /// A certificate is stored only if it is the one that was ordered, for the key that is stored.
    fn checked(&self, order: &StoredOrder, issued: &Issued, chain: &Chain) -> Result<Certificate, Verdict> {
        let sealed_key = STANDARD.decode(&issued.sealed_key).map_err(|e| Verdict::bug(e.to_string()))?;
        let lineage = lineage_of(&self.lease.site, self.slot);
        let binding =
            Binding { kind: SealedKind::CertificateKey, owner: &lineage, spki_sha256: chain.spki_sha256() };
        let unusable = |error: &ChainError| Verdict::from_chain(error).keeping_the_order().leading_nowhere();
        // What the CA was asked for tells whose fault another key is, whether or not ours can be opened here.
        let requested = issued.csr.as_deref().map(requested_spki_sha256).transpose()?;
        if requested.as_ref().is_some_and(|requested| requested != chain.spki_sha256()) {
            return Err(unusable(&ChainError::WrongKey));
        }
        // The key is bound to its public key: it opens for the certificate of this key and for no other.
        let key = self.issuance.vault.open(&sealed_key, &binding).map_err(|error| match error {
            OpenError::Refused if requested.is_none() => unusable(&ChainError::WrongKey),
            error => Verdict::from_opening("the certificate's key", &error),
        })?;
        let key = PKey::private_key_from_pkcs8(&key).map_err(|e| Verdict::bug(e.to_string()))?;
        let spki_der = key.public_key_to_der().map_err(|e| Verdict::bug(e.to_string()))?;
        let identifiers: Vec<Identifier> = order.order.names.iter().map(Identifier::from).collect();
        let now = Timestamp::now();
        let expected =
            Expectation { spki_der: &spki_der, identifiers: &identifiers, now_unix: now.as_second() };
        chain.check(&expected).map_err(|error| match error {
            ChainError::NotYetValid => self.not_yet_valid(chain, now),
            // Time makes it no better.
            ChainError::Expired => Verdict::from_chain(&error),
            _ => unusable(&error),
        })?;
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

    /// The certificate is good, and its time has not come: it is kept until then.
    fn not_yet_valid(&self, chain: &Chain, now: Timestamp) -> Verdict {
        let begins = chain.leaf_facts().not_before;
        let ahead = begins.duration_since(now);
        if ahead > LONGEST_AHEAD {
            return Verdict::from_chain(&ChainError::NotYetValid).keeping_the_order().leading_nowhere();
        }
        let clocks = match self.account.client().clock_offset_seconds() {
            Some(offset) if offset.abs() >= 2 => {
                let word = if offset > 0 { "ahead of" } else { "behind" };
                format!("the CA's clock is {} s {word} this machine's", offset.abs())
            }
            Some(_) => "the CA's clock and this machine's agree".to_owned(),
            None => "the CA does not say what time it has".to_owned(),
        };
        let what = format!(
            "the CA's certificate begins at {}, in {} s: it is kept until then; {clocks}",
            begins.strftime("%F %T UTC"),
            ahead.as_secs()
        );
        let remedy = "wait, and see that this machine's clock is right (`timedatectl`)";
        let verdict = Verdict::new(Fault::Ca, FailureClass::BadCertificate, what, remedy).about(About::Order);
        // A moment more: clocks have fractions of a second.
        let wait = Duration::try_from(ahead).unwrap_or_default().saturating_add(Duration::from_secs(1));
        Verdict { wait: Some(wait), ..verdict }.keeping_the_order().until_its_time()
    }
}

/// The CA has issued, and has not, or no longer, what it has issued.
fn lost(error: &RequestError) -> Verdict {
    let what = format!("the CA has issued the certificate, and does not have it where it says: {error}");
    let remedy = "wait: it is asked for again a few times, and then ordered anew";
    Verdict::new(Fault::Ca, FailureClass::Ca, what, remedy)
        .about(About::Order)
        .keeping_the_order()
        .leading_nowhere()
}

/// The CA says one thing of an order and another.
pub(super) fn unsettled(what: String) -> Verdict {
    let remedy = "wait: the next run goes on with the same order; after a few it is ordered anew";
    Verdict::new(Fault::Ca, FailureClass::Ca, what, remedy)
        .about(About::Order)
        .keeping_the_order()
        .leading_nowhere()
}

/// The digest of the public key that the CA was asked to certify.
fn requested_spki_sha256(csr: &str) -> Result<String, Verdict> {
    let der = STANDARD.decode(csr).map_err(|e| Verdict::bug(e.to_string()))?;
    let spki = X509Req::from_der(&der).and_then(|csr| csr.public_key()?.public_key_to_der());
    Ok(shared::digest::sha256_hex(&spki.map_err(|e| Verdict::bug(e.to_string()))?))
}

fn spki_sha256(key: &PKey<Private>) -> Result<String, Verdict> {
    let der = key.public_key_to_der().map_err(|e| Verdict::bug(e.to_string()))?;
    Ok(shared::digest::sha256_hex(&der))
}
