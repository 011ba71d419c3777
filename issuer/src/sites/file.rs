//! A file of wishes, read as a stream: a hundred thousand sites cost the memory of one.
//!
//! Two forms. TOML: `[[site]]` tables, and `[defaults]` before them for what most have in common. NDJSON: a site on each
//! line. Which it is shows by its first character that is no comment.

use super::wish::SiteWish;
use crate::lists::{FileError, TextFile, TextLine, TextLines};
use serde_json::{Map, Value};
use shared::{config::with_suggestion, domain::DnsName};

const EXPECTED: &str = "expected is TOML with a table [[site]] for each site, or NDJSON with a site on each line, such as {\"names\":[\"shop.example.com\"]}";
const EXAMPLE: &str = "{\"names\":[\"shop.example.com\"]}";
/// Characters of a line that are shown where it is no site.
const SHOWN: usize = 60;

/// A wish, and the line of the file that it begins on.
#[derive(Debug)]
pub struct Line {
    pub number: usize,
    pub wish: SiteWish,
}

/// Wishes in a file, one after the other.
pub struct WishFile {
    lines: TextLines,
    form: Form,
    /// The line that was read too far: it begins the next table.
    pending: Option<TextLine>,
    defaults: Map<String, Value>,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Unknown,
    Toml,
    Ndjson,
}

impl WishFile {
    pub fn of(file: &TextFile) -> Self {
        Self { lines: file.lines(), form: Form::Unknown, pending: None, defaults: Map::new(), ended: false }
    }

    fn read_line(&mut self) -> Result<Option<TextLine>, FileError> {
        match self.pending.take() {
            Some(pending) => Ok(Some(pending)),
            None => self.lines.next().transpose(),
        }
    }

    fn read(&mut self) -> Result<Option<Line>, FileError> {
        loop {
            let Some(line) = self.read_line()? else { return Ok(None) };
            let text = line.text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            if self.form == Form::Unknown {
                self.form = form_of(&line)?;
            }
            let found = match self.form {
                Form::Ndjson => Some(of_json(line.number, text)?),
                _ => self.of_table(&line)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// A table from its heading to the line before the next one. `None` for `[defaults]`.
    fn of_table(&mut self, heading: &TextLine) -> Result<Option<Line>, FileError> {
        let number = heading.number;
        let name = heading.text.split('#').next().unwrap_or_default();
        let name: String = name.chars().filter(|c| !c.is_whitespace()).collect();
        let mut text = String::new();
        let mut unread = None;
        loop {
            let line = match self.read_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                // The rest of the table is gone through, so that the next one is found.
                Err(error @ FileError::Line { .. }) => {
                    unread.get_or_insert(error);
                    text.push('\n');
                    continue;
                }
                Err(error) => return Err(error),
            };
            let begun = line.text.trim_start();
            let below = ["[site.", "[defaults."].into_iter().find(|below| begun.starts_with(below));
            match below {
                Some(below) => text.push_str(&begun.replacen(below, "[", 1)),
                None if begun.starts_with('[') => {
                    self.pending = Some(line);
                    break;
                }
                None => text.push_str(&line.text),
            }
            text.push('\n');
        }
        if let Some(error) = unread {
            return Err(error);
        }
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line =
                e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            wrong(number + line, e.message().to_owned())
        })?;
        let table = serde_json::to_value(table).map_err(|e| wrong(number, e.to_string()))?;
        let Value::Object(mut table) = table else { return Err(wrong(number, "no table".to_owned())) };
        match name.as_str() {
            "[defaults]" => {
                let mut probe = table.clone();
                probe.insert("names".to_owned(), Value::Array(Vec::new()));
                let probed: Result<SiteWish, _> = serde_json::from_value(Value::Object(probe));
                probed.map_err(|e| wrong(number, in_words(&e)))?;
                self.defaults = table;
                Ok(None)
            }
            "[[site]]" => {
                for (key, value) in &self.defaults {
                    table.entry(key.clone()).or_insert_with(|| value.clone());
                }
                let wish =
                    serde_json::from_value(Value::Object(table)).map_err(|e| wrong(number, in_words(&e)))?;
                Ok(Some(Line { number, wish }))
            }
            other => Err(wrong(number, format!("expected [[site]] or [defaults], found {other:?}"))),
        }
    }
}

fn of_json(number: usize, text: &str) -> Result<Line, FileError> {
    if !text.starts_with('{') {
        let shown: String = text.chars().take(SHOWN).collect();
        let message = format!("{shown:?} is no site: expected is one on each line, such as {EXAMPLE}");
        return Err(wrong(number, message));
    }
    let wish = serde_json::from_str(text).map_err(|e| wrong(number, in_words(&e)))?;
    Ok(Line { number, wish })
}

/// What is wrong with a JSON text, with what was probably meant. Of a text on one line the column alone tells where.
pub(crate) fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (text.rsplit_once(" at line "), error.line()) {
        (Some((message, _)), 0 | 1) => format!("{} (column {})", with_suggestion(message), error.column()),
        (Some((message, place)), _) => format!("{} at line {place}", with_suggestion(message)),
        (None, _) => with_suggestion(&text),
    }
}

fn wrong(line: usize, message: String) -> FileError {
    FileError::Line { line, message }
}

/// By the first line that says something; what is neither of the two is told once, with what it seems to be.
fn form_of(line: &TextLine) -> Result<Form, FileError> {
    let text = line.text.trim();
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    let seems = if let Some(rest) = text.strip_prefix('[') {
        if rest.starts_with('[') || rest.trim_start().starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Ok(Form::Toml);
        }
        "a JSON array: `jq -c '.[]'` makes lines of it"
    } else if text == "{" {
        "a JSON document over several lines: `jq -c .` makes one line of it"
    } else if text.starts_with('{') {
        return Ok(Form::Ndjson);
    } else if text.split_once('=').is_some_and(|(key, _)| is_word(key.trim())) {
        return Ok(Form::Toml);
    } else if text.contains([',', ';', '\t']) {
        "CSV"
    } else if text.split_whitespace().all(|word| DnsName::parse_identifier(word).is_ok()) {
        "a plain list of names"
    } else {
        "neither"
    };
    let shown: String = text.chars().take(SHOWN).collect();
    let message = format!("{shown:?} is no site: {EXPECTED}; this seems to be {seems}");
    Err(FileError::Form { line: line.number, message })
}

impl Iterator for WishFile {
    type Item = Result<Line, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read();
        self.ended = !matches!(next, Ok(Some(_)) | Err(FileError::Line { .. }));
        next.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text_file(bytes: &[u8]) -> TextFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        TextFile::of(file)
    }

    fn read(text: &str) -> Result<Vec<Line>, FileError> {
        WishFile::of(&text_file(text.as_bytes())).collect()
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
            (
                "[[site]]\nnames = [\"a.example.com\"]\ntgas = []\n",
                1,
                "unknown key `tgas`: did you mean `tags`?",
            ),
            ("[[site]]\nnames = [\"a.example.com\"\n\n[[site]]\n", 2, ""),
            ("{\"names\":[\"a.example.com\"]}\n{\"names\":1}\n", 2, "invalid type"),
            ("{\"names\":[]}\nshop.example.com\n", 2, "\"shop.example.com\" is no site"),
            ("{\"names\":[]}\n{\"keytypes\":[]}\n", 2, "did you mean `key_types`? (column 11)"),
            ("{\"name\":[]}\n", 1, "did you mean `names`?"),
            ("{\"names\":[],\"hsts\":\"yes\"}\n", 1, "expected true, false or a table"),
            ("{\"names\":[],\"hsts\":{\"max_age\":1}}\n", 1, "unknown key `max_age`"),
            ("[[site]]\nnames = []\nhsts = \"yes\"\n", 1, "expected true, false or a table"),
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

    #[test]
    fn a_file_from_another_system_says_the_same() {
        let unix = "[defaults]\ntags = [\"eu\"]\n[defaults.hsts]\nmax_age_seconds = 60\n\n[[ site ]]\nnames = [\"a.example.com\"]\n";
        let windows = format!("\u{feff}{}", unix.replace('\n', "\r\n"));
        let wishes = |text: &str| read(text).unwrap().into_iter().map(|line| line.wish).collect::<Vec<_>>();
        assert_eq!(wishes(unix), wishes(&windows));
        assert!(wishes(unix)[0].hsts.is_some());
        let json = "{\"names\":[\"a.example.com\"]}\t\n";
        assert_eq!(wishes(json), wishes(&format!("\u{feff}# ours\r\n{}", json.replace('\n', "\r\n"))));
    }

    #[test]
    fn what_is_no_file_of_sites_is_told_once_with_what_is_expected() {
        for (text, seems) in [
            ("a.example.com\nb.example.com\n", "a plain list"),
            ("name,tag\na.example.com,eu\n", "CSV"),
            ("a.example.com;eu\n", "CSV"),
            ("a.example.com\teu\n", "CSV"),
            ("[{\"names\":[\"a.example.com\"]}]\n", "a JSON array"),
            ("[\n  {\"names\":[\"a.example.com\"]}\n]\n", "a JSON array"),
            ("{\n  \"names\": [\"a.example.com\"]\n}\n", "over several lines"),
            ("sites:\n- a.example.com\n", "neither"),
        ] {
            let told: Vec<_> = WishFile::of(&text_file(text.as_bytes())).collect();
            assert_eq!(told.len(), 1, "{text:?}");
            let error = told.into_iter().next().unwrap().unwrap_err().to_string();
            assert!(
                error.starts_with("line 1: ") && error.contains("[[site]]") && error.contains(seems),
                "{error}"
            );
        }
    }

    #[test]
    fn every_wrong_line_is_found() {
        let text = b"{\"names\":1}\n\xff\n{\"names\":[\"a.example.com\"]}\n{\n";
        let found: Vec<bool> = WishFile::of(&text_file(text)).map(|line| line.is_ok()).collect();
        assert_eq!(found, [false, false, true, false]);
        let text = b"[[site]]\nnames = 1\n[[site]]\n# \xff\n[[site]]\nnames = [\"a.example.com\"]\n[x]\n";
        let found: Vec<bool> = WishFile::of(&text_file(text)).map(|line| line.is_ok()).collect();
        assert_eq!(found, [false, false, true, false]);
    }
}
