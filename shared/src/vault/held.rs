//! The vault that a program holds: a ring that is read again when its file changes, and the key that seals.

use super::{
    Binding, Keyring, KeyringError, OpenError, Unverified, mac,
    seal::{self, KeyEncryptionKey},
};
use crate::error::chain;
use arc_swap::ArcSwap;
use openssl::error::ErrorStack;
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};
use zeroize::Zeroizing;

/// Seals and opens. The ring's file may change while a program runs; a bad file never takes the place of a good ring.
#[derive(Debug)]
pub struct Vault {
    held: ArcSwap<Held>,
    /// Absent: the ring lives in memory alone.
    file: Option<PathBuf>,
    /// The file as it was looked at last, taken or not.
    looked_at: Mutex<Option<Stamp>>,
}

#[derive(Clone, Debug)]
struct Held {
    ring: Arc<Keyring>,
    marks: VaultMarks,
}

/// What the store says of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaultMarks {
    /// The id of the key that seals; the first of the ring where the store doesn't say.
    pub current: Option<String>,
    /// Every canary. While a key takes another's place there are two.
    pub canaries: Vec<Vec<u8>>,
}

/// Nothing was sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "the fleet seals with the key-encryption key {id}, which is not in this node's ring{}: copy the file from a node that has it",
        .file.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default()
    )]
    Lacking { id: String, file: Option<PathBuf> },
    #[error("sealing failed")]
    OpenSsl(#[from] ErrorStack),
}

/// Says that a file is another one than before: when it was changed, its length, its inode.
type Stamp = (Option<SystemTime>, u64, u64);

impl Vault {
    /// A ring that is never read again.
    pub fn new(ring: Keyring) -> Self {
        Self::holding(ring, None, None)
    }

    /// The ring of a file, which is looked at again by [`Vault::reload`].
    ///
    /// # Errors
    /// [`KeyringError`].
    pub fn of_file(path: &Path) -> Result<Self, KeyringError> {
        // Taken before: what changes while it is read is read again.
        let stamp = stamp(path);
        Ok(Self::holding(Keyring::load(path)?, Some(path.into()), stamp))
    }

    fn holding(ring: Keyring, file: Option<PathBuf>, looked_at: Option<Stamp>) -> Self {
        let held = Held { ring: Arc::new(ring), marks: VaultMarks::default() };
        Self { held: ArcSwap::from_pointee(held), file, looked_at: Mutex::new(looked_at) }
    }

    pub fn ring(&self) -> Arc<Keyring> {
        Arc::clone(&self.held.load().ring)
    }

    /// The id of the key that seals, whether the ring has it or not.
    pub fn current_id(&self) -> String {
        let held = self.held.load();
        held.marks.current.clone().unwrap_or_else(|| held.ring.first().id().to_owned())
    }

    /// Goes by what the store says from now on.
    pub fn set_marks(&self, marks: VaultMarks) {
        let before = self.held.load();
        if before.marks == marks {
            return;
        }
        if before.marks.canaries != marks.canaries {
            // A file that was not taken may be right by now.
            *self.looked_at.lock().expect("nothing panics while holding it") = None;
        }
        self.held.rcu(|held| Held { ring: Arc::clone(&held.ring), marks: marks.clone() });
    }

    /// Seals with this key from now on.
    pub fn set_current(&self, current: Option<String>) {
        let marks = VaultMarks { current, ..self.held.load().marks.clone() };
        self.set_marks(marks);
    }

    /// Reads the ring again where its file has changed; says whether another one is held now. What can't be read, and what
    /// does not open every canary that the ring in use opens, is told once and not taken.
    pub fn reload(&self) -> bool {
        let Some(path) = &self.file else { return false };
        let mut looked_at = self.looked_at.lock().expect("nothing panics while holding it");
        let now = stamp(path);
        if *looked_at == now {
            return false;
        }
        *looked_at = now;
        let held = self.held.load_full();
        let ring = match Keyring::load(path) {
            Ok(ring) => ring,
            Err(error) => {
                tracing::error!(error = chain(&error), "the keyring can't be read again, the old one stays");
                return false;
            }
        };
        let opened_so_far = held.marks.canaries.iter().filter(|canary| held.ring.open_canary(canary).is_ok());
        for canary in opened_so_far {
            if let Err(error) = ring.open_canary(canary) {
                tracing::error!(
                    ?path,
                    error = chain(&error),
                    "the keyring lacks a key that the store needs, the old one stays"
                );
                return false;
            }
        }
        if ring.is_same_as(&held.ring) {
            return false;
        }
        tracing::info!(?path, keys = ring.ids().join(" "), "the keyring was read again");
        let ring = Arc::new(ring);
        self.held.rcu(|held| Held { ring: Arc::clone(&ring), marks: held.marks.clone() });
        true
    }

    /// # Errors
    /// [`SealError::Lacking`]: the ring has not the key that the fleet seals with.
    pub fn seal(&self, secret: &[u8], binding: &Binding<'_>) -> Result<Vec<u8>, SealError> {
        self.seal_with(&self.current_id(), secret, binding)
    }

    /// Seals with one key of the ring.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal_with(&self, id: &str, secret: &[u8], binding: &Binding<'_>) -> Result<Vec<u8>, SealError> {
        self.with_key(id, |key| seal::seal(key, secret, binding))
    }

    /// A canary: whoever has this key finds out that the store is its own.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal_canary_with(&self, id: &str) -> Result<Vec<u8>, SealError> {
        self.with_key(id, Keyring::seal_canary)
    }

    /// # Errors
    /// [`OpenError`]: the ring lacks the key, or the secret was sealed for another record.
    pub fn open(&self, sealed: &[u8], binding: &Binding<'_>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        match seal::open(&self.held.load().ring, sealed, binding) {
            Err(OpenError::UnknownKek(_)) if self.reload() => {
                seal::open(&self.held.load().ring, sealed, binding)
            }
            answer => answer,
        }
    }

    /// A text as it is stored under this key, for [`Vault::verify`].
    ///
    /// # Errors
    /// [`SealError`].
    pub fn sign(&self, key: &str, text: &str) -> Result<String, SealError> {
        self.sign_with(&self.current_id(), key, text)
    }

    /// The same with one key-encryption key of the ring.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn sign_with(&self, id: &str, key: &str, text: &str) -> Result<String, SealError> {
        self.with_key(id, |kek| mac::with_mac(kek, key, text))
    }

    /// The text of a record that the fleet, and nobody else, has stored under this key.
    ///
    /// # Errors
    /// [`Unverified`].
    pub fn verify<'a>(&self, key: &str, stored: &'a str) -> Result<&'a str, Unverified> {
        match mac::verified(&self.held.load().ring, key, stored) {
            Err(Unverified::UnknownKek(_)) if self.reload() => {
                mac::verified(&self.held.load().ring, key, stored)
            }
            answer => answer,
        }
    }

    fn with_key<T>(
        &self,
        id: &str,
        work: impl Fn(&KeyEncryptionKey) -> Result<T, ErrorStack>,
    ) -> Result<T, SealError> {
        if !self.held.load().ring.has(id) {
            self.reload();
        }
        match self.held.load().ring.find(id.as_bytes()) {
            Some(key) => Ok(work(key)?),
            None => Err(SealError::Lacking { id: id.to_owned(), file: self.file.clone() }),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::{SealedKind, kek_id};
    use std::os::unix::fs::PermissionsExt;

    const BINDING: Binding<'static> =
        Binding { kind: SealedKind::CertificateKey, owner: "0123.ecdsa", spki_sha256: "aa" };

    /// A ring file, and a vault of it that knows the store's canary.
    fn scene() -> (tempfile::TempDir, PathBuf, Vault) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        Keyring::generate(&path).unwrap();
        let vault = Vault::of_file(&path).unwrap();
        let canary = vault.seal_canary_with(&vault.current_id()).unwrap();
        vault.set_marks(VaultMarks { current: None, canaries: vec![canary] });
        (dir, path, vault)
    }

    fn replace(path: &Path, text: &str) {
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(draft, path).unwrap();
    }

    #[test]
    fn the_store_says_which_key_seals() {
        let (_dir, path, vault) = scene();
        let first = vault.current_id();
        let before = vault.seal(b"secret", &BINDING).unwrap();
        assert_eq!(kek_id(&before).unwrap(), first);
        let (_, second) = Keyring::add(&path).unwrap();
        vault.set_current(Some(second.clone()));
        // It was not in the ring yet: the file is read again.
        let after = vault.seal(b"secret", &BINDING).unwrap();
        assert_eq!(kek_id(&after).unwrap(), second);
        for sealed in [before, after] {
            assert_eq!(&**vault.open(&sealed, &BINDING).unwrap(), b"secret");
        }
        vault.set_current(Some("kek-elsewhere".into()));
        let refused = vault.seal(b"secret", &BINDING).unwrap_err();
        assert!(matches!(&refused, SealError::Lacking { id, .. } if id == "kek-elsewhere"), "{refused}");
    }

    #[test]
    fn what_an_unknown_key_has_sealed_is_opened_once_the_file_has_it() {
        let (_dir, path, vault) = scene();
        let (_, second) = Keyring::add(&path).unwrap();
        let other = Vault::of_file(&path).unwrap();
        let sealed = other.seal_with(&second, b"secret", &BINDING).unwrap();
        assert_eq!(&**vault.open(&sealed, &BINDING).unwrap(), b"secret");
        assert!(!vault.reload(), "nothing has changed since");
    }

    #[test]
    fn a_bad_file_never_takes_the_place_of_a_good_ring() {
        let (_dir, path, vault) = scene();
        let good = std::fs::read_to_string(&path).unwrap();
        let sealed = vault.seal(b"secret", &BINDING).unwrap();
        let foreign = "kek-x AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
        for bad in ["", "half a li", foreign] {
            replace(&path, bad);
            assert!(!vault.reload(), "{bad:?}");
            assert_eq!(&**vault.open(&sealed, &BINDING).unwrap(), b"secret");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!vault.reload());
        assert_eq!(&**vault.open(&sealed, &BINDING).unwrap(), b"secret");
        replace(&path, &format!("{good}{foreign}"));
        assert!(vault.reload());
        assert!(vault.ring().has("kek-x"));
    }

    #[test]
    fn a_ring_without_the_old_key_is_taken_once_the_store_no_longer_needs_it() {
        let (_dir, path, vault) = scene();
        let first = vault.current_id();
        let (_, second) = Keyring::add(&path).unwrap();
        assert!(vault.reload());
        let next = vault.seal_canary_with(&second).unwrap();
        let old = vault.seal_canary_with(&first).unwrap();
        vault.set_marks(VaultMarks { current: Some(second.clone()), canaries: vec![old, next.clone()] });
        Keyring::remove(&path, &first).unwrap();
        assert!(!vault.reload());
        assert!(vault.ring().has(&first));
        vault.set_marks(VaultMarks { current: Some(second.clone()), canaries: vec![next] });
        assert!(vault.reload());
        assert_eq!(vault.ring().ids(), [&second]);
    }
}
