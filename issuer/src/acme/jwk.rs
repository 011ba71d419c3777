//! Public keys as JSON (RFC 7517, RFC 7518 section 6) and their thumbprints (RFC 7638).

use super::account_key::KeyError;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openssl::{
    bn::{BigNum, BigNumContext},
    nid::Nid,
    pkey::{HasPublic, Id, PKeyRef},
    sha::sha256,
};
use serde::{Deserialize, Serialize};
use shared::domain::{KeyType, Thumbprint};

/// A public key. Its members stand in lexicographic order, as the thumbprint needs them (RFC 7638 section 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Jwk {
    Ec { crv: String, kty: String, x: String, y: String },
    Rsa { e: String, kty: String, n: String },
}

impl Jwk {
    /// The public half of a key, and its kind.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for a kind of key that no public CA takes for an account.
    pub(super) fn of<T: HasPublic>(key: &PKeyRef<T>) -> Result<(Self, KeyType), KeyError> {
        match key.id() {
            Id::RSA => rsa(key),
            Id::EC => ec(key),
            _ => Err(KeyError::Unsupported),
        }
    }

    /// The thumbprint that key authorizations end in (RFC 8555 section 8.1).
    pub fn thumbprint(&self) -> Thumbprint {
        let members = serde_json::to_vec(self).expect("a map of strings can be written as JSON");
        Thumbprint::from_digest(&sha256(&members))
    }
}

fn rsa<T: HasPublic>(key: &PKeyRef<T>) -> Result<(Jwk, KeyType), KeyError> {
    let rsa = key.rsa()?;
    let kind = match rsa.n().num_bits() {
        2048 => KeyType::Rsa2048,
        3072 => KeyType::Rsa3072,
        4096 => KeyType::Rsa4096,
        _ => return Err(KeyError::Unsupported),
    };
    if rsa.e() != &*BigNum::from_u32(65_537)? {
        return Err(KeyError::Unsupported);
    }
    let [e, n] = [rsa.e(), rsa.n()].map(|number| URL_SAFE_NO_PAD.encode(number.to_vec()));
    Ok((Jwk::Rsa { e, kty: "RSA".to_owned(), n }, kind))
}

fn ec<T: HasPublic>(key: &PKeyRef<T>) -> Result<(Jwk, KeyType), KeyError> {
    let ec = key.ec_key()?;
    let (kind, crv) = match ec.group().curve_name() {
        Some(Nid::X9_62_PRIME256V1) => (KeyType::EcdsaP256, "P-256"),
        Some(Nid::SECP384R1) => (KeyType::EcdsaP384, "P-384"),
        _ => return Err(KeyError::Unsupported),
    };
    let (mut x, mut y, mut context) = (BigNum::new()?, BigNum::new()?, BigNumContext::new()?);
    ec.public_key().affine_coordinates(ec.group(), &mut x, &mut y, &mut context)?;
    // Coordinates have the width of the field, with zeros in front (RFC 7518 section 6.2.1.2).
    let width = coordinate_bytes(kind);
    let [x, y] =
        [URL_SAFE_NO_PAD.encode(x.to_vec_padded(width)?), URL_SAFE_NO_PAD.encode(y.to_vec_padded(width)?)];
    Ok((Jwk::Ec { crv: crv.to_owned(), kty: "EC".to_owned(), x, y }, kind))
}

/// Bytes in a coordinate, and in each half of a signature. For RSA it means nothing.
pub(super) fn coordinate_bytes(kind: KeyType) -> i32 {
    match kind {
        KeyType::EcdsaP384 => 48,
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_of_rfc_7638_section_3_1() {
        let key: Jwk = serde_json::from_str(
            r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#,
        )
        .unwrap();
        assert_eq!(key.thumbprint().as_str(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }
}
