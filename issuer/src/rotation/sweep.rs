//! Sealing anew, page by page. Nothing is held in memory but a page, and the sites that somebody works on.

use super::{LOOK_EVERY, RotationError, TELL_EVERY};
use crate::issuance::patience::write;
use shared::{
    domain::SiteId,
    error::chain,
    store::{SealedRecord, Store, StoreError},
    vault::Vault,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Sites that are looked at with one question.
pub(super) const PAGE: usize = 128;
/// With more sites to come back to, they are waited for first.
const MOST_BUSY: usize = 1024;

/// Seals records with the key `to`.
pub(super) struct Sweep<'a> {
    store: &'a Store,
    vault: &'a Vault,
    to: &'a str,
    /// Records that were sealed anew.
    pub(super) rewrapped: u64,
    /// Records that were looked at by the second pass.
    pub(super) seen: u64,
    /// Records that stay as they are, and why.
    pub(super) left: BTreeMap<String, String>,
    /// Sites that somebody works on, to come back to.
    busy: Vec<SiteId>,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(store: &'a Store, vault: &'a Vault, to: &'a str) -> Self {
        Self { store, vault, to, rewrapped: 0, seen: 0, left: BTreeMap::new(), busy: Vec::new() }
    }

    pub(super) async fn page(&self, after: Option<&SiteId>) -> Result<Vec<SiteId>, StoreError> {
        self.store.list_site_ids(after, PAGE).await
    }

    /// Accounts and the internal CA.
    pub(super) async fn fleet(&mut self) -> Result<(), RotationError> {
        let records = write(|| self.store.load_sealed_of_fleet()).await?;
        self.rewrap(&records).await.map(drop)
    }

    /// [`Sweep::fleet`], until nothing of another key is found.
    pub(super) async fn verify_fleet(&mut self) -> Result<(), RotationError> {
        loop {
            let records = write(|| self.store.load_sealed_of_fleet()).await?;
            if self.rewrap(&records).await? {
                self.seen += records.len() as u64;
                return Ok(());
            }
        }
    }

    /// What can be sealed anew at the moment; the second pass finds the rest.
    pub(super) async fn rewrap_sites(&mut self, ids: &[SiteId]) -> Result<(), RotationError> {
        let sites = write(|| self.store.load_sealed_sites(ids, false)).await?;
        let records: Vec<SealedRecord> = sites.into_iter().flat_map(|site| site.records).collect();
        self.rewrap(&records).await?;
        // What can't be opened is told of by the second pass.
        self.left.clear();
        Ok(())
    }

    /// Sites with nothing of another key and without a lease are done; others are come back to by [`Sweep::settle`].
    pub(super) async fn verify_sites(
        &mut self,
        ids: &[SiteId],
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<(), RotationError> {
        self.look(ids).await?;
        if self.busy.len() > MOST_BUSY { self.settle(tell).await } else { Ok(()) }
    }

    /// Comes back to the sites that somebody worked on, until nobody does.
    pub(super) async fn settle(&mut self, tell: &(dyn Fn(&str) + Sync)) -> Result<(), RotationError> {
        let mut told: Option<Instant> = None;
        while !self.busy.is_empty() {
            let ids = std::mem::take(&mut self.busy);
            for page in ids.chunks(PAGE) {
                self.look(page).await?;
            }
            let Some(first) = self.busy.first() else { break };
            if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                told = Some(Instant::now());
                tell(&format!("waiting for {} sites that are worked on: {first} ...", self.busy.len()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn look(&mut self, ids: &[SiteId]) -> Result<(), RotationError> {
        let mut ids = ids.to_vec();
        while !ids.is_empty() {
            let sites = write(|| self.store.load_sealed_sites(&ids, true)).await?;
            let mut again = Vec::new();
            let mut changed = Vec::new();
            for site in sites {
                let is_old = |record: &SealedRecord| match record.kek_ids() {
                    Ok(ids) => ids.iter().any(|id| id != self.to),
                    Err(_) => true,
                };
                let old = site.records.iter().filter(|record| is_old(record)).cloned();
                let before = changed.len();
                changed.extend(old.filter(|record| !self.left.contains_key(record.key())));
                if site.busy.is_some() {
                    self.busy.push(site.id);
                } else if changed.len() > before {
                    again.push(site.id);
                } else {
                    self.seen += site.records.len() as u64;
                }
            }
            self.rewrap(&changed).await?;
            ids = again;
        }
        Ok(())
    }

    /// Seals anew what isn't sealed with the key; says whether everything was.
    async fn rewrap(&mut self, records: &[SealedRecord]) -> Result<bool, RotationError> {
        let mut changes = Vec::new();
        for record in records {
            match record.rewrapped(self.vault, self.to) {
                Ok(Some(new)) => changes.push((record.clone(), new)),
                Ok(None) => {}
                Err(error) => {
                    self.left.insert(record.key().to_owned(), chain(&error));
                }
            }
        }
        if changes.is_empty() {
            return Ok(true);
        }
        let replaced = write(|| self.store.replace_sealed(&changes)).await?;
        self.rewrapped += replaced;
        if replaced == 0 {
            // Somebody writes the same records in this moment.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(false)
    }
}
