//! Certificates for the unit tests.

use jiff::Timestamp;
use openssl::{
    asn1::Asn1Time,
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
    x509::{
        X509, X509Builder, X509Extension, X509NameBuilder,
        extension::{BasicConstraints, SubjectAlternativeName},
    },
};
use shared::domain::{Leaf, Slot};
use zeroize::Zeroizing;

/// A CA of one certificate.
pub(crate) struct TestPki {
    key: PKey<Private>,
    certificate: X509,
}

/// One issued pair.
pub(crate) struct Issued {
    pub(crate) slot: Slot,
    pub(crate) fullchain: Vec<u8>,
    pub(crate) privkey: Zeroizing<Vec<u8>>,
    pub(crate) fingerprint: String,
}

/// The moment so many days from now.
pub(crate) fn days(count: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + count * 86_400).unwrap()
}

impl TestPki {
    pub(crate) fn new() -> Self {
        let key = ec_key();
        let mut builder = builder("Test CA", "Test CA", &key, days(-365), days(365));
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    pub(crate) fn ca_pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    pub(crate) fn issue(&self, names: &[&str], slot: Slot, from: Timestamp, to: Timestamp) -> Issued {
        self.issue_with(names, slot, from, to, &[])
    }

    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        slot: Slot,
        from: Timestamp,
        to: Timestamp,
        extensions: &[X509Extension],
    ) -> Issued {
        let key = match slot {
            Slot::Ecdsa => ec_key(),
            Slot::Rsa => PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
        };
        let mut builder = builder(names[0], "Test CA", &key, from, to);
        let mut san = SubjectAlternativeName::new();
        for name in names {
            san.dns(name);
        }
        let san = san.build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
        builder.append_extension(san).unwrap();
        for extension in extensions {
            builder.append_extension2(extension).unwrap();
        }
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        let leaf = builder.build();
        Issued {
            slot,
            fullchain: [leaf.to_pem().unwrap(), self.ca_pem()].concat(),
            privkey: Zeroizing::new(key.private_key_to_pem_pkcs8().unwrap()),
            fingerprint: Leaf::of(&leaf).unwrap().fingerprint_sha256,
        }
    }
}

fn ec_key() -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap())
        .unwrap()
}

fn builder(subject: &str, issuer: &str, key: &PKey<Private>, from: Timestamp, to: Timestamp) -> X509Builder {
    let name = |common_name: &str| {
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", common_name).unwrap();
        name.build()
    };
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, MsbOption::MAYBE_ZERO, false).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name(subject)).unwrap();
    builder.set_issuer_name(&name(issuer)).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(from.as_second()).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(to.as_second()).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
}
