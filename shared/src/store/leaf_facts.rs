//! What a certificate's leaf says, stored beside it: to parse one costs more than all else that a daemon does when it looks at a
//! site that needs nothing. Written once, by whoever has parsed it.
//!
//! `len(serial) u8 | serial | SHA-256 of the public key's info 32 | not before u40 | not after u40 | len(issuer) u16 | issuer |
//! names, each: len u8 | name`; times in unix seconds.

use super::certificate_record::{Reader, append_length, append_number};
use crate::{
    digest::{hex, unhex},
    domain::Leaf,
};
use jiff::Timestamp;

/// Empty where something of it does not fit: then the leaf is parsed each time.
pub(super) fn encode(leaf: &Leaf) -> Vec<u8> {
    try_encode(leaf).unwrap_or_default()
}

fn try_encode(leaf: &Leaf) -> Option<Vec<u8>> {
    let mut facts = Vec::new();
    let serial = unhex(&leaf.serial)?;
    append_length(&mut facts, serial.len(), 1, "the serial").ok()?;
    facts.extend_from_slice(&serial);
    facts.extend_from_slice(&unhex(&leaf.spki_sha256).filter(|digest| digest.len() == 32)?);
    for moment in [leaf.not_before, leaf.not_after] {
        append_number(&mut facts, moment.as_second(), 5, "a date of the leaf").ok()?;
    }
    let names = leaf.names.iter().map(|name| (name, 1));
    for (part, width) in std::iter::once((&leaf.issuer, 2)).chain(names) {
        append_length(&mut facts, part.len(), width, "a part of the leaf").ok()?;
        facts.extend_from_slice(part.as_bytes());
    }
    Some(facts)
}

/// `None` where there are none.
pub(super) fn decode(facts: &[u8], fingerprint_sha256: String) -> Option<Leaf> {
    let mut rest = Reader(facts);
    let length = rest.number(1)?;
    let serial = hex(rest.take(length)?);
    let spki_sha256 = hex(rest.take(32)?);
    let mut moment = || Timestamp::from_second(i64::try_from(rest.number(5)?).ok()?).ok();
    let (not_before, not_after) = (moment()?, moment()?);
    let text = |rest: &mut Reader<'_>, width| {
        let length = rest.number(width)?;
        String::from_utf8(rest.take(length)?.to_vec()).ok()
    };
    let issuer = text(&mut rest, 2)?;
    let mut names = Vec::new();
    while !rest.0.is_empty() {
        names.push(text(&mut rest, 1)?);
    }
    Some(Leaf { serial, fingerprint_sha256, spki_sha256, not_before, not_after, issuer, names })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaf(names: Vec<String>, issuer: String, from: i64) -> Leaf {
        Leaf {
            serial: "00f1".to_owned(),
            fingerprint_sha256: "ab".repeat(32),
            spki_sha256: "cd".repeat(32),
            not_before: Timestamp::from_second(from).unwrap(),
            not_after: Timestamp::from_second(from + 7_776_000).unwrap(),
            issuer,
            names,
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let name = |length: usize| leaf(vec!["a".repeat(length)], "CA".to_owned(), 0);
        assert!(!encode(&name(255)).is_empty());
        assert!(encode(&name(256)).is_empty());
        assert!(encode(&leaf(Vec::new(), "CA".to_owned(), -1)).is_empty());
        assert_eq!(decode(&[], String::new()), None);
    }

    proptest! {
        #[test]
        fn it_is_read_as_it_was_written(
            names in proptest::collection::vec("[a-z.*-]{0,60}", 0..120), issuer in "\\PC{0,60}", from in 0_i64..1 << 37,
        ) {
            let leaf = leaf(names, issuer, from);
            prop_assert_eq!(decode(&encode(&leaf), leaf.fingerprint_sha256.clone()), Some(leaf));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            decode(&bytes, String::new());
        }
    }
}
