//! The key-encryption keys of a fleet: a file of lines `ID BASE64`, the first of them current.

use super::seal::KeyEncryptionKey;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// One current key, with which new keys are sealed, and those that older records were sealed with.
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
    #[error("the key-encryption key file {0} holds no key")]
    Empty(PathBuf),
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
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = || KeyringError::Line { path: path.into(), line: number + 1 };
            let (id, key) = line.split_once(char::is_whitespace).ok_or_else(malformed)?;
            let bytes = Zeroizing::new(STANDARD.decode(key.trim()).map_err(|_| malformed())?);
            keys.push(KeyEncryptionKey::new(id, &bytes).ok_or_else(malformed)?);
        }
        if keys.is_empty() { Err(KeyringError::Empty(path.into())) } else { Ok(Self { keys }) }
    }

    /// Makes a ring of one new key and writes it to `path`, mode 0600. An existing file is never overwritten.
    ///
    /// # Errors
    /// [`KeyringError::Unwritable`], also when the file exists.
    pub fn generate(path: &Path) -> Result<Self, KeyringError> {
        let unwritable = |source: io::Error| KeyringError::Unwritable { path: path.into(), source };
        let key = KeyEncryptionKey::random().map_err(|e| unwritable(io::Error::other(e)))?;
        let line =
            Zeroizing::new(format!("{} {}\n", key.id(), *Zeroizing::new(STANDARD.encode(key.bytes()))));
        let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(unwritable)?;
        let mut draft = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o600))
            .tempfile_in(directory)
            .map_err(unwritable)?;
        draft
            .write_all(b"# Key-encryption keys of Signpost, the first is current. Without this file no stored private key can be opened.\n")
            .and_then(|()| draft.write_all(line.as_bytes()))
            .and_then(|()| draft.as_file().sync_all())
            .map_err(unwritable)?;
        draft.persist_noclobber(path).map_err(|e| unwritable(e.error))?;
        std::fs::File::open(directory).and_then(|dir| dir.sync_all()).map_err(unwritable)?;
        Ok(Self { keys: vec![key] })
    }

    pub(super) fn current(&self) -> &KeyEncryptionKey {
        self.keys.first().expect("a ring is never made empty")
    }

    pub(super) fn find(&self, id: &[u8]) -> Option<&KeyEncryptionKey> {
        self.keys.iter().find(|key| key.id().as_bytes() == id)
    }

    /// The ids of its keys, the current one first.
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
    fn a_generated_ring_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/kek");
        let made = Keyring::generate(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Keyring::load(&path).unwrap().ids(), made.ids());
        assert!(matches!(Keyring::generate(&path), Err(KeyringError::Unwritable { .. })));
    }

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
