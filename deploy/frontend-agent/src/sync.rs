//! One pass: what has changed, fetched, verified, published, and shown to the web servers; what went, put aside.
//!
//! Nothing is withdrawn because something failed. An error, a timeout, a refusal or half an answer changes nothing on disk; one
//! bad item is reported, and the others are published.

use crate::{
    client::{Client, ClientError, FetchError},
    config::{AgentConfig, Credentials},
    disk::{Directory, Lock},
    enrolment::{EnrolmentError, OwnIdentity},
    https::Moment,
    index::{Index, Live, names_in_service},
    install::{Installed, Installer},
    publish::clear_leftovers,
    removal::{Withheld, grace_is_over, judge},
    report::{Failed, Published, Report},
    served::Target,
    servers::{self, Applied, ListenError, Server, View},
    sightings::Sightings,
    status::Status,
    wire::{Changes, Item, ItemId},
};
use jiff::Timestamp;
use shared::error::chain;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io, mem,
    time::{Duration, Instant},
};

/// The pass ended before anything could be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error("another sync is going on")]
    Busy,
    #[error("the agent's directory can't be used")]
    Disk(#[source] io::Error),
    #[error(transparent)]
    Identity(#[from] EnrolmentError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// What pulls. It remembers what it has seen on disk for as long as nobody else has written there.
pub(crate) struct Agent {
    config: AgentConfig,
    /// Made anew after an error: the credentials may have been renewed on disk.
    client: Option<Client>,
    servers: Vec<Box<dyn Server>>,
    known: Option<(u64, Index)>,
}

/// One pass while it goes on.
struct Pass<'a> {
    directory: &'a Directory,
    installer: Installer<'a>,
    index: Index,
    status: Status,
    report: Report,
    /// Items that the centre still has, in a pass that asks for everything.
    seen: HashSet<ItemId>,
    gone: BTreeSet<ItemId>,
    /// Something in the answer can't be read: nobody knows what it meant.
    unreadable: bool,
}

impl Agent {
    /// # Errors
    /// [`ListenError`].
    pub(crate) fn new(config: AgentConfig, sightings: &Sightings) -> Result<Self, ListenError> {
        let servers = servers::of(&config.servers, sightings)?;
        Ok(Self { config, client: None, servers, known: None })
    }

    /// Shows the web servers what is on disk, before anybody is asked for anything. What is there counts as published.
    ///
    /// # Errors
    /// [`SyncError::Busy`] and [`SyncError::Disk`].
    pub(crate) fn serve_what_is_here(&mut self) -> Result<Report, SyncError> {
        let directory = Directory::open(&self.config.store).map_err(SyncError::Disk)?;
        let _lock = lock(&directory)?;
        let mut status = Status::load(&directory);
        let mut pass = Pass::begin(&self.config, &directory, self.known.take(), &mut status)?;
        let live = pass.index.iter().filter(|(_, live)| live.is_in_service());
        pass.report.published = live.map(|(id, live)| Published::of(id, live)).collect();
        let told = pass.tell(&mut self.servers).map_err(SyncError::Disk);
        let Pass { index, status, report, .. } = pass;
        status.store(&directory).map_err(SyncError::Disk)?;
        self.known = Some((status.generation, index));
        told.map(|_| report)
    }

    /// Asks for changes, waiting for some as long as `wait`, and publishes them. `confirmed`: however many items vanished, they
    /// may go.
    ///
    /// # Errors
    /// [`SyncError`] when nothing could be done. Problems of single items are in the report.
    pub(crate) async fn pass(&mut self, wait: Duration, confirmed: bool) -> Result<Report, SyncError> {
        if self.keep_identity().await? {
            self.client = None;
        }
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::new(&self.config, &self.config.credentials)?,
        };
        let result = self.pass_with(&client, wait, confirmed).await;
        self.client = result.is_ok().then_some(client);
        result
    }

    /// Whether the agent goes to the centre as somebody else from now on.
    async fn keep_identity(&self) -> Result<bool, SyncError> {
        let Credentials::Enrolment { token_file } = &self.config.credentials else { return Ok(false) };
        let directory = Directory::open(&self.config.store).map_err(SyncError::Disk)?;
        let _lock = lock(&directory)?;
        let kept = OwnIdentity::new(&directory, token_file).keep(&self.config).await;
        if let Err(error) = &kept {
            let mut status = Status::load(&directory);
            status.note_error(chain(error), &self.config.server);
            status.store(&directory).map_err(SyncError::Disk)?;
        }
        Ok(kept?)
    }

    async fn pass_with(
        &mut self,
        client: &Client,
        wait: Duration,
        confirmed: bool,
    ) -> Result<Report, SyncError> {
        let directory = Directory::open(&self.config.store).map_err(SyncError::Disk)?;
        // Nobody is kept from the directory by an answer that is waited for.
        let asked = Status::load(&directory).cursor;
        let answer = client.changes(asked.as_deref(), wait).await;
        let _lock = lock(&directory)?;
        let mut status = Status::load(&directory);
        let answer = if status.cursor == asked {
            answer
        } else {
            client.changes(status.cursor.as_deref(), Duration::ZERO).await
        };
        let result = match answer {
            Err(FetchError::Resync { why, after }) => {
                tracing::info!(why, after_seconds = after.as_secs(), "everything is asked for again");
                status.cursor = None;
                // Whoever waits for changes anyway comes when it is its turn; by then it asks for everything by itself.
                if !after.is_zero() && !wait.is_zero() {
                    status.store(&directory).map_err(SyncError::Disk)?;
                    return Err(FetchError::Resync { why, after }.into());
                }
                match client.changes(None, Duration::ZERO).await {
                    Ok(first) => self.take_in(client, &directory, &mut status, first, confirmed).await,
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
            Ok(first) => self.take_in(client, &directory, &mut status, first, confirmed).await,
        };
        match &result {
            Ok(report) => status.note_report(report, &self.config.server),
            Err(error) => status.note_error(chain(error), &self.config.server),
        }
        status.generation += 1;
        if let Some((generation, _)) = &mut self.known {
            *generation = status.generation;
        }
        status.store(&directory).map_err(SyncError::Disk)?;
        result
    }

    /// How many items are in service.
    pub(crate) fn items(&self) -> usize {
        let in_service =
            |(_, index): &(u64, Index)| index.values().filter(|live| live.is_in_service()).count();
        self.known.as_ref().map_or(0, in_service)
    }

    async fn take_in(
        &mut self,
        client: &Client,
        directory: &Directory,
        status: &mut Status,
        first: Changes,
        confirmed: bool,
    ) -> Result<Report, SyncError> {
        let started = Instant::now();
        let mut pass = Pass::begin(&self.config, directory, self.known.take(), status)?;
        let done = pass.run(client, &mut self.servers, first, confirmed).await;
        pass.report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        *status = pass.status;
        self.known = Some((status.generation, pass.index));
        done.map(|()| pass.report)
    }
}

impl<'a> Pass<'a> {
    /// What is on disk is read only where it is not known.
    fn begin(
        config: &'a AgentConfig,
        directory: &'a Directory,
        known: Option<(u64, Index)>,
        status: &mut Status,
    ) -> Result<Self, SyncError> {
        let index = match known {
            Some((generation, index)) if generation == status.generation => index,
            _ => {
                clear_leftovers(directory).map_err(SyncError::Disk)?;
                directory.scan().map_err(SyncError::Disk)?
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
            unreadable: false,
        })
    }

    async fn run(
        &mut self,
        client: &Client,
        servers: &mut [Box<dyn Server>],
        first: Changes,
        confirmed: bool,
    ) -> Result<(), SyncError> {
        let is_complete = self.status.cursor.is_none();
        self.status.heard = Some(Timestamp::now());
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
        self.mend(client).await?;
        if is_complete {
            let missing =
                self.index.iter().filter(|(id, live)| live.is_in_service() && !self.seen.contains(*id));
            self.gone.extend(missing.map(|(id, _)| id.clone()));
        }
        let going = self.judge(is_complete, confirmed);
        let now = Timestamp::now();
        let was_in_service = self.put_out_of_service(&going, now);
        let refused = self.tell(servers).map_err(SyncError::Disk)?;
        if refused {
            // They are served on, so they stay.
            for id in was_in_service {
                self.index.entry(id.clone()).and_modify(|live| live.removed = None);
                self.status.withheld.insert(id);
            }
        } else {
            for id in was_in_service {
                self.directory.mark_removed(&id, now).map_err(SyncError::Disk)?;
                self.report.removed.push(id);
            }
            self.delete_the_long_gone(now).map_err(SyncError::Disk)?;
        }
        // Last: killed before, all of it is said again, and done already.
        self.status.cursor = Some(reached);
        Ok(())
    }

    async fn take_page(&mut self, client: &Client, page: Changes) -> Result<(), SyncError> {
        self.status.tls = page.tls.or(self.status.tls.take());
        for bad in page.bad {
            self.unreadable |= bad.id.is_none();
            self.seen.extend(bad.id.clone());
            self.report.failed.push(Failed { id: bad.id, names: Vec::new(), reason: bad.reason });
        }
        for id in page.del {
            self.status.failed.remove(&id);
            if self.index.get(&id).is_some_and(|live| live.is_in_service()) {
                self.gone.insert(id);
            }
        }
        let mut wanted: BTreeMap<ItemId, Vec<String>> = BTreeMap::new();
        for Item { id, version, names, lineages, https } in page.put {
            self.seen.insert(id.clone());
            self.gone.remove(&id);
            self.status.withheld.remove(&id);
            let is_current = |live: &Live| *live.version == *version && live.intact && live.is_in_service();
            match self.index.get_mut(&id) {
                Some(live) if is_current(live) => {
                    self.status.failed.remove(&id);
                    self.report.unchanged += 1;
                    // One that can't be written is fetched whole.
                    if live.https != https && self.directory.write_https(&id, &https).is_err() {
                        wanted.insert(id, names);
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
            .filter(|(id, live)| !live.intact && live.is_in_service() && !self.gone.contains(*id));
        for (id, live) in damaged {
            wanted.insert(id.clone(), live.names.iter().map(ToString::to_string).collect());
        }
        for (id, failure) in &self.status.failed {
            wanted.entry(id.clone()).or_insert_with(|| failure.names.clone());
        }
        // What has just failed in this pass can wait for the next one.
        for failed in &self.report.failed {
            failed.id.as_ref().map(|id| wanted.remove(id));
        }
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
            for (id, outcome) in self.installer.install(fetched?, &self.index) {
                match outcome {
                    Installed::Live(live) => {
                        self.report.published.push(Published::of(&id, &live));
                        self.status.failed.remove(&id);
                        self.index.insert(id, live);
                    }
                    // The change that says so is on its way.
                    Installed::Gone => drop(self.status.failed.remove(&id)),
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

    /// Those that may go out of service; the others are remembered.
    fn judge(&mut self, is_complete: bool, confirmed: bool) -> BTreeSet<ItemId> {
        let mut gone = mem::take(&mut self.status.withheld);
        gone.append(&mut self.gone);
        gone.retain(|id| self.index.get(id).is_some_and(|live| live.is_in_service()));
        let in_service = self.index.values().filter(|live| live.is_in_service()).count();
        let listed = if is_complete { self.seen.len() } else { usize::MAX };
        match judge(gone.len(), in_service, listed, self.unreadable, confirmed) {
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

    /// Shows every web server what is live. That one may not know it yet is on disk before its files are, so that a crash in
    /// between loses no reload. Answers whether one of them refused.
    fn tell(&mut self, servers: &mut [Box<dyn Server>]) -> io::Result<bool> {
        let report = &mut self.report;
        let names = names_in_service(&self.index, |name, older, younger| {
            let reason = format!("{name} is also a name of {younger}, whose certificate is younger");
            report.failed.push(Failed { id: Some(older.clone()), names: vec![name.to_owned()], reason });
        });
        let target =
            |published: &Published| Target::of(&published.id, self.index.get(&published.id)?, &names);
        report.targets = report.published.iter().filter_map(target).collect();
        let now = Timestamp::now();
        let at = Moment { now, heard: self.status.heard.unwrap_or(Timestamp::UNIX_EPOCH) };
        let tls = self.status.tls.clone();
        let tls = tls.as_ref();
        let mut refused = false;
        for server in servers {
            let owed = self.status.owed.contains(server.name());
            let view = View { directory: self.directory, index: &self.index, names: &names, owed, at, tls };
            if !owed && server.differs(&view) {
                self.status.owed.insert(server.name().to_owned());
                self.status.store(self.directory)?;
            }
            match server.apply(&view) {
                Ok(Applied::Later(left)) => {
                    report.again_in = Some(report.again_in.map_or(left, |before| before.min(left)));
                }
                Ok(applied) => {
                    report.reloaded |= applied == Applied::Changed { reloaded: true };
                    self.status.owed.remove(server.name());
                }
                Err(error) => {
                    refused = true;
                    report.server_errors.push(chain(&error));
                }
            }
        }
        Ok(refused)
    }

    /// Only after the web servers let go of the names.
    fn delete_the_long_gone(&mut self, now: Timestamp) -> io::Result<()> {
        let over = |removed: Option<Timestamp>| removed.is_some_and(|since| grace_is_over(since, now));
        let ids: Vec<ItemId> =
            self.index.iter().filter(|(_, live)| over(live.removed)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.directory.delete(&id)?;
            self.index.remove(&id);
            self.report.deleted.push(id);
        }
        Ok(())
    }
}

fn lock(directory: &Directory) -> Result<Lock, SyncError> {
    directory.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => SyncError::Busy,
        _ => SyncError::Disk(error),
    })
}
