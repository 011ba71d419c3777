//! Another key for an account, while others order with it.
//!
//! The new key is announced as a candidate in the account's record. From then on no order has the CA look at challenges, whose
//! answers end in the key; those that the CA is looking at are waited for. Then the CA is asked, and the candidate takes its place.
//! Killed anywhere, whoever comes next asks the CA which key it has.

use super::{
    account::{AccountError, handle, open, seal},
    patience::ask,
};
use crate::{
    acme::{AccountKey, Client, RequestError},
    ca::Ca,
};
use shared::{
    domain::KeyType,
    store::{CandidateKey, Store, StoreError, StoredAccount},
    vault::Vault,
};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The right to it ends after this, where whoever had it was killed.
const HELD_FOR: Duration = Duration::from_secs(5);
/// How long somebody else who has it is waited for.
const LONGEST_TURN: Duration = Duration::from_secs(20);
/// How long orders that the CA is looking at are waited for.
pub(super) const LONGEST_DRAIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Pauses before the CA is asked again for an account by the key that it has just taken: one of its servers has it, and another not yet.
const SPREADING_MS: [u64; 4] = [300, 700, 1_500, 3_000];

/// The right to give an account another key. It ends with this, or by itself.
struct Hold {
    store: Store,
    ca: String,
    name: String,
    token: String,
    renewal: JoinHandle<()>,
}

impl Hold {
    async fn take(store: &Store, ca: &str, name: &str) -> Result<Self, AccountError> {
        let token = shared::digest::sha256_hex(&openssl_random()?);
        let until = Instant::now() + LONGEST_TURN;
        while !store.hold_rollover(ca, name, &token, HELD_FOR).await? {
            if Instant::now() >= until {
                return Err(AccountError::RolloverUnderWay { ca: ca.to_owned(), name: name.to_owned() });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (store, ca, name) = (store.clone(), ca.to_owned(), name.to_owned());
        let renewal = tokio::spawn({
            let (store, ca, name, token) = (store.clone(), ca.clone(), name.clone(), token.clone());
            async move {
                loop {
                    tokio::time::sleep(HELD_FOR / 4).await;
                    // What can't be kept is found lost before the CA is asked.
                    let _ = store.hold_rollover(&ca, &name, &token, HELD_FOR).await;
                }
            }
        });
        Ok(Self { store, ca, name, token, renewal })
    }

    async fn is_held(&self) -> Result<bool, StoreError> {
        self.store.hold_rollover(&self.ca, &self.name, &self.token, HELD_FOR).await
    }

    async fn release(self) {
        self.renewal.abort();
        if let Err(error) = self.store.release_rollover(&self.ca, &self.name, &self.token).await {
            tracing::debug!(
                error = shared::error::chain(&error),
                "the right to change the key ends by itself"
            );
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.renewal.abort();
    }
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
    name: &str,
    key_type: Option<KeyType>,
) -> Result<StoredAccount, AccountError> {
    if ca.quirks.no_key_rollover {
        return Err(AccountError::NoRollover(ca.title.clone()));
    }
    if client.directory().await?.key_change.is_none() {
        return Err(RequestError::NotOffered { entry: "keyChange" }.into());
    }
    let hold = Hold::take(store, &ca.name, name).await?;
    let outcome = roll_over_held(store, vault, client, &hold, key_type).await;
    hold.release().await;
    outcome
}

async fn roll_over_held(
    store: &Store,
    vault: &Vault,
    client: &Client,
    hold: &Hold,
    key_type: Option<KeyType>,
) -> Result<StoredAccount, AccountError> {
    let (ca, name) = (hold.ca.as_str(), hold.name.as_str());
    let missing = || AccountError::Missing { ca: ca.to_owned(), name: name.to_owned() };
    let stored = store.load_account(ca, name).await?.ok_or_else(missing)?;
    let stored = resolve_candidate(store, vault, client, stored).await?;
    let new_key = AccountKey::generate(key_type.unwrap_or(stored.account.key_type))?;
    store.learn_current_kek(vault).await?;
    let (sealed_key, key_spki_sha256) = seal(vault, ca, name, &new_key)?;
    let candidate = CandidateKey { key_type: new_key.kind(), sealed_key, key_spki_sha256 };
    let mut account = stored.account.clone();
    account.candidate = Some(candidate.clone());
    let announced = store.write_account(Some(&stored), account).await?;
    let ready = async {
        // Whoever orders opens the new key as soon as it is the account's.
        every_node_can_open(store, vault).await?;
        drain(store, ca, name).await?;
        let is_held = hold.is_held().await?;
        let still_there = store.load_account(ca, name).await?.and_then(|stored| stored.account.candidate);
        if !is_held || still_there.as_ref() != Some(&candidate) {
            return Err(AccountError::RolloverUnderWay { ca: ca.to_owned(), name: name.to_owned() });
        }
        Ok(())
    };
    if let Err(error) = ready.await {
        let mut account = announced.account.clone();
        account.candidate = None;
        // The CA has not heard of it. Where somebody has taken it back by now, all is well.
        match store.write_account(Some(&announced), account).await {
            Ok(_) | Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
        return Err(error);
    }
    let (announced, old) = handle(vault, client, announced)?;
    let answer = old.rollover(&new_key).await;
    // Whatever was answered, and whoever has answered it: the old key is kept until the CA knows the account by the new one.
    let mut pauses = SPREADING_MS.into_iter().filter(|_| answer.is_ok());
    loop {
        if is_the_accounts(vault, client, &announced, &candidate).await? {
            return promote(store, announced, candidate).await;
        }
        let Some(pause) = pauses.next() else { break };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let mut account = announced.account.clone();
    account.set_candidate_aside();
    match (store.write_account(Some(&announced), account).await, answer) {
        // Somebody else has found out more in the same moment.
        (Err(StoreError::Conflict), _) => {
            let now = store.load_account(ca, name).await?.ok_or_else(missing)?;
            let is_done = now.account.key_spki_sha256 == candidate.key_spki_sha256;
            if is_done { Ok(now) } else { Err(StoreError::Conflict.into()) }
        }
        (Err(error), _) => Err(error.into()),
        (Ok(_), Err(error)) => Err(error.into()),
        (Ok(_), Ok(_)) => Err(AccountError::KeyNotTaken),
    }
}

/// The nodes that order must be able to open what this one seals.
async fn every_node_can_open(store: &Store, vault: &Vault) -> Result<(), AccountError> {
    let key = vault.current_id();
    let nodes = store.all_nodes().await?.into_iter().map(|node| node.report);
    let lacking = nodes.filter(|report| report.role == "issuer" && !report.keys.contains(&key));
    let nodes: Vec<String> = lacking.map(|report| report.name).collect();
    if nodes.is_empty() { Ok(()) } else { Err(AccountError::NodesLackKey { key, nodes }) }
}

/// Returns once the CA looks at no challenge of the account.
async fn drain(store: &Store, ca: &str, name: &str) -> Result<(), AccountError> {
    let until = Instant::now() + LONGEST_DRAIN;
    loop {
        let orders = store.count_looking(ca, name).await?;
        if orders == 0 {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(AccountError::StillLooking { orders, after: LONGEST_DRAIN });
        }
        tokio::time::sleep(LOOK_EVERY).await;
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
    let Some(candidate) = stored.account.candidate.clone() else { return Ok(stored) };
    if is_the_accounts(vault, client, &stored, &candidate).await? {
        return promote(store, stored, candidate).await;
    }
    let mut account = stored.account.clone();
    account.set_candidate_aside();
    Ok(store.write_account(Some(&stored), account).await?)
}

/// Tries the keys that were set aside, where the CA refuses the present one: it was told of one too late for us to hear.
///
/// # Errors
/// [`AccountError`]; then all keys stay stored.
pub(super) async fn recover_set_aside(
    store: &Store,
    vault: &Vault,
    client: &Client,
    stored: StoredAccount,
) -> Result<StoredAccount, AccountError> {
    for key in stored.account.set_aside.iter().rev().cloned() {
        if is_the_accounts(vault, client, &stored, &key).await? {
            return promote(store, stored, key).await;
        }
    }
    Ok(stored)
}

async fn is_the_accounts(
    vault: &Vault,
    client: &Client,
    stored: &StoredAccount,
    key: &CandidateKey,
) -> Result<bool, AccountError> {
    let account = &stored.account;
    let key = open(vault, &account.ca, &account.name, &key.sealed_key, &key.key_spki_sha256)?;
    let found = ask(|| client.find_account(&key)).await?;
    Ok(found.is_some_and(|found| Some(&found.url) == account.url.as_ref()))
}

async fn promote(
    store: &Store,
    stored: StoredAccount,
    key: CandidateKey,
) -> Result<StoredAccount, AccountError> {
    let mut account = stored.account.clone();
    account.promote(key.clone());
    match store.write_account(Some(&stored), account).await {
        // Somebody else has found it out in the same moment.
        Err(StoreError::Conflict) => {
            let now = store.load_account(&stored.account.ca, &stored.account.name).await?;
            now.filter(|now| now.account.key_spki_sha256 == key.key_spki_sha256)
                .ok_or_else(|| StoreError::Conflict.into())
        }
        answer => Ok(answer?),
    }
}

fn openssl_random() -> Result<[u8; 32], AccountError> {
    let mut random = [0; 32];
    openssl::rand::rand_bytes(&mut random).map_err(|e| AccountError::Key(e.into()))?;
    Ok(random)
}
