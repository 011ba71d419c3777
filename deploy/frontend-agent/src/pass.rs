//! One pass while it goes on: what has changed, fetched, verified, published, and shown to the web servers; what went, put aside.

use crate::{
    client::Client,
    config::AgentConfig,
    disk::Directory,
    index::{Index, Live},
    install::{Installed, Installer},
    publish::{clear_leftovers, prune},
    removal::{Removals, Withheld, grace_is_over, judge},
    report::{Failed, Published, Report},
    servers::Shown,
    status::Status,
    sync::SyncError,
    wire::{Changes, Item, ItemId},
};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    path::PathBuf,
    time::Duration,
};

/// One pass while it goes on.
pub(crate) struct Pass<'a> {
    pub(crate) directory: &'a Directory,
    installer: Installer<'a>,
    pub(crate) index: Index,
    pub(crate) status: Status,
    pub(crate) report: Report,
    /// Items that the centre still has, in a pass that asks for everything.
    seen: HashSet<ItemId>,
    gone: BTreeSet<ItemId>,
    /// Items of which the centre gave out nothing in this pass.
    missing: BTreeSet<ItemId>,
    /// What is asked for is everything, of a store that may have gone back.
    in_doubt: bool,
    /// Something in the answer can't be read: nobody knows what it meant.
    unreadable: bool,
}

impl<'a> Pass<'a> {
    /// What is on disk is read only where it is not known.
    pub(crate) fn begin(
        config: &'a AgentConfig,
        directory: &'a Directory,
        known: Option<(u64, Index)>,
        status: &mut Status,
    ) -> Result<Self, SyncError> {
        let index = match known {
            Some((generation, index)) if generation == status.generation => index,
            _ => {
                clear_leftovers(directory).map_err(SyncError::Disk)?;
                let (index, unreadable) = directory.scan().map_err(SyncError::Disk)?;
                for id in unreadable {
                    status.note_failure(
                        &id,
                        Vec::new(),
                        "it can't be read on this machine's disk".to_owned(),
                    );
                }
                index
            }
        };
        Ok(Self {
            directory,
            installer: Installer::new(directory, &config.refused_issuers),
            index,
            status: mem::take(status),
            report: Report::default(),
            seen: HashSet::new(),
            gone: BTreeSet::new(),
            missing: BTreeSet::new(),
            in_doubt: false,
            unreadable: false,
        })
    }

    /// # Errors
    /// [`SyncError`] when nothing could be done.
    pub(crate) async fn run(
        &mut self,
        client: &Client,
        servers: &mut [Shown],
        first: Changes,
        confirmed: bool,
    ) -> Result<(), SyncError> {
        let is_complete = self.status.cursor.is_none();
        self.in_doubt = is_complete && self.status.doubt.is_of_another_store() && !confirmed;
        if confirmed {
            self.status.doubt.rollbacks.clear();
        }
        self.status.hear(first.date);
        let mut page = first;
        let reached;
        loop {
            let (cursor, more) = (mem::take(&mut page.cursor), page.more);
            self.take_page(client, page).await?;
            if !more {
                reached = cursor;
                break;
            }
            page = client.changes(Some(&cursor), Duration::ZERO).await?;
        }
        if is_complete && !self.unreadable {
            self.forget_failures_of_the_absent();
        }
        self.mend(client).await?;
        let now = Timestamp::now();
        if is_complete {
            self.take_note_of_the_absent(now);
            if !self.unreadable {
                self.status.unreadable = None;
            }
        }
        let mut over = self.no_longer_kept(now);
        if confirmed {
            self.gone.extend(self.status.doubt.kept().map(|(id, _)| id.clone()));
        }
        let mut going = self.judge(is_complete, confirmed, now);
        over.retain(|id| {
            let is_there = self.index.get(id).is_some_and(Live::is_in_service);
            if !is_there {
                self.status.doubt.forget(id);
            }
            is_there
        });
        going.append(&mut over);
        let was_in_service = self.put_out_of_service(&going, now);
        let told = self.tell(servers).map_err(SyncError::Disk);
        let refused = !matches!(told, Ok(false));
        for id in was_in_service {
            let marked = if refused { None } else { Some(self.directory.mark_removed(&id, now)) };
            match marked {
                Some(Ok(())) => {
                    self.status.doubt.forget(&id);
                    self.status.failed.remove(&id);
                    self.report.removed.push(id);
                }
                // They are served on, or would be after a restart, so they stay, and go another time.
                not_marked => {
                    self.index.entry(id.clone()).and_modify(|live| live.removed = None);
                    self.status.withheld.insert(id.clone());
                    if let Some(Err(error)) = not_marked {
                        self.fail(&id, format!("that it is gone can't be written down: {error}"));
                    }
                }
            }
        }
        told?;
        let named = self.named_versions(servers);
        if !refused {
            self.delete_the_long_gone(&named, now);
        }
        self.prune_published(&named);
        self.report.kept = self.status.doubt.to_problem();
        // Last: killed before, all of it is said again, and done already.
        self.status.doubt.resync = None;
        self.status.cursor = Some(reached);
        if !refused && self.report.again_in.is_none() {
            self.status.shown.clone_from(&self.status.cursor);
        }
        Ok(())
    }

    /// What a listing of everything lacks is gone, or, where nobody knows whether the store went back, is kept.
    fn take_note_of_the_absent(&mut self, now: Timestamp) {
        let is_absent = |id: &ItemId, live: &Live| {
            live.is_in_service() && !self.seen.contains(id) && !self.status.doubt.is_kept(id)
        };
        let absent = self.index.iter().filter(|(id, live)| is_absent(id, live));
        let absent: Vec<ItemId> = absent.map(|(id, _)| id.clone()).collect();
        if self.in_doubt {
            self.keep_absent(absent, now);
        } else {
            self.gone.extend(absent);
        }
    }

    /// What is neither listed nor served has nothing to fail at.
    fn forget_failures_of_the_absent(&mut self) {
        let Self { seen, index, status, .. } = self;
        let is_served = |id: &ItemId| index.get(id).is_some_and(Live::is_in_service);
        status.failed.retain(|id, _| seen.contains(id) || is_served(id));
    }

    /// The centre has announced an item, or it is served, and nothing of it is given out. That it is gone may be on its way; where
    /// it does not come, the item is told of.
    fn note_missing(&mut self, id: &ItemId, names: Vec<String>) {
        if self.status.failed.contains_key(id) {
            let reason = "the centre gives out nothing of it, and has not said that it is gone".to_owned();
            self.report.failed.push(Failed { id: Some(id.clone()), names: names.clone(), reason });
        }
        self.missing.insert(id.clone());
        let reason = "the centre gave out nothing of it; it is asked for again".to_owned();
        self.status.note_failure(id, names, reason);
    }

    async fn take_page(&mut self, client: &Client, page: Changes) -> Result<(), SyncError> {
        self.status.tls = page.tls.or(self.status.tls.take());
        for bad in page.bad {
            let Some(id) = bad.id else {
                self.unreadable = true;
                self.status.note_unreadable(&bad.reason);
                self.report.failed.push(Failed { id: None, names: Vec::new(), reason: bad.reason });
                continue;
            };
            // Asked for again with each pass, until it can be read.
            self.gone.remove(&id);
            if self.in_doubt {
                self.status.doubt.undecided.insert(id.clone());
            }
            self.fail(&id, bad.reason);
            self.seen.insert(id);
        }
        for id in page.del {
            // Of a store that went back, a removal may be one that was taken back since: what it lacks is kept as well.
            if self.in_doubt {
                continue;
            }
            self.status.failed.remove(&id);
            if self.index.get(&id).is_some_and(|live| live.is_in_service()) {
                self.gone.insert(id);
            }
        }
        let mut wanted: BTreeMap<ItemId, Vec<String>> = BTreeMap::new();
        let now = Timestamp::now();
        for item in page.put {
            let Item { id, version, names, lineages, https } = item;
            self.seen.insert(id.clone());
            self.gone.remove(&id);
            self.status.withheld.remove(&id);
            self.status.doubt.unconfirmed.remove(&id);
            if !self.in_doubt {
                self.status.doubt.rollbacks.remove(&id);
                self.status.doubt.undecided.remove(&id);
            } else if !self.doubt_item(&id, &version, &names, now) {
                continue;
            }
            let is_current = |live: &Live| *live.version == *version && live.intact && live.is_in_service();
            match self.index.get_mut(&id) {
                Some(live) if is_current(live) => {
                    self.status.failed.remove(&id);
                    self.report.unchanged += 1;
                    // One that can't be written is fetched whole.
                    if live.https != https && self.directory.write_https(&id, &https).is_err() {
                        drop(wanted.insert(id, names));
                    } else {
                        live.https = https;
                    }
                }
                _ if lineages.is_empty() => {
                    self.status.failed.remove(&id);
                    self.report.unchanged += 1;
                }
                _ => drop(wanted.insert(id, names)),
            }
        }
        self.fetch(client, wanted).await
    }

    /// What failed before, and what was damaged on disk.
    async fn mend(&mut self, client: &Client) -> Result<(), SyncError> {
        let mut wanted: BTreeMap<ItemId, Vec<String>> = BTreeMap::new();
        let damaged = self
            .index
            .iter()
            .filter(|(id, live)| !live.intact && live.is_in_service() && !self.gone.contains(*id))
            // The centre does not know it by this name.
            .filter(|(id, _)| !self.status.doubt.held.contains_key(*id));
        for (id, live) in damaged {
            wanted.insert(id.clone(), live.names.iter().map(ToString::to_string).collect());
        }
        let is_known = |id: &ItemId| !self.status.doubt.held.contains_key(id);
        for (id, failure) in self.status.failed.iter().filter(|(id, _)| is_known(id)) {
            wanted.entry(id.clone()).or_insert_with(|| failure.names.clone());
        }
        // What has just failed in this pass can wait for the next one.
        for failed in &self.report.failed {
            failed.id.as_ref().map(|id| wanted.remove(id));
        }
        wanted.retain(|id, _| !self.missing.contains(id));
        self.fetch(client, wanted).await
    }

    async fn fetch(
        &mut self,
        client: &Client,
        wanted: BTreeMap<ItemId, Vec<String>>,
    ) -> Result<(), SyncError> {
        let ids: Vec<ItemId> = wanted.keys().cloned().collect();
        let mut fetching = self.installer.fetch(client, ids);
        while let Some(fetched) = fetching.next().await {
            let fetched = self.leave_out_the_undecided(fetched?, Timestamp::now());
            for (id, outcome) in self.installer.install(fetched, &self.index, &self.status.doubt.rollbacks) {
                match outcome {
                    Installed::Live(live) => {
                        self.report.published.push(Published::of(&id, &live));
                        self.status.failed.remove(&id);
                        self.index.insert(id, live);
                    }
                    Installed::Gone => {
                        let names = wanted.get(&id).cloned().unwrap_or_default();
                        self.note_missing(&id, names);
                    }
                    Installed::Failed(reason) => {
                        let names = wanted.get(&id).cloned().unwrap_or_default();
                        self.status.note_failure(&id, names.clone(), reason.clone());
                        self.report.failed.push(Failed { id: Some(id), names, reason });
                    }
                }
            }
        }
        Ok(())
    }

    /// An item stays as it is; why.
    pub(crate) fn fail(&mut self, id: &ItemId, reason: String) {
        let names = self.index.get(id).map(|live| live.names.iter().map(ToString::to_string).collect());
        let names: Vec<String> = names.unwrap_or_default();
        self.status.note_failure(id, names.clone(), reason.clone());
        self.report.failed.push(Failed { id: Some(id.clone()), names, reason });
    }

    /// Those that may go out of service; the others are remembered.
    fn judge(&mut self, is_complete: bool, confirmed: bool, now: Timestamp) -> BTreeSet<ItemId> {
        let mut gone = mem::take(&mut self.status.withheld);
        gone.append(&mut self.gone);
        gone.retain(|id| self.index.get(id).is_some_and(Live::is_in_service));
        let removals = Removals {
            vanished: gone.len(),
            live: self.index.values().filter(|live| live.is_in_service()).count(),
            lately: self.index.values().filter(|live| live.was_removed_lately(now)).count(),
            listed: if is_complete { self.seen.len() } else { usize::MAX },
            unreadable: self.unreadable,
            confirmed,
        };
        match judge(removals) {
            Ok(()) => gone,
            Err(withheld) => {
                self.report.withheld = Some(format!("{withheld}; {}", Withheld::REMEDY));
                self.status.withheld = gone;
                BTreeSet::new()
            }
        }
    }

    fn put_out_of_service(&mut self, going: &BTreeSet<ItemId>, now: Timestamp) -> Vec<ItemId> {
        for id in going {
            self.index.entry(id.clone()).and_modify(|live| live.removed = Some(now));
        }
        going.iter().cloned().collect()
    }

    /// Only after the web servers let go of the names.
    fn delete_the_long_gone(&mut self, named: &BTreeSet<PathBuf>, now: Timestamp) {
        let over = |removed: Option<Timestamp>| removed.is_some_and(|since| grace_is_over(since, now));
        let ids = self.index.iter().filter(|(_, live)| over(live.removed)).map(|(id, _)| id);
        let ids: Vec<ItemId> = ids.filter(|id| !self.is_named(id, named)).cloned().collect();
        for id in ids {
            if let Err(error) = self.directory.delete(&id) {
                let reason = format!("it has long been gone and can't be deleted: {error}");
                self.report.failed.push(Failed { id: Some(id), names: Vec::new(), reason });
                continue;
            }
            self.index.remove(&id);
            self.report.deleted.push(id);
        }
    }

    /// Deletes former versions of what was published, but for those that a web server's files still name.
    fn prune_published(&mut self, named: &BTreeSet<PathBuf>) {
        for published in &self.report.published {
            let Some(live) = self.index.get(&published.id) else { continue };
            if let Err(error) = prune(&self.directory.item(&published.id), &live.directory, named) {
                let reason = format!("its former versions can't be deleted: {error}");
                let failed =
                    Failed { id: Some(published.id.clone()), names: published.names.clone(), reason };
                self.report.failed.push(failed);
            }
        }
    }
}
