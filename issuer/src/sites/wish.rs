//! What is asked of a site, and what it becomes once everything that it doesn't say is filled in.

use crate::ca::{CaError, Terms};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::{
    config::Config,
    domain::{
        ChallengeType, DnsName, Hsts, HstsGoal, KeyType, MAX_SITE_NAMES, NameError, NameSet, Origin,
        PublicSuffixes, SanPolicy, Site, Slot,
    },
    store::Tenant,
};

/// What is asked of a site. Absent: the tenant's or the configured default for a new site, no change for one that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteWish {
    /// Unicode or A-labels.
    pub names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_types: Option<Vec<KeyType>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub san: Option<SanPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Empty: of the CA's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<ChallengeType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<HstsWish>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// It was served by something else before: redirects stay off unless they are asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
}

/// `true`, `false`, or what exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HstsWish {
    Switch(bool),
    Exactly(HstsGoal),
}

/// What is wrong with a wish.
#[derive(Debug, thiserror::Error)]
pub enum WishError {
    #[error("a site needs at least one name")]
    NoName,
    #[error("{0} names are too many for one site: at most {MAX_SITE_NAMES}")]
    TooManyNames(usize),
    #[error("{error} (rule: {rule})", rule = .error.rule())]
    Name { name: String, error: NameError },
    #[error("a site has one {0} certificate: name one key type of that family")]
    KeyTypes(Slot),
    #[error("key_types: at least one")]
    NoKeyType,
    #[error(
        "{0:?} can't be a tag, a tenant or an account: use 1 to 63 characters of a-z, A-Z, 0-9, -, _ and ."
    )]
    Word(String),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("{0} is not known to speak dns-persist-01: set ca.NAME.dns_persist to the draft that it speaks")]
    DnsPersist(String),
    #[error("the profile {0:?} is no word")]
    Profile(String),
}

impl SiteWish {
    /// A wish for these names, and nothing said of anything else.
    pub fn for_names(names: &[String]) -> Self {
        Self { names: names.to_vec(), ..Self::default() }
    }

    /// The tenant that it names, as it is made where it is named for the first time: with redirects for its new sites,
    /// unless its first site was imported.
    pub(super) fn new_tenant(&self) -> Option<Tenant> {
        let name = self.tenant.clone().filter(|name| !name.is_empty())?;
        let (redirect, created) = (!self.imported, Timestamp::now());
        Some(Tenant { v: Tenant::VERSION, name, redirect, account: None, created })
    }

    /// The names, checked by every rule that the CA would refuse them for.
    ///
    /// # Errors
    /// [`WishError`], the first.
    pub fn parse_names(
        &self,
        suffixes: &PublicSuffixes,
        ca: &Terms,
        before: Option<&Site>,
    ) -> Result<NameSet, WishError> {
        let profile = self.profile.as_deref().or(before.and_then(|site| site.profile.as_deref()));
        let challenge = self.challenge.or(before.map(|site| site.challenge)).unwrap_or_default();
        if self.names.len() > MAX_SITE_NAMES {
            return Err(WishError::TooManyNames(self.names.len()));
        }
        let mut names = Vec::new();
        for text in &self.names {
            let refused = |error: NameError| WishError::Name { name: text.clone(), error };
            let name = DnsName::parse_identifier(text).map_err(refused)?;
            ca.check_name(suffixes, &name, profile, challenge).map_err(refused)?;
            names.push(name);
        }
        NameSet::new(names).map_err(|_| WishError::NoName)
    }

    /// The site that is wanted: a new one, or what becomes of the one that is there.
    ///
    /// # Errors
    /// [`WishError`]: nothing is changed.
    pub fn to_site(
        &self,
        before: Option<&Site>,
        config: &Config,
        suffixes: &PublicSuffixes,
        tenant: Option<&Tenant>,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Site, WishError> {
        let wished_ca = self.ca.as_deref().or(before.map(|site| site.ca.as_str()));
        let ca = Terms::of(config, wished_ca)?;
        let names = self.parse_names(suffixes, &ca, before)?;
        let key_types = match (&self.key_types, before) {
            (Some(kinds), _) => checked(kinds)?,
            (None, Some(site)) => site.key_types.clone(),
            (None, None) => config.issuer.key_types.clone(),
        };
        let named_tenant = self.tenant.iter().filter(|tenant| !tenant.is_empty());
        for word in self.tags.iter().flatten().chain(named_tenant).chain(&self.account) {
            check_word(word)?;
        }
        if let Some(profile) =
            self.profile.as_deref().filter(|profile| !profile.is_empty() && !is_word(profile))
        {
            return Err(WishError::Profile(profile.to_owned()));
        }
        let challenge = self.challenge.or(before.map(|site| site.challenge)).unwrap_or_default();
        if challenge == ChallengeType::DnsPersist01 && !ca.speaks_dns_persist() {
            return Err(WishError::DnsPersist(ca.title));
        }
        let existing = self.imported || tenant.is_some_and(|tenant| !tenant.redirect);
        let account = self.account.clone().or_else(|| before.map(|site| site.account.clone()));
        let account = account.or_else(|| tenant.and_then(|tenant| tenant.account.clone()));
        let known = before.and_then(|site| site.hsts.as_ref());
        let hsts = match self.hsts {
            Some(HstsWish::Switch(false)) => Hsts::wound_down(known, now),
            Some(HstsWish::Switch(true)) => {
                let goal = known.filter(|hsts| hsts.is_on()).map_or_else(HstsGoal::default, Hsts::goal);
                Some(Hsts::towards(goal, known, now))
            }
            Some(HstsWish::Exactly(goal)) => Some(Hsts::towards(goal, known, now)),
            None => known.copied(),
        };
        let paused = match self.paused {
            Some(true) => before.and_then(|site| site.paused).or(Some(now)),
            Some(false) => None,
            None => before.and_then(|site| site.paused),
        };
        let mut tags = self.tags.clone().or_else(|| before.map(|site| site.tags.clone())).unwrap_or_default();
        tags.sort();
        tags.dedup();
        Ok(Site {
            v: Site::VERSION,
            names,
            key_types,
            san: self.san.or(before.map(|site| site.san)).unwrap_or(SanPolicy::Single),
            ca: ca.name,
            account: account.unwrap_or_else(|| crate::issuance::DEFAULT_ACCOUNT.to_owned()),
            profile: or_none(&self.profile, before.and_then(|site| site.profile.as_ref())),
            challenge,
            tags,
            tenant: or_none(&self.tenant, before.and_then(|site| site.tenant.as_ref())),
            redirect: Some(self.redirect.or(before.and_then(|site| site.redirect)).unwrap_or(!existing)),
            hsts,
            paused,
            origin: before.map_or(origin, |site| if origin == Origin::File { origin } else { site.origin }),
            created: before.map_or(now, |site| site.created),
        })
    }
}

/// What is wished, where something is; an empty wish is for nothing.
fn or_none(wished: &Option<String>, before: Option<&String>) -> Option<String> {
    wished.as_ref().or(before).filter(|text| !text.is_empty()).cloned()
}

fn checked(kinds: &[KeyType]) -> Result<Vec<KeyType>, WishError> {
    if kinds.is_empty() {
        return Err(WishError::NoKeyType);
    }
    let mut kinds = kinds.to_vec();
    kinds.sort();
    kinds.dedup();
    for slot in Slot::ALL {
        if kinds.iter().filter(|kind| kind.slot() == slot).count() > 1 {
            return Err(WishError::KeyTypes(slot));
        }
    }
    Ok(kinds)
}

fn check_word(word: &str) -> Result<(), WishError> {
    if is_word(word) { Ok(()) } else { Err(WishError::Word(word.to_owned())) }
}

pub(crate) fn is_word(word: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=63).contains(&word.len()) && word.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn site(wish: &SiteWish, before: Option<&Site>, tenant: Option<&Tenant>) -> Result<Site, WishError> {
        let config = "[ca.a]\ndirectory = \"https://a.example/dir\"\nagree_to_terms = true\n";
        let config = Config::parse(config, Path::new("x"), &[]).unwrap();
        wish.to_site(
            before,
            &config,
            &PublicSuffixes::shipped(),
            tenant,
            Origin::Operator,
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn new_sites_redirect_and_imported_ones_do_not() {
        let mut wish = SiteWish::for_names(&["b.example.com".into(), "a.example.com".into()]);
        let new = site(&wish, None, None).unwrap();
        assert_eq!((new.redirect, new.hsts), (Some(true), None), "HSTS is for those who ask for it");
        assert_eq!(
            (new.san, new.names.to_string().as_str()),
            (SanPolicy::Single, "a.example.com, b.example.com")
        );
        wish.imported = true;
        let imported = site(&wish, None, None).unwrap();
        assert_eq!((imported.redirect, imported.hsts), (Some(false), None));
        // What is not said again stays as it is.
        let changed = site(
            &SiteWish { tags: Some(vec!["x".into()]), ..SiteWish::for_names(&["a.example.com".into()]) },
            Some(&imported),
            None,
        );
        let changed = changed.unwrap();
        assert_eq!((changed.redirect, changed.tags.as_slice()), (Some(false), &["x".to_owned()][..]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let named =
            |names: &[&str]| SiteWish::for_names(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        for (wish, expected) in [
            (named(&[]), "at least one name"),
            (named(&["a_b.example.com"]), "invalid-character"),
            (SiteWish { ca: Some("z".into()), ..named(&["a.example.com"]) }, "there is no CA"),
            (SiteWish { tags: Some(vec!["a b".into()]), ..named(&["a.example.com"]) }, "can't be a tag"),
            (SiteWish { key_types: Some(vec![]), ..named(&["a.example.com"]) }, "at least one"),
            (
                SiteWish {
                    key_types: Some(vec![KeyType::Rsa2048, KeyType::Rsa4096]),
                    ..named(&["a.example.com"])
                },
                "one rsa certificate",
            ),
        ] {
            let error = site(&wish, None, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
