//! From a file and the environment to values.

use super::{
    agent::Agent,
    dns::Dns,
    mistakes::{Mistake, Source, find_mistakes},
    sections::{Audit, Ca, Certificates, Challenge, Frontends, Issuer, Notify, StoreSection, Telemetry},
    sightings::Sightings,
    store_url::StoreUrl,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// Where the file is looked for when none is named.
pub const DEFAULT_PATH: &str = "/etc/signpost/signpost.toml";
const PREFIX: &str = "SIGNPOST_";

/// Everything that can be configured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub store: StoreSection,
    pub ca: BTreeMap<String, Ca>,
    pub issuer: Issuer,
    pub challenge: Challenge,
    pub certificates: Certificates,
    pub frontends: Frontends,
    pub dns: BTreeMap<String, Dns>,
    pub audit: Audit,
    pub sightings: Sightings,
    pub notify: Notify,
    pub telemetry: Telemetry,
    pub agent: Agent,
}

/// The configuration can't be used. The programs end with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file {path} can't be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}", list(.0))]
    Mistakes(Vec<Mistake>),
}

fn list(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// The file at `path` (the default path may be missing, one that was named may not), then the environment.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake, each with its place.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let text = Self::text_of(path)?;
        let shown = path.unwrap_or(Path::new(DEFAULT_PATH));
        Self::parse(&text, shown, &environment())
    }

    /// The text of the file, empty when the default one is missing.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`].
    pub fn text_of(path: Option<&Path>) -> Result<String, ConfigError> {
        let shown = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(shown) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_none() => Ok(String::new()),
            Err(source) => Err(ConfigError::Unreadable { path: shown.into(), source }),
            Ok(text) => Ok(text),
        }
    }

    /// # Errors
    /// [`ConfigError::Mistakes`], all of them.
    pub fn parse(text: &str, path: &Path, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut mistakes = find_mistakes(text, path);
        if !mistakes.is_empty() {
            return Err(ConfigError::Mistakes(mistakes));
        }
        let mut table: toml::Table = text.parse().expect("the text was parsed before");
        for (variable, value) in overrides {
            let mut changed = table.clone();
            insert(&mut changed, variable, value);
            match changed.clone().try_into::<Self>() {
                Ok(_) => table = changed,
                Err(error) => {
                    mistakes.push(Mistake::new(Source::Environment(variable.clone()), error.message()));
                }
            }
        }
        let config: Self = table.try_into().map_err(|e| {
            ConfigError::Mistakes(vec![Mistake::new(Source::File(path.into(), 1), e.message())])
        })?;
        mistakes.extend(config.contradictions(text, path));
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError::Mistakes(mistakes)) }
    }

    /// What each value alone can't show.
    fn contradictions(&self, text: &str, path: &Path) -> Vec<Mistake> {
        let at = |key: &str, message: String| {
            Mistake::new(Source::File(path.into(), line_of(text, key)), &message)
        };
        let mut found = Vec::new();
        if let Some(Err(mistake)) = self.store.url.as_deref().map(StoreUrl::parse) {
            found.push(at("url", mistake.to_string()));
        }
        if self.ca.values().filter(|ca| ca.default).count() > 1 {
            found.push(at("default", "more than one [ca.NAME] has default = true".into()));
        }
        for (name, ca) in &self.ca {
            if let Some(directory) = &ca.directory
                && !directory.starts_with("https://")
            {
                found.push(at("directory", format!("ca.{name}.directory: expected an https:// address")));
            }
            if ca.eab_kid.is_some() != ca.eab_hmac_file.is_some() {
                found.push(at("eab_", format!("ca.{name}: eab_kid and eab_hmac_file go together")));
            }
            if let Some(contact) = ca.contact.iter().find(|contact| !contact.starts_with("mailto:")) {
                found.push(at("contact", format!("ca.{name}.contact: {contact:?} is no mailto: address")));
            }
        }
        for (name, dns) in &self.dns {
            for key in dns.mistakes() {
                found.push(at(&format!("[dns.{name}]"), format!("dns.{name} lacks {key}")));
            }
        }
        if self.certificates.tls_certificate_file.is_some() != self.certificates.tls_key_file.is_some() {
            found.push(at("tls_", "certificates: tls_certificate_file and tls_key_file go together".into()));
        }
        if let Some(target) = self.frontends.cname_targets.iter().find(|target| target.address().is_some()) {
            let what =
                format!("frontends.cname_targets: {target} is an address: put it into frontends.addresses");
            found.push(at("cname_targets", what));
        }
        if self.issuer.slots == 0 {
            found.push(at("slots", "issuer.slots: at least 1".into()));
        }
        if self.issuer.lease_seconds.is_nan() || self.issuer.lease_seconds < 0.5 {
            found.push(at(
                "lease_seconds",
                "issuer.lease_seconds: at least 0.5, 30 or more in production".into(),
            ));
        }
        for (key, pauses) in
            [("retry_seconds", &self.issuer.retry_seconds), ("parked_seconds", &self.issuer.parked_seconds)]
        {
            if pauses.is_empty() || !pauses.iter().all(|pause| *pause > 0.0 && pause.is_finite()) {
                found.push(at(key, format!("issuer.{key}: at least one pause, each longer than 0")));
            }
        }
        if let Some(Err(error)) = self.issuer.canary_tag.as_deref().map(crate::domain::parse_tag) {
            found.push(at("canary_tag", format!("issuer.canary_tag: {error}; leave it out for none")));
        }
        if !(0.0..=0.9).contains(&self.issuer.limit_reserve) {
            found.push(at("limit_reserve", "issuer.limit_reserve: 0.0 to 0.9".into()));
        }
        if !self.issuer.canary_minutes.is_finite() || self.issuer.canary_minutes <= 0.0 {
            found.push(at("canary_minutes", "issuer.canary_minutes: more than 0".into()));
        }
        if let Err(message) = crate::domain::Slot::ALL.iter().try_for_each(|slot| {
            let of_slot = self.issuer.key_types.iter().filter(|kind| kind.slot() == *slot).count();
            if of_slot > 1 { Err(format!("issuer.key_types: more than one {slot} key")) } else { Ok(()) }
        }) {
            found.push(at("key_types", message));
        }
        if self.issuer.key_types.is_empty() {
            found.push(at("key_types", "issuer.key_types: at least one".into()));
        }
        found.extend(self.notify.contradictions().into_iter().map(|(key, message)| at(key, message)));
        found
    }
}

/// The variables that override values, in the order of their names.
pub(super) fn environment() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> =
        std::env::vars().filter(|(name, _)| name.starts_with(PREFIX) && name.contains("__")).collect();
    found.sort();
    found
}

/// `SIGNPOST_CA__PEBBLE__DIRECTORY` is the key `ca.pebble.directory`. The value is TOML where it reads as TOML, else text.
pub(super) fn key_path(variable: &str) -> Vec<String> {
    variable[PREFIX.len()..].split("__").map(str::to_lowercase).collect()
}

fn insert(table: &mut toml::Table, variable: &str, value: &str) {
    let path = key_path(variable);
    let (last, sections) = path.split_last().expect("a split has at least one part");
    let mut place = table;
    for section in sections {
        // A CA's name may have hyphens, which a variable's name can't.
        let hyphenated = section.replace('_', "-");
        let key = if !place.contains_key(section) && place.contains_key(&hyphenated) {
            hyphenated
        } else {
            section.clone()
        };
        let entry = place.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if !entry.is_table() {
            *entry = toml::Value::Table(toml::Table::new());
        }
        place = entry.as_table_mut().expect("it was made a table above");
    }
    let parsed =
        format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    place.insert(last.clone(), parsed.unwrap_or_else(|| toml::Value::String(value.to_owned())));
}

/// The first line that sets a key beginning with `key`, from 1.
fn line_of(text: &str, key: &str) -> usize {
    text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SelfCheck;

    fn parse(text: &str, overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::parse(text, Path::new("signpost.toml"), &overrides)
    }

    #[test]
    fn an_empty_file_is_a_configuration() {
        let config = parse("", &[]).unwrap();
        assert_eq!(config.issuer.slots, 64);
        assert_eq!(config.challenge.listen[0].to_string(), "[::]:80");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let text = "[issuer]\nslots = 3\n[ca.my-ca]\ndirectory = \"https://a.example/dir\"\n";
        let config = parse(
            text,
            &[
                ("SIGNPOST_ISSUER__SLOTS", "16"),
                ("SIGNPOST_ISSUER__SELF_CHECK", "required"),
                ("SIGNPOST_ISSUER__RESOLVERS", "[\"127.0.0.1:53\"]"),
                ("SIGNPOST_CA__MY_CA__AGREE_TO_TERMS", "true"),
                ("SIGNPOST_STORE__URL", "redis://127.0.0.1/"),
            ],
        )
        .unwrap();
        assert_eq!((config.issuer.slots, config.issuer.self_check), (16, SelfCheck::Required));
        assert_eq!(config.issuer.resolvers.len(), 1);
        assert!(config.ca["my-ca"].agree_to_terms);
        assert_eq!(config.store.url.as_deref(), Some("redis://127.0.0.1/"));
    }

    #[test]
    fn every_mistake_is_named_with_its_line_and_a_suggestion() {
        let text = "[store]\nurll = \"redis://x\"\n\n[isuer]\nslots = 1\n\n[issuer]\nslots = \"many\"\n";
        let shown = parse(text, &[]).unwrap_err().to_string();
        for expected in [
            "signpost.toml:2:",
            "did you mean `url`?",
            "signpost.toml:4:",
            "did you mean `issuer`?",
            "signpost.toml:8:",
        ] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
        let shown = parse("", &[("SIGNPOST_ISSUER__SLOT", "1")]).unwrap_err().to_string();
        assert!(
            shown.contains("SIGNPOST_ISSUER__SLOT") && shown.contains("did you mean `slots`?"),
            "{shown}"
        );
    }

    #[test]
    fn contradictions_are_named() {
        for (text, expected) in [
            ("[store]\nurl = \"mysql://x\"\n", "expected redis://"),
            ("[store]\nurl = \"redis+sentinel://x\"\n", "name of the service"),
            ("[ca.a]\ndefault = true\n[ca.b]\ndefault = true\n", "more than one"),
            ("[ca.a]\ndirectory = \"http://x\"\n", "https://"),
            ("[issuer]\nkey_types = [\"ecdsa-p256\", \"ecdsa-p384\"]\n", "more than one ecdsa"),
        ] {
            let shown = parse(text, &[]).unwrap_err().to_string();
            assert!(shown.contains(expected), "{shown}");
        }
    }
}
