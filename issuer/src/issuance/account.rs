//! The ACME account that orders are placed with. Its key is stored before the CA hears of it, so that neither a new
//! account nor a new key of an old one can be lost.

use super::{patience::ask, rollover::resolve_candidate};
use crate::{
    acme::{
        self, AccountKey, Client, ExternalAccountBinding, KeyError, NewAccount, ProblemKind, RequestError,
    },
    ca::Ca,
    limits::{Registration, TooManyAccounts},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use shared::{
    digest::sha256_hex,
    domain::KeyType,
    store::{Account, AccountStatus, Store, StoreError, StoredAccount},
    vault::{Binding, OpenError, SealError, SealedKind, Vault},
};
use std::{io, path::PathBuf, time::Duration};

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
    #[error("there is no account {name:?} of {ca}: `issuer account create --ca {ca} --name {name}` makes it")]
    Missing { ca: String, name: String },
    #[error("the CA knows no account with this key")]
    UnknownToCa,
    #[error(
        "the CA has answered that it takes the new key, and knows the account by the old one still: the account keeps the old one"
    )]
    KeyNotTaken,
    #[error(transparent)]
    TooMany(#[from] TooManyAccounts),
    #[error("{ca} issues nothing to an account without an e-mail address: set ca.{ca}.contact")]
    ContactMissing { ca: String },
    #[error("{0} can't give an account another key: create another account, and let new sites use it")]
    NoRollover(String),
    #[error(
        "the account {name:?} of {ca} is being given another key by another program: try again when it has ended"
    )]
    RolloverUnderWay { ca: String, name: String },
    #[error(
        "the CA is still looking at the challenges of {orders} orders after {} s, and the key must not change meanwhile: the account keeps its key; \
         try again later",
        .after.as_secs()
    )]
    StillLooking { orders: u64, after: Duration },
    #[error("these nodes lack the key-encryption key {key}, and could not open the account's new key: {}", .nodes.join(", "))]
    NodesLackKey { key: String, nodes: Vec<String> },
    #[error(
        "{ca} {how}: `issuer account create --replace --ca {ca} --name {name}` makes another account in the place of {name:?}"
    )]
    Lost { ca: String, name: String, how: String },
}

/// What the CA has of an account that the store has.
#[derive(Debug)]
pub enum AtCa {
    /// It is there, as this.
    Known(acme::AccountState),
    /// Nothing is issued to it any more, or nobody knows it; in words that follow the CA's name.
    Lost(String),
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
        // Whoever is at it is left alone.
        Some(stored)
            if stored.account.candidate.is_some() && !store.is_rolling_over(&ca.name, name).await? =>
        {
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

/// Makes another account in the place of one. The new key takes the old one's place in the store first.
///
/// # Errors
/// [`AccountError`]; nothing is stored where the configuration lacks something that the CA wants.
pub async fn replace_account(
    store: &Store,
    vault: &Vault,
    ca: &Ca,
    client: &Client,
    old: StoredAccount,
    key_type: KeyType,
) -> Result<(StoredAccount, acme::Account), AccountError> {
    request(ca, client).await?;
    let key = AccountKey::generate(key_type)?;
    store.learn_current_kek(vault).await?;
    let mut planned = record(vault, ca, &old.account.name, &key, AccountStatus::Planned)?;
    planned.key_version = old.account.key_version + 1;
    let stored = store.write_account(Some(&old), planned).await?;
    register(store, vault, ca, client, stored).await
}

/// Asks the CA for an account that the store has as valid.
///
/// # Errors
/// [`AccountError`]: it could not be asked.
pub async fn ask_for_account(account: &acme::Account) -> Result<AtCa, AccountError> {
    let lost = |how: &str| Ok(AtCa::Lost(how.to_owned()));
    match ask(|| account.fetch()).await {
        Ok(state) => match state.status {
            acme::AccountStatus::Deactivated => lost("says that the account is deactivated"),
            acme::AccountStatus::Revoked => lost("has revoked the account"),
            acme::AccountStatus::Valid | acme::AccountStatus::Unknown => Ok(AtCa::Known(state)),
        },
        Err(error) if error.refuses_the_signature() => lost("does not take the account's key"),
        Err(error) if error.is_gone() || error.kind() == Some(ProblemKind::AccountDoesNotExist) => {
            lost("does not know the account (any more)")
        }
        Err(error) if error.kind() == Some(ProblemKind::Unauthorized) => {
            let words = error.problem().map(ToString::to_string).unwrap_or_default();
            Ok(AtCa::Lost(format!("issues nothing to the account ({words})")))
        }
        Err(error) => Err(error.into()),
    }
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
    // A CA of one's own has none.
    if !ca.section.agree_to_terms && meta.terms_of_service.is_some() {
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
        terms_of_service_agreed: ca.section.agree_to_terms,
        external_account_binding: binding,
    })
}

pub(super) fn handle(
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
        set_aside: Vec::new(),
        contact: ca.section.contact.clone(),
        terms: None,
        created: Timestamp::now(),
        key_version: 1,
    })
}

pub(super) fn seal(
    vault: &Vault,
    ca: &str,
    name: &str,
    key: &AccountKey,
) -> Result<(String, String), AccountError> {
    let spki_sha256 = spki_sha256(key)?;
    let owner = format!("{ca}:{name}");
    let binding = Binding { kind: SealedKind::AccountKey, owner: &owner, spki_sha256: &spki_sha256 };
    let sealed = vault.seal(&key.to_pkcs8_der()?, &binding)?;
    Ok((STANDARD.encode(sealed), spki_sha256))
}

pub(super) fn open(
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

pub(super) fn spki_sha256(key: &AccountKey) -> Result<String, AccountError> {
    Ok(sha256_hex(&key.spki_der()?))
}
