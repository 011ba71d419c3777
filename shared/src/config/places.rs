//! Where each value was written.

use super::load::key_path;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    File(PathBuf, usize),
    Environment(String),
}

/// The places of all keys.
pub(super) struct Places {
    path: PathBuf,
    lines: BTreeMap<String, usize>,
    /// By key, with `_` for `-`.
    variables: BTreeMap<String, String>,
}

impl Places {
    pub(super) fn of(text: &str, path: &Path, overrides: &[(String, String)]) -> Self {
        let variables = overrides.iter().map(|(name, _)| (key_path(name).join("."), name.clone())).collect();
        Self { path: path.to_owned(), lines: lines_of_keys(text), variables }
    }

    /// Where a key was written, or the section that it is in.
    pub(super) fn source(&self, key: &str) -> Source {
        let plain = key.replace('-', "_");
        if let Some(variable) = self.variables.get(&plain) {
            return Source::Environment(variable.clone());
        }
        let mut part = key;
        loop {
            if let Some(line) = self.lines.get(part) {
                return Source::File(self.path.clone(), *line);
            }
            // The first key of a section that has no heading of its own.
            let below = |key: &String| key.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
            if let Some((_, line)) = self.lines.iter().find(|(key, _)| below(key)) {
                return Source::File(self.path.clone(), *line);
            }
            let written = part.replace('-', "_");
            let of_part =
                |key: &&String| key.strip_prefix(&written).is_some_and(|rest| rest.starts_with('.'));
            if let Some(key) = self.variables.keys().find(of_part) {
                return Source::Environment(self.variables[key].clone());
            }
            match part.rsplit_once('.') {
                Some((outer, _)) => part = outer,
                None => return Source::File(self.path.clone(), 1),
            }
        }
    }
}

/// The heading of a section, without its brackets.
fn heading(line: &str) -> Option<String> {
    let inner = line.trim().strip_prefix('[')?.split(']').next()?;
    Some(inner.trim_matches('[').replace(['"', ' '], ""))
}

/// Where each key stands, and each heading, from 1.
pub(super) fn lines_of_keys(text: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    each_key(text, |key, line| {
        found.entry(key).or_insert(line);
    });
    found
}

/// The key whose value the line from 1 belongs to; `None` for a heading.
pub(super) fn key_of_line(text: &str, wanted: usize) -> Option<String> {
    let mut last = None;
    each_key(text, |key, line| {
        if line <= wanted {
            last = Some((key, line));
        }
    });
    let (key, line) = last?;
    let is_heading = text.lines().nth(line - 1).is_some_and(|text| text.trim_start().starts_with('['));
    (!is_heading).then_some(key)
}

fn each_key(text: &str, mut of_key: impl FnMut(String, usize)) {
    let mut section = String::new();
    // Inside of an array that goes over several lines.
    let mut open = 0;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let was_open = open > 0;
        open = (open + brackets(line)).max(0);
        if was_open || line.starts_with('#') {
            continue;
        }
        if let Some(name) = heading(line) {
            open = 0;
            section = name;
            of_key(section.clone(), number + 1);
        } else if let Some((key, _)) = line.split_once('=') {
            let key = key.trim().trim_matches('"');
            let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
            of_key(path, number + 1);
        }
    }
}

/// How many brackets a line opens that it doesn't close.
pub(super) fn brackets(line: &str) -> i64 {
    let mut depth = 0;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '#') => break,
            (None, '[') => depth += 1,
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    depth
}
