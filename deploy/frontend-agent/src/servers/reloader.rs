//! Files that a server reads when it is told to: written, tested, put back when they are refused, and then reloaded, not too
//! often.

use super::{Applied, ServerError, command::run};
use crate::disk::Directory;
use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Pauses between reloads are so many times as long as one takes.
const REST: u32 = 20;

/// A file of a server.
pub(super) struct Wanted {
    pub(super) file: &'static str,
    pub(super) content: String,
    /// What it is where nothing is served: a former file that is not there was like that.
    pub(super) empty: &'static str,
}

/// A server with its commands.
pub(super) struct Reloader {
    pub(super) server: &'static str,
    pub(super) test: Vec<String>,
    pub(super) reload: Vec<String>,
    /// Between two reloads, seconds; 0: no pause at all.
    pub(super) min_seconds: u64,
    /// When it was reloaded last, and how long it has to be left alone from then on.
    pub(super) reloaded: Option<(Instant, Duration)>,
}

impl Reloader {
    pub(super) const fn new(
        server: &'static str,
        test: Vec<String>,
        reload: Vec<String>,
        min_seconds: u64,
    ) -> Self {
        Self { server, test, reload, min_seconds, reloaded: None }
    }

    pub(super) fn differs(&self, directory: &Directory, wanted: &[Wanted]) -> bool {
        let own = directory.of_adapter(self.server);
        wanted.iter().any(|wanted| {
            fs::read(own.join(wanted.file)).map_or(true, |bytes| bytes != wanted.content.as_bytes())
        })
    }

    /// Whether the server's test agrees with these files. They are what they were after it. `place` as in [`Reloader::apply`].
    ///
    /// # Errors
    /// [`ServerError::Refused`].
    pub(super) fn test(
        &self,
        directory: &Directory,
        wanted: &[Wanted],
        place: impl Fn(&str) -> io::Result<()>,
    ) -> Result<(), ServerError> {
        let files = Files { server: self.server, directory, first: wanted[0].file, place: &place };
        let changes = files.changes(wanted)?;
        files.write(&changes)?;
        let answer = run(&self.test, &[]);
        files.put_back(&changes)?;
        answer.map_err(|output| ServerError::Refused { command: self.test.join(" "), output })
    }

    /// `place` is told what the first file holds whenever it was written.
    ///
    /// # Errors
    /// [`ServerError::Refused`] after the former files are back; [`ServerError::Reload`] with the new ones in place, so that a
    /// reload is owed.
    pub(super) fn apply(
        &mut self,
        directory: &Directory,
        wanted: &[Wanted],
        owed: bool,
        place: impl Fn(&str) -> io::Result<()>,
    ) -> Result<Applied, ServerError> {
        let files = Files { server: self.server, directory, first: wanted[0].file, place: &place };
        let changes = files.changes(wanted)?;
        if changes.is_empty() && !owed {
            return Ok(Applied::Nothing);
        }
        if let Some(left) = self.reloaded.and_then(|(at, rest)| rest.checked_sub(at.elapsed())) {
            return Ok(Applied::Later(left));
        }
        files.write(&changes)?;
        let started = Instant::now();
        if let Err(output) = run(&self.test, &[]) {
            files.put_back(&changes)?;
            return Err(ServerError::Refused { command: self.test.join(" "), output });
        }
        run(&self.reload, &[])
            .map_err(|output| ServerError::Reload { command: self.reload.join(" "), output })?;
        self.reloaded = match self.min_seconds {
            0 => None,
            least => Some((Instant::now(), Duration::from_secs(least).max(started.elapsed() * REST))),
        };
        Ok(Applied::Changed { reloaded: !self.reload.is_empty() })
    }
}

/// The files of a server, in its directory.
struct Files<'a> {
    server: &'static str,
    directory: &'a Directory,
    /// Of which `place` is told.
    first: &'static str,
    place: &'a dyn Fn(&str) -> io::Result<()>,
}

/// A file that is to be another one.
struct Change<'a> {
    path: PathBuf,
    former: String,
    wanted: &'a Wanted,
}

impl Files<'_> {
    fn changes<'w>(&self, wanted: &'w [Wanted]) -> Result<Vec<Change<'w>>, ServerError> {
        let own = self.directory.of_adapter(self.server);
        let mut changes = Vec::new();
        for wanted in wanted {
            let path = own.join(wanted.file);
            let former = match fs::read_to_string(&path) {
                Ok(text) if text == wanted.content => continue,
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => wanted.empty.to_owned(),
                Err(error) => return Err(ServerError::Write(self.server, error)),
            };
            changes.push(Change { path, former, wanted });
        }
        Ok(changes)
    }

    fn write(&self, changes: &[Change<'_>]) -> Result<(), ServerError> {
        let own = self.directory.of_adapter(self.server);
        let made = if own.exists() { Ok(()) } else { self.directory.make_directory(&own) };
        let writes = changes.iter().map(|change| self.write_one(change, &change.wanted.content));
        made.and_then(|()| writes.collect()).map_err(|error| ServerError::Write(self.server, error))
    }

    fn put_back(&self, changes: &[Change<'_>]) -> Result<(), ServerError> {
        let writes = changes.iter().map(|change| self.write_one(change, &change.former));
        writes.collect::<io::Result<()>>().map_err(|error| ServerError::Write(self.server, error))
    }

    fn write_one(&self, change: &Change<'_>, content: &str) -> io::Result<()> {
        self.directory.write_whole(&change.path, content.as_bytes(), 0o644)?;
        if change.wanted.file == self.first { (self.place)(content) } else { Ok(()) }
    }
}
