//! Kinds of private keys, and the two slots of a site that certificates are served from.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A kind of key that public CAs accept for accounts and certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum KeyType {
    EcdsaP256,
    EcdsaP384,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

/// Where a certificate is served: a site has at most one ECDSA and one RSA certificate at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    Ecdsa,
    Rsa,
}

/// The text names no key type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown key type {0:?}: use ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096")]
pub struct UnknownKeyType(String);

impl KeyType {
    pub const ALL: [Self; 5] =
        [Self::EcdsaP256, Self::EcdsaP384, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    pub const fn slot(self) -> Slot {
        match self {
            Self::EcdsaP256 | Self::EcdsaP384 => Slot::Ecdsa,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => Slot::Rsa,
        }
    }
}

impl Slot {
    pub const ALL: [Self; 2] = [Self::Ecdsa, Self::Rsa];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KeyType {
    type Err = UnknownKeyType;
    fn from_str(text: &str) -> Result<Self, UnknownKeyType> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownKeyType(text.to_owned()))
    }
}

impl FromStr for Slot {
    type Err = UnknownKeyType;
    fn from_str(text: &str) -> Result<Self, UnknownKeyType> {
        Self::ALL
            .into_iter()
            .find(|slot| slot.as_str() == text)
            .ok_or_else(|| UnknownKeyType(text.to_owned()))
    }
}

impl TryFrom<String> for KeyType {
    type Error = UnknownKeyType;
    fn try_from(text: String) -> Result<Self, UnknownKeyType> {
        text.parse()
    }
}

impl From<KeyType> for String {
    fn from(kind: KeyType) -> Self {
        kind.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_type_reads_what_it_writes() {
        for kind in KeyType::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("rsa-1024".parse::<KeyType>().is_err());
    }
}
