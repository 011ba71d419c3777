//! Which record proves a name and who writes it; made, waited for, removed.

use super::{
    propagation::{Propagation, has_text},
    provider::{Action, Provider, ProviderError, SetupError},
    standing::says,
};
use crate::dns::{Answer, ResolveFailure, Resolver, Zone};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use hickory_resolver::proto::rr::{Name, RecordType};
use jiff::Timestamp;
use shared::{
    config::Config,
    domain::{DnsName, KeyAuthorization, Standing, Txt},
    store::{JournalledTxt, Store, StoreError},
};
use std::time::Duration;

/// Longest chain of aliases from a name's own record to the one that is written.
const MOST_ALIASES: usize = 8;

/// Proves names in the DNS.
#[derive(Debug)]
pub struct Prover {
    pub(super) store: Store,
    pub(super) resolver: Resolver,
    providers: Vec<Provider>,
}

/// Where a record's aliases lead.
#[derive(Clone, Debug)]
pub struct Lead {
    /// The record itself where it has no alias.
    pub target: String,
    /// Nameservers that don't have its alias: a CA that asks one is led elsewhere.
    pub lacking: Vec<String>,
    /// Nameservers that don't answer for the zone.
    pub silent: Vec<String>,
}

/// A proof is not in place.
#[derive(Debug, thiserror::Error)]
pub enum Dns01Error {
    #[error("nobody can write {0}: no [dns.NAME] section of the configuration has its zone")]
    NoProvider(String),
    #[error("where {record} leads can't be told: {source}")]
    Lost { record: String, source: ResolveFailure },
    #[error("{record} can't be written by dns.{provider}: {source}")]
    Provider { provider: String, record: String, source: ProviderError },
    #[error(
        "{record} lies in the zone {zone}, which is not served by the nameserver of dns.{provider}: the record can't be written there"
    )]
    NotServed { provider: String, record: String, zone: String },
    #[error("{record} was written {} s ago, and {seen}; the CA was not asked", .waited.as_secs())]
    NotEverywhere { record: String, seen: Propagation, waited: Duration },
    #[error("{} has no such TXT record: {:?}", .0.record, .0.value)]
    NotStanding(Standing),
    #[error("the store can't be used")]
    Store(#[from] StoreError),
}

impl Prover {
    /// With the sections of the configuration; there may be none.
    ///
    /// # Errors
    /// [`SetupError`]: one can't be used.
    pub fn open(config: &Config, store: Store, resolver: Resolver) -> Result<Self, SetupError> {
        let providers: Result<_, _> = config.dns.iter().map(|(name, dns)| Provider::of(name, dns)).collect();
        Ok(Self { store, resolver, providers: providers? })
    }

    /// Whom it asks.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The record that proves a name with this key authorization, where the aliases of `own` lead, the one that the CA asks for.
    ///
    /// # Errors
    /// [`Dns01Error::NoProvider`], [`Dns01Error::Lost`].
    pub async fn plan(&self, own: &str, proof: &KeyAuthorization) -> Result<Txt, Dns01Error> {
        let record = self.where_it_leads(own).await?;
        let provider = self.provider_of(&record).ok_or_else(|| Dns01Error::NoProvider(record.clone()))?;
        Ok(Txt { provider: provider.name.clone(), record, value: Self::value_of(proof) })
    }

    /// What the record says for a key authorization.
    pub fn value_of(proof: &KeyAuthorization) -> String {
        URL_SAFE_NO_PAD.encode(openssl::sha::sha256(proof.as_str().as_bytes()))
    }

    /// A target of its own for a customer's name, and the section that writes there. `None` where none has one.
    pub fn target_of(&self, name: &DnsName, provider: Option<&str>) -> Option<(String, String)> {
        let wanted = self.providers.iter().filter(|one| provider.is_none_or(|wanted| wanted == one.name));
        wanted.filter_map(|one| Some((one.name.clone(), one.target_of(name)?))).next()
    }

    /// Where the record that the CA asks for leads, and which nameservers of its zone don't say so.
    ///
    /// # Errors
    /// [`Dns01Error::Lost`].
    pub async fn where_proofs_lead(&self, name: &DnsName) -> Result<Lead, Dns01Error> {
        let own = own_record(name);
        let aliases = self.aliases_of(&own).await?;
        let seen = match aliases.first() {
            Some(alias) => {
                let says_so = |answer: &Answer| answer.values().contains(alias);
                self.propagation(&own, RecordType::CNAME, &says_so, &[]).await?
            }
            None => Propagation::default(),
        };
        let target = aliases.last().cloned().unwrap_or(own);
        Ok(Lead { target, lacking: seen.lacking, silent: seen.silent })
    }

    /// Removes everything that is noted for a record.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn clear(&self, record: &str) -> Result<(), StoreError> {
        let noted = self.store.load_txt_journal(usize::MAX).await?.found;
        let of_it: Vec<JournalledTxt> =
            noted.into_iter().map(|(one, _)| one).filter(|one| one.txt.record == record).collect();
        self.remove(&of_it).await;
        Ok(())
    }

    /// Returns once a record stands at every nameserver: it is written where it does not and somebody can.
    ///
    /// # Errors
    /// [`Dns01Error::NotStanding`] where nobody can; else as [`Prover::await_everywhere`].
    pub async fn stand(&self, standing: &Standing) -> Result<(), Dns01Error> {
        let record = self.where_it_leads(&standing.record).await?;
        let stands = has_text(|text| says(text, standing, Timestamp::now().as_second()));
        if self.stands(&record, &stands).await? {
            return Ok(());
        }
        let provider = self.provider_of(&record).ok_or_else(|| Dns01Error::NotStanding(standing.clone()))?;
        let txt = Txt { provider: provider.name.clone(), record, value: standing.value.clone() };
        self.act(Action::Add, &txt).await?;
        self.await_record(&txt, &stands).await.map(drop)
    }

    async fn stands(&self, record: &str, is_right: &impl Fn(&Answer) -> bool) -> Result<bool, Dns01Error> {
        let seen = self.propagation(record, RecordType::TXT, is_right, &[]).await?;
        Ok(self.is_enough(&seen, record, RecordType::TXT, is_right, false).await)
    }

    /// Whether a record stands, or somebody can write it.
    ///
    /// # Errors
    /// [`Dns01Error::NotStanding`], [`Dns01Error::Lost`].
    pub async fn can_stand(&self, standing: &Standing) -> Result<(), Dns01Error> {
        let record = self.where_it_leads(&standing.record).await?;
        let stands = has_text(|text| says(text, standing, Timestamp::now().as_second()));
        if self.provider_of(&record).is_some() || self.stands(&record, &stands).await? {
            Ok(())
        } else {
            Err(Dns01Error::NotStanding(standing.clone()))
        }
    }

    /// Whether somebody can write the record that the CA asks for.
    ///
    /// # Errors
    /// [`Dns01Error::NoProvider`], [`Dns01Error::NotServed`], [`Dns01Error::Lost`].
    pub async fn can_write(&self, own: &str) -> Result<(), Dns01Error> {
        let record = self.where_it_leads(own).await?;
        let provider = self.provider_of(&record).ok_or_else(|| Dns01Error::NoProvider(record.clone()))?;
        let zone = self.zone_of(provider, &record).await?;
        if provider.serves(&zone).await {
            return Ok(());
        }
        let zone = zone.to_ascii().trim_end_matches('.').to_owned();
        Err(Dns01Error::NotServed { provider: provider.name.clone(), record, zone })
    }

    /// Notes a record, then makes it. Safe to repeat.
    ///
    /// # Errors
    /// [`Dns01Error`]; whether it was made or not, it is noted where it may be there.
    pub async fn make(&self, record: &JournalledTxt) -> Result<(), Dns01Error> {
        self.store.journal_txt(std::slice::from_ref(record), Timestamp::now()).await?;
        self.act(Action::Add, &record.txt).await
    }

    /// Returns once every nameserver of the record's zone that answers has it, with those that don't answer.
    ///
    /// # Errors
    /// [`Dns01Error::NotEverywhere`] at the deadline of the section: a CA that asks one that lacks it fails.
    pub async fn await_everywhere(&self, record: &JournalledTxt) -> Result<Vec<String>, Dns01Error> {
        self.await_record(&record.txt, &has_text(|text| text == record.txt.value)).await
    }

    /// Removes the records, and forgets those that are. Answers what can't be removed: it is left to a later sweep.
    pub async fn remove(&self, records: &[JournalledTxt]) -> Vec<JournalledTxt> {
        let outcomes = join_all(records.iter().map(|record| self.act(Action::Remove, &record.txt))).await;
        let (mut removed, mut left) = (Vec::new(), Vec::new());
        for (record, outcome) in records.iter().zip(outcomes) {
            match outcome {
                Ok(()) => removed.push(record.clone()),
                Err(error) => {
                    let error = shared::error::chain(&error);
                    tracing::warn!(error, "a TXT record is left for now: it is removed later");
                    left.push(record.clone());
                }
            }
        }
        if let Err(error) = self.store.forget_txt(&removed).await {
            tracing::debug!(
                error = shared::error::chain(&error),
                "removed TXT records are removed once more"
            );
        }
        left
    }

    async fn act(&self, action: Action, txt: &Txt) -> Result<(), Dns01Error> {
        let failed = |source| Dns01Error::Provider {
            provider: txt.provider.clone(),
            record: txt.record.clone(),
            source,
        };
        let provider = self.providers.iter().find(|one| one.name == txt.provider);
        let provider = provider.ok_or_else(|| Dns01Error::NoProvider(txt.record.clone()))?;
        let zone = self.zone_of(provider, &txt.record).await?;
        provider.act(action, txt, &zone).await.map_err(failed)
    }

    /// As the resolvers see the delegations; where they see none, the section's own word.
    async fn zone_of(&self, provider: &Provider, record: &str) -> Result<Name, Dns01Error> {
        let labels = provider.reach(record).filter(|labels| *labels > 0);
        let source = match Zone::of(&self.resolver, record).await {
            // What lies above the section's own zone (the root, a registry) does not know of it yet.
            Ok(zone) if usize::from(zone.apex.num_labels()) >= labels.unwrap_or(1) => return Ok(zone.apex),
            Ok(_) => ResolveFailure::NoSuchName(record.to_owned()),
            Err(failure) => failure,
        };
        let own = labels.and_then(|labels| {
            let all: Vec<&str> = record.split('.').collect();
            Name::from_ascii(format!("{}.", all[all.len() - labels..].join("."))).ok()
        });
        own.ok_or_else(|| Dns01Error::Lost { record: record.to_owned(), source })
    }

    async fn where_it_leads(&self, own: &str) -> Result<String, Dns01Error> {
        Ok(self.aliases_of(own).await?.pop().unwrap_or_else(|| own.to_owned()))
    }

    /// The targets of a record's chain of aliases, in order.
    async fn aliases_of(&self, own: &str) -> Result<Vec<String>, Dns01Error> {
        let mut aliases: Vec<String> = Vec::new();
        while aliases.len() < MOST_ALIASES {
            let at = aliases.last().map_or(own, String::as_str);
            let lost = |source| Dns01Error::Lost { record: at.to_owned(), source };
            match self.resolver.own_alias_of(at).await.map_err(lost)? {
                Some(next) => aliases.push(next),
                None => return Ok(aliases),
            }
        }
        let source = ResolveFailure::Other { name: own.to_owned(), reason: "its aliases have no end".into() };
        Err(Dns01Error::Lost { record: own.to_owned(), source })
    }

    fn provider_of(&self, record: &str) -> Option<&Provider> {
        let reach = |provider: &&Provider| provider.reach(record);
        self.providers.iter().filter(|one| reach(one).is_some()).max_by_key(reach)
    }

    /// How long records of a section may take, and whether every nameserver must have them.
    pub(super) fn patience_with(&self, provider: &str) -> (Duration, bool) {
        let config = self.providers.iter().find(|one| one.name == provider).map(|one| &one.config);
        config.map_or((Duration::ZERO, false), |one| (one.propagation(), one.require_all_nameservers))
    }
}

/// Where the CA looks (RFC 8555 section 8.4).
pub(crate) fn own_record(name: &DnsName) -> String {
    let name = name.as_str();
    format!("_acme-challenge.{}", name.strip_prefix("*.").unwrap_or(name))
}

/// Where it looks for an account of its own (draft-ietf-acme-dns-account-label-02 section 3).
pub(crate) fn labelled_record(name: &DnsName, account_url: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = openssl::sha::sha256(account_url.as_bytes());
    let bits = digest[..10].iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let label: String =
        (0..16).rev().map(|place| char::from(ALPHABET[(bits >> (5 * place)) as usize & 31])).collect();
    format!("_{label}.{}", own_record(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_a_label_of_its_own() {
        let name = DnsName::parse_identifier("*.example.org").unwrap();
        assert_eq!(own_record(&name), "_acme-challenge.example.org");
        // The draft's example.
        let record = labelled_record(&name, "https://example.com/acme/acct/ExampleAccount");
        assert_eq!(record, "_ujmmovf2vn55tgye._acme-challenge.example.org");
    }
}
