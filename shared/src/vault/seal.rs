//! Sealing and opening: AES-256-GCM with a data key for each secret, wrapped by a key-encryption key.
//!
//! Layout of a sealed secret, version 1: `1 | len(kek id) | kek id | nonce 12 | wrapped data key 32 + tag 16 |
//! nonce 12 | ciphertext | tag 16`. Both parts carry the same associated data.

use super::keyring::Keyring;
use crate::digest::hex;
use openssl::{
    error::ErrorStack,
    symm::{Cipher, decrypt_aead, encrypt_aead},
};
use zeroize::{Zeroize, Zeroizing};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// What kind of record a secret belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedKind {
    AccountKey,
    Canary,
    CertificateKey,
    InternalCa,
}

/// What a sealed secret is bound to: opened with another binding, it stays closed.
#[derive(Clone, Debug)]
pub struct Binding<'a> {
    pub kind: SealedKind,
    /// The record's own name: a lineage, an account.
    pub owner: &'a str,
    /// SHA-256 of the public key, hex; empty where the secret is no private key.
    pub spki_sha256: &'a str,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("sealed with the key-encryption key {0:?}, which is not in the ring")]
    UnknownKek(String),
    #[error("the sealed secret is damaged, was sealed with another key or belongs to another record")]
    Refused,
    #[error("sealed by a newer version of this program (format {0})")]
    Newer(u8),
}

impl OpenError {
    /// Whether another node, with its keyring and its program, may open it.
    pub const fn is_of_this_node(&self) -> bool {
        matches!(self, Self::UnknownKek(_) | Self::Newer(_))
    }
}

/// Seals with one key-encryption key.
///
/// # Errors
/// Only when the system's random generator fails.
pub(super) fn seal(
    kek: &KeyEncryptionKey,
    secret: &[u8],
    binding: &Binding<'_>,
) -> Result<Vec<u8>, ErrorStack> {
    let associated = binding.associated_data(kek.id().as_bytes());
    let data_key = random::<KEY_BYTES>()?;
    let mut out = vec![VERSION, u8::try_from(kek.id().len()).expect("ids are at most 64 bytes")];
    out.extend_from_slice(kek.id().as_bytes());
    append_encrypted(&mut out, kek.bytes(), &associated, &*data_key)?;
    append_encrypted(&mut out, &*data_key, &associated, secret)?;
    Ok(out)
}

/// Opens with whichever key of the ring it was sealed with.
///
/// # Errors
/// [`OpenError`]: the ring lacks the key, or the secret was sealed for another record.
pub(super) fn open(
    ring: &Keyring,
    sealed: &[u8],
    binding: &Binding<'_>,
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (id, rest) = split(sealed)?;
    let (wrapped, body) =
        rest.split_at_checked(NONCE_BYTES + KEY_BYTES + TAG_BYTES).ok_or(OpenError::Refused)?;
    let kek = ring.find(id).ok_or_else(|| OpenError::UnknownKek(String::from_utf8_lossy(id).into_owned()))?;
    let associated = binding.associated_data(id);
    let data_key = decrypt(kek.bytes(), &associated, wrapped)?;
    decrypt(&data_key, &associated, body)
}

/// The id of the key-encryption key that a secret is sealed with. Nothing is opened, so nothing is proved.
///
/// # Errors
/// [`OpenError`]: no sealed secret, or one of a newer format.
pub fn kek_id(sealed: &[u8]) -> Result<&str, OpenError> {
    let (id, _) = split(sealed)?;
    std::str::from_utf8(id).map_err(|_| OpenError::Refused)
}

fn split(sealed: &[u8]) -> Result<(&[u8], &[u8]), OpenError> {
    let (&version, rest) = sealed.split_first().ok_or(OpenError::Refused)?;
    if version != VERSION {
        return Err(OpenError::Newer(version));
    }
    let (&id_len, rest) = rest.split_first().ok_or(OpenError::Refused)?;
    rest.split_at_checked(usize::from(id_len)).ok_or(OpenError::Refused)
}

impl Binding<'_> {
    fn associated_data(&self, kek_id: &[u8]) -> Vec<u8> {
        let kind = match self.kind {
            SealedKind::AccountKey => "account-key",
            SealedKind::Canary => "canary",
            SealedKind::CertificateKey => "certificate-key",
            SealedKind::InternalCa => "internal-ca",
        };
        let mut out = Vec::new();
        for part in [kind.as_bytes(), self.owner.as_bytes(), self.spki_sha256.as_bytes(), kek_id] {
            out.extend_from_slice(&u32::try_from(part.len()).expect("short texts").to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }
}

/// One key-encryption key.
pub(super) struct KeyEncryptionKey {
    id: String,
    bytes: [u8; KEY_BYTES],
}

impl KeyEncryptionKey {
    pub(super) fn new(id: &str, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.try_into().ok()?;
        (1..=64).contains(&id.len()).then(|| Self { id: id.to_owned(), bytes })
    }

    pub(super) fn random() -> Result<Self, ErrorStack> {
        let suffix = hex(&*random::<4>()?);
        Ok(Self { id: format!("kek-{suffix}"), bytes: *random::<KEY_BYTES>()? })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }
}

impl Drop for KeyEncryptionKey {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, ErrorStack> {
    let mut bytes = Zeroizing::new([0; N]);
    openssl::rand::rand_bytes(&mut *bytes)?;
    Ok(bytes)
}

fn append_encrypted(
    out: &mut Vec<u8>,
    key: &[u8],
    associated: &[u8],
    plain: &[u8],
) -> Result<(), ErrorStack> {
    let nonce = random::<NONCE_BYTES>()?;
    let mut tag = [0; TAG_BYTES];
    let ciphertext = encrypt_aead(Cipher::aes_256_gcm(), key, Some(&*nonce), associated, plain, &mut tag)?;
    out.extend_from_slice(&*nonce);
    out.extend_from_slice(&ciphertext);
    out.extend_from_slice(&tag);
    Ok(())
}

fn decrypt(key: &[u8], associated: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES).ok_or(OpenError::Refused)?;
    let (ciphertext, tag) = rest
        .len()
        .checked_sub(TAG_BYTES)
        .and_then(|at| rest.split_at_checked(at))
        .ok_or(OpenError::Refused)?;
    decrypt_aead(Cipher::aes_256_gcm(), key, Some(nonce), associated, ciphertext, tag)
        .map(Zeroizing::new)
        .map_err(|_| OpenError::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, engine::general_purpose::STANDARD};

    const BINDING: Binding<'static> =
        Binding { kind: SealedKind::CertificateKey, owner: "0123.ecdsa", spki_sha256: "aa" };

    fn ring() -> Keyring {
        let dir = tempfile::tempdir().unwrap();
        Keyring::generate(&dir.path().join("kek")).unwrap()
    }

    fn sealed_with(ring: &Keyring) -> Vec<u8> {
        seal(ring.first(), b"secret", &BINDING).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_only_for_its_own_record() {
        let ring = ring();
        let sealed = sealed_with(&ring);
        assert_eq!(&**open(&ring, &sealed, &BINDING).unwrap(), b"secret");
        assert_eq!(kek_id(&sealed).unwrap(), ring.ids()[0]);
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        for other in [
            Binding { kind: SealedKind::AccountKey, ..BINDING },
            Binding { owner: "0123.rsa", ..BINDING },
            Binding { spki_sha256: "ab", ..BINDING },
        ] {
            assert!(matches!(open(&ring, &sealed, &other), Err(OpenError::Refused)));
        }
    }

    #[test]
    fn a_changed_byte_and_a_foreign_ring_are_refused() {
        let ring = ring();
        let sealed = sealed_with(&ring);
        for place in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[place] ^= 1;
            assert!(open(&ring, &damaged, &BINDING).is_err(), "byte {place}");
            assert!(open(&ring, &sealed[..place], &BINDING).is_err(), "cut at {place}");
        }
        assert!(matches!(open(&self::ring(), &sealed, &BINDING), Err(OpenError::UnknownKek(_))));
    }

    /// Format 1, as another implementation of AES-GCM made it: the key-encryption key is 32 times the byte 7. Samples
    /// stay for ever.
    const VERSION_1: &str = "AQprZWstc2FtcGxlAAECAwQFBgcICQoLGIDrcxkM305/u++X7lVi9fEtpJ0Md2EmDtd5oZLKcxpvg8gZRPTaRRb17UVlFGvHDA0ODxAREhMUFRYX65sKqhoCo9m/rTUjyVJsPHtq+cKLeA==";

    #[test]
    fn a_secret_of_format_1_opens() {
        let ring = Keyring::of(vec![KeyEncryptionKey::new("kek-sample", &[7; KEY_BYTES]).unwrap()]);
        let sealed = STANDARD.decode(VERSION_1).unwrap();
        assert_eq!(&**open(&ring, &sealed, &BINDING).unwrap(), b"secret");
    }
}
