//! The canary: a known text, sealed. A node whose keyring can't open it would seal keys that nobody else can read, and is
//! refused before it does.

use super::{
    Store, StoreError,
    halt::{Reason, Watcher},
    keys,
};
use crate::{
    config::StoreSection,
    vault::{Keyring, KeyringError, OpenError, SealError, Vault, VaultMarks},
};
use redis::cmd;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the store can't be asked which key-encryption key it was sealed with")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Keyring(#[source] KeyringError, String),
    #[error(
        "the keyring {path} is not the one this store was sealed with ({reason}): copy the file from a node that works, or from your backup"
    )]
    WrongRing { path: PathBuf, reason: OpenError },
    #[error("the canary can't be sealed")]
    Seal(#[from] SealError),
}

/// Opens the vault of a store: the keyring must open the store's canary, or one of the two while a key takes another's
/// place. A ring is made only for an embedded store in which nothing was sealed yet; anywhere else a missing ring is an error.
///
/// From then on the store verifies, and signs, the records that grant something. Returns the vault, and the path of the ring where it was made just now: its user must be told to back it up.
///
/// # Errors
/// [`VaultError`]: missing or wrong ring, or a store that can't be asked.
pub async fn open_vault(
    store: &Store,
    section: &StoreSection,
) -> Result<(Arc<Vault>, Option<PathBuf>), VaultError> {
    let path = &section.key_encryption_key_file;
    let mut marks = store.load_vault_marks().await?;
    let is_sealed = !marks.canaries.is_empty();
    let (vault, made) = match Vault::of_file(path) {
        Ok(vault) => (vault, None),
        Err(KeyringError::Missing(_)) if !is_sealed && store.embedded.is_some() => {
            make_ring(store, path).await?
        }
        Err(error) => {
            let advice = advice(&error, is_sealed);
            return Err(VaultError::Keyring(error, advice));
        }
    };
    if !is_sealed {
        vault.set_marks(marks);
        plant(store, &vault).await?;
        marks = store.load_vault_marks().await?;
    }
    let ring = vault.ring();
    let mut refused = OpenError::Refused;
    let is_ours = marks.canaries.iter().any(|canary| match ring.open_canary(canary) {
        Ok(()) => true,
        Err(error) => {
            refused = error;
            false
        }
    });
    if !is_ours {
        return Err(VaultError::WrongRing { path: path.clone(), reason: refused });
    }
    let vault = store.grants.hold(vault);
    vault.set_marks(marks);
    let current = vault.current_id();
    if !ring.has(&current) {
        tracing::warn!(
            ?path,
            key = current,
            "the keyring lacks the key that the fleet seals with by now: copy the file from a node that has it"
        );
    }
    Ok((vault, made))
}

/// [`open_vault`] for who only reads: a store in which nothing is sealed, because it is new or was emptied, is left as it is. A new
/// embedded store without a keyring has nothing to verify: `None`.
///
/// # Errors
/// As [`open_vault`].
pub async fn open_vault_to_read(
    store: &Store,
    section: &StoreSection,
) -> Result<Option<Arc<Vault>>, VaultError> {
    let marks = store.load_vault_marks().await?;
    if marks.canaries.is_empty() {
        match Vault::of_file(&section.key_encryption_key_file) {
            Ok(vault) => {
                let vault = store.grants.hold(vault);
                vault.set_marks(marks);
                return Ok(Some(vault));
            }
            Err(KeyringError::Missing(_)) if store.embedded.is_some() => return Ok(None),
            // It says what is wrong.
            Err(_) => {}
        }
    }
    Ok(Some(open_vault(store, section).await?.0))
}

/// How a node's keyring and a store are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingStanding {
    /// It opens what the store was sealed with.
    Fits,
    /// Nothing was sealed yet.
    NothingSealed,
    /// This node has none, and something was sealed.
    Missing,
}

/// Compares a node's keyring with the store's canary, and writes nothing.
///
/// # Errors
/// [`VaultError`]: a ring of another store, one that can't be read, or a store that can't be asked.
pub async fn compare_ring(store: &Store, section: &StoreSection) -> Result<RingStanding, VaultError> {
    let path = &section.key_encryption_key_file;
    let marks = store.load_vault_marks().await?;
    let is_sealed = !marks.canaries.is_empty();
    let ring = match Vault::of_file(path) {
        Ok(vault) => vault.ring(),
        Err(KeyringError::Missing(_)) if is_sealed => return Ok(RingStanding::Missing),
        Err(KeyringError::Missing(_)) => return Ok(RingStanding::NothingSealed),
        Err(error) => {
            let advice = advice(&error, is_sealed);
            return Err(VaultError::Keyring(error, advice));
        }
    };
    let mut refused = None;
    for canary in &marks.canaries {
        match ring.open_canary(canary) {
            Ok(()) => return Ok(RingStanding::Fits),
            Err(reason) => refused = Some(reason),
        }
    }
    match refused {
        Some(reason) => Err(VaultError::WrongRing { path: path.clone(), reason }),
        None => Ok(RingStanding::NothingSealed),
    }
}

/// Looks at the store and at the ring's file: which key seals, and which keys there are. Says nothing where nothing has
/// changed. A store that was emptied, or in whose place is one that was sealed with other keys, is written into by nobody who
/// follows: until it is what it was.
///
/// # Errors
/// [`StoreError`]; the vault is then what it was.
pub async fn follow_vault(store: &Store, vault: &Vault) -> Result<(), StoreError> {
    let marks = store.load_vault_marks().await?;
    let mut reason = marks.canaries.is_empty().then_some(Reason::Emptied);
    if reason.is_none() {
        vault.set_marks(marks.clone());
        vault.reload();
        let ring = vault.ring();
        let is_ours = marks.canaries.iter().any(|canary| ring.open_canary(canary).is_ok());
        reason = (!is_ours).then_some(Reason::Foreign);
    }
    if store.halt.set(Watcher::Vault, reason) {
        match reason {
            Some(reason) => tracing::error!("{}", reason.to_words()),
            None => tracing::info!("the store is the one that this program was started with"),
        }
    }
    store.halt.check()
}

impl Store {
    /// Asks which key-encryption key seals: right before something is sealed, so that no key seals after another one has
    /// taken its place. Where a lease is needed for what is sealed, it is asked for while the lease is held.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn learn_current_kek(&self, vault: &Vault) -> Result<(), StoreError> {
        let current = self.current_kek().await?;
        if current.is_none_or(|current| current == vault.current_id()) {
            return Ok(());
        }
        // Another one than before: the ring's file and the canaries are others, too.
        follow_vault(self, vault).await
    }

    /// The id of the key-encryption key that seals; `None`: the first of each ring.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn current_kek(&self) -> Result<Option<String>, StoreError> {
        self.link.query(cmd("GET").arg(keys::CURRENT_KEK)).await
    }

    async fn load_vault_marks(&self) -> Result<VaultMarks, StoreError> {
        let mut canaries = Vec::new();
        // The next one first: at the end of a rotation it goes after the other one has taken its place.
        for key in [keys::NEXT_CANARY, keys::CANARY] {
            let canary: Option<Vec<u8>> = self.link.query(cmd("GET").arg(key)).await?;
            canaries.extend(canary);
        }
        canaries.reverse();
        Ok(VaultMarks { current: self.current_kek().await?, canaries })
    }
}

async fn make_ring(store: &Store, path: &Path) -> Result<(Vault, Option<PathBuf>), VaultError> {
    // Whatever is sealed belongs to an account, or to the fleet's own CA: without them no ring was lost, whatever is wanted.
    let mut sealed = cmd("EXISTS");
    sealed.arg(keys::ACCOUNTS).arg(keys::INTERNAL_CA);
    if store.link.query::<u64>(&sealed).await? > 0 {
        let error = KeyringError::Missing(path.into());
        let advice = advice(&error, true);
        return Err(VaultError::Keyring(error, advice));
    }
    let load = |made| {
        Vault::of_file(path).map(|vault| (vault, made)).map_err(|error| {
            let advice = advice(&error, false);
            VaultError::Keyring(error, advice)
        })
    };
    match Keyring::generate(path) {
        Ok(_) => {
            if let Some(embedded) = &store.embedded
                && let Err(error) = embedded.give_to_owner(path)
            {
                tracing::warn!(%error, ?path, "the keyring can't be given to the user whose store it is");
            }
            load(Some(path.into()))
        }
        // Another program made it in this very moment.
        Err(KeyringError::Unwritable { source, .. })
            if source.kind() == std::io::ErrorKind::AlreadyExists =>
        {
            load(None)
        }
        Err(error) => {
            let advice = format!(
                "the key-encryption key could not be made: set store.key_encryption_key_file to a place that this user may write, or run `issuer key generate {}` as root",
                path.display()
            );
            Err(VaultError::Keyring(error, advice))
        }
    }
}

/// Of two nodes that plant at once, one wins; the other then finds out whether its ring is the same.
async fn plant(store: &Store, vault: &Vault) -> Result<(), VaultError> {
    let sealed = vault.seal_canary_with(&vault.current_id())?;
    let mut set = redis::Pipeline::new();
    set.cmd("SET").arg(keys::CANARY).arg(&sealed).arg("NX");
    store.confirmed.write(set).await?;
    Ok(())
}

fn advice(error: &KeyringError, store_is_sealed: bool) -> String {
    match error {
        KeyringError::Missing(path) if store_is_sealed => format!(
            "there is no keyring at {}, and this store holds keys that were sealed with one: copy the file from a node that works, or from your backup. None is made, because nothing in the store could be opened with it",
            path.display()
        ),
        KeyringError::Missing(path) => format!(
            "there is no keyring at {0}: make one with `issuer key generate {0}` and copy it to every node that holds keys",
            path.display()
        ),
        other => other.to_string(),
    }
}
