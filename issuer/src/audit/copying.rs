//! The daemon's part: it takes the audit from the store to this node's disk.

use super::segments::{self, Since, Writer};
use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use shared::{
    error::chain,
    store::{AuditId, Store, StoreError},
};
use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After an error.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The store is told at least so often how far this copy is.
const REPORT_EVERY: Duration = Duration::from_secs(20);
/// Old segments are looked for so often.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// Lines that are taken at once.
const PAGE: usize = 500;

#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the audit can't be written to {directory}")]
    Disk {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// How far the copy of this process is.
struct Copying {
    store: Store,
    directory: PathBuf,
    keep_days: u32,
    /// None: to be opened, or another process of this machine has it.
    writer: Option<Writer>,
    reported: Option<(AuditId, Instant)>,
    expired: Option<Instant>,
}

/// Copies until it is dropped. Segments of days more than `keep_days` ago are removed.
pub async fn copy_forever(store: Store, directory: PathBuf, keep_days: u32) -> Infallible {
    let mut copying = Copying { store, directory, keep_days, writer: None, reported: None, expired: None };
    let mut told = false;
    loop {
        let pause = match copying.look().await {
            Ok(()) => {
                told = false;
                LOOK_EVERY
            }
            Err(error) => {
                // What is on disk is looked at again.
                copying.writer = None;
                copying.reported = None;
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(error = chain(&error), "the audit is not copied to this disk");
                }
                LOOK_AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}

impl Copying {
    /// Takes what is new, says so, and lets go of what is old.
    async fn look(&mut self) -> Result<(), CopyError> {
        let Some(mut writer) = self.opened().await? else { return Ok(()) };
        loop {
            let page = self.store.load_audit(writer.cursor, PAGE).await?;
            if page.last < writer.cursor {
                tracing::warn!("the store went back: what it has of the audit is copied again");
                writer.cursor = page.removed;
                self.reported = None;
                continue;
            }
            let is_missing = page.removed > writer.cursor;
            let since = match segments::since(&self.directory).map_err(|e| self.disk(e))? {
                _ if is_missing => {
                    tracing::warn!("what is older of the audit is on the disks of other issuers alone");
                    Some(Since::after(page.removed))
                }
                None => Some(Since::Beginning),
                Some(_) => None,
            };
            let more = page.lines.len() == PAGE;
            let directory = self.directory.clone();
            let written = tokio::task::spawn_blocking(move || {
                if let Some(since) = since {
                    writer.note_since(since)?;
                    writer.cursor = writer.cursor.max(page.removed);
                }
                writer.append(&page.lines, today())?;
                Ok::<_, io::Error>(writer)
            });
            writer = of_blocking(&directory, written.await)?;
            self.report(&writer).await?;
            if !more {
                break;
            }
        }
        if self.expired.is_none_or(|at| at.elapsed() >= EXPIRE_EVERY) {
            self.expired = Some(Instant::now());
            let kept = SignedDuration::from_hours(24 * i64::from(self.keep_days));
            let oldest = today().checked_sub(kept).unwrap_or(Date::MIN);
            let directory = self.directory.clone();
            let expired = tokio::task::spawn_blocking(move || writer.expire(oldest).map(|_| writer));
            writer = of_blocking(&directory, expired.await)?;
        }
        self.writer = Some(writer);
        Ok(())
    }

    async fn opened(&mut self) -> Result<Option<Writer>, CopyError> {
        if let Some(writer) = self.writer.take() {
            return Ok(Some(writer));
        }
        let directory = self.directory.clone();
        let opened = tokio::task::spawn_blocking(move || Writer::open(&directory));
        of_blocking(&self.directory, opened.await)
    }

    async fn report(&mut self, writer: &Writer) -> Result<(), CopyError> {
        let is_known =
            self.reported.is_some_and(|(cursor, at)| cursor == writer.cursor && at.elapsed() < REPORT_EVERY);
        if !is_known {
            self.store.report_audit_copy(&writer.name, writer.cursor).await?;
            self.reported = Some((writer.cursor, Instant::now()));
        }
        Ok(())
    }

    fn disk(&self, source: io::Error) -> CopyError {
        CopyError::Disk { directory: self.directory.clone(), source }
    }
}

fn of_blocking<T>(
    directory: &Path,
    done: Result<io::Result<T>, tokio::task::JoinError>,
) -> Result<T, CopyError> {
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| CopyError::Disk { directory: directory.to_owned(), source })
}

fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}
