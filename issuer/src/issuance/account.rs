//! The ACME account that orders are placed with. Its key is stored before the CA hears of it, so that neither a new
//! account nor a new key of an old one can be lost.

use super::patience::ask;
use crate::{
    acme::{self, AccountKey, Client, ExternalAccountBinding, KeyError, NewAccount, RequestError},
    ca::Ca,
    limits::{Registration, TooManyAccounts},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use shared::{
    digest::sha256_hex,
    domain::KeyType,
    store::{Account, AccountStatus, CandidateKey, Store, StoreError, StoredAccount},
    vault::{Binding, OpenError, SealError, SealedKind, Vault},
};
use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("the account can't be read or stored")]
    Store(#[from] StoreError),
    #[error("the account's key can't be opened")]
    Open(#[from] OpenError),
    #[error("the account's record is damaged")]
    Damaged(#[from] base64::DecodeError),
    #[error("the account's key can't be used")]
    Key(#[from] KeyError),
    #[error("sealing the account's key failed")]
    Seal(#[from] SealError),
    #[error("the CA refused")]
    Ca(#[from] RequestError),
    #[error("set ca.{ca}.agree_to_terms = true once you have read the CA's terms of service{}", .terms.as_ref().map(|url| format!(": {url}")).unwrap_or_default())]
    TermsNotAgreed { ca: String, terms: Option<String> },
    #[error("{ca} wants an external account binding: set ca.{ca}.eab_kid and ca.{ca}.eab_hmac_file")]
    BindingMissing { ca: String },
    #[error("the external account binding's key {path} can't be used: {reason}")]
    Binding { path: PathBuf, reason: String },
    #[error("the account {name:?} of {ca} is deactivated: create another one with --name")]
    Deactivated { ca: String, name: String },
    #[error("there is an account {name:?} of {ca} already: {url}")]
    Exists { ca: String, name: String, url: String },
    #[error("there is no account {name:?} of {ca}")]
    Missing { ca: String, name: String },
    #[error("the CA knows no account with this key")]
    UnknownToCa,
    #[error(transparent)]
    TooMany(#[from] TooManyAccounts),
    #[error("{ca} issues nothing to an account without an e-mail address: set ca.{ca}.contact")]
    ContactMissing { ca: String },
    #[error("{0} can't give an account another key: create another account, and let new sites use it")]
    NoRollover(String),
}

/// The account of that name, made where there is none and finished where making it was interrupted.
///
/// # Errors
/// [`AccountError`].
pub async fn open_account(
    store: &Store,
    vault: &Vault,
    ca: &Ca,
    client: &Client,
    name: &str,
    key_type: KeyType,
) -> Result<(StoredAccount, acme::Account), AccountError> {
    match store.load_account(&ca.name, name).await? {
        Some(stored) if stored.account.status == AccountStatus::Deactivated => {
            Err(AccountError::Deactivated { ca: ca.name.clone(), name: name.to_owned() })
        }
        Some(stored) if stored.account.status == AccountStatus::Planned => {
            register(store, vault, ca, client, stored).await
        }
        Some(stored) if stored.account.candidate.is_some() => {
            let stored = resolve_candidate(store, vault, client, stored).await?;
            handle(vault, client, stored)
        }
        Some(stored) => handle(vault, client, stored),
        None => create_account(store, vault, ca, client, name, key_type).await,
    }
}

/// Makes an account. The key is stored first; a second try after a crash uses the same one.
///
/// # Errors
/// [`AccountError`]; nothing is stored where the configuration lacks something that the CA wants.
pub async fn create_account(
    store: &Store,
    vault: &Vault,
    ca: &Ca,
    client: &Client,
    name: &str,
    key_type: KeyType,
) -> Result<(StoredAccount, acme::Account), AccountError> {
    request(ca, client).await?;
    let key = AccountKey::generate(key_type)?;
    store.learn_current_kek(vault).await?;
    let planned = record(vault, ca, name, &key, AccountStatus::Planned)?;
    let stored = match store.write_account(None, planned).await {
        Err(StoreError::Conflict) => {
            // Another program made one in this moment, or there was one all along.
            let stored = store.load_account(&ca.name, name).await?.ok_or(StoreError::Conflict)?;
            if stored.account.status == AccountStatus::Valid {
                return handle(vault, client, stored);
            }
            stored
        }
        answer => answer?,
    };
    register(store, vault, ca, client, stored).await
}

/// Takes over an account that another client made. It must be known to the CA.
///
/// # Errors
/// [`AccountError::UnknownToCa`], [`AccountError::Exists`], ...
pub async fn import_account(
    store: &Store,
    vault: &Vault,
    ca: &Ca,
    client: &Client,
    name: &str,
    key: &AccountKey,
) -> Result<StoredAccount, AccountError> {
    let found = ask(|| client.find_account(key)).await?.ok_or(AccountError::UnknownToCa)?;
    let before = store.load_account(&ca.name, name).await?;
    if let Some(stored) = &before
        && stored.account.status == AccountStatus::Valid
    {
        let url = stored.account.url.clone().unwrap_or_default();
        if url == found.url {
            return Ok(stored.clone());
        }
        return Err(AccountError::Exists { ca: ca.name.clone(), name: name.to_owned(), url });
    }
    store.learn_current_kek(vault).await?;
    let mut account = record(vault, ca, name, key, AccountStatus::Valid)?;
    account.url = Some(found.url);
    account.contact = found.contact;
    Ok(store.write_account(before.as_ref(), account).await?)
}

/// Gives the account a new key. The candidate is stored before the CA is asked; where the outcome is unknown,
/// [`resolve_candidate`] finds it out.
///
/// # Errors
/// [`AccountError`]; the account keeps one of the two keys, and both are stored.
pub async fn roll_over(
    store: &Store,
    vault: &Vault,
    ca: &Ca,
    client: &Client,
    stored: StoredAccount,
    key_type: KeyType,
) -> Result<StoredAccount, AccountError> {
    let stored = if stored.account.candidate.is_some() {
        resolve_candidate(store, vault, client, stored).await?
    } else {
        stored
    };
    if ca.quirks.no_key_rollover {
        return Err(AccountError::NoRollover(ca.title.clone()));
    }
    let new_key = AccountKey::generate(key_type)?;
    store.learn_current_kek(vault).await?;
    let (sealed_key, key_spki_sha256) = seal(vault, &stored.account.ca, &stored.account.name, &new_key)?;
    let mut account = stored.account.clone();
    account.candidate = Some(CandidateKey { key_type, sealed_key, key_spki_sha256 });
    let stored = store.write_account(Some(&stored), account).await?;
    let (stored, handle) = handle(vault, client, stored)?;
    match handle.rollover(&new_key).await {
        Ok(_) => promote(store, stored).await,
        // The answer was lost, perhaps: ask which key the CA has.
        Err(error) => {
            let resolved = resolve_candidate(store, vault, client, stored).await?;
            if resolved.account.key_type == key_type
                && resolved.account.candidate.is_none()
                && resolved_to(&resolved, &new_key)?
            {
                Ok(resolved)
            } else {
                Err(error.into())
            }
        }
    }
}

/// Finds out whether the CA accepted a candidate key, and keeps the one that it has.
///
/// # Errors
/// [`AccountError`]; then both keys stay stored.
pub async fn resolve_candidate(
    store: &Store,
    vault: &Vault,
    client: &Client,
    stored: StoredAccount,
) -> Result<StoredAccount, AccountError> {
    let Some(candidate) = &stored.account.candidate else { return Ok(stored) };
    let account = &stored.account;
    let key = open(vault, &account.ca, &account.name, &candidate.sealed_key, &candidate.key_spki_sha256)?;
    match ask(|| client.find_account(&key)).await? {
        Some(found) if Some(&found.url) == account.url.as_ref() => promote(store, stored).await,
        _ => {
            let mut account = stored.account.clone();
            account.candidate = None;
            Ok(store.write_account(Some(&stored), account).await?)
        }
    }
}

async fn promote(store: &Store, stored: StoredAccount) -> Result<StoredAccount, AccountError> {
    let mut account = stored.account.clone();
    if let Some(candidate) = account.candidate.take() {
        account.key_type = candidate.key_type;
        account.sealed_key = candidate.sealed_key;
        account.key_spki_sha256 = candidate.key_spki_sha256;
        account.key_version += 1;
    }
    Ok(store.write_account(Some(&stored), account).await?)
}

fn resolved_to(stored: &StoredAccount, key: &AccountKey) -> Result<bool, AccountError> {
    Ok(stored.account.key_spki_sha256 == spki_sha256(key)?)
}

async fn register(
    store: &Store,
    vault: &Vault,
    ca: &Ca,
    client: &Client,
    stored: StoredAccount,
) -> Result<(StoredAccount, acme::Account), AccountError> {
    let account = &stored.account;
    let key = open(vault, &account.ca, &account.name, &account.sealed_key, &account.key_spki_sha256)?;
    let wanted = request(ca, client).await?;
    // Asking twice makes one account: the CA knows it by its key.
    let registration = Registration::ask(store, ca, &account.name).await??;
    let state = ask(|| client.create_account(&key, &wanted)).await;
    registration.answered(state.as_ref().map(|state| state.created)).await;
    let state = state?;
    let mut account = account.clone();
    account.status = AccountStatus::Valid;
    account.url = Some(state.url);
    account.terms = client.directory().await?.meta.terms_of_service.clone();
    let stored = store.write_account(Some(&stored), account).await?;
    handle(vault, client, stored)
}

/// Whether the CA would issue anything to the account, as far as that is known without asking it.
///
/// # Errors
/// [`AccountError::ContactMissing`].
pub fn check_contact(ca: &Ca) -> Result<(), AccountError> {
    if ca.quirks.contact_required && ca.section.contact.is_empty() {
        return Err(AccountError::ContactMissing { ca: ca.name.clone() });
    }
    Ok(())
}

/// What the CA is asked for an account with. Fails before anything is stored or sent.
async fn request(ca: &Ca, client: &Client) -> Result<NewAccount, AccountError> {
    check_contact(ca)?;
    let meta = &client.directory().await?.meta;
    if !ca.section.agree_to_terms {
        return Err(AccountError::TermsNotAgreed {
            ca: ca.name.clone(),
            terms: meta.terms_of_service.clone(),
        });
    }
    let binding = match (&ca.section.eab_kid, &ca.section.eab_hmac_file) {
        (Some(kid), Some(path)) => {
            let unusable = |reason: String| AccountError::Binding { path: path.clone(), reason };
            let text = std::fs::read_to_string(path).map_err(|e: io::Error| unusable(e.to_string()))?;
            Some(ExternalAccountBinding::from_text(kid, &text).map_err(|e| unusable(e.to_string()))?)
        }
        _ if meta.external_account_required => {
            return Err(AccountError::BindingMissing { ca: ca.name.clone() });
        }
        _ => None,
    };
    Ok(NewAccount {
        contact: ca.section.contact.clone(),
        terms_of_service_agreed: true,
        external_account_binding: binding,
    })
}

fn handle(
    vault: &Vault,
    client: &Client,
    stored: StoredAccount,
) -> Result<(StoredAccount, acme::Account), AccountError> {
    let account = &stored.account;
    let key = open(vault, &account.ca, &account.name, &account.sealed_key, &account.key_spki_sha256)?;
    let url = account
        .url
        .clone()
        .ok_or_else(|| AccountError::Missing { ca: account.ca.clone(), name: account.name.clone() })?;
    let handle = acme::Account::new(client.clone(), key, url);
    Ok((stored, handle))
}

fn record(
    vault: &Vault,
    ca: &Ca,
    name: &str,
    key: &AccountKey,
    status: AccountStatus,
) -> Result<Account, AccountError> {
    let (sealed_key, key_spki_sha256) = seal(vault, &ca.name, name, key)?;
    Ok(Account {
        v: Account::VERSION,
        ca: ca.name.clone(),
        name: name.to_owned(),
        directory: ca.directory.clone(),
        status,
        url: None,
        key_type: key.kind(),
        sealed_key,
        key_spki_sha256,
        candidate: None,
        contact: ca.section.contact.clone(),
        terms: None,
        created: Timestamp::now(),
        key_version: 1,
    })
}

fn seal(vault: &Vault, ca: &str, name: &str, key: &AccountKey) -> Result<(String, String), AccountError> {
    let spki_sha256 = spki_sha256(key)?;
    let owner = format!("{ca}:{name}");
    let binding = Binding { kind: SealedKind::AccountKey, owner: &owner, spki_sha256: &spki_sha256 };
    let sealed = vault.seal(&key.to_pkcs8_der()?, &binding)?;
    Ok((STANDARD.encode(sealed), spki_sha256))
}

fn open(
    vault: &Vault,
    ca: &str,
    name: &str,
    sealed: &str,
    spki_sha256: &str,
) -> Result<AccountKey, AccountError> {
    let owner = format!("{ca}:{name}");
    let binding = Binding { kind: SealedKind::AccountKey, owner: &owner, spki_sha256 };
    Ok(AccountKey::from_pkcs8_der(&vault.open(&STANDARD.decode(sealed)?, &binding)?)?)
}

fn spki_sha256(key: &AccountKey) -> Result<String, AccountError> {
    Ok(sha256_hex(&key.spki_der()?))
}
