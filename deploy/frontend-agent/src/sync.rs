//! One pass: what has changed, fetched, verified, published, and shown to the web servers; what went, put aside.
//!
//! Nothing is withdrawn because something failed. An error, a timeout, a refusal or half an answer changes nothing on disk; one
//! bad item is reported, and the others are published.

use crate::{
    client::{Client, ClientError, FetchError},
    config::{AgentConfig, Credentials},
    disk::{Directory, Lock},
    enrolment::{EnrolmentError, OwnIdentity},
    index::Index,
    inspection::Inspection,
    pass::Pass,
    report::{Published, Report},
    servers::{self, ListenError, Shown},
    sightings::Sightings,
    status::Status,
    wire::Changes,
};
use shared::error::chain;
use std::{
    io,
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
    servers: Vec<Shown>,
    known: Option<(u64, Index)>,
    inspection: Inspection,
}

impl Agent {
    /// # Errors
    /// [`ListenError`].
    pub(crate) fn new(config: AgentConfig, sightings: &Sightings) -> Result<Self, ListenError> {
        let servers = servers::of(&config.servers, sightings)?;
        Ok(Self { config, client: None, servers, known: None, inspection: Inspection::default() })
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
        self.inspection.at_start(&mut pass);
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
        let ahead = Status::load(&directory).ahead_seconds;
        let kept = OwnIdentity::new(&directory, token_file).keep(&self.config, ahead).await;
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
                status.doubt.resync = Some(why.clone());
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
        self.inspection.go_on(&mut pass);
        let done = pass.run(client, &mut self.servers, first, confirmed).await;
        pass.report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        *status = pass.status;
        self.known = Some((status.generation, pass.index));
        done.map(|()| pass.report)
    }
}

fn lock(directory: &Directory) -> Result<Lock, SyncError> {
    directory.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => SyncError::Busy,
        _ => SyncError::Disk(error),
    })
}
