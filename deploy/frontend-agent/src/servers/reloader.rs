//! Files that a server reads when it is told to: written, tested, put back when they are refused, and then reloaded, not too
//! often.

use super::{Applied, ServerError, command::run};
use crate::disk::Directory;
use std::{
    fs, io,
    path::Path,
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
        let server = self.server;
        let failed = |error| ServerError::Write(server, error);
        let own = directory.of_adapter(server);
        let mut changes = Vec::new();
        for wanted in wanted {
            let path = own.join(wanted.file);
            match fs::read_to_string(&path) {
                Ok(text) if text == wanted.content => {}
                Ok(text) => changes.push((path, text, wanted)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    changes.push((path, wanted.empty.to_owned(), wanted));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        if changes.is_empty() && !owed {
            return Ok(Applied::Nothing);
        }
        if let Some(left) = self.reloaded.and_then(|(at, rest)| rest.checked_sub(at.elapsed())) {
            return Ok(Applied::Later(left));
        }
        if !own.exists() {
            directory.make_directory(&own).map_err(failed)?;
        }
        let write = |path: &Path, content: &str| {
            directory.write_whole(path, content.as_bytes(), 0o644).map_err(failed)?;
            if path.ends_with(wanted[0].file) { place(content).map_err(failed) } else { Ok(()) }
        };
        for (path, _, wanted) in &changes {
            write(path, &wanted.content)?;
        }
        let started = Instant::now();
        if let Err(output) = run(&self.test, &[]) {
            for (path, former, _) in &changes {
                write(path, former)?;
            }
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
