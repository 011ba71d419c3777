//! Every mistake in a file, each with its line and, for a misspelt key, what was probably meant.

use super::Config;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// More are not worth showing at once.
const MOST: usize = 50;

/// One mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    source: Source,
    message: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf, usize),
    Environment(String),
}

impl Mistake {
    /// `message` as the parser wrote it; a suggestion is added where it names an unknown key.
    pub(super) fn new(source: Source, message: &str) -> Self {
        let message = message.trim().replace('\n', " ");
        let message = match suggestion(&message) {
            Some(meant) => {
                let head = message
                    .split(", expected")
                    .next()
                    .unwrap_or(&message)
                    .replace("unknown field", "unknown key");
                format!("{head}: did you mean `{meant}`?")
            }
            None => message.replace("unknown field", "unknown key"),
        };
        Self { source, message }
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
pub(super) fn find_mistakes(text: &str, path: &Path) -> Vec<Mistake> {
    let mut rest = text.to_owned();
    let mut found = Vec::new();
    while let Err(error) = toml::from_str::<Config>(&rest) {
        let at = error.span().map_or(0, |span| span.start.min(rest.len()));
        let line = rest[..at].matches('\n').count();
        found.push(Mistake::new(Source::File(path.into(), line + 1), error.message()));
        if found.len() >= MOST || !blank(&mut rest, line) {
            break;
        }
    }
    found
}

/// Blanks a line; a section's heading together with its section. False when nothing was left to blank.
fn blank(text: &mut String, line: usize) -> bool {
    let is_heading = |line: &str| line.trim_start().starts_with('[');
    let mut section = false;
    let mut changed = false;
    let kept: Vec<&str> = text
        .lines()
        .enumerate()
        .map(|(number, content)| {
            if number == line {
                section = is_heading(content);
                changed = !content.trim().is_empty();
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

/// The known key nearest to the unknown one that the parser's message names.
fn suggestion(message: &str) -> Option<String> {
    let mut quoted = message
        .strip_prefix("unknown field ")
        .or_else(|| message.strip_prefix("unknown variant "))?
        .split('`');
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
