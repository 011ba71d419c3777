//! From a file and the environment to values.

use super::{
    agent::Agent,
    dns::Dns,
    inspection::Inspection,
    mistakes::Mistake,
    sections::{Audit, Ca, Certificates, Challenge, Frontends, Issuer, Notify, StoreSection, Telemetry},
    sightings::Sightings,
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
        Inspection::of_text(text, path, overrides).finish()
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

pub(super) fn insert(table: &mut toml::Table, variable: &str, value: &str) {
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
    fn all_mistakes_are_named_at_once_in_the_order_of_their_places() {
        let text = "[ca.one]\ncontact = [\"tls@a.example\"]\n[ca.two]\ndirectory = \"http://x/\"\ncontact = [\n  \"tls@b.example\",\n]\n\
                    [issuer]\nself_check = \"maybe\"\nkey_types = [\"rsa2048\"]\nlisten = \"here\"\nslots = -1\n\
                    unknown = [\n  1,\n]\nlimit_reserve = 3.0\n";
        let variables = [("SIGNPOST_NOTIFY__DIGEST", "often"), ("SIGNPOST_STORE__URL", "localhost:6379")];
        let shown = parse(text, &variables).unwrap_err().to_string();
        let lines: Vec<&str> = shown.lines().collect();
        let expected = [
            ("signpost.toml:2: ca.one.contact", "\"mailto:tls@a.example\""),
            ("signpost.toml:4: ca.two.directory", "https://"),
            ("signpost.toml:5: ca.two.contact", "mailto:"),
            ("signpost.toml:9: issuer.self_check", "`maybe`"),
            ("signpost.toml:10: issuer.key_types", "use ecdsa-p256"),
            ("signpost.toml:11: issuer.listen", "127.0.0.1:9080"),
            ("signpost.toml:12: issuer.slots", "a whole number"),
            ("signpost.toml:13: unknown key `unknown`", ""),
            ("signpost.toml:16: issuer.limit_reserve", "0.0 to 0.9"),
            ("SIGNPOST_NOTIFY__DIGEST: notify.digest", "no length of time"),
            ("SIGNPOST_STORE__URL: store.url", "expected redis://"),
        ];
        assert_eq!(lines.len(), expected.len(), "{shown}");
        for (line, (begin, more)) in lines.iter().zip(expected) {
            assert!(line.starts_with(begin) && line.contains(more), "{begin} .. {more}: {line}");
        }
    }

    #[test]
    fn what_could_not_be_read_is_not_said_to_be_missing() {
        let text = "[dns.own]\nprovider = \"rfc2136\"\nserver = \"here\"\ntsig_name = \"a\"\ntsig_secret_file = \"/s\"\n";
        let shown = parse(text, &[]).unwrap_err().to_string();
        assert!(shown.contains("signpost.toml:3: dns.own.server") && !shown.contains("lacks"), "{shown}");
        let of_variable = [("SIGNPOST_DNS__OWN__PROVIDER", "webhook")];
        let shown = parse("", &of_variable).unwrap_err().to_string();
        assert!(shown.contains("SIGNPOST_DNS__OWN__PROVIDER: dns.own lacks url"), "{shown}");
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
