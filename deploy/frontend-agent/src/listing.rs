//! What the certificate server lists: parsed from JSON, and trusted with nothing (the identifiers become directory
//! names, the hostnames lines of an nginx configuration).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::domain::Slot;
use std::{borrow::Borrow, collections::BTreeMap, fmt};

/// An item's identifier: 2 to 64 characters of `A-Z a-z 0-9 - _`. Names its directory; never a hostname.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ItemId(String);

/// One set of names with its certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: ItemId,
    pub(crate) names: Vec<String>,
    pub(crate) lineages: BTreeMap<Slot, Lineage>,
}

/// The current certificate of one kind of key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Lineage {
    pub(crate) fingerprint_sha256: String,
    pub(crate) not_after: Timestamp,
    pub(crate) links: Links,
}

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Links {
    pub(crate) fullchain: String,
    /// Absent for an identity that may read certificates but no keys.
    pub(crate) privkey: Option<String>,
}

/// One page of the listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    pub(crate) bad: Vec<BadItem>,
    pub(crate) next: Option<String>,
}

/// An item that cannot be used. The others of its page can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadItem {
    /// Absent where not even that can be read.
    pub(crate) id: Option<ItemId>,
    pub(crate) reason: String,
}

/// The page is no listing; nothing of it may be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListingError {
    #[error("the listing is no complete JSON document")]
    Malformed(#[from] serde_json::Error),
}

/// The text cannot be an identifier.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no identifier: 2 to 64 characters of A-Z, a-z, 0-9, - and _ were expected")]
pub(crate) struct InvalidItemId(String);

impl Page {
    /// # Errors
    /// [`ListingError`] for a document that is cut off or has another shape.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, ListingError> {
        #[derive(Deserialize)]
        struct Document {
            items: Vec<serde_json::Value>,
            // Required, null on the last page: a document without it is not the one that was agreed upon.
            #[serde(deserialize_with = "Option::deserialize")]
            next: Option<String>,
        }
        let document: Document = serde_json::from_slice(json)?;
        let mut page = Self { next: document.next, ..Self::default() };
        for value in document.items {
            match Item::parse(value) {
                Ok(item) => page.items.push(item),
                Err(bad) => page.bad.push(bad),
            }
        }
        Ok(page)
    }
}

impl Item {
    fn parse(value: serde_json::Value) -> Result<Self, BadItem> {
        #[derive(Deserialize)]
        struct Document {
            names: Vec<String>,
            lineages: BTreeMap<String, serde_json::Value>,
        }
        let id = value.get("id").and_then(|id| id.as_str()).map(ItemId::parse);
        let id = match id {
            Some(Ok(id)) => id,
            Some(Err(error)) => return Err(BadItem { id: None, reason: error.to_string() }),
            None => return Err(BadItem { id: None, reason: "an item has no id".to_owned() }),
        };
        let bad = |reason: String| BadItem { id: Some(id.clone()), reason };
        let document: Document = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        if let Some(name) = document.names.iter().find(|name| !is_servable_name(name)) {
            return Err(bad(format!("{name:?} is no hostname")));
        }
        if document.names.is_empty() {
            return Err(bad("the item has no names".to_owned()));
        }
        let mut lineages = BTreeMap::new();
        for (slot, lineage) in document.lineages {
            // A newer server may know more kinds of keys than this program.
            let Ok(slot) = slot.parse::<Slot>() else { continue };
            let lineage: Lineage = serde_json::from_value(lineage).map_err(|error| bad(error.to_string()))?;
            lineages.insert(slot, lineage);
        }
        Ok(Self { id, names: document.names, lineages })
    }
}

impl ItemId {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidItemId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if (2..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidItemId(text.chars().take(80).collect()))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// An IP address, or a hostname in A-labels, perhaps with `*.` in front. Nothing that means something to nginx.
fn is_servable_name(name: &str) -> bool {
    if name.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && rest.split('.').all(label)
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ItemId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ItemId {
    type Error = InvalidItemId;
    fn try_from(text: String) -> Result<Self, InvalidItemId> {
        Self::parse(&text)
    }
}

impl From<ItemId> for String {
    fn from(id: ItemId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: &str = r#"{"id":"01ab","names":["a.example","*.b.example"],"lineages":{"ecdsa":{
        "fingerprint_sha256":"00","spki_sha256":"11","serial":"22","key_type":"ecdsa-p256",
        "not_before":"2026-01-01T00:00:00Z","not_after":"2026-04-01T00:00:00Z",
        "links":{"fullchain":"/v1/certificates/a.example/ecdsa/fullchain.pem",
                 "privkey":"/v1/certificates/a.example/ecdsa/privkey.pem"}},"future":{"x":1}}}"#;

    #[test]
    fn a_page_is_parsed() {
        let page = Page::parse(format!(r#"{{"items":[{ITEM}],"next":"01ab"}}"#).as_bytes()).unwrap();
        assert_eq!((page.bad.len(), page.next.as_deref()), (0, Some("01ab")));
        let item = &page.items[0];
        assert_eq!((item.id.as_str(), item.lineages.len()), ("01ab", 1));
        assert!(item.lineages[&Slot::Ecdsa].links.privkey.is_some());
    }

    #[test]
    fn a_cut_off_or_foreign_document_is_no_listing() {
        let whole = format!(r#"{{"items":[{ITEM}],"next":null}}"#);
        for length in 0..whole.len() {
            assert!(Page::parse(&whole.as_bytes()[..length]).is_err(), "cut at {length}");
        }
        for text in ["{}", r#"{"items":[]}"#, r#"{"next":null}"#, "[]", "null", r#"{"items":{},"next":null}"#]
        {
            assert!(Page::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Page::parse(br#"{"items":[],"next":null}"#).is_ok());
    }

    #[test]
    fn a_bad_item_does_not_spoil_the_others() {
        let variants = [
            ITEM.replace("01ab", "../../etc"),
            ITEM.replace("01ab", "a.example"),
            ITEM.replace("a.example", "a.example; include /etc/passwd"),
            ITEM.replace("a.example", "*.*.example"),
            ITEM.replace("a.example", "A.example"),
            ITEM.replace("2026-04-01T00:00:00Z", "soon"),
            ITEM.replace(r#"["a.example","*.b.example"]"#, "[]"),
        ];
        let json = format!(r#"{{"items":[{},{ITEM}],"next":null}}"#, variants.join(","));
        let page = Page::parse(json.as_bytes()).unwrap();
        assert_eq!((page.items.len(), page.bad.len()), (1, variants.len()), "{:?}", page.bad);
        assert_eq!(page.bad.iter().filter(|bad| bad.id.is_none()).count(), 2);
    }
}
