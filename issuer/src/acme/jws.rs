//! The envelope of every request (RFC 8555 section 6.2): a flattened JWS with `nonce` and `url` in its header.

use super::{account_key::AccountKey, account_key::KeyError, jwk::Jwk};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

/// A signed message, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Jws {
    protected: String,
    payload: String,
    signature: String,
}

/// Who signs: a key that introduces itself, or one that the server knows by the account's URL. Never both.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signatory<'a> {
    Jwk,
    Account(&'a str),
}

/// The protected header (RFC 8555 section 6.2).
#[derive(Serialize)]
pub(super) struct Protected<'a> {
    pub(super) alg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nonce: Option<&'a str>,
    pub(super) url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jwk: Option<&'a Jwk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kid: Option<&'a str>,
}

/// Signs a request. An empty `payload` is a POST-as-GET (RFC 8555 section 6.3); only the inner message of a key
/// rollover has no nonce.
pub(super) fn sign(
    key: &AccountKey,
    signatory: Signatory<'_>,
    nonce: Option<&str>,
    url: &str,
    payload: &[u8],
) -> Result<Jws, KeyError> {
    let (jwk, kid) = match signatory {
        Signatory::Jwk => (Some(key.jwk()), None),
        Signatory::Account(account) => (None, Some(account)),
    };
    let protected = Protected { alg: key.algorithm(), nonce, url, jwk, kid };
    Jws::new(&protected, payload, |input| key.sign(input))
}

impl Jws {
    /// Encodes header and payload, and has them signed.
    pub(super) fn new(
        protected: &Protected<'_>,
        payload: &[u8],
        signature: impl FnOnce(&[u8]) -> Result<Vec<u8>, KeyError>,
    ) -> Result<Self, KeyError> {
        let protected = URL_SAFE_NO_PAD.encode(json(protected));
        let payload = URL_SAFE_NO_PAD.encode(payload);
        let signature = signature(format!("{protected}.{payload}").as_bytes())?;
        Ok(Self { protected, payload, signature: URL_SAFE_NO_PAD.encode(signature) })
    }

    /// The message as JSON.
    pub(super) fn to_json(&self) -> Vec<u8> {
        json(self)
    }
}

/// JSON of a type of ours that has string keys only and never fails by itself.
pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("wire types have string keys and no failing parts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::{bn::BigNum, ecdsa::EcdsaSig, pkey::PKey, sha::sha256};
    use serde_json::{Value, json};
    use shared::domain::KeyType;

    const EC_EXAMPLE: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;
    /// RFC 7515 appendix A.2.1.
    const RSA_EXAMPLE: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB","d":"Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ","p":"4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc","q":"uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc","dp":"BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0","dq":"h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU","qi":"IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U"}"#;

    fn decoded(text: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    }

    #[test]
    fn rs256_signs_as_in_rfc_7515_appendix_a_2() {
        let key = AccountKey::from_jwk(RSA_EXAMPLE.as_bytes()).unwrap();
        let input = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        assert_eq!(
            URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()).unwrap()),
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
        );
    }

    #[test]
    fn a_new_account_introduces_its_key_and_others_name_the_account() {
        let key = AccountKey::from_jwk(EC_EXAMPLE.as_bytes()).unwrap();
        let url = "https://example.com/acme/new-account";
        let introduced = sign(&key, Signatory::Jwk, Some("6S8IqOGY7eL2lsGoTZYifg"), url, b"{}").unwrap();
        assert_eq!(
            decoded(&introduced.protected),
            json!({"alg": "ES256", "nonce": "6S8IqOGY7eL2lsGoTZYifg", "url": url, "jwk": {
                "crv": "P-256", "kty": "EC",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}})
        );
        let account = "https://example.com/acme/acct/evOfKhNU60wg";
        let known = sign(&key, Signatory::Account(account), Some("n"), url, b"{}").unwrap();
        assert_eq!(
            decoded(&known.protected),
            json!({"alg": "ES256", "nonce": "n", "url": url, "kid": account})
        );
        assert_eq!(known.payload, "e30");
    }

    #[test]
    fn a_post_as_get_has_an_empty_payload() {
        let key = AccountKey::generate(KeyType::EcdsaP384).unwrap();
        let jws = sign(&key, Signatory::Account("https://a/1"), Some("n"), "https://a/order", b"").unwrap();
        let sent: Value = serde_json::from_slice(&jws.to_json()).unwrap();
        assert_eq!(sent["payload"], "");
        assert_eq!(sent.as_object().unwrap().len(), 3);
        assert_eq!(decoded(&jws.protected)["alg"], "ES384");
    }

    #[test]
    fn the_signature_covers_header_and_payload() {
        let private = crate::acme::generate_certificate_key(KeyType::EcdsaP256).unwrap();
        let public = PKey::public_key_from_der(&private.public_key_to_der().unwrap()).unwrap();
        let key = AccountKey::from_private_key(private).unwrap();
        let jws = sign(&key, Signatory::Jwk, Some("n"), "https://a/", b"payload").unwrap();
        let octets = URL_SAFE_NO_PAD.decode(&jws.signature).unwrap();
        let [r, s] = [&octets[..32], &octets[32..]].map(|half| BigNum::from_slice(half).unwrap());
        let digest = sha256(format!("{}.{}", jws.protected, jws.payload).as_bytes());
        assert!(
            EcdsaSig::from_private_components(r, s)
                .unwrap()
                .verify(&digest, &public.ec_key().unwrap())
                .unwrap()
        );
    }
}
