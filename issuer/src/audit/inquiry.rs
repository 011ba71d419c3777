//! Everything that is known of the audit on this node.

use super::segments::{self, Since};
use jiff::Timestamp;
use serde::Serialize;
use shared::store::{Store, StoreError};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Lines that are asked of the store at once.
const PAGE: usize = 500;

/// How much of the audit was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// What is older may be missing; absent: nothing is.
    pub complete_since: Option<Timestamp>,
}

/// The audit can't be read.
#[derive(Debug, thiserror::Error)]
pub enum InquiryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the audit in {directory} can't be read")]
    Disk {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Coverage {
    /// Whether nothing is missing of what happened from `time` on.
    pub fn is_complete_from(self, time: Timestamp) -> bool {
        self.complete_since.is_none_or(|since| since <= time)
    }
}

/// Tells `each` every line: those on this node's disk, then those that it has not copied yet. A line may come twice.
///
/// # Errors
/// [`InquiryError`].
pub async fn read(
    store: &Store,
    directory: &Path,
    mut each: impl FnMut(&str),
) -> Result<Coverage, InquiryError> {
    let disk = |source| InquiryError::Disk { directory: directory.to_owned(), source };
    let mut since = segments::since(directory).map_err(disk)?.unwrap_or(Since::Beginning);
    let (mut known, mut cursor) = segments::read(directory, 0, &mut each).map_err(disk)?;
    loop {
        let page = store.load_audit(cursor, PAGE).await?;
        if page.last < cursor {
            cursor = page.removed;
            continue;
        }
        if page.removed > cursor {
            // They may have come to this disk meanwhile.
            let (now, on_disk) = segments::read(directory, known, &mut each).map_err(disk)?;
            if now > known {
                (known, cursor) = (now, on_disk);
                continue;
            }
            since = Since::after(page.removed);
        }
        page.lines.iter().for_each(|(_, line)| each(line));
        match page.lines.last() {
            Some((last, _)) if page.lines.len() == PAGE => cursor = *last,
            _ => break,
        }
    }
    let complete_since = match since {
        Since::Beginning => None,
        Since::Time(time) => Some(time),
    };
    Ok(Coverage { complete_since })
}
