//! Every mistake in a file, each with its line and, for a misspelt key, what was probably meant.

use super::{
    Config,
    places::{Source, brackets, key_of_line, lines_of_keys},
};
use std::{fmt, path::Path};

/// More are not worth showing at once.
const MOST: usize = 50;

/// One mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    source: Source,
    message: String,
}

/// Mistakes that the parser finds.
pub(super) struct Found {
    pub(super) mistakes: Vec<Mistake>,
    /// The text without what could not be read.
    pub(super) rest: String,
    /// Keys and sections that it lacks because of that.
    pub(super) unread: Vec<String>,
}

impl Mistake {
    /// The same, with the key whose value is wrong where the message names none.
    pub(super) fn of_key(source: Source, key: Option<&str>, message: &str) -> Self {
        let message = message.trim();
        match key.filter(|key| !message.starts_with("unknown field") && !message.contains(key)) {
            Some(key) => Self::new(source, &format!("{key}: {}", in_words(message))),
            None => Self::new(source, &in_words(message)),
        }
    }

    /// `message` as the parser wrote it; a suggestion is added where it names an unknown key.
    pub(super) fn new(source: Source, message: &str) -> Self {
        let message = message.trim().replace('\n', " ");
        Self { source, message: with_suggestion(&message) }
    }
}

/// What a parser wrote; where it names an unknown key, what was probably meant is said in the place of all that there are.
pub fn with_suggestion(message: &str) -> String {
    match suggestion(message) {
        Some(meant) => {
            let head =
                message.split(", expected").next().unwrap_or(message).replace("unknown field", "unknown key");
            format!("{head}: did you mean `{meant}`?")
        }
        None => message.replace("unknown field", "unknown key"),
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::File(path, line) => write!(f, "{}:{line}: {}", path.display(), self.message),
            Source::Environment(variable) => write!(f, "{variable}: {}", self.message),
        }
    }
}

/// Parses again and again, each time without the place that was wrong.
pub(super) fn find_mistakes(text: &str, path: &Path) -> Found {
    let mut found = Found { mistakes: Vec::new(), rest: text.to_owned(), unread: Vec::new() };
    let keys = lines_of_keys(text);
    while let Err(error) = toml::from_str::<Config>(&found.rest) {
        let at = error.span().map_or(0, |span| span.start.min(found.rest.len()));
        let line = found.rest[..at].matches('\n').count();
        let key = key_of_line(&found.rest, line + 1);
        // Where the text is no TOML, no key is to blame.
        let of_value = found.rest.parse::<toml::Table>().is_ok();
        let source = Source::File(path.into(), line + 1);
        found.mistakes.push(Mistake::of_key(source, key.as_deref().filter(|_| of_value), error.message()));
        let on_line = keys.iter().filter(|(_, number)| **number == line + 1);
        found.unread.extend(on_line.map(|(key, _)| key.clone()).chain(key));
        if found.mistakes.len() >= MOST || !blank(&mut found.rest, line) {
            break;
        }
    }
    found
}

/// Blanks a line with the array that it opens; a section's heading together with its section. False when nothing was left to
/// blank.
fn blank(text: &mut String, line: usize) -> bool {
    let is_heading = |line: &str| line.trim_start().starts_with('[');
    let (mut section, mut changed, mut open) = (false, false, 0);
    let kept: Vec<&str> = text
        .lines()
        .enumerate()
        .map(|(number, content)| {
            if number == line {
                section = is_heading(content);
                changed = !content.trim().is_empty();
                open = if section || !content.contains('=') { 0 } else { brackets(content) };
                return "";
            }
            if number > line && open > 0 {
                open += brackets(content);
                return "";
            }
            if number > line && section {
                if is_heading(content) {
                    section = false;
                } else {
                    return "";
                }
            }
            content
        })
        .collect();
    *text = kept.join("\n");
    changed
}

/// What the parser expected, for people.
fn in_words(message: &str) -> String {
    let mut message = message.to_owned();
    for (of_parser, words) in [
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected u32", "expected a whole number, 0 or more"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("expected a sequence", "expected a list: [\"...\"]"),
        (
            "invalid socket address syntax",
            "expected an address with a port, such as 127.0.0.1:9080 or [::]:80",
        ),
        ("invalid IP address syntax", "expected an address, such as 192.0.2.1 or 2001:db8::1"),
    ] {
        message = message.replace(of_parser, words);
    }
    message
}

/// The known key nearest to the unknown one that the parser's message names.
fn suggestion(message: &str) -> Option<String> {
    // After the key, where it is named.
    let at = message.find("unknown field `").or_else(|| message.find("unknown variant `"))?;
    let mut quoted = message[at..].split('`');
    quoted.next();
    let unknown = quoted.next()?;
    quoted
        .skip(1)
        .step_by(2)
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3).max(1))
        .min()
        .map(|(_, known)| known.to_owned())
}
