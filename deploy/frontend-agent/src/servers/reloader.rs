//! Files that a server reads when it is told to: written, tested, put back when they are refused, and then reloaded, not too
//! often.

use super::{
    Applied, ServerError,
    command::{self, CommandError, run},
};
use crate::disk::{Directory, sync_directory};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Former files while new ones are tried, below the server's directory; and while that is made, or taken away.
const FORMER: &str = ".former";
const FORMER_UNFINISHED: &str = ".former.new";

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
    /// Until the test has to be done.
    pub(super) patience: Duration,
    /// Until the reload has.
    pub(super) reload_patience: Duration,
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
        Self {
            server,
            test,
            reload,
            patience: command::TEST,
            reload_patience: command::OTHER,
            min_seconds,
            reloaded: None,
        }
    }

    pub(super) fn differs(&self, directory: &Directory, wanted: &[Wanted]) -> bool {
        let own = directory.of_adapter(self.server);
        wanted.iter().any(|wanted| {
            fs::read(own.join(wanted.file)).map_or(true, |bytes| bytes != wanted.content.as_bytes())
        })
    }

    /// Whether the server's test refuses the files as they are.
    pub(super) fn refuses_the_present(&self) -> bool {
        matches!(run(&self.test, &[], self.patience), Err(CommandError::Failed(_)))
    }

    /// What a file holds now; nothing where it is not there.
    pub(super) fn read(&self, directory: &Directory, file: &str) -> String {
        fs::read_to_string(directory.of_adapter(self.server).join(file)).unwrap_or_default()
    }

    fn files<'a>(
        &self,
        directory: &'a Directory,
        wanted: &[Wanted],
        place: &'a dyn Fn(&str) -> io::Result<()>,
    ) -> Files<'a> {
        let is_tested = !self.test.is_empty();
        Files { server: self.server, directory, first: wanted[0].file, is_tested, place }
    }

    /// Whether the server's test agrees with these files. They are what they were after it. `place` as in [`Reloader::apply`].
    ///
    /// # Errors
    /// [`ServerError::Refused`] and [`ServerError::Hung`].
    pub(super) fn test(
        &self,
        directory: &Directory,
        wanted: &[Wanted],
        place: impl Fn(&str) -> io::Result<()>,
    ) -> Result<(), ServerError> {
        let files = self.files(directory, wanted, &place);
        let changes = files.changes(wanted)?;
        files.write(&changes)?;
        let answer = self.run_test();
        files.put_back(&changes)?;
        answer
    }

    fn run_test(&self) -> Result<(), ServerError> {
        let command = || self.test.join(" ");
        run(&self.test, &[], self.patience).map_err(|error| match error {
            CommandError::Failed(output) => ServerError::Refused { command: command(), output },
            hung @ CommandError::Hung(..) => {
                ServerError::Hung { command: command(), reason: hung.to_string() }
            }
        })
    }

    /// `place` is told what the first file holds whenever it was written.
    ///
    /// # Errors
    /// [`ServerError::Refused`] and [`ServerError::Hung`] after the former files are back; [`ServerError::Reload`] and [`ServerError::Stuck`] with the new ones in place, so that a
    /// reload is owed.
    pub(super) fn apply(
        &mut self,
        directory: &Directory,
        wanted: &[Wanted],
        owed: bool,
        place: impl Fn(&str) -> io::Result<()>,
    ) -> Result<Applied, ServerError> {
        let files = self.files(directory, wanted, &place);
        let changes = files.changes(wanted)?;
        if changes.is_empty() && !owed {
            return Ok(Applied::Nothing);
        }
        if let Some(left) = self.reloaded.and_then(|(at, rest)| rest.checked_sub(at.elapsed())) {
            return Ok(Applied::Later(left));
        }
        files.write(&changes)?;
        let started = Instant::now();
        if let Err(error) = self.run_test() {
            files.put_back(&changes)?;
            return Err(error);
        }
        files.forget_former().map_err(|error| ServerError::Write(self.server, error))?;
        run(&self.reload, &[], self.reload_patience)
            .map_err(|error| ServerError::of_telling(&self.reload, error))?;
        self.reloaded = match self.min_seconds {
            0 => None,
            least => Some((Instant::now(), Duration::from_secs(least).max(started.elapsed() * REST))),
        };
        Ok(Applied::Changed { reloaded: !self.reload.is_empty() })
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The files of a server, in its directory.
struct Files<'a> {
    server: &'static str,
    directory: &'a Directory,
    /// Of which `place` is told.
    first: &'static str,
    /// Whether the new ones may turn out to be none.
    is_tested: bool,
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
        self.recover().map_err(|error| ServerError::Write(self.server, error))?;
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
        let kept = made.and_then(|()| self.keep_former(changes));
        kept.and_then(|()| writes.collect()).map_err(|error| ServerError::Write(self.server, error))
    }

    fn put_back(&self, changes: &[Change<'_>]) -> Result<(), ServerError> {
        let writes = changes.iter().map(|change| self.write_one(change, &change.former));
        let written: io::Result<()> = writes.collect();
        written.and_then(|()| self.forget_former()).map_err(|error| ServerError::Write(self.server, error))
    }

    /// Keeps what is replaced until the server's test has agreed: whoever ends this program meanwhile leaves files that the server
    /// may not start with.
    fn keep_former(&self, changes: &[Change<'_>]) -> io::Result<()> {
        if !self.is_tested || changes.is_empty() {
            return Ok(());
        }
        let own = self.directory.of_adapter(self.server);
        let new = own.join(FORMER_UNFINISHED);
        remove(&new)?;
        self.directory.make_directory(&new)?;
        for change in changes {
            let kept = new.join(change.wanted.file);
            match fs::hard_link(&change.path, &kept) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.directory.write_whole(&kept, change.former.as_bytes(), 0o644)?;
                }
                linked => linked?,
            }
        }
        sync_directory(&new)?;
        fs::rename(&new, own.join(FORMER))?;
        sync_directory(&own)
    }

    /// What is there now is what the server takes.
    fn forget_former(&self) -> io::Result<()> {
        let own = self.directory.of_adapter(self.server);
        match fs::rename(own.join(FORMER), own.join(FORMER_UNFINISHED)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        sync_directory(&own)?;
        remove(&own.join(FORMER_UNFINISHED))
    }

    /// Puts back what was there before a test that was cut off.
    fn recover(&self) -> io::Result<()> {
        let own = self.directory.of_adapter(self.server);
        let kept = match fs::read_dir(own.join(FORMER)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            kept => kept?,
        };
        for entry in kept {
            let entry = entry?;
            let content = fs::read_to_string(entry.path())?;
            self.directory.write_whole(&own.join(entry.file_name()), content.as_bytes(), 0o644)?;
            if entry.file_name() == self.first {
                (self.place)(&content)?;
            }
        }
        self.forget_former()
    }

    fn write_one(&self, change: &Change<'_>, content: &str) -> io::Result<()> {
        self.directory.write_whole(&change.path, content.as_bytes(), 0o644)?;
        if change.wanted.file == self.first { (self.place)(content) } else { Ok(()) }
    }
}
