//! How objects of a CA are read: member by member. One that is `null` or odd is absent, and never spoils the others; texts and lists
//! are no longer than anything sensible.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use shared::domain::bounded;

/// Characters of a text that is meant for people.
pub(super) const LONGEST_TEXT: usize = 1_000;
/// Characters of a URL; a longer one is taken for none.
pub(super) const LONGEST_URL: usize = 2_048;
/// Entries of a list: more than any certificate has names.
const MOST_ENTRIES: usize = 1_000;

/// A member that may be absent.
pub(super) fn optional<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

/// A member whose absence has a meaning.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(optional(deserializer)?.unwrap_or_default())
}

/// A list, without what can't be read.
pub(super) fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    some(deserializer, MOST_ENTRIES)
}

/// The first hundred of a list, for people.
pub(super) fn short_list<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    some(deserializer, 100)
}

fn some<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
    most: usize,
) -> Result<Vec<T>, D::Error> {
    let Value::Array(entries) = Value::deserialize(deserializer)? else { return Ok(Vec::new()) };
    Ok(entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).take(most).collect())
}

/// A text for people: its first thousand characters.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text: Option<String> = optional(deserializer)?;
    Ok(text.map(|text| bounded(&text, LONGEST_TEXT)))
}

/// A URL.
pub(super) fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let url: Option<String> = optional(deserializer)?;
    Ok(url.filter(|url| !url.is_empty() && url.len() <= LONGEST_URL))
}

/// A list of URLs.
pub(super) fn urls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let urls: Vec<String> = list(deserializer)?;
    Ok(urls.into_iter().filter(|url| !url.is_empty() && url.len() <= LONGEST_URL).collect())
}
