//! What the certificate server says: parsed from JSON, and trusted with nothing (the identifiers become directory names, the
//! hostnames lines of a web server's configuration).

use crate::https::Https;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::domain::{Slot, TlsPolicy};
use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};
use zeroize::Zeroizing;

/// An item's identifier: 2 to 64 characters of `A-Z a-z 0-9 - _`. Names its directory; never a hostname. Many
/// places hold one: they share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ItemId(Arc<str>);

/// One set of names with its certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: ItemId,
    /// Another one whenever names or certificates are; not when what is done with them is.
    pub(crate) version: String,
    pub(crate) names: Vec<String>,
    pub(crate) lineages: BTreeMap<Slot, Lineage>,
    pub(crate) https: Https,
}

/// The current certificate of one kind of key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Lineage {
    pub(crate) fingerprint_sha256: String,
    pub(crate) not_after: Timestamp,
}

/// Part of what has changed since a cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) cursor: String,
    /// Whether there is more to be asked for at once.
    pub(crate) more: bool,
    pub(crate) put: Vec<Item>,
    pub(crate) del: Vec<ItemId>,
    pub(crate) bad: Vec<BadItem>,
    /// What the centre wants spoken; absent where it does not say, or in a way that this program doesn't know.
    pub(crate) tls: Option<TlsPolicy>,
    /// By the centre's clock, when it was said.
    pub(crate) date: Option<Timestamp>,
}

/// An item that cannot be used. The others of its page can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadItem {
    /// Absent where not even that can be read.
    pub(crate) id: Option<ItemId>,
    pub(crate) reason: String,
}

/// The answer is not what was asked for; nothing of it may be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the answer is no complete JSON document")]
    Malformed(#[from] serde_json::Error),
    #[error("the answer has {got} lines for {expected} certificates")]
    Lines { expected: usize, got: usize },
}

/// The certificates of an item with their keys.
pub(crate) struct Bundle {
    pub(crate) version: String,
    pub(crate) names: Vec<String>,
    pub(crate) files: BTreeMap<Slot, PairFiles>,
    /// The operator has gone back to an older certificate.
    pub(crate) rolled_back: bool,
    pub(crate) https: Https,
}

/// The two files of a pair, as they came.
pub(crate) struct PairFiles {
    pub(crate) fingerprint_sha256: String,
    pub(crate) fullchain: Vec<u8>,
    pub(crate) privkey: Zeroizing<Vec<u8>>,
}

/// What the server says of one id that bundles were asked for.
pub(crate) enum Line {
    Bundle(Bundle),
    /// It has the version that it was told of.
    Unchanged,
    Missing,
    Failed(String),
}

/// The text cannot be an identifier.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no identifier: 2 to 64 characters of A-Z, a-z, 0-9, - and _ were expected")]
pub(crate) struct InvalidItemId(String);

impl Changes {
    /// # Errors
    /// [`WireError`] for a document that is cut off or has another shape.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, WireError> {
        #[derive(Deserialize)]
        struct Document {
            cursor: String,
            more: bool,
            items: Vec<serde_json::Value>,
            #[serde(default)]
            tls_policy: serde_json::Value,
        }
        let document: Document = serde_json::from_slice(json)?;
        let tls = serde_json::from_value(document.tls_policy).ok();
        let tls = tls.filter(|policy: &TlsPolicy| policy.check().is_ok());
        let mut changes = Self { cursor: document.cursor, more: document.more, tls, ..Self::default() };
        for value in document.items {
            let op = value.get("op").and_then(|op| op.as_str()).unwrap_or_default().to_owned();
            match op.as_str() {
                "put" => match Item::parse(value) {
                    Ok(item) => changes.put.push(item),
                    Err(bad) => changes.bad.push(bad),
                },
                "del" => match id_of(&value) {
                    Ok(id) => changes.del.push(id),
                    Err(reason) => changes.bad.push(BadItem { id: None, reason }),
                },
                other => {
                    let (id, reason) =
                        (id_of(&value).ok(), format!("{other:?} is no operation that this agent knows"));
                    changes.bad.push(BadItem { id, reason });
                }
            }
        }
        Ok(changes)
    }
}

fn id_of(value: &serde_json::Value) -> Result<ItemId, String> {
    match value.get("id").and_then(|id| id.as_str()).map(ItemId::parse) {
        Some(id) => id.map_err(|error| error.to_string()),
        None => Err("an item has no id".to_owned()),
    }
}

impl Item {
    fn parse(value: serde_json::Value) -> Result<Self, BadItem> {
        #[derive(Deserialize)]
        struct Document {
            version: String,
            names: Vec<String>,
            lineages: BTreeMap<String, serde_json::Value>,
            #[serde(default)]
            https: Https,
        }
        let id = id_of(&value).map_err(|reason| BadItem { id: None, reason })?;
        let bad = |reason: String| BadItem { id: Some(id.clone()), reason };
        let mut document: Document = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        let names = served_names(document.names).map_err(&bad)?;
        let mut lineages = BTreeMap::new();
        for (slot, lineage) in std::mem::take(&mut document.lineages) {
            // A newer server may know more kinds of keys than this program.
            let Ok(slot) = slot.parse::<Slot>() else { continue };
            let lineage: Lineage = serde_json::from_value(lineage).map_err(|error| bad(error.to_string()))?;
            lineages.insert(slot, lineage);
        }
        let Document { version, https, .. } = document;
        Ok(Self { id, version, names, lineages, https })
    }
}

/// A line for each id, in their order. One that can't be read says nothing of the others.
///
/// # Errors
/// [`WireError`]: part of an answer is none.
pub(crate) fn parse_bundles(body: &[u8], ids: &[ItemId]) -> Result<Vec<Line>, WireError> {
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    if lines.len() != ids.len() || !body.ends_with(b"\n") {
        return Err(WireError::Lines { expected: ids.len(), got: lines.len() });
    }
    let parse = |(id, line)| Line::parse(line, id).unwrap_or_else(Line::Failed);
    Ok(ids.iter().zip(lines).map(parse).collect())
}

impl Line {
    /// # Errors
    /// Why it can't be used. Nothing of what it holds, which may be a key.
    fn parse(line: &[u8], id: &ItemId) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            id: String,
            #[serde(default)]
            missing: bool,
            #[serde(default)]
            unchanged: bool,
            error: Option<String>,
            #[serde(default)]
            version: String,
            #[serde(default)]
            names: Vec<String>,
            #[serde(default)]
            rolled_back: bool,
            #[serde(default)]
            https: Https,
            #[serde(default)]
            certificates: BTreeMap<String, serde_json::Value>,
        }
        #[derive(Deserialize)]
        struct Pair {
            fingerprint_sha256: String,
            fullchain: String,
            privkey: String,
        }
        let document: Result<Document, _> = serde_json::from_slice(line);
        let mut document = document
            .map_err(|error| format!("its line can't be read from character {} on", error.column()))?;
        if document.id != id.as_str() {
            let got: String = document.id.chars().take(80).collect();
            return Err(format!("its line is about {got:?}"));
        }
        if document.missing {
            return Ok(Self::Missing);
        }
        if document.unchanged {
            return Ok(Self::Unchanged);
        }
        if let Some(error) = document.error {
            return Err(error);
        }
        let names = served_names(document.names)?;
        let mut files = BTreeMap::new();
        for (slot, pair) in std::mem::take(&mut document.certificates) {
            // A newer server may know more kinds of keys than this program, and say other things of them.
            let Ok(slot) = slot.parse::<Slot>() else { continue };
            let pair: Result<Pair, _> = serde_json::from_value(pair);
            let pair = pair.map_err(|_| format!("its {slot} certificate and key can't be read"))?;
            let (fullchain, privkey) =
                (pair.fullchain.into_bytes(), Zeroizing::new(pair.privkey.into_bytes()));
            files.insert(slot, PairFiles { fingerprint_sha256: pair.fingerprint_sha256, fullchain, privkey });
        }
        if files.is_empty() {
            return Err("there is no certificate of a kind that this agent knows".to_owned());
        }
        let Document { version, rolled_back, https, .. } = document;
        Ok(Self::Bundle(Bundle { version, names, files, rolled_back, https }))
    }
}

/// The names in the one way in which everything here writes and compares them: hostnames have no letter case.
///
/// # Errors
/// Why they are none that a web server can be given.
fn served_names(mut names: Vec<String>) -> Result<Vec<String>, String> {
    names.iter_mut().for_each(|name| name.make_ascii_lowercase());
    if let Some(name) = names.iter().find(|name| !is_servable_name(name)) {
        return Err(format!("{name:?} is no hostname"));
    }
    if names.is_empty() {
        return Err("the item has no names".to_owned());
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

impl ItemId {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidItemId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if (2..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
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
        id.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: &str = r#"{"op":"put","id":"01ab","version":"v1","names":["a.example","*.b.example"],"lineages":{"ecdsa":{
        "fingerprint_sha256":"00","spki_sha256":"11","serial":"22","key_type":"ecdsa-p256",
        "not_before":"2026-01-01T00:00:00Z","not_after":"2026-04-01T00:00:00Z"},"future":{"x":1}}}"#;

    fn page(items: &str) -> String {
        format!(r#"{{"cursor":"c","more":false,"items":[{items}]}}"#)
    }

    #[test]
    fn changes_are_parsed() {
        let changes =
            Changes::parse(page(&format!(r#"{PUT},{{"op":"del","id":"02cd"}}"#)).as_bytes()).unwrap();
        assert_eq!((changes.bad.len(), changes.cursor.as_str(), changes.more), (0, "c", false));
        let item = &changes.put[0];
        assert_eq!((item.id.as_str(), item.version.as_str(), item.lineages.len()), ("01ab", "v1", 1));
        assert_eq!(changes.del, [ItemId::parse("02cd").unwrap()]);
    }

    #[test]
    fn a_cut_off_or_foreign_document_says_nothing() {
        let whole = page(PUT);
        for length in 0..whole.len() {
            assert!(Changes::parse(&whole.as_bytes()[..length]).is_err(), "cut at {length}");
        }
        for text in ["{}", r#"{"items":[]}"#, "[]", "null", r#"{"items":{},"cursor":"c","more":false}"#] {
            assert!(Changes::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Changes::parse(page("").as_bytes()).is_ok());
    }

    #[test]
    fn a_bad_item_does_not_spoil_the_others() {
        let variants = [
            PUT.replace("01ab", "../../etc"),
            PUT.replace("01ab", "a.example"),
            PUT.replace("a.example", "a.example; include /etc/passwd"),
            PUT.replace("a.example", "*.*.example"),
            PUT.replace("a.example", "a b.example"),
            PUT.replace("2026-04-01T00:00:00Z", "soon"),
            PUT.replace(r#"["a.example","*.b.example"]"#, "[]"),
            PUT.replace(r#""op":"put""#, r#""op":"mend""#),
            r#"{"op":"del","id":"../x"}"#.to_owned(),
        ];
        let changes = Changes::parse(page(&format!("{},{PUT}", variants.join(","))).as_bytes()).unwrap();
        assert_eq!((changes.put.len(), changes.bad.len()), (1, variants.len()), "{:?}", changes.bad);
        assert_eq!(changes.bad.iter().filter(|bad| bad.id.is_none()).count(), 3);
    }

    #[test]
    fn hostnames_have_no_letter_case() {
        let put = PUT.replace(r#"["a.example","*.b.example"]"#, r#"["A.Example","*.B.EXAMPLE","a.example"]"#);
        let changes = Changes::parse(page(&put).as_bytes()).unwrap();
        assert_eq!(changes.put[0].names, ["a.example", "*.b.example"]);
        let line = r#"{"id":"01ab","version":"v1","names":["A.EXAMPLE"],"certificates":{"ecdsa":{"fingerprint_sha256":"00","fullchain":"c","privkey":"k"}}}"#;
        let lines = parse_bundles(format!("{line}\n").as_bytes(), &[ItemId::parse("01ab").unwrap()]).unwrap();
        let Line::Bundle(bundle) = &lines[0] else { panic!("it is none") };
        assert_eq!(bundle.names, ["a.example"]);
    }

    #[test]
    fn bundles_are_whole_or_nothing() {
        let ids = ["01ab", "02cd", "03ef", "04aa"].map(|id| ItemId::parse(id).unwrap());
        let body = r#"{"id":"01ab","version":"v1","names":["a.example"],"certificates":{"ecdsa":{"fingerprint_sha256":"00","fullchain":"c","privkey":"k"},"future":{"fingerprint_sha256":"","fullchain":"","privkey":""}}}
{"id":"02cd","missing":true}
{"id":"03ef","version":"v","unchanged":true}
{"id":"04aa","error":"broken"}
"#;
        let lines = parse_bundles(body.as_bytes(), &ids).unwrap();
        let Line::Bundle(bundle) = &lines[0] else { panic!() };
        assert_eq!(
            (bundle.version.as_str(), bundle.files[&Slot::Ecdsa].privkey.as_slice()),
            ("v1", &b"k"[..])
        );
        assert!(matches!(lines[1..], [Line::Missing, Line::Unchanged, Line::Failed(_)]));
        for length in 0..body.len() {
            assert!(parse_bundles(&body.as_bytes()[..length], &ids).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn one_odd_line_says_nothing_of_the_others_and_nothing_of_a_key() {
        let ids = ["01ab", "02cd"].map(|id| ItemId::parse(id).unwrap());
        let good = r#"{"id":"02cd","version":"v","names":["b.example"],"certificates":{"ecdsa":{"fingerprint_sha256":"00","fullchain":"c","privkey":"SECRET"}}}"#;
        for (odd, reason) in [
            (good.to_owned(), "is about \"02cd\""),
            ("<html>SECRET".to_owned(), "can't be read"),
            (good.replace("02cd", "01ab").replace(r#"["b.example"]"#, r#""SECRET""#), "can't be read"),
            (good.replace("02cd", "01ab").replace(r#""privkey":"#, r#""key":"#), "ecdsa certificate and key"),
            (good.replace("02cd", "01ab").replace("b.example", "b.example; x"), "is no hostname"),
        ] {
            let lines = parse_bundles(format!("{odd}\n{good}\n").as_bytes(), &ids).unwrap();
            let Line::Failed(told) = &lines[0] else { panic!("{odd}") };
            assert!(told.contains(reason) && !told.contains("SECRET"), "{odd}: {told}");
            assert!(matches!(lines[1], Line::Bundle(_)), "{odd}");
        }
    }
}
