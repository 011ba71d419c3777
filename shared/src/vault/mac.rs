//! Records that somebody relies on and that hold no secret: a text with a MAC, so that whoever can write to the store can't make
//! one up, change one, or put it in the place of another.
//!
//! Layout, version 1: `sp1 KEK-ID MAC`, a newline, the text. The MAC is HMAC-SHA-256, in base64, of the record's key in the
//! store, the id of the key-encryption key and the text; its key is derived from the key-encryption key.

use super::{keyring::Keyring, seal::KeyEncryptionKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use openssl::{error::ErrorStack, hash::MessageDigest, memcmp, pkey::PKey, sign::Signer};

const FORMAT: &str = "sp1";
/// What the key of the MAC is derived for: HKDF-Expand (RFC 5869 section 2.3), one block; a key-encryption key is as random as the
/// step before it, extraction, would make it.
const PURPOSE: &[u8] = b"signpost: records that grant something\x01";

/// The record counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    #[error("it has no MAC of this fleet")]
    Bare,
    #[error("its MAC is by the key-encryption key {0:?}, which is not in the ring")]
    UnknownKek(String),
    #[error("its MAC does not fit: it was changed, or belongs to another record")]
    Forged,
}

/// The text as it is stored under this key.
pub(super) fn with_mac(kek: &KeyEncryptionKey, key: &str, text: &str) -> Result<String, ErrorStack> {
    Ok(format!("{FORMAT} {} {}\n{text}", kek.id(), STANDARD.encode(mac(kek, key, text)?)))
}

/// The text of a record that the fleet has stored under this key.
pub(super) fn verified<'a>(ring: &Keyring, key: &str, stored: &'a str) -> Result<&'a str, Unverified> {
    let (id, given, text) = split(stored).ok_or(Unverified::Bare)?;
    let kek = ring.find(id.as_bytes()).ok_or_else(|| Unverified::UnknownKek(id.to_owned()))?;
    let given = STANDARD.decode(given).map_err(|_| Unverified::Forged)?;
    let wanted = mac(kek, key, text).map_err(|_| Unverified::Forged)?;
    let fits = given.len() == wanted.len() && memcmp::eq(&given, &wanted);
    if fits { Ok(text) } else { Err(Unverified::Forged) }
}

/// The id of the key-encryption key that a record's MAC names. Nothing is proved by it.
pub fn mac_kek_id(stored: &str) -> Option<&str> {
    split(stored).map(|(id, ..)| id)
}

/// What a record says, whoever has written it: to be shown, and for nothing else.
pub fn unverified_text(stored: &str) -> &str {
    split(stored).map_or(stored, |(_, _, text)| text)
}

fn split(stored: &str) -> Option<(&str, &str, &str)> {
    let (head, text) = stored.split_once('\n')?;
    let (id, mac) = head.strip_prefix(FORMAT)?.strip_prefix(' ')?.split_once(' ')?;
    Some((id, mac, text))
}

fn mac(kek: &KeyEncryptionKey, key: &str, text: &str) -> Result<Vec<u8>, ErrorStack> {
    let derived = {
        let kek = PKey::hmac(kek.bytes())?;
        zeroize::Zeroizing::new(Signer::new(MessageDigest::sha256(), &kek)?.sign_oneshot_to_vec(PURPOSE)?)
    };
    let derived = PKey::hmac(&derived)?;
    let mut signer = Signer::new(MessageDigest::sha256(), &derived)?;
    for part in [FORMAT, key, kek.id(), text] {
        signer.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes())?;
        signer.update(part.as_bytes())?;
    }
    signer.sign_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(id: &str, byte: u8) -> Keyring {
        Keyring::of(vec![KeyEncryptionKey::new(id, &[byte; 32]).unwrap()])
    }

    #[test]
    fn a_record_counts_only_as_it_was_written_and_where() {
        let ring = ring("kek-sample", 7);
        let stored = with_mac(ring.first(), "sp:frontend:a", "{\"scope\":1}").unwrap();
        assert_eq!(verified(&ring, "sp:frontend:a", &stored), Ok("{\"scope\":1}"));
        assert_eq!(mac_kek_id(&stored), Some("kek-sample"));
        assert_eq!(unverified_text(&stored), "{\"scope\":1}");
        assert_eq!(
            verified(&ring, "sp:frontend:b", &stored),
            Err(Unverified::Forged),
            "copied to another name"
        );
        for place in 0..stored.len() {
            let mut damaged = stored.clone().into_bytes();
            damaged[place] ^= 1;
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(verified(&ring, "sp:frontend:a", &damaged).is_err(), "byte {place}");
            assert!(verified(&ring, "sp:frontend:a", &stored[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn what_has_no_mac_or_that_of_another_fleet_is_refused() {
        let ring = ring("kek-sample", 7);
        for bare in ["", "{}", "sp1", "sp1 x", "sp1 x\n{}", "sp2 kek-sample AAAA\n{}", "\n"] {
            assert_eq!(verified(&ring, "k", bare), Err(Unverified::Bare), "{bare:?}");
        }
        assert_eq!(verified(&ring, "k", "sp1 kek-sample AAAA\n{}"), Err(Unverified::Forged));
        assert_eq!(verified(&ring, "k", "sp1 kek-sample \n{}"), Err(Unverified::Forged));
        let of = |ring: &Keyring| with_mac(ring.first(), "k", "{}").unwrap();
        let (namesake, stranger) = (self::ring("kek-sample", 8), self::ring("kek-other", 7));
        assert_eq!(verified(&ring, "k", &of(&namesake)), Err(Unverified::Forged));
        assert_eq!(verified(&ring, "k", &of(&stranger)), Err(Unverified::UnknownKek("kek-other".into())));
        let renamed = of(&stranger).replace("kek-other", "kek-sample");
        assert_eq!(verified(&ring, "k", &renamed), Err(Unverified::Forged), "the id is part of it");
    }
}
