//! Tokens of the operators' API: who may ask what of the issuer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a token may do. Each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiRole {
    /// Look at everything but tokens. No private key is ever shown.
    Read,
    /// Sites: add, change, remove, pause, retry, renew.
    Write,
    /// Brakes, tenants, and the list of tokens.
    Admin,
}

/// The operator's name for a token: `panel-1`. 1 to 63 characters of `a-z 0-9 - _ .`
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenName(String);

/// The record of a token. The token itself is kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    pub v: u32,
    pub name: TokenName,
    pub role: ApiRole,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// Grows with every change, so that an older record is known for one.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub generation: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} can't name a token: use 1 to 63 characters of a-z, 0-9, -, _ and .")]
pub struct InvalidTokenName(String);

const fn is_none_yet(generation: &u64) -> bool {
    *generation == 0
}

impl ApiToken {
    /// The newest version of this record that this program can read.
    pub const VERSION: u32 = 1;
}

impl ApiRole {
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// Whether a token of this role may do what `needed` may.
    pub fn covers(self, needed: Self) -> bool {
        self >= needed
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl TokenName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TokenName {
    type Error = InvalidTokenName;
    fn try_from(text: String) -> Result<Self, InvalidTokenName> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if (1..=63).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err(InvalidTokenName(text))
        }
    }
}

impl FromStr for TokenName {
    type Err = InvalidTokenName;
    fn from_str(text: &str) -> Result<Self, InvalidTokenName> {
        Self::try_from(text.to_owned())
    }
}

impl From<TokenName> for String {
    fn from(name: TokenName) -> Self {
        name.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ApiRole {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no role: use read, write or admin"))
    }
}

impl fmt::Display for ApiRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records as earlier releases wrote them. Samples stay for ever: a newer program reads them.
    const SAMPLES: [&str; 2] = [
        r#"{"v":1,"name":"panel-1","role":"write","created":"2026-11-24T00:00:00Z"}"#,
        r#"{"v":1,"name":"ops","role":"admin","created":"2026-11-24T00:00:00Z","revoked":"2026-11-25T00:00:00Z"}"#,
    ];

    #[test]
    fn records_of_every_version_are_read_and_written_unchanged() {
        for sample in SAMPLES {
            let token: ApiToken = serde_json::from_str(sample).unwrap();
            assert_eq!(serde_json::to_string(&token).unwrap(), sample);
        }
    }

    #[test]
    fn a_role_covers_those_before_it() {
        for (place, role) in ApiRole::ALL.into_iter().enumerate() {
            assert_eq!(role.to_string().parse(), Ok(role));
            for (other, needed) in ApiRole::ALL.into_iter().enumerate() {
                assert_eq!(role.covers(needed), other <= place, "{role} and {needed}");
            }
        }
        assert!("root".parse::<ApiRole>().is_err());
        assert!("a:b".parse::<TokenName>().is_err() && "".parse::<TokenName>().is_err());
    }
}
