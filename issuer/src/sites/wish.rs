//! What is asked of a site, and what it becomes once everything that it doesn't say is filled in.

use crate::ca::{CaError, Terms};
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use shared::{
    config::Config,
    domain::{
        ChallengeType, DnsName, Hsts, HstsGoal, KeyType, MAX_SITE_NAMES, NameError, NameSet, Origin,
        PublicSuffixes, SanPolicy, Site, Slot,
    },
    store::Tenant,
};
use std::fmt;

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
    /// The source of the files that have the say from now on, where a person hands it over; empty: none.
    #[serde(skip)]
    pub source: Option<String>,
}

/// `true`, `false`, or what exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum HstsWish {
    Switch(bool),
    Exactly(HstsGoal),
}

/// What is wrong is said of the form that was meant.
impl<'de> Deserialize<'de> for HstsWish {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = HstsWish;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a table such as {\"max_age_seconds\": 31536000} for hsts")
            }

            fn visit_bool<E>(self, is_on: bool) -> Result<HstsWish, E> {
                Ok(HstsWish::Switch(is_on))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HstsWish, A::Error> {
                HstsGoal::deserialize(MapAccessDeserializer::new(map)).map(HstsWish::Exactly)
            }
        }

        from.deserialize_any(Form)
    }
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
        "{0:?} can't be a tag, a tenant, an account or a source: use 1 to 63 characters of a-z, A-Z, 0-9, -, _ and ."
    )]
    Word(String),
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error("{0} is not known to speak dns-persist-01: set ca.NAME.dns_persist to the draft that it speaks")]
    DnsPersist(String),
    #[error(
        "there is no account {name:?} of {ca}: make it with `issuer account create --ca {ca} --name {name}`, or name another one"
    )]
    NoAccount { ca: String, name: String },
    #[error(
        "the account {name:?} of {ca} is deactivated: nothing is issued to it any more; name another one"
    )]
    AccountEnded { ca: String, name: String },
    #[error("the profile {0:?} is no word")]
    Profile(String),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Several(Vec<Self>),
}

/// What speaks against an account that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAccount {
    Missing,
    Ended,
}

impl NoAccount {
    pub(super) fn of(self, ca: &str, name: &str) -> WishError {
        let (ca, name) = (ca.to_owned(), name.to_owned());
        match self {
            Self::Missing => WishError::NoAccount { ca, name },
            Self::Ended => WishError::AccountEnded { ca, name },
        }
    }
}

impl WishError {
    /// All of them, where there are several.
    fn of(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() > 1 { Some(Self::Several(errors)) } else { errors.pop() }
    }

    /// Each thing that is wrong by itself.
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Several(errors) => errors,
            one => std::slice::from_ref(one),
        }
    }
}

/// Who wants a site that is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wisher {
    pub origin: Origin,
    /// Of the file, where one wants it.
    pub source: Option<String>,
}

impl Wisher {
    /// A file of this source.
    pub fn file(source: &str) -> Self {
        Self { origin: Origin::File, source: Some(source.to_owned()) }
    }
}

impl From<Origin> for Wisher {
    fn from(origin: Origin) -> Self {
        Self { origin, source: None }
    }
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

    /// Everything that can be wrong with a wish by itself; its names and its CA.
    ///
    /// # Errors
    /// [`WishError`], with everything that is wrong.
    pub fn check(
        &self,
        before: Option<&Site>,
        config: &Config,
        suffixes: &PublicSuffixes,
    ) -> Result<(NameSet, Terms), WishError> {
        let mut wrong = Vec::new();
        let ca = match (&self.ca, before) {
            (None, Some(site)) => Terms::of(config, Some(&site.ca)).map_err(CaError::of_site),
            (wished, _) => Terms::of(config, wished.as_deref()),
        };
        let challenge = self.challenge.or(before.map(|site| site.challenge)).unwrap_or_default();
        let profile = self.profile.as_deref().or(before.and_then(|site| site.profile.as_deref()));
        let mut names = Vec::new();
        for text in &self.names {
            let is_known = |name: &DnsName| before.is_some_and(|site| site.names.contains(name));
            let parsed = DnsName::parse_identifier(text).and_then(|name| match &ca {
                Ok(ca) => {
                    ca.check_name(suffixes, &name, profile, challenge)?;
                    // What is wanted so already stays as it is: the sections of the configuration may be elsewhere for now.
                    if self.challenge.is_some() || !is_known(&name) {
                        check_provable(config, &name, challenge)?;
                    }
                    Ok(name)
                }
                Err(_) => Ok(name),
            });
            match parsed {
                Ok(name) => names.push(name),
                Err(error) => wrong.push(WishError::Name { name: text.clone(), error }),
            }
        }
        if self.names.len() > MAX_SITE_NAMES {
            wrong.push(WishError::TooManyNames(self.names.len()));
        }
        wrong.extend(self.key_types.as_ref().and_then(|kinds| checked(kinds).err()));
        let not_empty = |word: &&String| !word.is_empty();
        let named = self.tenant.iter().chain(&self.source).filter(not_empty);
        for word in self.tags.iter().flatten().filter(not_empty).chain(named).chain(&self.account) {
            wrong.extend(check_word(word).err());
        }
        if let Some(profile) =
            self.profile.as_deref().filter(|profile| !profile.is_empty() && !is_word(profile))
        {
            wrong.push(WishError::Profile(profile.to_owned()));
        }
        if let Ok(ca) = &ca
            && challenge == ChallengeType::DnsPersist01
            && !ca.speaks_dns_persist()
        {
            wrong.push(WishError::DnsPersist(ca.title.clone()));
        }
        match (ca, NameSet::new(names), wrong.is_empty()) {
            (Ok(ca), Ok(names), true) => return Ok((names, ca)),
            (Err(error), ..) => wrong.push(error.into()),
            (Ok(_), Err(_), true) => wrong.push(WishError::NoName),
            (Ok(_), ..) => {}
        }
        Err(WishError::of(wrong).unwrap_or(WishError::NoName))
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
        wisher: &Wisher,
        now: Timestamp,
    ) -> Result<Site, WishError> {
        let (names, ca) = self.check(before, config, suffixes)?;
        let key_types = match (&self.key_types, before) {
            (Some(kinds), _) => checked(kinds)?,
            (None, Some(site)) => site.key_types.clone(),
            (None, None) => config.issuer.key_types.clone(),
        };
        let challenge = self.challenge.or(before.map(|site| site.challenge)).unwrap_or_default();
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
        let (origin, source) = match (&self.source, before) {
            (Some(source), _) if source.is_empty() => (Origin::Operator, None),
            (Some(source), _) => (Origin::File, Some(source.clone())),
            (None, Some(site)) => (site.origin, site.source.clone()),
            (None, None) => (wisher.origin, wisher.source.clone()),
        };
        let mut tags = self.tags.clone().or_else(|| before.map(|site| site.tags.clone())).unwrap_or_default();
        tags.retain(|tag| !tag.is_empty());
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
            origin,
            source,
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

pub(crate) use shared::domain::is_word;

/// Whether something could write the record that proves a name, where only one does.
pub(crate) fn check_provable(
    config: &Config,
    name: &DnsName,
    challenge: ChallengeType,
) -> Result<(), NameError> {
    let needs_record = match challenge {
        ChallengeType::Http01 | ChallengeType::DnsPersist01 => false,
        ChallengeType::Auto => name.is_wildcard(),
        ChallengeType::Dns01 | ChallengeType::DnsAccount01 => true,
    };
    // An address has no record of its own.
    if needs_record && config.dns.is_empty() && name.address().is_none() {
        return Err(NameError::NoDnsSection(name.to_unicode()));
    }
    Ok(())
}

pub(super) fn check_word(word: &str) -> Result<(), WishError> {
    if is_word(word) { Ok(()) } else { Err(WishError::Word(word.to_owned())) }
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
            &Origin::Operator.into(),
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

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let wish = SiteWish {
            tags: Some(vec!["a b".into()]),
            key_types: Some(vec![]),
            ca: Some("z".into()),
            ..SiteWish::for_names(&[
                "a_b.example.com".into(),
                "c.example.com".into(),
                "-d.example.com".into(),
            ])
        };
        let error = site(&wish, None, None).unwrap_err();
        assert_eq!(error.each().len(), 5, "{error}");
        for expected in
            ["a_b.example.com", "-d.example.com", "can't be a tag", "at least one", "there is no CA"]
        {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn who_made_a_site_stays_who_made_it() {
        let wish = SiteWish::for_names(&["a.example.com".into()]);
        let by_hand = site(&wish, None, None).unwrap();
        assert_eq!((by_hand.origin, by_hand.file_source()), (Origin::Operator, None));
        let config = "[ca.a]\ndirectory = \"https://a.example/dir\"\nagree_to_terms = true\n";
        let config = Config::parse(config, Path::new("x"), &[]).unwrap();
        let of = |before: Option<&Site>, wisher: &Wisher| {
            let suffixes = PublicSuffixes::shipped();
            wish.to_site(before, &config, &suffixes, None, wisher, Timestamp::UNIX_EPOCH).unwrap()
        };
        let of_file = of(None, &Wisher::file("panel"));
        assert_eq!(of_file.file_source(), Some("panel"));
        assert_eq!(of(Some(&of_file), &Origin::Operator.into()).file_source(), Some("panel"));
        assert_eq!(of(Some(&by_hand), &Wisher::file("panel")).file_source(), None);
        let handed_over = |source: &str, before: &Site| {
            let wish = SiteWish { source: Some(source.into()), ..wish.clone() };
            site(&wish, Some(before), None).unwrap()
        };
        assert_eq!(handed_over("panel", &by_hand).file_source(), Some("panel"));
        assert_eq!(handed_over("", &of_file).file_source(), None);
    }
}
