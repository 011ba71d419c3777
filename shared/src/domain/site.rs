//! A site: names that are wanted together, and the policy of their certificates.

use super::{KeyType, NameSet};
use crate::digest::hex;
use crate::error::Fault;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How many partitions the store has. A site and everything of it live in one.
pub const PARTITIONS: u8 = 64;

/// Names a site: 20 hex digits, from a digest of the names it was made with. The first six bits are its partition,
/// so that sites in the order of their ids are sites in the order of the partitions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SiteId(String);

/// One of the [`PARTITIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition(u8);

impl SiteId {
    /// The id of a site made for these names.
    pub fn of(names: &NameSet) -> Self {
        let mut digest = openssl::sha::Sha256::new();
        digest.update(b"signpost site\n");
        for name in names.iter() {
            digest.update(name.as_str().as_bytes());
            digest.update(b"\n");
        }
        Self(hex(&digest.finish()[..10]))
    }

    /// An id as a client sent it; `None` when it has not the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed =
            text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        well_formed.then(|| Self(text.to_owned()))
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

/// The wanted state of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Version of this record.
    pub v: u32,
    pub names: NameSet,
    /// One for each slot at most: an RSA key next to an ECDSA key makes the site dual.
    pub key_types: Vec<KeyType>,
    pub ca: String,
    pub account: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    pub created: Timestamp,
}

impl Site {
    /// The newest version of this record that this program can read.
    pub const VERSION: u32 = 1;
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

    #[test]
    fn the_id_depends_on_the_names_and_orders_like_the_partitions() {
        let of = |text: &str| SiteId::of(&NameSet::one(DnsName::parse(text).unwrap()));
        assert_eq!(of("a.example.com"), of("A.example.com"));
        assert_ne!(of("a.example.com"), of("b.example.com"));
        let mut ids: Vec<SiteId> = (0..500).map(|n| of(&format!("n{n}.example.com"))).collect();
        ids.sort();
        assert!(ids.is_sorted_by_key(SiteId::partition));
        assert_eq!(SiteId::parse(ids[0].as_str()), Some(ids[0].clone()));
        assert_eq!(SiteId::parse("{p00}:x"), None);
        assert_eq!(Partition::all().last().unwrap().to_string(), "p63");
    }
}
