//! The canary: a known text, sealed. A node whose keyring can't open it would seal keys that nobody else can read, and is
//! refused before it does.

use super::{Store, StoreError, keys};
use crate::{
    config::StoreSection,
    vault::{Binding, Keyring, KeyringError, OpenError, SealedKind, Vault},
};
use redis::cmd;
use std::path::{Path, PathBuf};

const TEXT: &[u8] = b"signpost canary 1";
const BINDING: Binding<'static> = Binding { kind: SealedKind::Canary, owner: "fleet", spki_sha256: "" };

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
    #[error("sealing failed")]
    Seal(#[from] openssl::error::ErrorStack),
}

/// Opens the vault of a store: the keyring must open the store's canary. A ring is made only for an embedded store that
/// is still empty; anywhere else a missing ring is an error.
///
/// Returns the vault, and the path of the ring where it was made just now: its user must be told to back it up.
///
/// # Errors
/// [`VaultError`]: missing or wrong ring, or a store that can't be asked.
pub async fn open_vault(
    store: &Store,
    section: &StoreSection,
) -> Result<(Vault, Option<PathBuf>), VaultError> {
    let path = &section.key_encryption_key_file;
    let canary: Option<Vec<u8>> = store.link.query(cmd("GET").arg(keys::CANARY)).await?;
    let (ring, made) = match Keyring::load(path) {
        Ok(ring) => (ring, None),
        Err(KeyringError::Missing(_)) if canary.is_none() && store.embedded.is_some() => {
            make_ring(store, path).await?
        }
        Err(error) => {
            let advice = advice(&error, canary.is_some());
            return Err(VaultError::Keyring(error, advice));
        }
    };
    let vault = Vault::new(ring);
    let canary = match canary {
        Some(canary) => canary,
        None => plant(store, &vault).await?,
    };
    match vault.open(&canary, &BINDING) {
        Ok(text) if text.as_slice() == TEXT => Ok((vault, made)),
        Ok(_) => Err(VaultError::WrongRing { path: path.clone(), reason: OpenError::Refused }),
        Err(reason) => Err(VaultError::WrongRing { path: path.clone(), reason }),
    }
}

async fn make_ring(store: &Store, path: &Path) -> Result<(Keyring, Option<PathBuf>), VaultError> {
    let records: u64 = store.link.query(&cmd("DBSIZE")).await?;
    // The layout's version may be there already; anything more may be sealed with a ring that is lost.
    if records > 1 {
        let error = KeyringError::Missing(path.into());
        let advice = advice(&error, true);
        return Err(VaultError::Keyring(error, advice));
    }
    match Keyring::generate(path) {
        Ok(ring) => Ok((ring, Some(path.into()))),
        // Another program made it in this very moment.
        Err(KeyringError::Unwritable { source, .. })
            if source.kind() == std::io::ErrorKind::AlreadyExists =>
        {
            Keyring::load(path).map(|ring| (ring, None)).map_err(|e| {
                let advice = advice(&e, false);
                VaultError::Keyring(e, advice)
            })
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
async fn plant(store: &Store, vault: &Vault) -> Result<Vec<u8>, VaultError> {
    let sealed = vault.seal(TEXT, &BINDING)?;
    let mut set = redis::Pipeline::new();
    set.cmd("SET").arg(keys::CANARY).arg(&sealed).arg("NX");
    store.confirmed.write(set).await?;
    let planted: Option<Vec<u8>> = store.link.query(cmd("GET").arg(keys::CANARY)).await?;
    planted.ok_or_else(|| VaultError::Store(StoreError::Conflict))
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
