//! What proves control of a name: a token of the CA, joined with the thumbprint of the account key (RFC 8555 section 8.1).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A challenge's token: base64url with at least 128 bits of entropy (RFC 8555 section 8.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

/// The text is no token: 16 to 128 characters of `A-Z a-z 0-9 - _` were expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token has 16 to 128 characters of A-Z, a-z, 0-9, - and _")]
pub struct InvalidToken;

impl Token {
    /// Shortest text that can carry 128 bits is 22 characters; 16 leaves room for a lax CA.
    pub const MIN_CHARS: usize = 16;
    /// The longest token that the redirect rules of the frontends pass on.
    pub const MAX_CHARS: usize = 128;

    /// Whether `text` has the form of a token. Anything else never reaches the store.
    pub fn is_well_formed(text: &str) -> bool {
        (Self::MIN_CHARS..=Self::MAX_CHARS).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    }

    /// # Errors
    /// [`InvalidToken`] when `text` is not well-formed.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        if Self::is_well_formed(text) { Ok(Self(text.to_owned())) } else { Err(InvalidToken) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Token {
    type Error = InvalidToken;
    fn try_from(text: String) -> Result<Self, InvalidToken> {
        Self::parse(&text)
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The base64url SHA-256 thumbprint of an account key (RFC 7638).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Thumbprint(String);

impl Thumbprint {
    /// From the 32 bytes of the digest.
    pub fn from_digest(digest: &[u8]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(digest))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `token.thumbprint`, the exact body that the CA expects at the token's path (RFC 8555 section 8.1).
#[derive(Clone, PartialEq, Eq)]
pub struct KeyAuthorization(String);

impl KeyAuthorization {
    pub fn new(token: &Token, thumbprint: &Thumbprint) -> Self {
        Self(format!("{}.{}", token.as_str(), thumbprint.as_str()))
    }

    /// As it was stored for a token.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyAuthorization(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_base64url_of_a_sane_length() {
        assert!(Token::parse("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA").is_ok());
        for bad in [
            "",
            "short",
            "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ+PCt92wr",
            "evaGxfADs6pSRb2L/../x",
            "evaGxfADs6pSRb2LAv9I\n",
        ] {
            assert_eq!(Token::parse(bad), Err(InvalidToken), "{bad:?}");
        }
        assert!(Token::parse(&"a".repeat(128)).is_ok());
        assert!(Token::parse(&"a".repeat(129)).is_err());
    }

    #[test]
    fn the_key_authorization_joins_token_and_thumbprint_and_prints_nothing() {
        let token = Token::parse("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA").unwrap();
        let joined = KeyAuthorization::new(&token, &Thumbprint::from_digest(&[0; 32]));
        assert_eq!(joined.as_str(), format!("{token}.{}", "A".repeat(43)));
        assert_eq!(joined.as_str().len(), 87);
        assert_eq!(format!("{joined:?}"), "KeyAuthorization(..)");
    }
}
