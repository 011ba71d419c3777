//! A certificate as it is stored: the leaf, its chain, the sealed key; and what can be read from the leaf.

use super::{DnsName, KeyType, life_begin};
use crate::digest::{hex, sha256_hex};
use jiff::Timestamp;
use openssl::{
    asn1::Asn1Time, asn1::Asn1TimeRef, hash::MessageDigest, sha::sha256, x509::X509, x509::X509Ref,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

/// Chains whose end is remembered. A CA has a handful.
const MOST_CHAINS: usize = 64;

/// Names a certificate: the first 16 bytes of the SHA-256 fingerprint of its leaf, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CertificateId(String);

impl CertificateId {
    pub fn of(leaf_der: &[u8]) -> Self {
        Self(hex(&sha256(leaf_der)[..16]))
    }

    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A number from 0.0 to 1.0 that is as good as drawn, and always the same for the same certificate: what is chosen by
    /// it is chosen once.
    pub fn draw(&self) -> f64 {
        let digits = u32::from_str_radix(self.0.get(..8).unwrap_or("80000000"), 16).unwrap_or(1 << 31);
        f64::from(digits) / f64::from(u32::MAX)
    }

    /// As many bits of it as one number takes: what several draws are made of, see [`candidates`](super::candidates).
    pub fn seed(&self) -> u64 {
        self.0.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One issued certificate. The chain is kept apart, each distinct one once.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    pub leaf_der: Vec<u8>,
    /// Every certificate above the leaf, PEM, as the CA sent it.
    pub chain_pem: String,
    /// The private key as `vault` sealed it.
    pub sealed_key: Vec<u8>,
    pub key_type: KeyType,
    pub ca: String,
    pub account: String,
    pub issued: Timestamp,
    /// What is read from the leaf, where it was stored beside it.
    pub known: Option<Leaf>,
}

/// What is read from a leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leaf {
    /// Hex, with the leading zero octet that DER may need.
    pub serial: String,
    pub fingerprint_sha256: String,
    pub spki_sha256: String,
    pub not_before: Timestamp,
    /// Of the leaf; of a stored certificate, of whatever ends first in its chain.
    pub not_after: Timestamp,
    pub issuer: String,
    /// In lower case, however the CA writes them.
    pub names: Vec<String>,
}

/// The leaf can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate can't be parsed")]
    Unreadable(#[from] openssl::error::ErrorStack),
    #[error("the certificate's dates are out of range")]
    Dates,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaf_der, chain_pem: _, sealed_key: _, key_type, ca, account, issued, known: _ } = self;
        f.debug_struct("Certificate")
            .field("id", &CertificateId::of(leaf_der))
            .field("key_type", key_type)
            .field("ca", ca)
            .field("account", account)
            .field("issued", issued)
            .finish_non_exhaustive()
    }
}

impl Certificate {
    pub fn id(&self) -> CertificateId {
        CertificateId::of(&self.leaf_der)
    }

    /// # Errors
    /// [`CertificateError`] when the stored leaf is damaged.
    pub fn leaf(&self) -> Result<Leaf, CertificateError> {
        let mut leaf = match &self.known {
            Some(known) => known.clone(),
            None => Leaf::of(X509::from_der(&self.leaf_der)?.as_ref())?,
        };
        // Hostnames have no letter case; records of earlier releases have kept the CA's.
        leaf.names.iter_mut().for_each(|name| name.make_ascii_lowercase());
        // Of no use once anything above it has ended.
        leaf.not_after = end_of_chain(&self.chain_pem).map_or(leaf.not_after, |end| end.min(leaf.not_after));
        Ok(leaf)
    }

    /// From when until when its life counts: see [`life_begin`].
    pub fn life(&self, leaf: &Leaf) -> (Timestamp, Timestamp) {
        (life_begin(leaf.not_before, leaf.not_after, self.issued), leaf.not_after)
    }

    /// # Errors
    /// [`CertificateError`] when the stored leaf is damaged.
    pub fn leaf_pem(&self) -> Result<String, CertificateError> {
        Ok(String::from_utf8_lossy(&X509::from_der(&self.leaf_der)?.to_pem()?).into_owned())
    }
}

impl Leaf {
    /// # Errors
    /// [`CertificateError`] when a field can't be read.
    pub fn of(x509: &X509Ref) -> Result<Self, CertificateError> {
        let mut serial = x509.serial_number().to_bn()?.to_vec();
        if serial.first().is_none_or(|octet| octet & 0x80 != 0) {
            serial.insert(0, 0);
        }
        let names = x509.subject_alt_names().map(|names| {
            names
                .iter()
                .filter_map(|name| {
                    name.dnsname().map(str::to_ascii_lowercase).or_else(|| name.ipaddress().and_then(address))
                })
                .collect()
        });
        let issuer = x509.issuer_name().entries().map(|entry| entry.data().to_string().unwrap_or_default());
        Ok(Self {
            serial: hex(&serial),
            fingerprint_sha256: hex(&x509.digest(MessageDigest::sha256())?),
            spki_sha256: sha256_hex(&x509.public_key()?.public_key_to_der()?),
            not_before: timestamp(x509.not_before())?,
            not_after: timestamp(x509.not_after())?,
            issuer: issuer.collect::<Vec<_>>().join(", "),
            names: names.unwrap_or_default(),
        })
    }

    /// From when until when a certificate is valid.
    ///
    /// # Errors
    /// [`CertificateError`] when a date can't be read.
    pub fn dates_of(x509: &X509Ref) -> Result<(Timestamp, Timestamp), CertificateError> {
        Ok((timestamp(x509.not_before())?, timestamp(x509.not_after())?))
    }

    /// Whether it is valid for a hostname: RFC 6125 section 6.4.3 for wildcards.
    pub fn covers(&self, name: &DnsName) -> bool {
        let below = name.as_str().split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|own| {
            own == name.as_str() || own.strip_prefix("*.").is_some_and(|parent| Some(parent) == below)
        })
    }

    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// When the first of a chain's certificates ends. The same few chains stand above thousands of leaves: each is read once.
fn end_of_chain(pem: &str) -> Option<Timestamp> {
    static KNOWN: Mutex<BTreeMap<[u8; 32], Option<Timestamp>>> = Mutex::new(BTreeMap::new());
    if pem.is_empty() {
        return None;
    }
    let digest = sha256(pem.as_bytes());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(end) = known.get(&digest) {
        return *end;
    }
    let chain = X509::stack_from_pem(pem.as_bytes()).unwrap_or_default();
    let end = chain.iter().filter_map(|above| Some(Leaf::dates_of(above).ok()?.1)).min();
    if known.len() >= MOST_CHAINS {
        known.clear();
    }
    known.insert(digest, end);
    end
}

fn timestamp(time: &Asn1TimeRef) -> Result<Timestamp, CertificateError> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    let seconds = i64::from(since.days) * 86_400 + i64::from(since.secs);
    // RFC 5280 section 4.1.2.5: the last second of the year 9999 means that it has no end.
    Ok(Timestamp::from_second(seconds).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX }))
}

fn address(octets: &[u8]) -> Option<String> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(|o| std::net::Ipv4Addr::from(o).to_string()),
        16 => <[u8; 16]>::try_from(octets).ok().map(|o| std::net::Ipv6Addr::from(o).to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::{
        ec::{EcGroup, EcKey},
        nid::Nid,
        pkey::{PKey, Private},
        x509::{X509Builder, extension::SubjectAlternativeName},
    };

    fn certificate(key: &PKey<Private>, until: i64) -> X509 {
        let mut builder = X509Builder::new().unwrap();
        builder.set_pubkey(key).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(1_000_000_000).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(until).unwrap()).unwrap();
        builder.sign(key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    #[test]
    fn names_have_no_letter_case() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(1_000_000_000).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(2_000_000_000).unwrap()).unwrap();
        let names = SubjectAlternativeName::new()
            .dns("UP.Example.COM")
            .dns("*.UP.example.com")
            .build(&builder.x509v3_context(None, None))
            .unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let leaf = Leaf::of(&builder.build()).unwrap();
        assert_eq!(leaf.names, ["up.example.com", "*.up.example.com"]);
        assert!(leaf.covers(&DnsName::parse("up.example.com").unwrap()));
    }

    #[test]
    fn what_ends_first_in_a_chain_decides() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let with = |above: &[i64]| {
            let chain = above.iter().map(|until| certificate(&key, *until).to_pem().unwrap());
            Certificate {
                leaf_der: certificate(&key, 2_000_000_000).to_der().unwrap(),
                chain_pem: String::from_utf8(chain.flatten().collect()).unwrap(),
                sealed_key: Vec::new(),
                key_type: KeyType::EcdsaP256,
                ca: String::new(),
                account: String::new(),
                issued: Timestamp::UNIX_EPOCH,
                known: None,
            }
        };
        for (above, end) in [
            (vec![], 2_000_000_000),
            (vec![3_000_000_000], 2_000_000_000),
            (vec![3_000_000_000, 1_900_000_000], 1_900_000_000),
            // The year 9999: no end at all.
            (vec![253_402_300_799], 2_000_000_000),
        ] {
            assert_eq!(with(&above).leaf().unwrap().not_after.as_second(), end, "{above:?}");
        }
    }
}
