//! How each name of an order is proved: answered over HTTP, or by a record in the DNS. Put in place, and taken back.

use super::{
    Issuance,
    patience::write,
    steps::Work,
    verdict::{About, Verdict},
};
use crate::{
    acme::{Authorization, ChallengeKind, Moment},
    dns01::{Dns01Error, Holder, Prover, labelled_record, own_record},
    limits::tell_of_moment,
};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp, ToSpan};
use shared::{
    domain::{AuthorizationRef, ChallengeType, DnsName, FailureClass, PublishedToken, Standing, Token},
    error::Fault,
    store::{JournalledTxt, Store},
};
use std::collections::BTreeSet;

/// Tokens outlive their order a little; a CA that names no end gets this long.
const ORDER_LIFE_HOURS: i64 = 24 * 7;

/// How the names of a group are proved.
#[derive(Clone, Debug, Default)]
pub(super) struct Proofs {
    pub(super) wanted: ChallengeType,
    /// Names that HTTP does not reach, where either will do.
    pub(super) unreachable: BTreeSet<DnsName>,
}

impl Proofs {
    /// Whether a name is proved in the DNS.
    pub(super) fn are_in_dns(&self, name: &DnsName) -> bool {
        match self.wanted {
            _ if name.address().is_some() => false,
            ChallengeType::Http01 => name.is_wildcard(),
            ChallengeType::Dns01 | ChallengeType::DnsAccount01 | ChallengeType::DnsPersist01 => true,
            ChallengeType::Auto => name.is_wildcard() || self.unreachable.contains(name),
        }
    }
}

impl Work<'_> {
    /// The challenge that is answered for a name, and the answer.
    pub(super) async fn proof_of(
        &self,
        name: DnsName,
        authorization_url: String,
        authorization: &Authorization,
    ) -> Result<PublishedToken, Verdict> {
        let in_dns = self.proofs.are_in_dns(&name);
        let kind = if in_dns { self.proofs.wanted.in_dns() } else { ChallengeType::Http01.as_str() };
        let kind = ChallengeKind::from(kind.to_owned());
        let Some(challenge) = authorization.challenge(&kind) else {
            return Err(not_offered(&name, &kind));
        };
        if !challenge.is_usable() {
            return Err(not_answerable(&name, &kind));
        }
        let at = AuthorizationRef { authorization_url, challenge_url: challenge.url.clone() };
        if in_dns && self.proofs.wanted == ChallengeType::DnsPersist01 {
            let issuer = challenge.issuer_domain_names.first().cloned();
            let standing = self.issuance.standing_of(&name, issuer)?;
            let token = stand_in(&challenge.url);
            return Ok(PublishedToken { name, token, at, txt: None, standing: Some(standing) });
        }
        let Some(token) = challenge.parse_token() else { return Err(not_answerable(&name, &kind)) };
        let txt = if in_dns {
            let answer = self.account.key().key_authorization(&token);
            let own = self.issuance.record_of(&name, self.proofs.wanted);
            let planned = self.issuance.prover.plan(&own, &answer).await;
            match planned {
                Ok(planned) => Some(planned),
                Err(error) => {
                    let alone = self.issuance.of_dns01(&error).await;
                    if alone.about == About::Network {
                        return Err(alone.keeping_the_order());
                    }
                    // The others can be ordered without it.
                    return Err(Verdict { culprits: vec![(name.clone(), alone.clone())], ..alone });
                }
            }
        } else {
            None
        };
        Ok(PublishedToken { name, token, at, txt, standing: None })
    }

    /// Publishes the answers of those that are proved over HTTP.
    pub(super) async fn answer_over_http(
        &self,
        tokens: &[PublishedToken],
        expires: Option<Timestamp>,
    ) -> Result<(), Verdict> {
        let key = self.account.key();
        self.said_with(&key);
        let answers: Vec<_> =
            over_http(tokens).map(|token| (token.clone(), key.key_authorization(token))).collect();
        let life = ORDER_LIFE_HOURS.hours();
        let now = Timestamp::now();
        let end = match expires {
            None => now.saturating_add(life).unwrap_or(Timestamp::MAX),
            Some(said) => {
                let end = Moment::Expires.believe_at(said, now);
                // One that has just run out is no mistake of the CA: the order is found dead.
                if end.is_replaced
                    && said.duration_since(now).abs() > SignedDuration::from_hours(ORDER_LIFE_HOURS)
                {
                    let ca = &self.issuance.ca;
                    let said = said.to_string();
                    tell_of_moment(&self.issuance.store, &ca.name, &ca.title, Moment::Expires, &said).await;
                }
                end.value
            }
        };
        let until = end.saturating_add(1.hour()).unwrap_or(Timestamp::MAX);
        write(|| self.issuance.store.publish_tokens(&answers, until))
            .await
            .map_err(|e| Verdict::from_store(&e))
    }

    /// Writes the records of those that are proved in the DNS, and waits until every nameserver has them.
    ///
    /// # Errors
    /// Where only some can't be, they spoil the order, and the others are ordered without them; where all can't be, the order
    /// stays open, and the next run goes on with the same records.
    pub(super) async fn write_records(&self, tokens: &[PublishedToken]) -> Result<(), Verdict> {
        let prover = &self.issuance.prover;
        let in_dns: Vec<&PublishedToken> = tokens.iter().filter(|token| !is_over_http(token)).collect();
        if in_dns.is_empty() {
            return Ok(());
        }
        let write = in_dns.iter().map(|token| async {
            match (&token.standing, self.record(token)) {
                (Some(standing), _) => prover.stand(standing).await,
                (None, Some(record)) => prover.make(&record).await,
                (None, None) => Ok(()),
            }
        });
        let written = join_all(write).await;
        self.timeline.tell("written", Some(self.slot), "the records are in the DNS");
        let wait = in_dns.iter().zip(&written).map(|(token, written)| async {
            match self.record(token).filter(|_| written.is_ok()) {
                Some(record) => prover.await_everywhere(&record).await,
                None => Ok(Vec::new()),
            }
        });
        let awaited = join_all(wait).await;
        let outcomes = written.into_iter().zip(awaited).map(|(written, awaited)| written.and(awaited));
        let mut silent = BTreeSet::new();
        let mut failed: Vec<(DnsName, Verdict)> = Vec::new();
        for (token, outcome) in in_dns.iter().zip(outcomes) {
            match outcome {
                Ok(some) => silent.extend(some),
                // No name is to blame.
                Err(Dns01Error::Store(error)) => return Err(Verdict::from_store(&error)),
                Err(error) => match self.issuance.of_dns01(&error).await {
                    verdict if verdict.about == About::Network => return Err(verdict.keeping_the_order()),
                    verdict => failed.push((token.name.clone(), verdict)),
                },
            }
        }
        let all = failed.len() == tokens.len();
        match Verdict::of_culprits(failed) {
            None => {
                let mut note = "every nameserver has the records".to_owned();
                if !silent.is_empty() {
                    let silent = silent.into_iter().collect::<Vec<_>>().join(", ");
                    tracing::warn!(
                        nameservers = silent,
                        "nameservers that do not answer for the zone are passed over"
                    );
                    note = format!("every nameserver that answers has the records; no answer from {silent}");
                }
                self.timeline.tell("propagated", Some(self.slot), &note);
                Ok(())
            }
            Some(verdict) if all => Err(Verdict { culprits: Vec::new(), ..verdict }.keeping_the_order()),
            Some(verdict) => Err(verdict),
        }
    }

    /// The same proofs, where they are not those of the account's present key: `None` where they are.
    pub(super) fn renewed(&self, tokens: &[PublishedToken]) -> Option<Vec<PublishedToken>> {
        let key = self.account.key();
        let mut renewed = tokens.to_vec();
        for token in &mut renewed {
            if let Some(txt) = &mut token.txt {
                txt.value = Prover::value_of(&key.key_authorization(&token.token));
            }
        }
        (renewed != tokens).then_some(renewed)
    }

    pub(super) fn records(&self, tokens: &[PublishedToken]) -> Vec<JournalledTxt> {
        tokens.iter().filter_map(|token| self.record(token)).collect()
    }

    fn record(&self, token: &PublishedToken) -> Option<JournalledTxt> {
        Some(JournalledTxt {
            txt: token.txt.clone()?,
            site: self.lease.site.clone(),
            slot: self.slot,
            token: token.token.clone(),
        })
    }

    /// In the background: tokens end by themselves, and nothing waits for it.
    pub(super) fn withdraw(&self, tokens: &[PublishedToken]) {
        let (store, tokens) = (self.issuance.store.clone(), tokens.to_vec());
        tokio::spawn(async move { withdraw(&store, &tokens).await });
    }

    /// The program may end now, and nothing in the background with it.
    pub(super) async fn take_back(&self, tokens: &[PublishedToken]) {
        withdraw(&self.issuance.store, tokens).await;
        self.issuance.prover.remove(&self.records(tokens)).await;
    }
}

impl Verdict {
    /// The CA did not find the record that was to prove a name. What stands in the way of HTTP does not matter.
    pub(super) fn of_a_record(self, name: &DnsName) -> Self {
        let of_the_way = matches!(
            self.class,
            FailureClass::NotPointingHere | FailureClass::RedirectRule | FailureClass::Firewall
        );
        if !of_the_way {
            return self;
        }
        let record = own_record(name);
        let remedy = format!(
            "every nameserver had {record} when the CA was told to look: ask them from elsewhere (`dig TXT {record} @SERVER`), and look \
             whether all of them are reached from everywhere"
        );
        Self { class: FailureClass::Dns, remedy, ..self }
    }

    /// A name can't be proved in the DNS.
    pub(super) fn from_dns01(error: &Dns01Error) -> Self {
        let (fault, remedy) = match error {
            Dns01Error::Store(error) => return Self::from_store(error),
            Dns01Error::NoProvider(_) => (
                Fault::Operator,
                "add a [dns.NAME] section for the zone, or have the record delegated to one that has one",
            ),
            Dns01Error::NotServed { .. } => (
                Fault::Operator,
                "have _acme-challenge of the name delegated into a zone of yours, or let that server serve the zone",
            ),
            Dns01Error::Lost { .. } => (Fault::Customer, "the name's DNS must answer"),
            Dns01Error::Provider { .. } => (
                Fault::Operator,
                "put the [dns.NAME] section or the server right; the next run goes on with the same order",
            ),
            Dns01Error::NotStanding(standing) => {
                let remedy = format!("have it created: {} TXT {:?}", standing.record, standing.value);
                return Self::new(Fault::Customer, FailureClass::Dns, error.to_string(), remedy);
            }
            Dns01Error::NotEverywhere { seen, .. } if seen.lacking.is_empty() => (
                Fault::Customer,
                "have those nameservers repaired or taken out of the zone's NS records; ask them from this machine (`dig @SERVER`, UDP and \
                 TCP port 53): a firewall of ours would look the same",
            ),
            Dns01Error::NotEverywhere { .. } => (
                Fault::Customer,
                "have the zone's transfer repaired, or raise propagation_seconds; the next run goes on with the same order",
            ),
        };
        Self::new(fault, FailureClass::Dns, shared::error::chain(error), remedy)
    }
}

impl Issuance {
    /// The verdict on a proof that is not in place. Where nobody answers us it is no name's fault.
    async fn of_dns01(&self, error: &Dns01Error) -> Verdict {
        match error {
            Dns01Error::Lost { .. } if !self.prover.resolver().answers().await => {
                Verdict::from_silent_resolvers(self.prover.resolver())
            }
            _ => Verdict::from_dns01(error),
        }
    }

    /// The record that the CA asks for.
    pub(super) fn record_of(&self, name: &DnsName, challenge: ChallengeType) -> String {
        match challenge {
            ChallengeType::DnsAccount01 => labelled_record(name, &self.account.url()),
            _ => own_record(name),
        }
    }

    /// The record that stands for a name; `issuer` is what the CA calls itself, where it has said so.
    ///
    /// # Errors
    /// The CA speaks no draft of dns-persist-01, or does not say what it takes.
    pub(super) fn standing_of(&self, name: &DnsName, issuer: Option<String>) -> Result<Standing, Verdict> {
        // Other sites of the account are proved otherwise.
        let unusable = |what: String, remedy: &str| {
            Verdict::new(Fault::Operator, FailureClass::Account, what, remedy).about(About::Order)
        };
        let Some(draft) = self.ca.section.dns_persist else {
            let what = format!("{} is not known to speak dns-persist-01", self.ca.title);
            return Err(unusable(
                what,
                "set ca.NAME.dns_persist to the draft that it speaks, or prove the name otherwise",
            ));
        };
        let directory = self.account.client().known_directory();
        let meta = directory.map(|directory| directory.meta.clone()).unwrap_or_default();
        let own = [meta.issuer_domain_names, meta.caa_identities, self.ca.limits.caa_identities.clone()];
        let issuer = issuer.or_else(|| own.into_iter().flatten().next());
        let holder = Holder {
            draft,
            account_url: self.account.url().to_string(),
            thumbprint: self.account.key().thumbprint().as_str().to_owned(),
            hash_prefix: meta.account_hash_prefix,
        };
        issuer.and_then(|issuer| holder.record_for(name, &issuer)).ok_or_else(|| {
            let what = format!("{} does not say what a record for dns-persist-01 must name", self.ca.title);
            unusable(what, "see whether ca.NAME.dns_persist is the draft that it speaks")
        })
    }
}

fn not_offered(name: &DnsName, kind: &ChallengeKind) -> Verdict {
    Verdict::new(
        Fault::Ca,
        FailureClass::Policy,
        format!("the CA offers no {} challenge for {}", kind.as_str(), name.to_unicode()),
        "this name needs another kind of proof: see `issuer site set NAME --challenge`",
    )
}

fn not_answerable(name: &DnsName, kind: &ChallengeKind) -> Verdict {
    Verdict::new(
        Fault::Ca,
        FailureClass::Ca,
        format!("the CA's {} challenge for {} has no usable token or URL", kind.as_str(), name.to_unicode()),
        "it is asked for again, and after a few tries ordered anew; if it repeats, ask the CA",
    )
    .about(About::Order)
    .keeping_the_order()
    .leading_nowhere()
}

/// In the place of the token that a challenge lacks.
fn stand_in(challenge_url: &str) -> Token {
    let digest = shared::digest::sha256_hex(challenge_url.as_bytes());
    Token::parse(&digest).expect("64 hex digits have the form of a token")
}

/// Whether it is answered at a frontend, and not in the DNS.
pub(super) fn is_over_http(token: &PublishedToken) -> bool {
    token.txt.is_none() && token.standing.is_none()
}

fn over_http(tokens: &[PublishedToken]) -> impl Iterator<Item = &Token> + Send {
    tokens.iter().filter(|token| is_over_http(token)).map(|token| &token.token)
}

async fn withdraw(store: &Store, tokens: &[PublishedToken]) {
    if let Err(error) = store.withdraw_tokens(over_http(tokens)).await {
        tracing::debug!(error = shared::error::chain(&error), "tokens are left to end by themselves");
    }
}
