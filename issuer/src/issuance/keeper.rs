//! The account as the store has it now: another program may have given it another key, or put another account in its place.

use super::{
    Issuance,
    account::{AccountError, handle, open_account, spki_sha256},
    rollover::{LONGEST_DRAIN, recover_set_aside, resolve_candidate},
    verdict::Verdict,
};
use crate::{
    acme::{Client, Identity, Keeper},
    ca::Ca,
};
use shared::{
    domain::{FailureClass, KeyType, Order},
    error::Fault,
    store::{AccountStatus, Store, StoreError, StoredAccount},
    vault::Vault,
};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// How long a request that was refused waits for somebody who is giving the account another key.
const PATIENCE: Duration = Duration::from_secs(45);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an order counts as looked at by the CA where its worker was killed.
const LOOKING: Duration = Duration::from_secs(15);
/// Longer than whoever changes the key waits for the orders that are looked at.
const LONGEST_WAIT: Duration = LONGEST_DRAIN.saturating_add(Duration::from_secs(30));

/// Reads the account from the store, and asks the CA where a key is in doubt.
pub(super) struct AccountKeeper {
    pub(super) store: Store,
    pub(super) vault: Arc<Vault>,
    pub(super) ca: Ca,
    pub(super) client: Client,
    pub(super) name: String,
}

impl std::fmt::Debug for AccountKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccountKeeper({} {})", self.ca.name, self.name)
    }
}

impl Keeper for AccountKeeper {
    fn newer<'a>(
        &'a self,
        refused: &'a Identity,
    ) -> Pin<Box<dyn Future<Output = Option<Identity>> + Send + 'a>> {
        Box::pin(async move {
            self.find_newer(refused).await.unwrap_or_else(|error| {
                let (ca, account) = (&self.ca.name, &self.name);
                tracing::warn!(
                    error = shared::error::chain(&error),
                    ca,
                    account,
                    "it can't be looked up anew"
                );
                None
            })
        })
    }
}

impl AccountKeeper {
    async fn find_newer(&self, refused: &Identity) -> Result<Option<Identity>, AccountError> {
        let until = Instant::now() + PATIENCE;
        let mut has_tried_old_ones = false;
        while Instant::now() < until {
            let Some(stored) = self.store.load_account(&self.ca.name, &self.name).await? else {
                return Ok(None);
            };
            match stored.account.status {
                AccountStatus::Deactivated => return Ok(None),
                AccountStatus::Valid if !is_of(&stored, refused)? => {
                    let (_, account) = handle(&self.vault, &self.client, stored)?;
                    return Ok(Some(account.identity()));
                }
                AccountStatus::Valid if stored.account.candidate.is_none() => {
                    if has_tried_old_ones || stored.account.set_aside.is_empty() {
                        return Ok(None);
                    }
                    has_tried_old_ones = true;
                    let recovered = recover_set_aside(&self.store, &self.vault, &self.client, stored);
                    unless_changed(recovered.await)?;
                    continue;
                }
                // Somebody is at it.
                _ if self.store.is_rolling_over(&self.ca.name, &self.name).await? => {}
                AccountStatus::Valid => {
                    let resolved = resolve_candidate(&self.store, &self.vault, &self.client, stored);
                    unless_changed(resolved.await)?;
                    has_tried_old_ones = true;
                    continue;
                }
                AccountStatus::Planned => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }
}

/// What somebody else has changed in the meantime is read anew.
fn unless_changed(answer: Result<StoredAccount, AccountError>) -> Result<(), AccountError> {
    match answer {
        Ok(_) | Err(AccountError::Store(StoreError::Conflict)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a record is of this account with this key.
fn is_of(stored: &StoredAccount, identity: &Identity) -> Result<bool, AccountError> {
    let account = &stored.account;
    let is_same_account = account.url.as_deref() == Some(&*identity.url);
    Ok(is_same_account && account.key_spki_sha256 == spki_sha256(&identity.key)?)
}

/// The CA may look at an order's challenges: the account keeps its key for as long as this lives.
pub(super) struct Looking {
    store: Store,
    ca: String,
    account: String,
    order: String,
    renewal: JoinHandle<()>,
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.renewal.abort();
        let (store, ca) = (self.store.clone(), std::mem::take(&mut self.ca));
        let (account, order) = (std::mem::take(&mut self.account), std::mem::take(&mut self.order));
        // Where it can't be said, it ends by itself.
        tokio::spawn(async move { store.end_looking(&ca, &account, &order).await });
    }
}

impl Issuance {
    /// The account is used as it is now.
    pub(super) async fn know_account(&self) -> Result<(), Verdict> {
        let of_store = |error: StoreError| Verdict::from_store(&error);
        let stored = self.store.load_account(&self.ca.name, &self.account_name).await.map_err(of_store)?;
        let Some(stored) = stored else { return Ok(()) };
        self.follow(stored).await.map_err(|error| of_account(&error))
    }

    /// Whether the account of now has placed an order.
    pub(super) fn is_by_our_account(&self, order: &Order) -> bool {
        order.ca == self.ca.name
            && order.account == self.account_name
            && order.account_url.as_deref().is_none_or(|url| *url == *self.account.url())
    }

    async fn follow(&self, stored: StoredAccount) -> Result<(), AccountError> {
        let account = if stored.account.status != AccountStatus::Valid {
            let (store, client) = (&self.store, self.account.client());
            let opened =
                open_account(store, &self.vault, &self.ca, client, &self.account_name, KeyType::EcdsaP256);
            opened.await?.1
        } else if is_of(&stored, &self.account.identity())? {
            return Ok(());
        } else {
            handle(&self.vault, self.account.client(), stored)?.1
        };
        self.account.use_identity(account.identity());
        Ok(())
    }

    /// The right to have the CA look at the challenges of an order. While another key is about to take the place of the
    /// account's, it is waited for.
    pub(super) async fn begin_looking(&self, order: &str) -> Result<Looking, Verdict> {
        let of_store = |error: StoreError| Verdict::from_store(&error);
        let (store, ca, name) = (&self.store, self.ca.name.as_str(), self.account_name.as_str());
        let until = Instant::now() + LONGEST_WAIT;
        loop {
            let looking = self.say_looking(order).await.map_err(of_store)?;
            let stored = store.load_account(ca, name).await.map_err(of_store)?;
            let Some(stored) = stored else { return Ok(looking) };
            if stored.account.candidate.is_none() {
                self.follow(stored).await.map_err(|error| of_account(&error))?;
                return Ok(looking);
            }
            drop(looking);
            if store.is_rolling_over(ca, name).await.map_err(of_store)? {
                if Instant::now() >= until {
                    let what = "the account is being given another key for minutes";
                    let remedy = "look for an `issuer account rollover` that hangs; the next run goes on with the same order";
                    let verdict = Verdict::new(Fault::Operator, FailureClass::Store, what, remedy);
                    return Err(verdict.keeping_the_order());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            } else {
                // Whoever was at it has been killed.
                let resolved = resolve_candidate(store, &self.vault, self.account.client(), stored).await;
                unless_changed(resolved).map_err(|error| of_account(&error).keeping_the_order())?;
            }
        }
    }

    async fn say_looking(&self, order: &str) -> Result<Looking, StoreError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (store, ca, account) = (self.store.clone(), self.ca.name.clone(), self.account_name.clone());
        // What is said to have ended is never what was said later.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let order = format!("{order}@{}-{number}", std::process::id());
        store.begin_looking(&ca, &account, &order, LOOKING).await?;
        let renewal = tokio::spawn({
            let (store, ca, account, order) = (store.clone(), ca.clone(), account.clone(), order.clone());
            async move {
                loop {
                    tokio::time::sleep(LOOKING / 3).await;
                    let _ = store.begin_looking(&ca, &account, &order, LOOKING).await;
                }
            }
        });
        Ok(Looking { store, ca, account, order, renewal })
    }
}

fn of_account(error: &AccountError) -> Verdict {
    match error {
        AccountError::Store(error) => Verdict::from_store(error),
        AccountError::Ca(error) => Verdict::from_request(error),
        AccountError::Seal(error) => Verdict::from_sealing(error),
        AccountError::Open(error) if error.is_of_this_node() => {
            Verdict::from_opening("the account's key", error)
        }
        error => Verdict::new(
            Fault::Operator,
            FailureClass::Account,
            shared::error::chain(error),
            "see `issuer account show`",
        ),
    }
}
