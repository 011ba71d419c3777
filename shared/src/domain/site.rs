//! A site: names that are wanted together, and the policy of their certificates.
//!
//! Names that share a certificate are a group. Most sites have one; one whose names have certificates of their own, or
//! which has more names than one certificate takes, has several. Each group has a record of its own, a lease, and a
//! place in the schedule: what is said of a "site" below the wanted state is said of a group.

use super::{Hsts, KeyType, NameSet};
use crate::digest::hex;
use crate::error::Fault;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How many partitions the store has. A site and everything of it live in one.
pub const PARTITIONS: u8 = 64;
const SITE_DIGITS: usize = 20;
/// More names than that belong into several sites: a site is written at once.
pub const MAX_SITE_NAMES: usize = 2_000;

/// The source of a file that names none.
pub const DEFAULT_SOURCE: &str = "default";

/// Names a site, or one of its groups: 20 hex digits, from a digest of the names that the site was made with, and `-N` for
/// a group beyond the first. The first six bits are its partition, so that sites in the order of their ids are sites in
/// the order of the partitions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SiteId(String);

/// One of the [`PARTITIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(u8);

impl SiteId {
    /// The id of a site made for these names.
    pub fn of(names: &NameSet) -> Self {
        Self::digest(b"signpost site\n", names)
    }

    /// The id of a site made for these names while the one of that id has moved on to others.
    pub fn of_again(names: &NameSet) -> Self {
        Self::digest(b"signpost site again\n", names)
    }

    fn digest(kind: &[u8], names: &NameSet) -> Self {
        let mut digest = openssl::sha::Sha256::new();
        digest.update(kind);
        for name in names.iter() {
            digest.update(name.as_str().as_bytes());
            digest.update(b"\n");
        }
        Self(hex(&digest.finish()[..10]))
    }

    /// An id as a client sent it; `None` when it has not the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let (site, number) = text.split_once('-').map_or((text, None), |(site, number)| (site, Some(number)));
        let well_formed = site.len() == SITE_DIGITS
            && site.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let numbered = number.is_none_or(|number| {
            !number.starts_with('0') && number.parse::<u16>().is_ok_and(|parsed| parsed.to_string() == number)
        });
        (well_formed && numbered).then(|| Self(text.to_owned()))
    }

    /// The site that this group belongs to.
    #[must_use]
    pub fn site(&self) -> Self {
        Self(self.0[..SITE_DIGITS].to_owned())
    }

    /// A group of this site, from 0.
    #[must_use]
    pub fn group(&self, number: u16) -> Self {
        let site = &self.0[..SITE_DIGITS];
        Self(if number == 0 { site.to_owned() } else { format!("{site}-{number}") })
    }

    /// Which of the site's groups this is.
    pub fn number(&self) -> u16 {
        self.0.get(SITE_DIGITS + 1..).and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn partition(&self) -> Partition {
        Partition(u8::from_str_radix(&self.0[..2], 16).expect("a site id begins with two hex digits") >> 2)
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Partition {
    /// Where things are kept that belong to no site.
    pub const FIRST: Self = Self(0);

    /// All of them, in the order of the site ids they hold.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    /// Its number, from 0 to [`PARTITIONS`] - 1.
    pub fn number(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{:02}", self.0)
    }
}

/// The wanted state of a site; in a group's record, of that group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Version of this record.
    pub v: u32,
    pub names: NameSet,
    /// One for each slot at most: an RSA key next to an ECDSA key makes the site dual.
    pub key_types: Vec<KeyType>,
    /// Records of version 1 have one certificate for all their names.
    #[serde(default, skip_serializing_if = "SanPolicy::is_grouped")]
    pub san: SanPolicy,
    pub ca: String,
    pub account: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(default, skip_serializing_if = "ChallengeType::is_http")]
    pub challenge: ChallengeType,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The customer that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whether frontends redirect plain HTTP to HTTPS; absent in records of version 1, which knew nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
    /// Nothing is ordered for it; what is served is served on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Origin::is_operator")]
    pub origin: Origin,
    /// Which of several files a site is of; see [`Site::file_source`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub created: Timestamp,
}

/// How a site's names share certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SanPolicy {
    /// One certificate for each name.
    Single,
    /// As many names in one certificate as the CA's profile takes.
    #[default]
    Grouped,
}

/// How the CA is shown that a name is ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChallengeType {
    #[default]
    #[serde(rename = "http-01")]
    Http01,
    #[serde(rename = "dns-01")]
    Dns01,
    /// Over HTTP where that leads to us, else in the DNS; wildcards always in the DNS.
    #[serde(rename = "auto")]
    Auto,
    /// At a name of the account's own, for zones that several hosters prove (draft-ietf-acme-dns-account-label).
    #[serde(rename = "dns-account-01")]
    DnsAccount01,
    /// By a record that stays (draft-ietf-acme-dns-persist).
    #[serde(rename = "dns-persist-01")]
    DnsPersist01,
}

/// Who made a site. A file of wanted sites changes and removes only what files of the same source have added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    #[default]
    Operator,
    File,
    Api,
}

impl Site {
    /// The newest version of this record that this program can read.
    pub const VERSION: u32 = 5;

    /// A site of which nothing is said but this: one certificate for all names of each kind of key.
    pub fn new(
        names: NameSet,
        key_types: &[KeyType],
        ca: impl Into<String>,
        account: impl Into<String>,
        created: Timestamp,
    ) -> Self {
        Self {
            v: Self::VERSION,
            names,
            key_types: key_types.to_vec(),
            san: SanPolicy::Grouped,
            ca: ca.into(),
            account: account.into(),
            profile: None,
            challenge: ChallengeType::Http01,
            tags: Vec::new(),
            tenant: None,
            redirect: None,
            hsts: None,
            paused: None,
            origin: Origin::Operator,
            source: None,
            created,
        }
    }

    /// The source of the file that has the say about it; `None` for a site that a person or a program has added by itself.
    pub fn file_source(&self) -> Option<&str> {
        (self.origin == Origin::File).then(|| self.source.as_deref().unwrap_or(DEFAULT_SOURCE))
    }

    /// Who has the say about it, in words.
    pub fn managed_by(&self) -> String {
        match (self.origin, self.file_source()) {
            (_, Some(source)) => format!("of files of the source {source:?}"),
            (Origin::Api, None) => "added by the API".to_owned(),
            _ => "added by hand".to_owned(),
        }
    }
}

impl SanPolicy {
    fn is_grouped(&self) -> bool {
        *self == Self::Grouped
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Grouped => "grouped",
        }
    }
}

impl ChallengeType {
    fn is_http(&self) -> bool {
        *self == Self::Http01
    }

    /// Whether a name can be proved by a record, which a wildcard needs.
    pub fn takes_dns(self) -> bool {
        self != Self::Http01
    }

    /// The challenge by which a name is proved in the DNS.
    pub const fn in_dns(self) -> &'static str {
        match self {
            Self::Http01 | Self::Dns01 | Self::Auto => "dns-01",
            Self::DnsAccount01 | Self::DnsPersist01 => self.as_str(),
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::Auto => "auto",
            Self::DnsAccount01 => "dns-account-01",
            Self::DnsPersist01 => "dns-persist-01",
        }
    }
}

impl Origin {
    fn is_operator(&self) -> bool {
        *self == Self::Operator
    }
}

/// What went wrong the last time, kept with the site until a certificate is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub at: Timestamp,
    /// Failures in a row.
    pub count: u32,
    pub fault: Fault,
    pub class: FailureClass,
    /// What happened, in the CA's or the checker's words.
    pub what: String,
    /// What to change.
    pub remedy: String,
    /// The CA will refuse before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The first failure of the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it is tried again by itself; absent where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// Nothing has failed: the moment has not come, of a limit of the CA's or of a certificate. A script looks for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// It was before its site was removed and added again, which is no reason to try sooner. The last field: a script takes it off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remembered: bool,
}

impl Failure {
    /// Whether it is a wait, and none has failed. Records of earlier releases tell by their class.
    pub fn is_wait(&self) -> bool {
        self.waits || self.class == FailureClass::Limit
    }

    /// Whether trying now is in vain, or too soon.
    pub fn holds_back(&self, now: Timestamp, retry: bool) -> bool {
        let is_later = |moment: Option<Timestamp>| moment.is_some_and(|moment| moment > now);
        // What has no next moment waits for a person.
        is_later(self.not_before)
            || (self.remembered && !retry && (self.next.is_none() || is_later(self.next)))
    }
}

/// Why a group is left alone until its names come back, or somebody acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    pub reason: ParkedReason,
    pub since: Timestamp,
    /// What was found, in plain words.
    pub what: String,
    pub remedy: String,
    /// How often it has been looked at since.
    #[serde(default)]
    pub looks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParkedReason {
    /// The names' DNS no longer leads to our frontends. Looked at from time to time.
    Departed,
    /// The CA has paused the names for this account: a person has to visit its page.
    PausedByCa,
}

/// Kinds of failures an operator acts upon differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The name's DNS can't be resolved, or DNSSEC fails.
    Dns,
    /// The name leads somewhere else, or another server answers.
    NotPointingHere,
    /// Our redirect rule is missing or wrong on the frontend.
    RedirectRule,
    /// Nobody answers on port 80.
    Firewall,
    /// CAA forbids this CA.
    Caa,
    /// The CA refuses the name by policy.
    Policy,
    /// A limit of the CA.
    Limit,
    /// The CA has paused the name for this account; only a person can undo it.
    Paused,
    /// The account: terms, credentials, deactivation.
    Account,
    /// The CA's own fault.
    Ca,
    /// The certificate that came is not the one that was ordered.
    BadCertificate,
    /// The store.
    Store,
    /// This program.
    Bug,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DnsName;

    /// Records as earlier releases wrote them. Samples stay for ever: a newer program reads them.
    const SAMPLES: [&str; 5] = [
        r#"{"v":1,"names":["a.example.com","b.example.com"],"key_types":["ecdsa-p256"],"ca":"letsencrypt","account":"default","created":"2026-11-22T00:00:00Z"}"#,
        r#"{"v":2,"names":["a.example.com"],"key_types":["ecdsa-p256","rsa-2048"],"san":"single","ca":"letsencrypt","account":"default","tags":["eu"],"tenant":"acme","redirect":true,"hsts":{"max_age_seconds":60,"include_subdomains":false},"origin":"file","created":"2026-11-24T00:00:00Z"}"#,
        r#"{"v":3,"names":["a.example.com"],"key_types":["ecdsa-p256"],"ca":"letsencrypt","account":"default","redirect":true,"hsts":{"max_age_seconds":5184000,"include_subdomains":false,"since":"2026-11-28T00:00:00Z"},"created":"2026-11-28T00:00:00Z"}"#,
        r#"{"v":4,"names":["*.example.com","example.com"],"key_types":["ecdsa-p256"],"ca":"letsencrypt","account":"default","challenge":"dns-01","created":"2026-11-28T00:00:00Z"}"#,
        r#"{"v":5,"names":["a.example.com"],"key_types":["ecdsa-p256"],"ca":"letsencrypt","account":"default","origin":"file","source":"panel","created":"2026-11-30T00:00:00Z"}"#,
    ];

    #[test]
    fn records_of_every_version_are_read_and_written_unchanged() {
        for sample in SAMPLES {
            let site: Site = serde_json::from_str(sample).unwrap();
            assert_eq!(serde_json::to_string(&site).unwrap(), sample);
        }
    }

    #[test]
    fn the_id_depends_on_the_names_and_orders_like_the_partitions() {
        let of = |text: &str| SiteId::of(&NameSet::one(DnsName::parse(text).unwrap()));
        assert_eq!(of("a.example.com"), of("A.example.com"));
        assert_ne!(of("a.example.com"), of("b.example.com"));
        let names = NameSet::one(DnsName::parse("a.example.com").unwrap());
        assert_ne!(SiteId::of_again(&names), SiteId::of(&names));
        let mut ids: Vec<SiteId> = (0..500).map(|n| of(&format!("n{n}.example.com"))).collect();
        ids.sort();
        assert!(ids.is_sorted_by_key(SiteId::partition));
        assert_eq!(SiteId::parse(ids[0].as_str()), Some(ids[0].clone()));
        assert_eq!(SiteId::parse("{p00}:x"), None);
        let second = ids[0].group(2);
        assert_eq!(second.as_str(), format!("{}-2", ids[0]));
        assert_eq!((SiteId::parse(second.as_str()), second.number()), (Some(second.clone()), 2));
        assert_eq!((second.site(), second.group(0)), (ids[0].clone(), ids[0].clone()));
        assert_eq!(second.partition(), ids[0].partition());
        for odd in ["-0", "-01", "--1", "-x", "-65536", "-"] {
            assert_eq!(SiteId::parse(&format!("{}{odd}", ids[0])), None, "{odd}");
        }
        assert_eq!(Partition::all().last().unwrap().to_string(), "p63");
    }
}
