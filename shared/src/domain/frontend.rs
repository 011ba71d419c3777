//! A frontend: an identity that may pull certificates, and what of them it may see.

use super::DnsName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// The operator's name for a frontend: `edge-1`. 1 to 63 characters of `a-z 0-9 - _ .`
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FrontendName(String);

/// What a frontend may do with the certificates in its scope. Keys are a right of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    ReadCert,
    ReadKey,
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
    /// SHA-256 of the bearer token, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<String>,
    /// SHA-256 of the client certificate's public key, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spki_sha256: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrontend {
    #[error("{0:?} can't name a frontend: use 1 to 63 characters of a-z, 0-9, -, _ and .")]
    Name(String),
    #[error("{0:?} is no scope: use a hostname, *.example.com for everything below one, or * for everything")]
    Pattern(String),
}

impl Frontend {
    pub const VERSION: u32 = 1;

    pub fn may(&self, right: Right) -> bool {
        self.revoked.is_none() && self.rights.contains(&right)
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
