//! A small certification authority for the servers of a test (not for what the CA under test issues).

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use openssl::{
    asn1::{Asn1Integer, Asn1Time},
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{
        X509, X509Builder, X509Name,
        extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName},
    },
};

/// A root that signs server and client certificates directly; P-256, valid for 30 days.
pub struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate with its key, both PEM.
pub struct Pair {
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

/// Where [`Pair::write`] put the two files.
#[derive(Debug, Clone)]
pub struct PairFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(common_name: &str) -> Result<Self> {
        let key = new_key()?;
        let name = subject(common_name)?;
        let mut builder = builder(&name, &name, &key)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self { certificate: builder.build(), key })
    }

    /// The root, PEM.
    pub fn pem(&self) -> Result<Vec<u8>> {
        Ok(self.certificate.to_pem()?)
    }

    /// The root, for verifying chains.
    pub fn certificate(&self) -> &X509 {
        &self.certificate
    }

    /// A server certificate for these names; an IP address becomes an IP entry.
    pub fn issue_server(&self, names: &[&str]) -> Result<Pair> {
        self.issue_server_for(names, &new_key()?)
    }

    /// The same for a key of the caller's.
    pub fn issue_server_for(&self, names: &[&str], key: &PKey<Private>) -> Result<Pair> {
        let mut alternatives = SubjectAlternativeName::new();
        for name in names {
            match name.parse::<IpAddr>() {
                Ok(_) => alternatives.ip(name),
                Err(_) => alternatives.dns(name),
            };
        }
        let common_name = names.first().context("a server certificate needs a name")?;
        self.issue(key, common_name, Some(&alternatives), ExtendedKeyUsage::new().server_auth())
    }

    /// A client certificate with this common name.
    pub fn issue_client(&self, common_name: &str) -> Result<Pair> {
        self.issue(&new_key()?, common_name, None, ExtendedKeyUsage::new().client_auth())
    }

    fn issue(
        &self,
        key: &PKey<Private>,
        common_name: &str,
        alternatives: Option<&SubjectAlternativeName>,
        usage: &ExtendedKeyUsage,
    ) -> Result<Pair> {
        let mut builder = builder(&subject(common_name)?, self.certificate.subject_name(), key)?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
        builder.append_extension(usage.build()?)?;
        if let Some(alternatives) = alternatives {
            let extension = alternatives.build(&builder.x509v3_context(Some(&self.certificate), None))?;
            builder.append_extension(extension)?;
        }
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(Pair { certificate_pem: builder.build().to_pem()?, key_pem: key.private_key_to_pem_pkcs8()? })
    }
}

impl Pair {
    /// Writes `NAME.pem` and `NAME.key` into `directory`.
    pub fn write(&self, directory: &Path, name: &str) -> Result<PairFiles> {
        let files = PairFiles {
            certificate: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
        };
        std::fs::write(&files.certificate, &self.certificate_pem)
            .with_context(|| format!("write {}", files.certificate.display()))?;
        std::fs::write(&files.key, &self.key_pem)
            .with_context(|| format!("write {}", files.key.display()))?;
        Ok(files)
    }
}

fn new_key() -> Result<PKey<Private>> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    Ok(PKey::from_ec_key(EcKey::generate(&group)?)?)
}

/// RFC 5280 appendix A.1: ub-common-name.
const MOST_OF_A_COMMON_NAME: usize = 64;

fn subject(common_name: &str) -> Result<X509Name> {
    let mut name = X509Name::builder()?;
    // As CAs do: a longer name stands in the alternative names alone.
    if common_name.len() <= MOST_OF_A_COMMON_NAME {
        name.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    }
    Ok(name.build())
}

fn builder(
    subject: &X509Name,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
) -> Result<X509Builder> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_serial_number(Asn1Integer::from_bn(&serial)?.as_ref())?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    // An hour back: a child may run under another clock.
    builder.set_not_before(Asn1Time::from_unix(jiff::Timestamp::now().as_second() - 3_600)?.as_ref())?;
    builder.set_not_after(Asn1Time::days_from_now(30)?.as_ref())?;
    builder.set_pubkey(key)?;
    Ok(builder)
}
