//! The bytes of a stored certificate. There are millions, so they are few.
//!
//! Version 3: `3 | checksum 8 | ` and then as version 2. The checksum is of all of that, but for the sealed key, which has its own, and
//! with the facts as they are when they are unpacked: what is read of a certificate without parsing it is what was written.
//!
//! Version 2, still read, without its facts: `2 | chain 16 | key type u8 | issued, unix seconds u40 | len(ca) u8 | ca | len(account) u8 | account |
//! len(facts) u24 | len(facts, leaf DER) u24 | len(packed) u24 | packed: facts, leaf DER | sealed key`. What is packed is an LZ4
//! block whose dictionary is the leaf that is kept for the chain (see `chains`); the facts are those of `leaf_facts`, or none.
//!
//! Version 1, still read: `1 | len(meta) u16 | meta JSON | len(leaf) u16 | leaf DER | sealed key`.

use super::{StoreError, chains::ChainId, leaf_facts};
use crate::domain::{Certificate, KeyType};
use serde::Deserialize;

const VERSION: u8 = 3;
const CHECKSUM: usize = 8;

/// A record that was read, with its leaf still packed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CertificateRecord {
    pub(super) chain: ChainId,
    pub(super) key_type: KeyType,
    pub(super) ca: String,
    pub(super) account: String,
    /// Unix time, seconds.
    pub(super) issued: i64,
    pub(super) sealed_key: Vec<u8>,
    leaf: StoredLeaf,
}

#[derive(Debug, PartialEq, Eq)]
enum StoredLeaf {
    Whole(Vec<u8>),
    Packed { facts: usize, length: usize, block: Vec<u8>, sum: Option<Checksum> },
}

/// What the head of a record and its facts must come to.
#[derive(Debug, PartialEq, Eq)]
struct Checksum {
    head: Vec<u8>,
    expected: [u8; CHECKSUM],
}

/// A leaf as it was unpacked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) leaf_der: Vec<u8>,
    /// See `leaf_facts`; empty where there are none.
    pub(super) facts: Vec<u8>,
}

/// What a record of version 1 says besides leaf and key.
#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "c")]
    chain_sha256: String,
    #[serde(rename = "k")]
    key_type: KeyType,
    ca: String,
    #[serde(rename = "a")]
    account: String,
    #[serde(rename = "t")]
    issued: i64,
}

/// Why a record can't be read or written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RecordError {
    Damaged,
    Newer(u8),
    TooLong(&'static str),
}

impl RecordError {
    pub(super) fn of(self, key: &str) -> StoreError {
        match self {
            Self::Damaged => StoreError::corrupt(key, "the record is damaged"),
            Self::Newer(found) => StoreError::NewerSchema { found: found.into(), known: VERSION.into() },
            Self::TooLong(what) => StoreError::corrupt(key, format!("{what} is too long to be stored")),
        }
    }
}

impl CertificateRecord {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut rest = Reader(bytes);
        let record = match rest.byte() {
            Some(1) => Self::parse_first(rest),
            Some(2) => Self::parse_second(rest, None),
            Some(VERSION) => {
                let sum = rest.take(CHECKSUM).and_then(|sum| sum.try_into().ok());
                sum.and_then(|sum| Self::parse_second(rest, Some(sum)))
            }
            Some(newer) => return Err(RecordError::Newer(newer)),
            None => None,
        };
        record.ok_or(RecordError::Damaged)
    }

    fn parse_first(mut rest: Reader<'_>) -> Option<Self> {
        let meta: Meta = {
            let length = rest.number(2)?;
            serde_json::from_slice(rest.take(length)?).ok()?
        };
        let length = rest.number(2)?;
        Some(Self {
            leaf: StoredLeaf::Whole(rest.take(length)?.to_vec()),
            sealed_key: rest.0.to_vec(),
            chain: ChainId::parse(&meta.chain_sha256)?,
            key_type: meta.key_type,
            ca: meta.ca,
            account: meta.account,
            issued: meta.issued,
        })
    }

    fn parse_second(mut rest: Reader<'_>, sum: Option<[u8; CHECKSUM]>) -> Option<Self> {
        let all = rest.0;
        let chain = ChainId(rest.take(16)?.try_into().ok()?);
        let key_type = key_type_of(rest.byte()?)?;
        let issued = i64::try_from(rest.number(5)?).ok()?;
        let mut text = || {
            let length = rest.number(1)?;
            String::from_utf8(rest.take(length)?.to_vec()).ok()
        };
        let (ca, account) = (text()?, text()?);
        let (facts, length) = (rest.number(3)?, rest.number(3)?);
        let packed = rest.number(3)?;
        let head = all.get(..all.len().checked_sub(rest.0.len())?)?.to_vec();
        let sum = sum.map(|expected| Checksum { head, expected });
        let leaf = StoredLeaf::Packed { facts, length, block: rest.take(packed)?.to_vec(), sum };
        Some(Self { chain, key_type, ca, account, issued, sealed_key: rest.0.to_vec(), leaf })
    }

    /// Whether it needs the leaf that it was packed against.
    pub(super) const fn is_packed(&self) -> bool {
        matches!(self.leaf, StoredLeaf::Packed { .. })
    }

    /// The leaf; `None` where it can't be unpacked with this template.
    pub(super) fn leaf(&self, template: &[u8]) -> Option<Unpacked> {
        match &self.leaf {
            StoredLeaf::Whole(leaf) => Some(Unpacked { leaf_der: leaf.clone(), facts: Vec::new() }),
            StoredLeaf::Packed { facts, length, block, sum } => {
                let mut content = lz4_flex::block::decompress_with_dict(block, *length, template).ok()?;
                let leaf_der = (*facts <= content.len()).then(|| content.split_off(*facts))?;
                match sum {
                    Some(sum) if checksum(&sum.head, &content) != sum.expected => None,
                    Some(_) => Some(Unpacked { leaf_der, facts: content }),
                    // Nothing vouches for them: the leaf itself is parsed.
                    None => Some(Unpacked { leaf_der, facts: Vec::new() }),
                }
            }
        }
    }

    pub(super) fn pack(certificate: &Certificate, template: &[u8]) -> Result<Vec<u8>, RecordError> {
        let mut record = vec![];
        record.extend_from_slice(&ChainId::of(&certificate.chain_pem).0);
        record.push(code_of(certificate.key_type));
        append_number(&mut record, certificate.issued.as_second(), 5, "its date")?;
        for (text, what) in [(&certificate.ca, "the CA's name"), (&certificate.account, "the account's name")]
        {
            append_length(&mut record, text.len(), 1, what)?;
            record.extend_from_slice(text.as_bytes());
        }
        // One that can't be parsed is stored as it is: whoever reads it says so.
        let facts = certificate.leaf().map(|leaf| leaf_facts::encode(&leaf)).unwrap_or_default();
        append_length(&mut record, facts.len(), 3, "what the leaf says")?;
        let mut content = facts.clone();
        content.extend_from_slice(&certificate.leaf_der);
        let block = lz4_flex::block::compress_with_dict(&content, template);
        append_length(&mut record, content.len(), 3, "the leaf")?;
        append_length(&mut record, block.len(), 3, "the leaf")?;
        let mut whole = vec![VERSION];
        whole.extend_from_slice(&checksum(&record, &facts));
        whole.extend_from_slice(&record);
        whole.extend_from_slice(&block);
        whole.extend_from_slice(&certificate.sealed_key);
        Ok(whole)
    }
}

/// The first bytes of a digest: enough for what is damaged by accident.
fn checksum(head: &[u8], facts: &[u8]) -> [u8; CHECKSUM] {
    let mut digest = openssl::sha::Sha256::new();
    digest.update(head);
    digest.update(facts);
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&digest.finish()[..CHECKSUM]);
    sum
}

/// Never changed, only added to: they are stored.
const fn code_of(key_type: KeyType) -> u8 {
    match key_type {
        KeyType::EcdsaP256 => 1,
        KeyType::EcdsaP384 => 2,
        KeyType::Rsa2048 => 3,
        KeyType::Rsa3072 => 4,
        KeyType::Rsa4096 => 5,
    }
}

fn key_type_of(code: u8) -> Option<KeyType> {
    KeyType::ALL.into_iter().find(|kind| code_of(*kind) == code)
}

pub(super) fn append_length(
    record: &mut Vec<u8>,
    length: usize,
    bytes: usize,
    what: &'static str,
) -> Result<(), RecordError> {
    append_number(record, i64::try_from(length).map_err(|_| RecordError::TooLong(what))?, bytes, what)
}

pub(super) fn append_number(
    record: &mut Vec<u8>,
    number: i64,
    bytes: usize,
    what: &'static str,
) -> Result<(), RecordError> {
    let all = u64::try_from(number).map_err(|_| RecordError::TooLong(what))?.to_be_bytes();
    let (above, kept) = all.split_at(all.len() - bytes);
    if above.iter().any(|byte| *byte != 0) {
        return Err(RecordError::TooLong(what));
    }
    record.extend_from_slice(kept);
    Ok(())
}

/// What is left to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// Big endian, of at most 5 bytes.
    pub(super) fn number(&mut self, bytes: usize) -> Option<usize> {
        let number = self.take(bytes)?.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::hex;
    use jiff::Timestamp;
    use proptest::prelude::*;

    /// Records as earlier releases wrote them. Samples stay for ever: a newer program reads them.
    const META_1: &str = r#"{"c":"00112233445566778899aabbccddeeff","k":"rsa-2048","ca":"letsencrypt","a":"default","t":1764000000}"#;
    const SAMPLE_2: &str = "029414886b1ebf025db067a4cbd13a09030100692481000b6c657473656e63727970740764656661756c74000000\
         0000070000087061206c656166217365616c6564";

    fn certificate(leaf_der: Vec<u8>) -> Certificate {
        Certificate {
            leaf_der,
            chain_pem: "chain".to_owned(),
            sealed_key: b"sealed".to_vec(),
            key_type: KeyType::EcdsaP256,
            ca: "letsencrypt".to_owned(),
            account: "default".to_owned(),
            issued: Timestamp::from_second(1_764_000_000).unwrap(),
            known: None,
        }
    }

    #[test]
    fn records_of_version_1_are_read() {
        let mut sample = vec![1];
        for part in [META_1.as_bytes(), b"a leaf"] {
            sample.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
            sample.extend_from_slice(part);
        }
        sample.extend_from_slice(b"sealed");
        let record = CertificateRecord::parse(&sample).unwrap();
        assert_eq!(record.chain.to_hex(), "00112233445566778899aabbccddeeff");
        assert_eq!((record.key_type, record.issued), (KeyType::Rsa2048, 1_764_000_000));
        assert_eq!((record.ca.as_str(), record.account.as_str()), ("letsencrypt", "default"));
        assert_eq!(
            (record.leaf(b"whatever").unwrap().leaf_der, record.sealed_key),
            (b"a leaf".to_vec(), b"sealed".to_vec())
        );
    }

    #[test]
    fn records_of_version_2_are_read() {
        let digit = |place: usize| u8::from_str_radix(&SAMPLE_2[place..place + 2], 16).unwrap();
        let sample: Vec<u8> = (0..SAMPLE_2.len()).step_by(2).map(digit).collect();
        let written = CertificateRecord::pack(&certificate(b"a leaf!".to_vec()), b"").unwrap();
        assert_eq!(hex(&written[1 + CHECKSUM..]), SAMPLE_2[2..], "a checksum is all that version 3 adds");
        assert_eq!(written[0], 3);
        let record = CertificateRecord::parse(&sample).unwrap();
        assert_eq!(record.chain, ChainId::of("chain"));
        assert_eq!((record.key_type, record.issued), (KeyType::EcdsaP256, 1_764_000_000));
        assert_eq!((record.ca.as_str(), record.account.as_str()), ("letsencrypt", "default"));
        let leaf = record.leaf(b"").unwrap();
        assert_eq!((leaf.leaf_der, leaf.facts), (b"a leaf!".to_vec(), Vec::new()));
        assert_eq!(record.sealed_key, b"sealed");
    }

    #[test]
    fn a_leaf_like_the_first_costs_what_it_is_different_in() {
        let template: Vec<u8> = (0..900_u32).map(|n| (n * n % 251) as u8).collect();
        let mut leaf = template.clone();
        leaf[300..364].fill(7);
        let packed = CertificateRecord::pack(&certificate(leaf.clone()), &template).unwrap();
        assert!(packed.len() < 200, "{} bytes", packed.len());
        assert_eq!(
            CertificateRecord::parse(&packed).unwrap().leaf(&template).map(|leaf| leaf.leaf_der),
            Some(leaf)
        );
    }

    #[test]
    fn a_certificate_for_thousands_of_names_can_be_stored() {
        let leaf: Vec<u8> = (0..200_000_u64).map(|n| (n * n % 251) as u8).collect();
        let packed = CertificateRecord::pack(&certificate(leaf.clone()), b"").unwrap();
        assert_eq!(CertificateRecord::parse(&packed).unwrap().leaf(b"").unwrap().leaf_der, leaf);
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed_before_the_key_that_has_its_own_seal() {
        let leaf: Vec<u8> = (0..600_u32).map(|n| (n * n % 251) as u8).collect();
        let whole = CertificateRecord::pack(&certificate(leaf.clone()), b"").unwrap();
        let known = CertificateRecord::parse(&whole).unwrap();
        let facts = |record: &CertificateRecord| {
            (record.chain, record.key_type, record.ca.clone(), record.account.clone(), record.issued)
        };
        for bit in 0..(whole.len() - known.sealed_key.len()) * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // What is packed wrong is another leaf, which the certificate's id tells.
            if let Ok(read) = CertificateRecord::parse(&flipped)
                && read.leaf(b"").is_some_and(|read| read.leaf_der == leaf)
            {
                assert_eq!(facts(&read), facts(&known), "bit {bit}");
            }
        }
    }

    #[test]
    fn newer_and_damaged_records_are_told_apart() {
        assert_eq!(CertificateRecord::parse(&[4, 0]), Err(RecordError::Newer(4)));
        assert_eq!(CertificateRecord::parse(&[]), Err(RecordError::Damaged));
        let packed = CertificateRecord::pack(&certificate(vec![1; 50]), b"").unwrap();
        assert_eq!(CertificateRecord::parse(&packed[..48]), Err(RecordError::Damaged));
        assert_eq!(CertificateRecord::parse(&packed).unwrap().leaf(b"").unwrap().leaf_der, vec![1; 50]);
    }

    proptest! {
        #[test]
        fn every_leaf_is_read_as_it_was_written(
            leaf in proptest::collection::vec(any::<u8>(), 0..2000),
            template in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let packed = CertificateRecord::pack(&certificate(leaf.clone()), &template).unwrap();
            prop_assert_eq!(CertificateRecord::parse(&packed).unwrap().leaf(&template).map(|leaf| leaf.leaf_der), Some(leaf));
        }

        #[test]
        fn no_record_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), template in "\\PC{0,50}") {
            for version in [1, 2, 3] {
                let mut record = vec![version];
                record.extend_from_slice(&bytes);
                if let Ok(record) = CertificateRecord::parse(&record) {
                    record.leaf(template.as_bytes());
                }
            }
        }
    }
}
