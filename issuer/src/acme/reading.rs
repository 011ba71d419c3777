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

/// An object of the protocol. Maintenance pages and gateways answer in JSON, too: what has none of these members is none.
pub(super) trait Wire: DeserializeOwned {
    const MEMBERS: &'static [&'static str];
}

/// Why a body is no object of the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoObject {
    #[error(transparent)]
    Unreadable(#[from] serde_json::Error),
    #[error("it has no member {}", .0.join(" or "))]
    Foreign(&'static [&'static str]),
}

/// The one place that decides what a body is. A byte order mark, octets that are no UTF-8 and a member that stands there twice (the last
/// one counts) spoil nothing.
pub(super) fn object<T: Wire>(body: &[u8]) -> Result<T, NoObject> {
    let value = json(body)?;
    if !T::MEMBERS.iter().any(|member| value.get(member).is_some()) {
        return Err(NoObject::Foreign(T::MEMBERS));
    }
    Ok(serde_json::from_value(value)?)
}

/// A body's JSON, read leniently.
pub(super) fn json(body: &[u8]) -> Result<Value, serde_json::Error> {
    let text = String::from_utf8_lossy(body);
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
}

/// A link that a person is told to follow: one that leads to a website, and nowhere else.
pub(crate) fn web_page(url: &str) -> Option<&str> {
    let is_page = url.starts_with("https://") && !url.contains(|c: char| c.is_whitespace() || c.is_control());
    (is_page && reqwest::Url::parse(url).is_ok_and(|url| url.host_str().is_some())).then_some(url)
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::{Directory, Order, OrderStatus};

    #[test]
    fn one_odd_thing_does_not_spoil_an_object() {
        for body in [
            &b"\xef\xbb\xbf{\"status\":\"ready\"}"[..],
            b"{\"status\":\"pending\",\"status\":\"ready\"}",
            b"{\"status\":\"ready\",\"error\":{\"detail\":\"caf\xe9\"}}",
            b"\r\n {\"status\":\"ready\"} \n",
        ] {
            let order: Order = object(body).unwrap();
            assert_eq!(order.status, OrderStatus::Ready, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn what_has_nothing_of_an_object_is_none() {
        for body in
            ["<html>maintenance</html>", "", "[]", "null", "\"ready\"", "{}", r#"{"message":"maintenance"}"#]
        {
            assert!(object::<Order>(body.as_bytes()).is_err(), "{body}");
            assert!(object::<Directory>(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn people_are_sent_to_websites_alone() {
        assert_eq!(web_page("https://ca.example/terms?v=2"), Some("https://ca.example/terms?v=2"));
        for other in [
            "javascript:alert(1)",
            "http://ca.example/",
            "/terms",
            "",
            "https://",
            "https://a b/",
            "https://a/\u{1b}[2J",
            "data:text/html,x",
        ] {
            assert_eq!(web_page(other), None, "{other}");
        }
    }
}
