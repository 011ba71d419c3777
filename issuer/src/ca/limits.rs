//! A CA's limits as they hold for this fleet: the shipped ones, with what the operator's file says on top.

use super::{
    CaError,
    profile::{CertificateProfile, LimitsFile, Profile, RequestRate},
};
use crate::{
    acme::{ENDPOINTS, Identifier},
    dns::is_special_purpose,
};
use shared::domain::{ChallengeType, DnsName, Limit, LimitScope, NameError, PublicSuffixes, Rate};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// What most CAs take.
const NAMES_PER_CERTIFICATE: usize = 100;

/// What a CA limits, and what it takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaLimits {
    pub limits: BTreeMap<String, Limit>,
    /// By endpoint; see [`ENDPOINTS`].
    pub requests: BTreeMap<String, RequestRate>,
    pub profiles: BTreeMap<String, CertificateProfile>,
    /// For so long exactly the same names count as a renewal, days.
    pub same_set_days: f64,
    accounts: BTreeMap<String, BTreeMap<String, Rate>>,
    domains: BTreeMap<String, BTreeMap<String, Rate>>,
    /// Where a profile doesn't say otherwise.
    pub names_per_certificate: usize,
    /// Bytes that all names of a certificate have together, where a profile doesn't say otherwise.
    pub name_bytes: Option<usize>,
    /// What CAA records must name, where the directory doesn't say.
    pub caa_identities: Vec<String>,
}

impl CaLimits {
    /// Read once for each file, as long as the program runs.
    pub(super) fn of(profile: Option<&'static Profile>, file: Option<&Path>) -> Result<Arc<Self>, CaError> {
        static KNOWN: Mutex<BTreeMap<(String, PathBuf), Arc<CaLimits>>> = Mutex::new(BTreeMap::new());
        let key = (
            profile.map(|profile| profile.directory.clone()).unwrap_or_default(),
            file.map(Path::to_owned).unwrap_or_default(),
        );
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limits) = known.get(&key) {
            return Ok(Arc::clone(limits));
        }
        let read = Arc::new(Self::read(profile, file)?);
        known.insert(key, Arc::clone(&read));
        Ok(read)
    }

    fn read(profile: Option<&Profile>, file: Option<&Path>) -> Result<Self, CaError> {
        let mut found = match profile {
            Some(profile) => Self {
                limits: profile.limits.clone(),
                requests: profile.requests.clone(),
                profiles: profile.profiles.clone(),
                same_set_days: profile.same_set_days,
                names_per_certificate: profile.names_per_certificate,
                name_bytes: profile.name_bytes,
                caa_identities: profile.caa_identities.clone(),
                ..Self::default()
            },
            None => Self { names_per_certificate: NAMES_PER_CERTIFICATE, ..Self::default() },
        };
        let Some(path) = file else { return Ok(found) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| CaError::LimitsRead { path: path.to_owned(), source })?;
        let wrong = |what: String| CaError::Limits { path: path.to_owned(), what };
        let file: LimitsFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        found.limits = file.limits.unwrap_or(found.limits);
        found.requests = file.requests.unwrap_or(found.requests);
        found.profiles = file.profiles.unwrap_or(found.profiles);
        found.same_set_days = file.same_set_days.unwrap_or(found.same_set_days);
        found.caa_identities = file.caa_identities.unwrap_or(found.caa_identities);
        found.names_per_certificate = file.names_per_certificate.unwrap_or(found.names_per_certificate);
        found.name_bytes = file.name_bytes.or(found.name_bytes);
        found.accounts = file.accounts;
        found.domains = file.domains;
        found.check().map_err(wrong)?;
        Ok(found)
    }

    /// The rate that holds for an account, which the CA may have granted another one.
    pub fn rate_of_account(&self, name: &str, limit: &Limit, account: &str) -> Rate {
        granted(&self.accounts, account, name).unwrap_or_else(|| limit.rate())
    }

    /// What the CA has granted to a registered domain.
    pub fn granted_to_domain(&self, name: &str, domain: &str) -> Option<Rate> {
        granted(&self.domains, domain, name)
    }

    /// What the CA has granted to an account.
    pub fn granted_to_account(&self, name: &str, account: &str) -> Option<Rate> {
        granted(&self.accounts, account, name)
    }

    /// Whether an order may name an IP address.
    pub fn takes_addresses(&self, profile: Option<&str>) -> bool {
        let known = profile.and_then(|name| self.profiles.get(name));
        known.is_some_and(|profile| profile.identifiers.iter().any(|kind| kind == Identifier::IP))
    }

    /// Every rule that the CA would refuse a name for.
    ///
    /// # Errors
    /// The first that it breaks.
    pub fn check_name(
        &self,
        suffixes: &PublicSuffixes,
        name: &DnsName,
        is_public: bool,
        profile: Option<&str>,
        challenge: ChallengeType,
    ) -> Result<(), NameError> {
        match name.address() {
            Some(address) if is_public && is_special_purpose(address) => {
                Err(NameError::SpecialPurpose(name.to_string()))
            }
            Some(_) if self.takes_addresses(profile) => Ok(()),
            // Nothing is known of what a CA of one's own takes: it says so itself.
            Some(_) if !is_public && self.profiles.is_empty() => Ok(()),
            None if name.is_wildcard() && !challenge.takes_dns() => {
                Err(NameError::WildcardNeedsDns(name.to_string()))
            }
            _ => suffixes.check_issuable(name, !is_public),
        }
    }

    /// The rate of a bucket, by what it is of.
    pub fn rate_of_bucket(&self, name: &str, limit: &Limit, of: &str) -> Rate {
        let account = of.split_once(':').map_or(of, |(account, _)| account);
        match limit.scope {
            LimitScope::Account | LimitScope::AccountAndIdentifier => {
                self.rate_of_account(name, limit, account)
            }
            // An account that was granted something has a bucket of its own for each domain.
            LimitScope::RegisteredDomain => self
                .granted_to_account(name, account)
                .filter(|_| account != of)
                .or_else(|| self.granted_to_domain(name, of))
                .unwrap_or_else(|| limit.rate()),
            LimitScope::IdentifierSet | LimitScope::Address | LimitScope::Ipv6Range => limit.rate(),
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        for (name, limit) in &self.limits {
            if !limit.rate().is_possible() {
                return Err(format!("limits.{name}: burst, count and period_seconds must be more than 0"));
            }
        }
        for (name, rate) in &self.requests {
            if !ENDPOINTS.contains(&name.as_str()) {
                return Err(format!("requests.{name} is no endpoint: they are {}", ENDPOINTS.join(", ")));
            }
            if !rate.per_second.is_finite() || rate.per_second <= 0.0 {
                return Err(format!("requests.{name}: per_second must be more than 0"));
            }
        }
        for (table, of) in [("accounts", &self.accounts), ("domains", &self.domains)] {
            for (whose, rates) in of {
                for (name, rate) in rates {
                    let known = || self.limits.keys().cloned().collect::<Vec<_>>().join(", ");
                    if !self.limits.contains_key(name) {
                        return Err(format!(
                            "{table}.{whose}.{name} is no limit of this CA: they are {}",
                            known()
                        ));
                    }
                    if !rate.is_possible() {
                        return Err(format!(
                            "{table}.{whose}.{name}: burst, count and period_seconds must be more than 0"
                        ));
                    }
                }
            }
        }
        if !self.same_set_days.is_finite() || self.same_set_days < 0.0 {
            return Err("same_set_days must be 0 or more".to_owned());
        }
        match self.profiles.iter().find(|(_, profile)| profile.names == 0) {
            Some((name, _)) => Err(format!("profiles.{name}.names must be 1 or more")),
            None => Ok(()),
        }
    }
}

fn granted(table: &BTreeMap<String, BTreeMap<String, Rate>>, whose: &str, limit: &str) -> Option<Rate> {
    table.get(whose)?.get(limit).copied()
}
