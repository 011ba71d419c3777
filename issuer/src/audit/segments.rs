//! The audit on disk: segments of lines, `ID JSON`, a new one each day. A line that was cut off by a crash is taken away before
//! the next one is written, and asked of the store again.

use jiff::{Timestamp, civil::Date};
use shared::{digest::hex, store::AuditId};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A segment that is larger is followed by another one, bytes.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Holds since when nothing is missing: a time, or this word.
const SINCE: &str = "since";
const BEGINNING: &str = "beginning";

/// One file of the audit.
#[derive(Clone, Debug)]
struct Segment {
    number: u64,
    day: Date,
    path: PathBuf,
}

/// Since when a copy has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Since {
    Beginning,
    Time(Timestamp),
}

impl Since {
    /// When everything up to `removed` may be missing.
    pub(super) fn after(removed: AuditId) -> Self {
        let ms = i64::try_from(removed.ms).unwrap_or(i64::MAX);
        Self::Time(Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX))
    }
}

/// Appends. There is one for a directory.
pub(super) struct Writer {
    directory: PathBuf,
    /// What the store knows this copy by.
    pub(super) name: String,
    /// The last line that is on disk.
    pub(super) cursor: AuditId,
    newest: Option<Newest>,
    _lock: File,
}

struct Newest {
    segment: Segment,
    file: File,
    bytes: u64,
}

/// The segments of a directory in their order; none where there is no directory.
fn list(directory: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let parts = name.strip_suffix(".log").and_then(|stem| stem.split_once('-'));
        let parsed = parts.and_then(|(number, day)| Some((number.parse().ok()?, day.parse().ok()?)));
        if let Some((number, day)) = parsed {
            found.push(Segment { number, day, path });
        }
    }
    found.sort_by_key(|segment| segment.number);
    Ok(found)
}

/// Tells `each` every whole line but the first `known`; answers how many there are, and the place of the last one.
///
/// # Errors
/// [`io::Error`], with the file's name.
pub(super) fn read(directory: &Path, known: u64, mut each: impl FnMut(&str)) -> io::Result<(u64, AuditId)> {
    let (mut count, mut last) = (0, AuditId::default());
    for segment in list(directory)? {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", segment.path.display()));
        let mut file = BufReader::with_capacity(256 * 1024, File::open(&segment.path).map_err(named)?);
        let mut line = Vec::new();
        while file.read_until(b'\n', &mut line).map_err(named)? > 0 {
            if line.pop() == Some(b'\n') {
                let text = String::from_utf8_lossy(&line);
                let (id, text) = text.split_once(' ').unwrap_or(("", &text));
                last = id.parse().unwrap_or(last);
                count += 1;
                if count > known {
                    each(text);
                }
            }
            line.clear();
        }
    }
    Ok((count, last))
}

/// Since when the copy in `directory` has everything; `None` where there is no copy.
///
/// # Errors
/// [`io::Error`].
pub(super) fn since(directory: &Path) -> io::Result<Option<Since>> {
    match fs::read_to_string(directory.join(SINCE)) {
        Ok(text) if text.trim() == BEGINNING => Ok(Some(Since::Beginning)),
        Ok(text) => {
            let time = text.trim().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            Ok(Some(Since::Time(time)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Writer {
    /// Makes the directory where there is none. `None`: another process of this machine writes there.
    ///
    /// # Errors
    /// [`io::Error`].
    pub(super) fn open(directory: &Path) -> io::Result<Option<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let lock = private().create(true).truncate(false).open(directory.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let mut writer = Self {
            name: name_of(directory)?,
            directory: directory.to_owned(),
            cursor: AuditId::default(),
            newest: None,
            _lock: lock,
        };
        // An empty one says nothing of where the copy is: the one before it does.
        for segment in list(directory)?.into_iter().rev() {
            let (newest, cursor) = mended(segment)?;
            writer.newest.get_or_insert(newest);
            if let Some(cursor) = cursor {
                writer.cursor = cursor;
                break;
            }
        }
        Ok(Some(writer))
    }

    /// Puts lines on the disk. After an error the writer must be opened anew.
    ///
    /// # Errors
    /// [`io::Error`].
    pub(super) fn append(&mut self, lines: &[(AuditId, String)], today: Date) -> io::Result<()> {
        let Some((last, _)) = lines.last() else { return Ok(()) };
        let is_current = |newest: &&mut Newest| newest.segment.day == today && newest.bytes < SEGMENT_BYTES;
        let number = self.newest.as_ref().map_or(1, |newest| newest.segment.number + 1);
        let newest = match self.newest.as_mut().filter(is_current) {
            Some(newest) => newest,
            None => self.newest.insert(begun(&self.directory, number, today)?),
        };
        let mut text = String::new();
        for (id, line) in lines {
            text.push_str(&format!("{id} {}\n", line.replace('\n', " ")));
        }
        newest.file.write_all(text.as_bytes())?;
        newest.file.sync_data()?;
        newest.bytes += text.len() as u64;
        self.cursor = *last;
        Ok(())
    }

    /// Notes that what is older may be missing.
    ///
    /// # Errors
    /// [`io::Error`].
    pub(super) fn note_since(&self, since: Since) -> io::Result<()> {
        let text = match since {
            Since::Beginning => BEGINNING.to_owned(),
            Since::Time(time) => time.to_string(),
        };
        replace(&self.directory, SINCE, &text)
    }

    /// Removes the segments of days before `oldest`. Answers how many.
    ///
    /// # Errors
    /// [`io::Error`].
    pub(super) fn expire(&self, oldest: Date) -> io::Result<usize> {
        let mut all = list(&self.directory)?;
        all.pop_if(|newest| self.newest.as_ref().is_none_or(|own| own.segment.number == newest.number));
        let old = all.iter().take_while(|segment| segment.day < oldest).count();
        if old > 0 {
            let kept_from = oldest.to_zoned(jiff::tz::TimeZone::UTC).map_err(io::Error::other)?.timestamp();
            let known = since(&self.directory)?.unwrap_or(Since::Beginning);
            self.note_since(known.max(Since::Time(kept_from)))?;
        }
        for segment in all.iter().take(old) {
            fs::remove_file(&segment.path)?;
        }
        Ok(old)
    }
}

/// The newest segment without what a crash has cut off, and the place of its last line.
fn mended(segment: Segment) -> io::Result<(Newest, Option<AuditId>)> {
    let mut file = private().append(true).read(true).open(&segment.path)?;
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        file.set_len(whole as u64)?;
        file.sync_all()?;
    }
    let last = text[..whole].strip_suffix(b"\n").and_then(|text| text.rsplit(|byte| *byte == b'\n').next());
    let id = last.and_then(|line| line.split(|byte| *byte == b' ').next());
    let cursor = id.and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
    Ok((Newest { segment, file, bytes: whole as u64 }, cursor))
}

fn begun(directory: &Path, number: u64, day: Date) -> io::Result<Newest> {
    let path = directory.join(format!("{number:08}-{day}.log"));
    let file = private().append(true).create_new(true).open(&path)?;
    File::open(directory)?.sync_all()?;
    Ok(Newest { segment: Segment { number, day, path }, file, bytes: 0 })
}

/// Drawn once for a directory: it keeps it while the machine's name and the process change.
fn name_of(directory: &Path) -> io::Result<String> {
    match fs::read_to_string(directory.join("copy")) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0; 8];
    openssl::rand::rand_bytes(&mut bytes)?;
    let name = hex(&bytes);
    replace(directory, "copy", &name)?;
    Ok(name)
}

fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let mut draft = tempfile::Builder::new().prefix(".").tempfile_in(directory)?;
    draft.write_all(text.as_bytes())?;
    draft.as_file().sync_all()?;
    draft.persist(directory.join(name)).map_err(|e| e.error)?;
    File::open(directory)?.sync_all()
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    const DAY: Date = date(2026, 11, 28);

    fn line(number: u64) -> (AuditId, String) {
        (AuditId { ms: 1000 + number, number: 0 }, format!("{{\"n\":{number}}}"))
    }

    fn lines(directory: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        read(directory, 0, |line| lines.push(line.to_owned())).unwrap();
        lines
    }

    #[test]
    fn what_a_crash_cut_off_is_written_again() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("audit");
        let mut writer = Writer::open(&directory).unwrap().unwrap();
        let name = writer.name.clone();
        assert!(Writer::open(&directory).unwrap().is_none(), "one writes at a time");
        writer.append(&[line(1), line(2)], DAY).unwrap();
        drop(writer);
        let path = directory.join("00000001-2026-11-28.log");
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut writer = Writer::open(&directory).unwrap().unwrap();
            assert_eq!(writer.name, name);
            let missing: Vec<_> =
                [line(1), line(2)].into_iter().filter(|(id, _)| *id > writer.cursor).collect();
            writer.append(&missing, DAY).unwrap();
            assert_eq!(lines(&directory), [line(1).1, line(2).1], "cut at {cut}");
        }
    }

    #[test]
    fn each_day_has_its_segment_and_old_ones_go() {
        let root = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(root.path()).unwrap().unwrap();
        writer.note_since(Since::Beginning).unwrap();
        for number in 0..4 {
            let day = DAY.checked_add(jiff::Span::new().days(i64::try_from(number).unwrap())).unwrap();
            writer.append(&[line(number)], day).unwrap();
        }
        assert_eq!(writer.expire(DAY).unwrap(), 0);
        assert_eq!(since(root.path()).unwrap(), Some(Since::Beginning));
        assert_eq!(writer.expire(date(2026, 11, 30)).unwrap(), 2);
        assert_eq!(since(root.path()).unwrap(), Some(Since::Time("2026-11-30T00:00:00Z".parse().unwrap())));
        assert_eq!(lines(root.path()), [line(2).1, line(3).1]);
        assert_eq!(
            writer.expire(date(2027, 1, 1)).unwrap(),
            1,
            "the newest stays: it says where the copy is"
        );
        drop(writer);
        assert_eq!(Writer::open(root.path()).unwrap().unwrap().cursor, line(3).0);
    }
}
