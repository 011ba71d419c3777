//! A file of wishes, read as a stream: a hundred thousand sites cost the memory of one.
//!
//! Two forms. TOML: `[[site]]` tables, and `[defaults]` before them for what most have in common. NDJSON: a site on each
//! line. Which it is shows by its first character that is no comment.

use super::wish::SiteWish;
use serde_json::{Map, Value};
use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

const MAX_LINE_BYTES: usize = 1 << 20;

/// A wish, and the line of the file that it begins on.
#[derive(Debug)]
pub struct Line {
    pub number: usize,
    pub wish: SiteWish,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path} can't be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("line {line}: {message}")]
    Line { line: usize, message: String },
}

/// Wishes in a file, one after the other.
pub struct WishFile {
    path: PathBuf,
    lines: io::Lines<BufReader<File>>,
    number: usize,
    form: Form,
    /// The line that was read too far: it begins the next table.
    pending: Option<String>,
    defaults: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Unknown,
    Toml,
    Ndjson,
}

impl WishFile {
    /// # Errors
    /// [`FileError::Unreadable`].
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let unreadable = |source: io::Error| FileError::Unreadable { path: path.into(), source };
        let file = File::open(path).map_err(unreadable)?;
        Ok(Self {
            path: path.into(),
            lines: BufReader::with_capacity(1 << 16, file).lines(),
            number: 0,
            form: Form::Unknown,
            pending: None,
            defaults: Map::new(),
        })
    }

    fn read_line(&mut self) -> Result<Option<String>, FileError> {
        if let Some(pending) = self.pending.take() {
            return Ok(Some(pending));
        }
        let Some(line) = self.lines.next() else { return Ok(None) };
        let line = line.map_err(|source| FileError::Unreadable { path: self.path.clone(), source })?;
        self.number += 1;
        if line.len() > MAX_LINE_BYTES {
            return Err(self.wrong(self.number, format!("longer than {MAX_LINE_BYTES} bytes")));
        }
        Ok(Some(line))
    }

    fn read(&mut self) -> Result<Option<Line>, FileError> {
        loop {
            let Some(line) = self.read_line()? else { return Ok(None) };
            let text = line.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            if self.form == Form::Unknown {
                self.form = if text.starts_with('{') { Form::Ndjson } else { Form::Toml };
            }
            let found = match self.form {
                Form::Ndjson => Some(self.of_json(text)?),
                _ => self.of_table(line)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn of_json(&self, text: &str) -> Result<Line, FileError> {
        let wish = serde_json::from_str(text).map_err(|e| self.wrong(self.number, e.to_string()))?;
        Ok(Line { number: self.number, wish })
    }

    /// A table from its heading to the line before the next one. `None` for `[defaults]`.
    fn of_table(&mut self, heading: String) -> Result<Option<Line>, FileError> {
        let number = self.number;
        let name = heading.split('#').next().unwrap_or_default().trim().to_owned();
        let mut text = String::new();
        while let Some(line) = self.read_line()? {
            if line.trim_start().starts_with('[') && !line.trim_start().starts_with("[site.") {
                self.pending = Some(line);
                break;
            }
            text.push_str(&line.replacen(
                "[site.",
                "[",
                usize::from(line.trim_start().starts_with("[site.")),
            ));
            text.push('\n');
        }
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line =
                e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            self.wrong(number + line, e.message().to_owned())
        })?;
        let table = serde_json::to_value(table).map_err(|e| self.wrong(number, e.to_string()))?;
        let Value::Object(mut table) = table else { return Err(self.wrong(number, "no table".to_owned())) };
        match name.as_str() {
            "[defaults]" => {
                let mut probe = table.clone();
                probe.insert("names".to_owned(), Value::Array(Vec::new()));
                let probed: Result<SiteWish, _> = serde_json::from_value(Value::Object(probe));
                probed.map_err(|e| self.wrong(number, e.to_string()))?;
                self.defaults = table;
                Ok(None)
            }
            "[[site]]" => {
                for (key, value) in &self.defaults {
                    table.entry(key.clone()).or_insert_with(|| value.clone());
                }
                let wish = serde_json::from_value(Value::Object(table))
                    .map_err(|e| self.wrong(number, e.to_string()))?;
                Ok(Some(Line { number, wish }))
            }
            other => Err(self.wrong(number, format!("expected [[site]] or [defaults], found {other:?}"))),
        }
    }

    fn wrong(&self, line: usize, message: String) -> FileError {
        FileError::Line { line, message }
    }
}

impl Iterator for WishFile {
    type Item = Result<Line, FileError>;
    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Line>, FileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        WishFile::open(file.path()).unwrap().collect()
    }

    #[test]
    fn both_forms_say_the_same() {
        let toml = "# sites\n[defaults]\ntags = [\"eu\"]\n\n[[site]]\nnames = [\"a.example.com\"]\n[[site]] # second\nnames = [\n  \"b.example.com\",\n]\nsan = \"grouped\"\n[site.hsts]\nmax_age_seconds = 60\n";
        let json = "{\"names\":[\"a.example.com\"],\"tags\":[\"eu\"]}\n\n{\"names\":[\"b.example.com\"],\"tags\":[\"eu\"],\"san\":\"grouped\",\"hsts\":{\"max_age_seconds\":60}}\n";
        let (toml, json) = (read(toml).unwrap(), read(json).unwrap());
        assert_eq!((toml[0].number, toml[1].number, json[1].number), (5, 7, 3));
        let wishes = |lines: Vec<Line>| lines.into_iter().map(|line| line.wish).collect::<Vec<_>>();
        assert_eq!(wishes(toml), wishes(json));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, expected) in [
            ("[[site]]\nnames = [\"a.example.com\"]\ntgas = []\n", 1, "unknown field `tgas`"),
            ("[[site]]\nnames = [\"a.example.com\"\n\n[[site]]\n", 2, ""),
            ("{\"names\":[\"a.example.com\"]}\n{\"names\":1}\n", 2, "invalid type"),
            ("names = []\n", 1, "expected [[site]]"),
            ("[defaults]\nsan = \"x\"\n", 1, "unknown variant"),
        ] {
            match read(text) {
                Err(FileError::Line { line: found, message }) => {
                    assert!(message.contains(expected), "{message}");
                    assert!(found.abs_diff(line) <= 1, "line {found} instead of {line}: {message}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }
}
