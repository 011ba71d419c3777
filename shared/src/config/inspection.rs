//! A configuration with everything that is wrong with it, each with its place.

use super::{
    contradictions::contradictions,
    load::{Config, ConfigError, environment, insert, key_path},
    mistakes::{Mistake, find_mistakes},
    places::{Places, Source},
};
use std::path::Path;

/// What could be read of a configuration, and its mistakes.
pub struct Inspection {
    /// What can't be read is left out, as if nobody had written it.
    pub config: Config,
    pub text: String,
    mistakes: Vec<Mistake>,
    places: Places,
    /// Keys and sections that something is wrong with.
    faulty: Vec<String>,
}

impl Inspection {
    /// Of the file at `path`, and the environment; see [`Config::load`].
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`].
    pub fn of(path: Option<&Path>) -> Result<Self, ConfigError> {
        let text = Config::text_of(path)?;
        Ok(Self::of_text(&text, path.unwrap_or(Path::new(super::DEFAULT_PATH)), &environment()))
    }

    pub(super) fn of_text(text: &str, path: &Path, overrides: &[(String, String)]) -> Self {
        let found = find_mistakes(text, path);
        let (mut mistakes, mut faulty) = (found.mistakes, found.unread);
        let mut table: toml::Table = found.rest.parse().unwrap_or_default();
        for (variable, value) in overrides {
            let mut changed = table.clone();
            insert(&mut changed, variable, value);
            match changed.clone().try_into::<Config>() {
                Ok(_) => table = changed,
                Err(error) => {
                    let key = key_path(variable).join(".");
                    mistakes.push(Mistake::of_key(
                        Source::Environment(variable.clone()),
                        Some(&key),
                        error.message(),
                    ));
                    faulty.push(key);
                }
            }
        }
        let config = table.try_into().unwrap_or_else(|error: toml::de::Error| {
            mistakes.push(Mistake::new(Source::File(path.into(), 1), error.message()));
            Config::default()
        });
        let places = Places::of(text, path, overrides);
        let mut inspection = Self { config, text: text.to_owned(), mistakes, places, faulty };
        for contradiction in contradictions(&inspection.config) {
            // What seems to be missing may be what could not be read.
            if !contradiction.lacks || inspection.is_sound(section_of(&contradiction.key)) {
                inspection.add(&contradiction.key, &contradiction.message);
            }
        }
        inspection
    }

    /// Adds a mistake that whoever uses the value has found.
    pub fn add(&mut self, key: &str, message: &str) {
        let mistake = Mistake::new(self.places.source(key), message);
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
        self.faulty.push(key.to_owned());
    }

    /// Whether nothing is wrong with a key or with what is below it.
    pub fn is_sound(&self, key: &str) -> bool {
        let is_below =
            |one: &str, other: &str| one.strip_prefix(other).is_some_and(|rest| rest.starts_with(['.']));
        let key = key.replace('-', "_");
        self.faulty
            .iter()
            .map(|faulty| faulty.replace('-', "_"))
            .all(|faulty| faulty != key && !is_below(&faulty, &key) && !is_below(&key, &faulty))
    }

    /// The configuration, where nothing is wrong with it.
    ///
    /// # Errors
    /// [`ConfigError::Mistakes`], all of them in the order of their places.
    pub fn finish(mut self) -> Result<Config, ConfigError> {
        if self.mistakes.is_empty() {
            return Ok(self.config);
        }
        self.mistakes.sort();
        Err(ConfigError::Mistakes(self.mistakes))
    }
}

/// `ca.NAME` of `ca.NAME.directory`, `notify` of `notify.to`.
fn section_of(key: &str) -> &str {
    let parts = if key.starts_with("ca.") || key.starts_with("dns.") { 2 } else { 1 };
    key.match_indices('.').nth(parts - 1).map_or(key, |(at, _)| &key[..at])
}
