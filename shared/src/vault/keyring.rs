//! The key-encryption keys of a fleet: a file of lines `ID BASE64`, a newer key below the older ones. All of them open.
//! Which one seals, the store says; until it does, the first.

use super::seal::{self, KeyEncryptionKey, OpenError};
use super::seal::{Binding, SealedKind};
use base64::{Engine, engine::general_purpose::STANDARD};
use openssl::error::ErrorStack;
use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

const CANARY: &[u8] = b"signpost canary 1";
const CANARY_BINDING: Binding<'static> =
    Binding { kind: SealedKind::Canary, owner: "fleet", spki_sha256: "" };

/// The keys of a ring file, never none.
pub struct Keyring {
    keys: Vec<KeyEncryptionKey>,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("there is no key-encryption key file {0}")]
    Missing(PathBuf),
    #[error("the key-encryption key file {path} can't be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key-encryption key file {path} is readable by others (mode {mode:03o}): chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path}, line {line}: expected an id and 32 bytes in base64")]
    Line { path: PathBuf, line: usize },
    #[error("{path}, line {line}: the id {id} was given to a key above already")]
    Twice { path: PathBuf, line: usize, id: String },
    #[error("the key-encryption key file {0} holds no key")]
    Empty(PathBuf),
    #[error("the key-encryption key file {path} holds no key {id}")]
    NotThere { path: PathBuf, id: String },
    #[error("{id} is the only key of {path}")]
    Only { path: PathBuf, id: String },
    #[error("the key-encryption key file {path} can't be written")]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Keyring {
    /// # Errors
    /// [`KeyringError`]: missing, exposed to others, or not in the form of a ring. No error shows the content.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KeyringError::Missing(path.into()),
            _ => KeyringError::Unreadable { path: path.into(), source },
        };
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(KeyringError::Exposed { path: path.into(), mode });
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
        Self::parse(&text, path)
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, KeyringError> {
        let mut keys: Vec<KeyEncryptionKey> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = || KeyringError::Line { path: path.into(), line: number + 1 };
            let (id, key) = line.split_once(char::is_whitespace).ok_or_else(malformed)?;
            let bytes = Zeroizing::new(STANDARD.decode(key.trim()).map_err(|_| malformed())?);
            if keys.iter().any(|known| known.id() == id) {
                return Err(KeyringError::Twice { path: path.into(), line: number + 1, id: id.to_owned() });
            }
            keys.push(KeyEncryptionKey::new(id, &bytes).ok_or_else(malformed)?);
        }
        if keys.is_empty() { Err(KeyringError::Empty(path.into())) } else { Ok(Self { keys }) }
    }

    pub(super) fn of(keys: Vec<KeyEncryptionKey>) -> Self {
        Self { keys }
    }

    pub(super) fn first(&self) -> &KeyEncryptionKey {
        self.keys.first().expect("a ring is never made empty")
    }

    pub(super) fn find(&self, id: &[u8]) -> Option<&KeyEncryptionKey> {
        self.keys.iter().find(|key| key.id().as_bytes() == id)
    }

    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        let pairs = self.keys.iter().zip(&other.keys);
        self.keys.len() == other.keys.len()
            && pairs.into_iter().all(|(one, two)| one.id() == two.id() && one.bytes() == two.bytes())
    }

    pub fn has(&self, id: &str) -> bool {
        self.find(id.as_bytes()).is_some()
    }

    /// Whether it is a ring of the fleet that planted this canary.
    ///
    /// # Errors
    /// [`OpenError`], where it isn't.
    pub fn open_canary(&self, canary: &[u8]) -> Result<(), OpenError> {
        let text = seal::open(self, canary, &CANARY_BINDING)?;
        if text.as_slice() == CANARY { Ok(()) } else { Err(OpenError::Refused) }
    }

    pub(super) fn seal_canary(kek: &KeyEncryptionKey) -> Result<Vec<u8>, ErrorStack> {
        seal::seal(kek, CANARY, &CANARY_BINDING)
    }

    /// The ids of its keys, in the order of the file.
    pub fn ids(&self) -> Vec<&str> {
        self.keys.iter().map(KeyEncryptionKey::id).collect()
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("ids", &self.ids()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_ring_is_named_by_file_and_line_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        assert!(matches!(Keyring::load(&path), Err(KeyringError::Missing(_))));
        for (text, expected) in [
            ("", "holds no key"),
            ("# only a comment\n", "holds no key"),
            ("k1 secretsecret\n", "line 1"),
            ("# x\nk1\n", "line 2"),
            (
                "k1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nk1 AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
                "line 2",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = Keyring::load(&path).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("secretsecret"), "{error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Keyring::load(&path), Err(KeyringError::Exposed { mode: 0o644, .. })));
    }
}
