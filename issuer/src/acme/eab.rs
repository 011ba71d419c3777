//! External account binding (RFC 8555 section 7.3.4): ties a new account to a contract with the CA.

use super::{
    account_key::KeyError,
    jwk::Jwk,
    jws::{Jws, Protected, json},
};
use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use openssl::{hash::MessageDigest, pkey::PKey, sign::Signer};
use std::fmt;
use zeroize::Zeroizing;

/// What the CA handed out: the name of a key, and the key.
#[derive(Clone)]
pub struct ExternalAccountBinding {
    pub kid: String,
    pub hmac_key: Zeroizing<Vec<u8>>,
}

/// The text is no base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the HMAC key of the external account is not base64")]
pub struct InvalidHmacKey;

impl ExternalAccountBinding {
    /// From the two texts that a CA's dashboard shows. The key is base64url, but some dashboards show plain base64,
    /// with padding or without: all of them are taken.
    ///
    /// # Errors
    /// [`InvalidHmacKey`] when it is none of them, or empty.
    pub fn from_text(kid: &str, hmac_key: &str) -> Result<Self, InvalidHmacKey> {
        let text = hmac_key.trim();
        let alphabet = if text.contains(['+', '/']) { STANDARD } else { URL_SAFE };
        let lax = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let hmac_key = GeneralPurpose::new(&alphabet, lax).decode(text).map_err(|_| InvalidHmacKey)?;
        if hmac_key.is_empty() {
            return Err(InvalidHmacKey);
        }
        Ok(Self { kid: kid.trim().to_owned(), hmac_key: Zeroizing::new(hmac_key) })
    }

    /// The `externalAccountBinding` of a newAccount request that is sent to `url` by the owner of `account_key`.
    pub(super) fn bind(&self, account_key: &Jwk, url: &str) -> Result<Jws, KeyError> {
        let protected = Protected { alg: "HS256", nonce: None, url, jwk: None, kid: Some(&self.kid) };
        let key = PKey::hmac(&self.hmac_key)?;
        Jws::new(&protected, &json(account_key), |input| {
            Ok(Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(input)?)
        })
    }
}

impl fmt::Debug for ExternalAccountBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccountBinding").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::AccountKey;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};
    use shared::domain::KeyType;

    #[test]
    fn the_binding_has_the_structure_of_rfc_8555_section_7_3_4() {
        let url = "https://example.com/acme/new-account";
        let account = AccountKey::generate(KeyType::EcdsaP256).unwrap();
        let binding = ExternalAccountBinding::from_text(
            "V6iRR0p3",
            "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
        )
        .unwrap();
        let sent: Value =
            serde_json::from_slice(&binding.bind(account.jwk(), url).unwrap().to_json()).unwrap();
        let part = |name: &str| URL_SAFE_NO_PAD.decode(sent[name].as_str().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&part("protected")).unwrap();
        assert_eq!(header, json!({"alg": "HS256", "kid": "V6iRR0p3", "url": url}));
        let payload: Value = serde_json::from_slice(&part("payload")).unwrap();
        assert_eq!(payload, serde_json::to_value(account.jwk()).unwrap());
        let input = format!("{}.{}", sent["protected"].as_str().unwrap(), sent["payload"].as_str().unwrap());
        let key = PKey::hmac(&binding.hmac_key).unwrap();
        let expected = Signer::new(MessageDigest::sha256(), &key)
            .unwrap()
            .sign_oneshot_to_vec(input.as_bytes())
            .unwrap();
        assert_eq!(part("signature"), expected);
    }

    #[test]
    fn the_hmac_key_is_read_in_every_form_that_dashboards_show() {
        let octets = [0xfb, 0xff, 0xfe, 0x01];
        for text in ["-__-AQ", "-__-AQ==", "+//+AQ", "+//+AQ==", " +//+AQ==\n"] {
            assert_eq!(*ExternalAccountBinding::from_text("k", text).unwrap().hmac_key, octets, "{text}");
        }
        for bad in ["", "=", "not base64!", "-_+/"] {
            assert!(ExternalAccountBinding::from_text("k", bad).is_err(), "{bad}");
        }
        let binding = ExternalAccountBinding::from_text("k", "c2VjcmV0").unwrap();
        assert_eq!(format!("{binding:?}"), r#"ExternalAccountBinding { kid: "k", .. }"#);
    }
}
