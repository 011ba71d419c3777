use super::*;
use crate::acme::generate_certificate_key;
use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    hash::MessageDigest,
    pkey::{PKey, Private},
    x509::{X509Builder, X509NameBuilder, extension::SubjectAlternativeName},
};
use proptest::prelude::*;
use shared::domain::KeyType;
use std::sync::LazyLock;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// A root, an intermediate, and a leaf for two names and an address.
struct Authority {
    root: X509,
    intermediate: X509,
    intermediate_key: PKey<Private>,
    leaf: X509,
    leaf_key: PKey<Private>,
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let key = || generate_certificate_key(KeyType::EcdsaP256).unwrap();
    let (root_key, intermediate_key, leaf_key) = (key(), key(), key());
    let root = issued("Root", &root_key, "Root", &root_key, (-DAY, DAY), &[]);
    let intermediate = issued("Middle", &intermediate_key, "Root", &root_key, (-DAY, DAY), &[]);
    let leaf = issued("", &leaf_key, "Middle", &intermediate_key, (-DAY, DAY), &NAMES);
    Authority { root, intermediate, intermediate_key, leaf, leaf_key }
});

const NAMES: [&str; 3] = ["www.example.org", "Example.org", "192.0.2.7"];

fn issued(
    subject: &str,
    key: &PKey<Private>,
    issuer: &str,
    issuer_key: &PKey<Private>,
    days: (i64, i64),
    names: &[&str],
) -> X509 {
    let named = |common_name: &str| {
        let mut name = X509NameBuilder::new().unwrap();
        if !common_name.is_empty() {
            name.append_entry_by_nid(Nid::COMMONNAME, common_name).unwrap();
        }
        name.build()
    };
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(0x87_65_43_21).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&named(subject)).unwrap();
    builder.set_issuer_name(&named(issuer)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(NOW + days.0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(NOW + days.1).unwrap()).unwrap();
    if !names.is_empty() {
        let mut extension = SubjectAlternativeName::new();
        for name in names {
            match name {
                name if name.parse::<IpAddr>().is_ok() => extension.ip(name),
                name if name.contains('@') => extension.email(name),
                name => extension.dns(name),
            };
        }
        let extension = extension.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(extension).unwrap();
    }
    builder.sign(issuer_key, MessageDigest::sha256()).unwrap();
    builder.build()
}

fn pem(certificates: &[&X509]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.to_pem().unwrap()).collect()
}

fn parsed(certificates: &[&X509]) -> Chain {
    Chain::parse(&pem(certificates)).unwrap()
}

fn wanted() -> Vec<Identifier> {
    vec![
        Identifier::dns("example.org"),
        Identifier::dns("www.example.org"),
        Identifier::ip([192, 0, 2, 7].into()),
    ]
}

fn check_at(chain: &Chain, now_unix: i64, identifiers: &[Identifier]) -> Result<(), ChainError> {
    let spki_der = AUTHORITY.leaf_key.public_key_to_der().unwrap();
    chain.check(&Expectation { spki_der: &spki_der, identifiers, now_unix })
}

fn whole() -> Chain {
    parsed(&[&AUTHORITY.leaf, &AUTHORITY.intermediate, &AUTHORITY.root])
}

#[test]
fn a_good_chain_is_read_checked_and_written() {
    let chain = whole();
    check_at(&chain, NOW, &wanted()).unwrap();
    assert_eq!(chain.issuer_common_name().as_deref(), Some("Middle"));
    assert_eq!(chain.topmost_issuer_common_name().as_deref(), Some("Root"));
    assert_eq!((chain.not_before_unix(), chain.not_after_unix()), (NOW - DAY, NOW + DAY));
    assert_eq!(chain.serial_hex(), "0087654321");
    assert_eq!((chain.fingerprint_sha256().len(), chain.spki_sha256().len()), (64, 64));
    assert_eq!(chain.to_pem().as_bytes(), pem(&[&AUTHORITY.leaf, &AUTHORITY.intermediate, &AUTHORITY.root]));
    assert_eq!(chain.leaf_pem() + &chain.issuers_pem(), chain.to_pem());
    assert_eq!(chain.leaf_der(), AUTHORITY.leaf.to_der().unwrap());
    assert_eq!((chain.issuers().len(), chain.issuer_ders().len()), (2, 2));
}

#[test]
fn the_dates_are_those_of_the_leaf_with_a_little_skew() {
    let (chain, skew) = (whole(), CLOCK_SKEW_ALLOWED.as_secs() as i64);
    check_at(&chain, NOW - DAY - skew, &wanted()).unwrap();
    assert!(matches!(check_at(&chain, NOW - DAY - skew - 1, &wanted()), Err(ChainError::NotYetValid)));
    check_at(&chain, NOW + DAY - 1, &wanted()).unwrap();
    assert!(matches!(check_at(&chain, NOW + DAY, &wanted()), Err(ChainError::Expired)));
}

#[test]
fn every_certificate_of_the_chain_must_be_valid_now() {
    let root_key = generate_certificate_key(KeyType::EcdsaP256).unwrap();
    let middle = |days| issued("Middle", &AUTHORITY.intermediate_key, "Root", &root_key, days, &[]);
    let root = issued("Root", &root_key, "Root", &root_key, (-9 * DAY, 9 * DAY), &[]);
    let with = |days| check_at(&parsed(&[&AUTHORITY.leaf, &middle(days), &root]), NOW, &wanted());
    with((-9 * DAY, 9 * DAY)).unwrap();
    assert!(matches!(with((-9 * DAY, 0)), Err(ChainError::IssuerExpired { place: 2 })));
    assert!(matches!(with((DAY, 9 * DAY)), Err(ChainError::IssuerNotYetValid { place: 2 })));
    let old = issued("Root", &root_key, "Root", &root_key, (-9 * DAY, -DAY), &[]);
    let chain = parsed(&[&AUTHORITY.leaf, &middle((-DAY, DAY)), &old]);
    assert!(matches!(check_at(&chain, NOW, &wanted()), Err(ChainError::IssuerExpired { place: 3 })));
}

#[test]
fn another_key_or_other_names_are_refused() {
    let chain = whole();
    let other = AUTHORITY.intermediate_key.public_key_to_der().unwrap();
    let expected = Expectation { spki_der: &other, identifiers: &wanted(), now_unix: NOW };
    assert!(matches!(chain.check(&expected), Err(ChainError::WrongKey)));
    let one_more = [wanted(), vec![Identifier::dns("c.example.org")]].concat();
    for names in [&wanted()[..2], &one_more, &[]] {
        assert!(matches!(check_at(&chain, NOW, names), Err(ChainError::WrongNames { .. })), "{names:?}");
    }
    let names = ["example.org", "a@example.org"];
    let odd = issued("", &AUTHORITY.leaf_key, "Middle", &AUTHORITY.intermediate_key, (-DAY, DAY), &names);
    let refused = check_at(&parsed(&[&odd]), NOW, &[Identifier::dns("example.org")]);
    assert!(matches!(refused, Err(ChainError::WrongNames { .. })));
}

#[test]
fn each_certificate_must_be_issued_by_the_next() {
    let skipped = parsed(&[&AUTHORITY.leaf, &AUTHORITY.root]);
    assert!(matches!(check_at(&skipped, NOW, &wanted()), Err(ChainError::BrokenLink { place: 1 })));
    let doubled = parsed(&[&AUTHORITY.leaf, &AUTHORITY.intermediate, &AUTHORITY.intermediate]);
    assert!(matches!(check_at(&doubled, NOW, &wanted()), Err(ChainError::BrokenLink { place: 2 })));
    // The right name with another key, of the same kind and of another.
    for kind in [KeyType::EcdsaP256, KeyType::Rsa2048] {
        let impostor_key = generate_certificate_key(kind).unwrap();
        let impostor = issued("Middle", &impostor_key, "Root", &impostor_key, (-DAY, DAY), &[]);
        let forged = parsed(&[&AUTHORITY.leaf, &impostor]);
        assert!(matches!(check_at(&forged, NOW, &wanted()), Err(ChainError::BrokenLink { place: 1 })));
    }
}

#[test]
fn only_certificates_are_taken() {
    let leaf = pem(&[&AUTHORITY.leaf]);
    let with_key = [leaf.clone(), AUTHORITY.leaf_key.private_key_to_pem_pkcs8().unwrap()].concat();
    assert!(matches!(Chain::parse(&with_key), Err(ChainError::ForeignContent)));
    assert!(matches!(Chain::parse(b"<html></html>"), Err(ChainError::Empty)));
    assert!(matches!(Chain::parse(&leaf[..100]), Err(ChainError::NotPem)));
    assert!(matches!(Chain::parse(&leaf.repeat(MAX_CHAIN_CERTIFICATES + 1)), Err(ChainError::TooLong)));
    let mut trailing = AUTHORITY.leaf.to_der().unwrap();
    trailing.extend([5, 0]);
    let mut text = String::from_utf8(leaf).unwrap();
    pem::encode(&trailing, &mut text);
    assert!(matches!(Chain::parse(text.as_bytes()), Err(ChainError::Unreadable { place: 2, .. })));
}

proptest! {
    #[test]
    fn a_damaged_certificate_never_panics(place in 0usize..400, octet in any::<u8>()) {
        let mut der = AUTHORITY.leaf.to_der().unwrap();
        let place = place % der.len();
        der[place] = octet;
        let mut text = String::new();
        pem::encode(&der, &mut text);
        if let Ok(chain) = Chain::parse(text.as_bytes()) {
            let _ = check_at(&chain, NOW, &wanted());
        }
    }
}

#[test]
fn a_chain_in_another_order_is_put_right() {
    let Authority { root, intermediate, leaf, .. } = &*AUTHORITY;
    let stranger_key = generate_certificate_key(KeyType::EcdsaP256).unwrap();
    let stranger = issued("Stranger", &stranger_key, "Stranger", &stranger_key, (-DAY, DAY), &[]);
    let right = parsed(&[leaf, intermediate, root]);
    for odd in [
        vec![leaf, root, intermediate],
        vec![root, intermediate, leaf],
        vec![leaf, intermediate, intermediate, root],
        vec![leaf, &stranger, intermediate, root],
    ] {
        let mut chain = parsed(&odd);
        assert!(chain.put_in_order());
        assert_eq!(chain.to_pem(), right.to_pem());
        assert_eq!(chain.leaf_facts(), right.leaf_facts());
    }
    for mut as_it_is in [right, parsed(&[leaf]), parsed(&[leaf, intermediate]), parsed(&[leaf, root])] {
        let before = as_it_is.to_pem();
        assert!(!as_it_is.put_in_order());
        assert_eq!(as_it_is.to_pem(), before);
    }
}
