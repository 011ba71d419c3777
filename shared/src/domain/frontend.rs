//! A frontend: an identity that may pull certificates, and what of them it may see.

use super::DnsName;
use crate::digest::sha256_hex;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// The operator's name for a frontend: `edge-1`. 1 to 63 characters of `a-z 0-9 - _ .`
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FrontendName(String);

/// What a frontend may do with the certificates in its scope, and with names that match its patterns. Keys are a right of their
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    ReadCert,
    ReadKey,
    /// Tell of names that visitors came with and that no site has.
    Sight,
}

/// A hostname (`shop.example.com`), everything below one (`*.example.com`, at any depth, not the name itself), or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ScopePattern {
    Everything,
    Below(DnsName),
    Exactly(DnsName),
}

/// Which sites a frontend sees: those all of whose names match a pattern, or that carry one of the tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    #[serde(default)]
    pub names: Vec<ScopePattern>,
    #[serde(default)]
    pub tags: Vec<String>,
}

/// The record of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    pub v: u32,
    pub name: FrontendName,
    pub scope: Scope,
    pub rights: BTreeSet<Right>,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// SHA-256 of the bearer token, hex. It may be exchanged, once, for a client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires: Option<Timestamp>,
    /// The token is good for nothing but a client certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub token_enrols_only: bool,
    /// The token that was exchanged. The same key may do so again, for it may not have got the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled_token_sha256: Option<String>,
    /// SHA-256 of the client certificate's public key, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spki_sha256: Option<String>,
    /// That of the key that takes its place, once it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_spki_sha256: Option<String>,
    /// Grows with every change, so that an older record is known for one.
    #[serde(default)]
    pub generation: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrontend {
    #[error("{0:?} can't name a frontend: use 1 to 63 characters of a-z, 0-9, -, _ and .")]
    Name(String),
    #[error("{0:?} is no scope: use a hostname, *.example.com for everything below one, or * for everything")]
    Pattern(String),
}

/// Who asks is not, or no longer, this frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the frontend's token or key, or not any more")]
pub struct NotItself;

impl Frontend {
    pub const VERSION: u32 = 1;

    /// Another one whenever the frontend may see other things: cursors of before say nothing then.
    pub fn scope_version(&self) -> String {
        let what = serde_json::to_string(&(&self.scope, &self.rights, self.created)).unwrap_or_default();
        sha256_hex(what.as_bytes())[..8].to_owned()
    }

    /// One that nothing identifies yet.
    pub fn new(name: FrontendName, scope: Scope, rights: BTreeSet<Right>, created: Timestamp) -> Self {
        Self {
            v: Self::VERSION,
            name,
            scope,
            rights,
            created,
            revoked: None,
            token_sha256: None,
            token_expires: None,
            token_enrols_only: false,
            enrolled_token_sha256: None,
            spki_sha256: None,
            next_spki_sha256: None,
            generation: 0,
        }
    }

    pub fn may(&self, right: Right) -> bool {
        self.revoked.is_none() && self.rights.contains(&right)
    }

    /// Whether who shows a token may ask for certificates with it.
    pub fn is_token(&self, sha256: &str, now: Timestamp) -> bool {
        self.is_fresh_token(sha256, now) && !self.token_enrols_only
    }

    /// Whether a client certificate with this key is its.
    pub fn is_key(&self, spki_sha256: &str) -> bool {
        let keys = [&self.spki_sha256, &self.next_spki_sha256];
        self.revoked.is_none() && keys.into_iter().flatten().any(|key| key == spki_sha256)
    }

    /// Exchanges its token for a key. Asked again with the same token and key it changes nothing.
    ///
    /// # Errors
    /// [`NotItself`].
    pub fn enrol(&mut self, token_sha256: &str, spki_sha256: &str, now: Timestamp) -> Result<(), NotItself> {
        let is_again =
            self.enrolled_token_sha256.as_deref() == Some(token_sha256) && self.is_key(spki_sha256);
        if is_again {
            return Ok(());
        }
        if !self.is_fresh_token(token_sha256, now) {
            return Err(NotItself);
        }
        self.enrolled_token_sha256 = self.token_sha256.take();
        self.token_expires = None;
        self.spki_sha256 = Some(spki_sha256.to_owned());
        self.next_spki_sha256 = None;
        Ok(())
    }

    /// Takes the key that comes after the one that asks. The latter goes on until the other one is used.
    ///
    /// # Errors
    /// [`NotItself`].
    pub fn renew(&mut self, spki_sha256: &str, next: &str) -> Result<(), NotItself> {
        if !self.is_key(spki_sha256) {
            return Err(NotItself);
        }
        self.spki_sha256 = Some(spki_sha256.to_owned());
        self.next_spki_sha256 = (next != spki_sha256).then(|| next.to_owned());
        Ok(())
    }

    /// Ends the key before this one, for this one is used now. Whether that changed anything.
    pub fn settle_on(&mut self, spki_sha256: &str) -> bool {
        if self.next_spki_sha256.as_deref() != Some(spki_sha256) {
            return false;
        }
        self.spki_sha256 = self.next_spki_sha256.take();
        true
    }

    fn is_fresh_token(&self, sha256: &str, now: Timestamp) -> bool {
        self.revoked.is_none()
            && self.token_sha256.as_deref() == Some(sha256)
            && self.token_expires.is_none_or(|expires| now < expires)
    }
}

impl Scope {
    /// Whether a site with these names and tags is in scope. A certificate for several names is in scope only as a
    /// whole: its key serves all of them.
    pub fn covers(&self, names: &[DnsName], tags: &[String]) -> bool {
        self.tags.iter().any(|tag| tags.contains(tag))
            || (!names.is_empty()
                && names.iter().all(|name| self.names.iter().any(|pattern| pattern.matches(name))))
    }
}

impl ScopePattern {
    pub fn matches(&self, name: &DnsName) -> bool {
        match self {
            Self::Everything => true,
            Self::Exactly(exact) => exact == name,
            Self::Below(parent) => name
                .as_str()
                .strip_suffix(parent.as_str())
                .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
        }
    }
}

impl FrontendName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FrontendName {
    type Error = InvalidFrontend;
    fn try_from(text: String) -> Result<Self, InvalidFrontend> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if (1..=63).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err(InvalidFrontend::Name(text))
        }
    }
}

impl From<FrontendName> for String {
    fn from(name: FrontendName) -> Self {
        name.0
    }
}

impl fmt::Display for FrontendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for ScopePattern {
    type Error = InvalidFrontend;
    fn try_from(text: String) -> Result<Self, InvalidFrontend> {
        let parse = |name: &str| DnsName::parse(name).map_err(|_| InvalidFrontend::Pattern(text.clone()));
        match text.as_str() {
            "*" => Ok(Self::Everything),
            other => match other.strip_prefix("*.") {
                Some(parent) => Ok(Self::Below(parse(parent)?)),
                None => Ok(Self::Exactly(parse(other)?)),
            },
        }
    }
}

impl std::str::FromStr for ScopePattern {
    type Err = InvalidFrontend;
    fn from_str(text: &str) -> Result<Self, InvalidFrontend> {
        Self::try_from(text.to_owned())
    }
}

impl std::str::FromStr for FrontendName {
    type Err = InvalidFrontend;
    fn from_str(text: &str) -> Result<Self, InvalidFrontend> {
        Self::try_from(text.to_owned())
    }
}

impl From<ScopePattern> for String {
    fn from(pattern: ScopePattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for ScopePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("*"),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Exactly(name) => write!(f, "{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<DnsName> {
        texts.iter().map(|text| DnsName::parse(text).unwrap()).collect()
    }

    #[test]
    fn a_scope_covers_a_site_only_as_a_whole() {
        let scope = Scope { names: vec!["*.example.com".parse().unwrap()], tags: vec!["eu".into()] };
        assert!(scope.covers(&names(&["a.example.com", "b.c.example.com"]), &[]));
        assert!(!scope.covers(&names(&["a.example.com", "a.example.net"]), &[]));
        assert!(!scope.covers(&names(&["example.com"]), &[]), "the name itself is not below itself");
        assert!(!scope.covers(&names(&["badexample.com"]), &[]));
        assert!(scope.covers(&names(&["a.example.net"]), &["eu".into()]));
        assert!(!Scope::default().covers(&names(&["a.example.com"]), &["eu".into()]));
    }

    #[test]
    fn a_token_is_exchanged_once_and_a_key_is_followed_by_the_next() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut new = Frontend::new(
            "edge-1".parse().unwrap(),
            Scope::default(),
            BTreeSet::new(),
            Timestamp::UNIX_EPOCH,
        );
        new.token_sha256 = Some("t".into());
        new.token_expires = Some(at(10));
        assert!(new.is_token("t", at(9)) && !new.is_token("t", at(10)) && !new.is_token("u", at(9)));
        assert_eq!(new.clone().enrol("t", "k1", at(10)), Err(NotItself), "too late");
        let mut frontend = new.clone();
        frontend.enrol("t", "k1", at(9)).unwrap();
        assert!(frontend.is_key("k1") && !frontend.is_token("t", at(9)));
        let enrolled = frontend.clone();
        assert_eq!(frontend.enrol("t", "k1", at(99)), Ok(()), "the answer was lost");
        assert_eq!(frontend, enrolled);
        assert_eq!(frontend.enrol("t", "thief", at(9)), Err(NotItself));

        frontend.renew("k1", "lost").unwrap();
        frontend.renew("k1", "k2").unwrap();
        assert!(frontend.is_key("k1") && frontend.is_key("k2") && !frontend.is_key("lost"));
        assert!(!frontend.settle_on("k1"), "the next one has not been used yet");
        assert!(frontend.settle_on("k2") && !frontend.settle_on("k2"));
        assert!(frontend.is_key("k2") && !frontend.is_key("k1"));
        assert_eq!(frontend.renew("k1", "k3"), Err(NotItself));

        let mut only = new;
        only.token_enrols_only = true;
        assert!(!only.is_token("t", at(9)));
        only.revoked = Some(at(1));
        assert_eq!(only.enrol("t", "k1", at(9)), Err(NotItself));
        frontend.revoked = Some(at(1));
        assert!(!frontend.is_key("k2"));
        assert_eq!(frontend.renew("k2", "k3"), Err(NotItself));
    }

    #[test]
    fn patterns_read_what_they_write() {
        for text in ["*", "*.example.com", "a.example.com"] {
            assert_eq!(text.parse::<ScopePattern>().unwrap().to_string(), text);
        }
        for bad in ["", "a.*.com", "*.*.example.com", "*example.com", "../x"] {
            assert!(bad.parse::<ScopePattern>().is_err(), "{bad}");
        }
        assert!("Edge 1".parse::<FrontendName>().is_err());
    }
}
