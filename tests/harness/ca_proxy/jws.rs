//! Reading what a client signed, without verifying it: that is the CA's work.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use openssl::{nid::Nid, pkey::Id, x509::X509Req};
use serde::Deserialize;

/// The parts of a flattened JWS (RFC 7515 section 7.2.2) that the proxy looks at; all empty for anything else.
#[derive(Debug, Default)]
pub(super) struct Signed {
    pub(super) nonce: Option<String>,
    /// The account URL; `None` where the request carries a whole key.
    pub(super) kid: Option<String>,
    pub(super) payload: serde_json::Value,
}

#[derive(Deserialize)]
struct Flattened {
    protected: String,
    payload: String,
}

#[derive(Deserialize)]
struct Protected {
    nonce: Option<String>,
    kid: Option<String>,
}

impl Signed {
    pub(super) fn parse(body: &[u8]) -> Self {
        let Ok(flattened) = serde_json::from_slice::<Flattened>(body) else { return Self::default() };
        let protected = decode(&flattened.protected)
            .and_then(|bytes| serde_json::from_slice::<Protected>(&bytes).ok())
            .unwrap_or(Protected { nonce: None, kid: None });
        let payload = decode(&flattened.payload)
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self { nonce: protected.nonce, kid: protected.kid, payload }
    }

    /// The names of a newOrder (RFC 8555 section 7.4), sorted.
    pub(super) fn identifiers(&self) -> Vec<String> {
        let mut names: Vec<String> = self.payload["identifiers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|identifier| Some(identifier["value"].as_str()?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// The kind of key in a finalize request's CSR, in the words of `shared::domain::KeyType`.
    pub(super) fn csr_key_type(&self) -> Option<String> {
        let csr = X509Req::from_der(&decode(self.payload["csr"].as_str()?)?).ok()?;
        let key = csr.public_key().ok()?;
        Some(match key.id() {
            Id::RSA => format!("rsa-{}", key.bits()),
            Id::EC => match key.ec_key().ok()?.group().curve_name() {
                Some(Nid::X9_62_PRIME256V1) => "ecdsa-p256".to_owned(),
                Some(Nid::SECP384R1) => "ecdsa-p384".to_owned(),
                other => format!("ecdsa-{other:?}"),
            },
            other => format!("{other:?}"),
        })
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}
