//! Where each effective value comes from.

use super::{
    load::{Config, environment, key_path},
    places::lines_of_keys,
};
use std::{collections::BTreeMap, fmt};

/// The origin of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginOf {
    Default,
    /// The line of the file, from 1.
    File(usize),
    Environment(String),
}

/// One effective value: `issuer.slots`, as TOML, and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub key: String,
    pub value: String,
    pub origin: OriginOf,
}

impl fmt::Display for OriginOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(line) => write!(f, "line {line}"),
            Self::Environment(variable) => f.write_str(variable),
        }
    }
}

impl Config {
    /// Every effective value of this configuration, read from a file with `text`. A password in a URL is not shown.
    pub fn origins(&self, text: &str) -> Vec<Origin> {
        let lines = lines_of_keys(text);
        let variables: BTreeMap<String, String> =
            environment().into_iter().map(|(name, _)| (key_path(&name).join("."), name)).collect();
        let table = toml::Table::try_from(self).expect("a configuration is a table");
        let mut found = Vec::new();
        flatten("", &toml::Value::Table(table), &mut |key, value| {
            let origin = variables
                .get(&key.replace('-', "_"))
                .map(|name| OriginOf::Environment(name.clone()))
                .or_else(|| lines.get(key).map(|line| OriginOf::File(*line)))
                .unwrap_or(OriginOf::Default);
            found.push(Origin { key: key.to_owned(), value: shown(key, value), origin });
        });
        found
    }
}

fn flatten(prefix: &str, value: &toml::Value, found: &mut impl FnMut(&str, &toml::Value)) {
    match value {
        toml::Value::Table(table) => {
            for (key, inner) in table {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, inner, found);
            }
        }
        other => found(prefix, other),
    }
}

fn shown(key: &str, value: &toml::Value) -> String {
    let hidden = value.as_str().filter(|_| key.ends_with("url")).and_then(without_password);
    hidden.map_or_else(|| value.to_string(), |url| format!("{url:?}"))
}

/// A URL that has a password, without it. Those of several hosts are none that a library could read.
fn without_password(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (login, hosts) = authority.rsplit_once('@')?;
    let (user, _) = login.split_once(':')?;
    Some(format!("{scheme}://{user}:***@{hosts}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn origins_name_the_line_and_hide_passwords() {
        let text = "[store]\nurl = \"redis://user:hunter2@127.0.0.1/\"\n[issuer]\nslots = 2\n";
        let config = Config::parse(text, Path::new("x"), &[]).unwrap();
        let origins = config.origins(text);
        let find = |key: &str| origins.iter().find(|o| o.key == key).unwrap();
        assert_eq!(find("issuer.slots").origin, OriginOf::File(4));
        assert_eq!(find("issuer.http_port").origin, OriginOf::Default);
        assert_eq!(find("store.url").value, "\"redis://user:***@127.0.0.1/\"");
        let several = "redis+sentinel://user:hunter2@a:1,b:2/s";
        assert_eq!(without_password(several).unwrap(), "redis+sentinel://user:***@a:1,b:2/s");
    }
}
