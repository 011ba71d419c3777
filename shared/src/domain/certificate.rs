//! A certificate as it is stored: the leaf, its chain, the sealed key; and what can be read from the leaf.

use super::KeyType;
use crate::digest::{hex, sha256_hex};
use jiff::Timestamp;
use openssl::{
    asn1::Asn1Time, asn1::Asn1TimeRef, error::ErrorStack, hash::MessageDigest, sha::sha256, x509::X509,
    x509::X509Ref,
};
use serde::{Deserialize, Serialize};
use std::fmt;

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
}

/// What is read from a leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leaf {
    /// Hex, with the leading zero octet that DER may need.
    pub serial: String,
    pub fingerprint_sha256: String,
    pub spki_sha256: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub issuer: String,
    pub names: Vec<String>,
}

/// The leaf can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate can't be parsed")]
    Unreadable(#[from] ErrorStack),
    #[error("the certificate's dates are out of range")]
    Dates,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaf_der, chain_pem: _, sealed_key: _, key_type, ca, account, issued } = self;
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
        let leaf = X509::from_der(&self.leaf_der)?;
        Leaf::of(&leaf)
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
                    name.dnsname().map(str::to_owned).or_else(|| name.ipaddress().and_then(address))
                })
                .collect()
        });
        let issuer = x509.issuer_name().entries().map(|entry| entry.data().to_string().unwrap_or_default());
        Ok(Self {
            serial: hex(&serial),
            fingerprint_sha256: hex(&x509.digest(MessageDigest::sha256())?),
            spki_sha256: sha256_hex(
                public_key_info(&x509.to_der()?).ok_or(CertificateError::Unreadable(ErrorStack::get()))?,
            ),
            not_before: timestamp(x509.not_before())?,
            not_after: timestamp(x509.not_after())?,
            issuer: issuer.collect::<Vec<_>>().join(", "),
            names: names.unwrap_or_default(),
        })
    }

    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// The SubjectPublicKeyInfo as it stands in a certificate (RFC 5280 section 4.1). Taken out rather than decoded and encoded
/// again, which costs more than everything else of a leaf.
fn public_key_info(certificate: &[u8]) -> Option<&[u8]> {
    let (_, content, _) = split_der(certificate)?;
    let (_, mut fields, _) = split_der(content)?;
    // version [0], serialNumber, signature, issuer, validity, subject
    if fields.first() == Some(&0xA0) {
        fields = split_der(fields)?.2;
    }
    for _ in 0..5 {
        fields = split_der(fields)?.2;
    }
    Some(split_der(fields)?.0)
}

/// The first element whole, its content, and what follows it (X.690 section 8.1).
fn split_der(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (header, length) = match *bytes.get(1)? {
        short @ 0..=0x7F => (2, usize::from(short)),
        long => {
            let digits = usize::from(long & 0x7F);
            let length = bytes.get(2..2 + digits).filter(|_| (1..=3).contains(&digits))?;
            (2 + digits, length.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)))
        }
    };
    let (element, rest) = bytes.split_at_checked(header + length)?;
    Some((element, &element[header..], rest))
}

fn timestamp(time: &Asn1TimeRef) -> Result<Timestamp, CertificateError> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    Timestamp::from_second(i64::from(since.days) * 86_400 + i64::from(since.secs))
        .map_err(|_| CertificateError::Dates)
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
        rsa::Rsa,
    };
    use proptest::prelude::*;

    fn certificate(key: &PKey<Private>) -> X509 {
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.set_pubkey(key).unwrap();
        builder.sign(key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    #[test]
    fn the_key_of_a_leaf_is_the_one_that_it_was_made_for() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        for key in [
            PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap(),
            PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
        ] {
            let leaf = Leaf::of(&certificate(&key)).unwrap();
            assert_eq!(leaf.spki_sha256, sha256_hex(&key.public_key_to_der().unwrap()));
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_no_certificate_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            public_key_info(&bytes);
        }
    }
}
