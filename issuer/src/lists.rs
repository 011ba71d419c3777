//! Text files of names and of sites, as people and programs write them: from Windows or not, with comments, from a pipe.
//!
//! What is read is kept in a file of our own: a pipe can be read once, and a file may change while it is gone through.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// More than the sites of any fleet: a source without an end is noticed before the disk is full.
const MOST_BYTES: u64 = 1 << 30;
const MOST_BYTES_OF_LINE: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A text that was read once and can be gone through any number of times.
#[derive(Clone, Debug)]
pub struct TextFile {
    /// Where it comes from, for messages.
    path: PathBuf,
    kept: Arc<File>,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{} can't be read", shown(.path))]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds more than {MOST_BYTES} bytes", shown(.0))]
    TooLarge(PathBuf),
    #[error("line {line}: {message}")]
    Line { line: usize, message: String },
    /// Nothing after it is read.
    #[error("line {line}: {message}")]
    Form { line: usize, message: String },
}

/// A line with its number, from 1, without its end.
#[derive(Debug, PartialEq, Eq)]
pub struct TextLine {
    pub number: usize,
    pub text: String,
}

/// The lines of a [`TextFile`]. One that can't be read is an error, and the next one follows.
pub struct TextLines {
    reader: BufReader<FromStart>,
    path: PathBuf,
    number: usize,
    ended: bool,
}

/// Reads a file from its start, whoever else reads it.
struct FromStart {
    file: Arc<File>,
    offset: u64,
}

impl TextFile {
    /// Reads a file, a pipe or, as `-`, standard input to its end.
    ///
    /// # Errors
    /// [`FileError::Unreadable`], [`FileError::TooLarge`].
    pub async fn read(path: &Path) -> Result<Self, FileError> {
        let (done, kept) = tokio::sync::oneshot::channel();
        let from = path.to_owned();
        // A thread that nobody waits for at the end: who writes into the pipe may never come, and Ctrl-C must end us.
        std::thread::spawn(move || done.send(keep(&from)));
        let gone = || FileError::Unreadable { path: path.to_owned(), source: io::Error::other("not read") };
        kept.await.map_err(|_| gone())?
    }

    /// What is ours already.
    pub fn of(file: File) -> Self {
        Self { path: PathBuf::from("the file"), kept: Arc::new(file) }
    }

    pub fn lines(&self) -> TextLines {
        let reader = FromStart { file: Arc::clone(&self.kept), offset: 0 };
        let reader = BufReader::with_capacity(1 << 16, reader);
        TextLines { reader, path: self.path.clone(), number: 0, ended: false }
    }

    /// The words of a list of names: one on each line or several with white space in between; `#` begins a comment. Each
    /// once, in their order.
    ///
    /// # Errors
    /// Every line that can't be read.
    pub fn words(&self) -> Result<Vec<String>, Vec<FileError>> {
        let (mut words, mut wrong) = (Vec::new(), Vec::new());
        let mut known = std::collections::HashSet::new();
        for line in self.lines() {
            match line {
                Ok(line) => {
                    let of_line = line.text.split_whitespace().take_while(|word| !word.starts_with('#'));
                    words.extend(of_line.filter(|word| known.insert((*word).to_owned())).map(str::to_owned));
                }
                Err(error) => wrong.push(error),
            }
        }
        if wrong.is_empty() { Ok(words) } else { Err(wrong) }
    }
}

fn keep(path: &Path) -> Result<TextFile, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let mut source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    let mut kept = tempfile::tempfile().map_err(unreadable)?;
    let length = io::copy(&mut source.by_ref().take(MOST_BYTES + 1), &mut kept).map_err(unreadable)?;
    if length > MOST_BYTES {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    Ok(TextFile { path: path.to_owned(), kept: Arc::new(kept) })
}

fn shown(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

impl Read for FromStart {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(into, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl TextLines {
    fn next_line(&mut self) -> Result<Option<TextLine>, FileError> {
        let mut bytes = Vec::new();
        let unreadable = |source| FileError::Unreadable { path: self.path.clone(), source };
        let most = MOST_BYTES_OF_LINE as u64 + 2;
        self.reader.by_ref().take(most).read_until(b'\n', &mut bytes).map_err(unreadable)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let line = self.number;
        if bytes.len() as u64 == most && bytes.last() != Some(&b'\n') {
            self.reader.skip_until(b'\n').map_err(unreadable)?;
            let message = format!("longer than {MOST_BYTES_OF_LINE} bytes");
            return Err(FileError::Line { line, message });
        }
        if line == 1 && (bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")) {
            let message = "the file is UTF-16: save it as UTF-8".to_owned();
            return Err(FileError::Form { line, message });
        }
        let mut text = bytes.as_slice();
        if line == 1 {
            text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        }
        text = text.strip_suffix(b"\n").unwrap_or(text);
        text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.contains(&0) {
            return Err(FileError::Line { line, message: "a NUL byte: this is no text".to_owned() });
        }
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Some(TextLine { number: line, text: text.to_owned() })),
            Err(error) => {
                let message = format!("not UTF-8 from its byte {} on", error.valid_up_to() + 1);
                Err(FileError::Line { line, message })
            }
        }
    }
}

impl Iterator for TextLines {
    type Item = Result<TextLine, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_line();
        self.ended = !matches!(next, Ok(Some(_)) | Err(FileError::Line { .. }));
        next.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn of(bytes: &[u8]) -> TextFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        TextFile::of(file)
    }

    #[test]
    fn names_are_read_however_they_were_written() {
        let text = "\u{feff}# ours\r\na.example\r\n\tb.example\t # second\r\n\r\nc.example d.example\na.example\nhttps://e.example/#top";
        let words = of(text.as_bytes()).words().unwrap();
        assert_eq!(words, ["a.example", "b.example", "c.example", "d.example", "https://e.example/#top"]);
        assert!(of(b"").words().unwrap().is_empty() && of(b"# none\n\n \t\n").words().unwrap().is_empty());
    }

    #[test]
    fn every_line_that_cannot_be_read_is_named_and_the_others_follow() {
        let long = vec![b'a'; MOST_BYTES_OF_LINE + 10];
        let text = [b"a.example\n\xff\n".as_slice(), &long, b"\nb\0.example\nc.example\n"].concat();
        let wrong: Vec<String> = of(&text).words().unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        for (error, expected) in wrong.iter().zip(["line 2: not UTF-8", "line 3: longer", "line 4: a NUL"]) {
            assert!(error.starts_with(expected), "{error}");
        }
        let last = of(&text).lines().last().unwrap().unwrap();
        assert_eq!(last, TextLine { number: 5, text: "c.example".to_owned() });
        let utf16 = of(b"\xff\xfea\0.\0b\0\n\0").words().unwrap_err();
        assert!(utf16.len() == 1 && utf16[0].to_string().contains("UTF-16"), "{utf16:?}");
    }

    #[tokio::test]
    async fn what_was_read_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, "a.example\n").unwrap();
        let file = TextFile::read(&path).await.unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(
            (file.words().unwrap(), file.words().unwrap()),
            (vec!["a.example".into()], vec!["a.example".into()])
        );
        let missing = TextFile::read(&folder.path().join("none")).await.unwrap_err();
        assert!(missing.to_string().contains("none can't be read"), "{missing}");
        assert!(TextFile::read(folder.path()).await.is_err(), "a folder is no file");
    }
}
