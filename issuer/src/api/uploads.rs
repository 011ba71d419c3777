//! Files of sites that are received and worked on. They are on disk for that time, and who may send them need not be able to
//! change anything: so they are bounded, for each token, for all of them, and by what the disk has left.

use super::refusal::{Code, Refusal};
use std::{
    collections::HashMap,
    env,
    fs::File,
    io::{self, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The largest file: a million names. All files of one token together have no more.
pub(super) const MOST_BYTES: u64 = 256 << 20;
/// All files together.
const MOST_BYTES_OF_ALL: u64 = 1 << 30;
/// Files of one token at once.
const MOST_FILES: usize = 4;
/// The disk is looked at whenever a file has grown by so much.
const LOOK_EVERY: u64 = 1 << 20;

/// What is under way, by the token's name.
#[derive(Clone, Debug, Default)]
pub(super) struct Uploads(Arc<Mutex<HashMap<String, Used>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    files: usize,
    bytes: u64,
}

/// One file. It has no name, and goes with its place when this is dropped, or when the program is killed.
#[derive(Debug)]
pub(super) struct Upload {
    file: File,
    uploads: Uploads,
    token: String,
    bytes: u64,
    looked_at: u64,
}

impl Uploads {
    /// An empty file for a token.
    ///
    /// # Errors
    /// 429 where the token has as many as it may, 503 where no file can be made.
    pub(super) fn begin(&self, token: &str) -> Result<Upload, Refusal> {
        let file = tempfile::tempfile().map_err(|error| unwritable(&error))?;
        let mut all = self.lock();
        if all.get(token).is_some_and(|used| used.files >= MOST_FILES) {
            return Err(busy(format!("{MOST_FILES} files of this token are under way")));
        }
        all.entry(token.to_owned()).or_default().files += 1;
        drop(all);
        Ok(Upload { file, uploads: self.clone(), token: token.to_owned(), bytes: 0, looked_at: 0 })
    }

    /// Lets a token's files grow.
    fn take(&self, token: &str, bytes: u64) -> Result<(), Refusal> {
        let mut all = self.lock();
        let of_all: u64 = all.values().map(|used| used.bytes).sum();
        let used = all.entry(token.to_owned()).or_default();
        if used.bytes + bytes > MOST_BYTES {
            return Err(busy(format!("files of this token that are under way have {MOST_BYTES} bytes")));
        }
        if of_all + bytes > MOST_BYTES_OF_ALL {
            return Err(busy("files of other tokens take all the room that files may".to_owned()));
        }
        used.bytes += bytes;
        Ok(())
    }

    fn give_back(&self, token: &str, bytes: u64) {
        let mut all = self.lock();
        if let Some(used) = all.get_mut(token) {
            used.files -= 1;
            used.bytes -= bytes;
            if used.files == 0 {
                all.remove(token);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Used>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upload {
    /// The file, to be read while this is there.
    ///
    /// # Errors
    /// 503 where there are too many open ones.
    pub(super) fn open(&self) -> Result<File, Refusal> {
        self.file.try_clone().map_err(|error| unwritable(&error))
    }

    /// # Errors
    /// 413 where the file is too large, 429 where files take too much together, 503 where the disk has too little left.
    pub(super) fn append(&mut self, part: &[u8]) -> Result<(), Refusal> {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        if self.bytes.saturating_add(length) > MOST_BYTES {
            return Err(Refusal::new(Code::TooLarge, format!("the file has more than {MOST_BYTES} bytes")));
        }
        self.uploads.take(&self.token, length)?;
        self.bytes += length;
        if self.bytes >= self.looked_at + LOOK_EVERY {
            self.looked_at = self.bytes;
            self.look_at_disk()?;
        }
        self.file.write_all(part).map_err(|error| unwritable(&error))
    }

    /// A file never takes more than is left for everything else.
    fn look_at_disk(&self) -> Result<(), Refusal> {
        let disk = rustix::fs::fstatvfs(&self.file).map_err(|error| unwritable(&error.into()))?;
        let left = disk.f_bavail.saturating_mul(disk.f_frsize);
        if left >= self.bytes {
            return Ok(());
        }
        let error = format!("{left} bytes are left in {}", env::temp_dir().display());
        Err(unwritable(&io::Error::other(error)))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.uploads.give_back(&self.token, self.bytes);
    }
}

fn busy(message: String) -> Refusal {
    Refusal::new(Code::Busy, message)
}

fn unwritable(error: &io::Error) -> Refusal {
    tracing::error!(%error, "a file of sites can't be kept for the time of its request");
    Refusal::new(Code::StoreUnavailable, "there is no place for the file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _};

    fn status(refused: Result<impl Sized, Refusal>) -> u16 {
        refused.err().map_or(200, |refusal| refusal.code.status())
    }

    #[test]
    fn a_token_has_so_many_files_at_once() {
        let uploads = Uploads::default();
        let mut files: Vec<_> = (0..MOST_FILES).map(|_| uploads.begin("panel").unwrap()).collect();
        assert_eq!(status(uploads.begin("panel")), 429);
        assert_eq!(status(uploads.begin("other")), 200, "another one is not held up by it");
        files.remove(0);
        assert_eq!(status(uploads.begin("panel")), 200);
        drop(files);
        assert!(uploads.lock().is_empty());
    }

    #[test]
    fn files_have_so_many_bytes_together() {
        let uploads = Uploads::default();
        let mut file = uploads.begin("panel").unwrap();
        file.append(b"{}\n").unwrap();
        let (mut read, mut content) = (file.open().unwrap(), String::new());
        read.rewind().unwrap();
        read.read_to_string(&mut content).unwrap();
        assert_eq!(content, "{}\n");
        uploads.take("panel", MOST_BYTES - 3).unwrap();
        assert_eq!(status(uploads.begin("panel").unwrap().append(b"x")), 429);
        let _held = ["b", "c", "d", "e"].map(|token| uploads.begin(token).unwrap());
        for (token, expected) in [("b", 200), ("c", 200), ("d", 200), ("e", 429)] {
            assert_eq!(status(uploads.take(token, MOST_BYTES)), expected, "{token}");
        }
        file.bytes = MOST_BYTES;
        assert_eq!(status(file.append(b"x")), 413);
        file.bytes = 3;
    }
}
