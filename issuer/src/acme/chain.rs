//! A downloaded certificate: strictly parsed, and checked before it is stored.

use super::{
    identifier::Identifier,
    pem::{self, PemFlaw},
};
use openssl::{
    asn1::Asn1Time,
    error::ErrorStack,
    nid::Nid,
    x509::{GeneralNameRef, X509, X509NameRef, X509Ref},
};
use shared::domain::{CertificateError, Leaf, UsageError, check_usage};
use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr, time::Duration};

/// Let's Encrypt's longest has four.
pub const MAX_CHAIN_CERTIFICATES: usize = 10;
/// How far this machine's clock may be behind the CA's: a certificate that begins so soon is taken.
pub const CLOCK_SKEW_ALLOWED: Duration = Duration::from_secs(300);

/// A leaf and the certificates above it, in that order.
#[derive(Clone, Debug)]
pub struct Chain {
    certificates: Vec<X509>,
    ders: Vec<Vec<u8>>,
    leaf: Leaf,
}

/// What a chain must be for it to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// The public key that was in the CSR (SubjectPublicKeyInfo, DER).
    pub spki_der: &'a [u8],
    /// Exactly these, in any order.
    pub identifiers: &'a [Identifier],
    /// Seconds since 1970.
    pub now_unix: i64,
}

/// Why a chain is not stored.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("something other than certificates is in the file")]
    ForeignContent,
    #[error("the file is not PEM")]
    NotPem,
    #[error("there is no certificate in the file")]
    Empty,
    #[error("there are more than {MAX_CHAIN_CERTIFICATES} certificates in the file")]
    TooLong,
    #[error("certificate {place} of the file can't be read")]
    Unreadable { place: usize, source: CertificateError },
    #[error("the certificate is for another key")]
    WrongKey,
    #[error("the certificate is for other names: {}", .found.join(", "))]
    WrongNames { found: Vec<String> },
    #[error("the certificate is not valid yet")]
    NotYetValid,
    #[error("the certificate has expired")]
    Expired,
    #[error("certificate {place} of the chain is not issued by the one that follows")]
    BrokenLink { place: usize },
    #[error("certificate {place} of the chain has expired")]
    IssuerExpired { place: usize },
    #[error("certificate {place} of the chain is not valid yet")]
    IssuerNotYetValid { place: usize },
    #[error("no client would take the certificate from a web server: {0}")]
    Usage(#[from] UsageError),
    #[error("OpenSSL refused the operation")]
    OpenSsl(#[from] ErrorStack),
}

impl Chain {
    /// Reads what a CA answered: one to ten `CERTIFICATE` blocks, the leaf first, and no block of any other kind.
    ///
    /// # Errors
    /// [`ChainError`] when it is anything else.
    pub fn parse(pem: &[u8]) -> Result<Self, ChainError> {
        let ders = pem::certificates(pem).map_err(|flaw| match flaw {
            PemFlaw::Foreign => ChainError::ForeignContent,
            PemFlaw::Encoding | PemFlaw::NotText | PemFlaw::Unfinished => ChainError::NotPem,
        })?;
        if ders.len() > MAX_CHAIN_CERTIFICATES {
            return Err(ChainError::TooLong);
        }
        let mut certificates = Vec::with_capacity(ders.len());
        for (place, der) in ders.iter().enumerate() {
            certificates
                .push(read(der).map_err(|source| ChainError::Unreadable { place: place + 1, source })?);
        }
        let first = certificates.first().ok_or(ChainError::Empty)?;
        let leaf = Leaf::of(first).map_err(|source| ChainError::Unreadable { place: 1, source })?;
        Ok(Self { certificates, ders, leaf })
    }

    /// Puts the certificates above the leaf in their order, each issued by the next, and leaves out what is not on that path.
    /// Whether anything had to be done; what has a gap is left as it is.
    pub fn put_in_order(&mut self) -> bool {
        let all = &self.certificates;
        let issues_none = |place: &usize| {
            let mut others = all.iter().enumerate().filter(|(other, _)| other != place);
            !others.any(|(_, other)| is_issued_by(other, &all[*place]))
        };
        let leaf = (0..all.len()).find(issues_none).unwrap_or(0);
        let mut path = vec![leaf];
        while let Some(last) = path.last().map(|place| &all[*place])
            && let Some(next) =
                (0..all.len()).find(|place| !path.contains(place) && is_issued_by(last, &all[*place]))
        {
            path.push(next);
        }
        let is_in_order = path.iter().copied().eq(0..all.len());
        if is_in_order || (path.len() < 2 && all.len() > 1) {
            return false;
        }
        let Ok(leaf) = Leaf::of(&all[leaf]) else { return false };
        let certificates = path.iter().map(|place| self.certificates[*place].clone()).collect();
        let ders = path.iter().map(|place| self.ders[*place].clone()).collect();
        *self = Self { certificates, ders, leaf };
        true
    }

    /// Whether this is what was ordered, and hangs together: the key, the names, what it may be used for, the dates of every certificate, and that each
    /// was issued and signed by the next one. Whether the root is trusted is the clients' affair.
    ///
    /// # Errors
    /// [`ChainError`], the first thing that is not so.
    pub fn check(&self, expected: &Expectation<'_>) -> Result<(), ChainError> {
        let leaf = self.leaf();
        if leaf.public_key()?.public_key_to_der()? != expected.spki_der {
            return Err(ChainError::WrongKey);
        }
        let wanted: BTreeSet<Identifier> = expected.identifiers.iter().cloned().collect();
        let found = subject_alternative_names(leaf);
        if found != wanted {
            return Err(ChainError::WrongNames { found: found.into_iter().map(|name| name.value).collect() });
        }
        if self.not_before_unix() > expected.now_unix.saturating_add(CLOCK_SKEW_ALLOWED.as_secs() as i64) {
            return Err(ChainError::NotYetValid);
        }
        if self.not_after_unix() <= expected.now_unix {
            return Err(ChainError::Expired);
        }
        check_usage(leaf)?;
        for (place, pair) in self.certificates.windows(2).enumerate() {
            let [child, parent] = pair else { unreachable!("windows of two have two") };
            if !is_issued_by(child, parent) {
                return Err(ChainError::BrokenLink { place: place + 1 });
            }
        }
        self.check_dates_above(expected.now_unix)
    }

    /// Whether every certificate above the leaf is valid now.
    ///
    /// # Errors
    /// [`ChainError::IssuerExpired`], [`ChainError::IssuerNotYetValid`].
    pub fn check_dates_above(&self, now_unix: i64) -> Result<(), ChainError> {
        let now = Asn1Time::from_unix(now_unix)?;
        let soon = Asn1Time::from_unix(now_unix.saturating_add(CLOCK_SKEW_ALLOWED.as_secs() as i64))?;
        for (above, certificate) in self.issuers().iter().enumerate() {
            let place = above + 2;
            if certificate.not_after().compare(&now)? != Ordering::Greater {
                return Err(ChainError::IssuerExpired { place });
            }
            if certificate.not_before().compare(&soon)? == Ordering::Greater {
                return Err(ChainError::IssuerNotYetValid { place });
            }
        }
        Ok(())
    }

    pub fn leaf(&self) -> &X509Ref {
        // Checked by `parse`.
        &self.certificates[0]
    }

    pub fn leaf_der(&self) -> &[u8] {
        &self.ders[0]
    }

    /// Everything that is shown of a leaf: serial, fingerprints, dates, names.
    pub fn leaf_facts(&self) -> &Leaf {
        &self.leaf
    }

    /// The certificates above the leaf.
    pub fn issuers(&self) -> &[X509] {
        &self.certificates[1..]
    }

    /// The certificates above the leaf, DER.
    pub fn issuer_ders(&self) -> &[Vec<u8>] {
        &self.ders[1..]
    }

    /// Leaf and chain as servers want them, written anew: nothing of the CA's comments is in it.
    pub fn to_pem(&self) -> String {
        written(&self.ders)
    }

    pub fn leaf_pem(&self) -> String {
        written(&self.ders[..1])
    }

    /// The chain without the leaf.
    pub fn issuers_pem(&self) -> String {
        written(&self.ders[1..])
    }

    /// Seconds since 1970.
    pub fn not_before_unix(&self) -> i64 {
        self.leaf.not_before.as_second()
    }

    /// Seconds since 1970. The certificate is not valid from this second on.
    pub fn not_after_unix(&self) -> i64 {
        self.leaf.not_after.as_second()
    }

    /// Hex, with the leading zero octet that DER may need.
    pub fn serial_hex(&self) -> &str {
        &self.leaf.serial
    }

    /// SHA-256 of the leaf, hex.
    pub fn fingerprint_sha256(&self) -> &str {
        &self.leaf.fingerprint_sha256
    }

    /// SHA-256 of the leaf's public key (SubjectPublicKeyInfo), hex.
    pub fn spki_sha256(&self) -> &str {
        &self.leaf.spki_sha256
    }

    /// Who issued the leaf.
    pub fn issuer_common_name(&self) -> Option<String> {
        common_name(self.leaf().issuer_name())
    }

    /// Who issued the last certificate: by this name a chain is preferred.
    pub fn topmost_issuer_common_name(&self) -> Option<String> {
        common_name(self.certificates.last()?.issuer_name())
    }
}

fn is_issued_by(child: &X509, parent: &X509) -> bool {
    let named =
        parent.subject_name().try_cmp(child.issuer_name()).is_ok_and(|order| order == Ordering::Equal);
    // An error means that key and signature do not even go together.
    named && parent.public_key().and_then(|key| child.verify(&key)).unwrap_or(false)
}

fn read(der: &[u8]) -> Result<X509, CertificateError> {
    let certificate = X509::from_der(der)?;
    // OpenSSL reads the first object and leaves what follows: that must be nothing.
    if certificate.to_der()?.len() != der.len() {
        return Err(CertificateError::Unreadable(ErrorStack::get()));
    }
    Ok(certificate)
}

fn written(ders: &[Vec<u8>]) -> String {
    ders.iter().fold(String::new(), |mut pem, der| {
        pem::encode(der, &mut pem);
        pem
    })
}

fn common_name(name: &X509NameRef) -> Option<String> {
    name.entries_by_nid(Nid::COMMONNAME).next()?.data().to_string().ok()
}

/// Every name of the leaf. What is neither a hostname nor an address is named too: nobody ordered it.
fn subject_alternative_names(leaf: &X509Ref) -> BTreeSet<Identifier> {
    leaf.subject_alt_names().iter().flatten().map(identifier).collect()
}

fn identifier(name: &GeneralNameRef) -> Identifier {
    if let Some(dns) = name.dnsname() {
        return Identifier::dns(dns);
    }
    let address = name.ipaddress().and_then(|octets| {
        let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
        four.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
    });
    address.map_or_else(
        || Identifier { kind: "other".to_owned(), value: "(a name that is no hostname)".to_owned() },
        Identifier::ip,
    )
}

#[cfg(test)]
mod tests;
