//! The whole file, before the store is asked: its form, its names, and that no name stands twice.

use super::{
    file::{Line, WishFile},
    plan::{PlanError, SiteFile},
    registry::Registry,
    wish::WishError,
};
use crate::lists::FileError;
use shared::domain::{DnsName, NameSet};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

/// The digest of each name in a file, and the line that it stands on.
pub(super) type Names = HashMap<u64, usize>;

/// Everything that is wrong with a file by itself, or the names in it.
pub(super) fn check(registry: &Registry, file: &SiteFile) -> Result<Names, PlanError> {
    let mut shown = Vec::new();
    let mut more = 0;
    // Digests, so that a million names cost some megabytes; of two names with one digest the second is called a repetition,
    // once in ten million files of a million names.
    let mut seen = Names::new();
    let mut mistake = |text: String| {
        if shown.len() < file.listed.max(1) { shown.push(text) } else { more += 1 }
    };
    for line in WishFile::of(&file.file) {
        let line = match line {
            Ok(line) => line,
            Err(error @ (FileError::Line { .. } | FileError::Form { .. })) => {
                mistake(error.to_string());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match names_of(registry, &line) {
            Ok(names) => {
                for name in names.iter() {
                    if let Some(before) = seen.insert(digest(name), line.number) {
                        mistake(format!(
                            "line {}: {} stands on line {before} already",
                            line.number,
                            name.to_unicode()
                        ));
                    }
                }
            }
            Err(errors) => {
                errors.each().iter().for_each(|error| mistake(format!("line {}: {error}", line.number)));
            }
        }
    }
    if shown.is_empty() { Ok(seen) } else { Err(PlanError::Mistakes { shown, more }) }
}

/// Everything that can be wrong with a line by itself, or its names.
pub(super) fn names_of(registry: &Registry, line: &Line) -> Result<NameSet, WishError> {
    line.wish.check(None, &registry.config, &registry.suffixes()).map(|(names, _)| names)
}

pub(super) fn digest(name: &DnsName) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.as_str().hash(&mut hasher);
    hasher.finish()
}
