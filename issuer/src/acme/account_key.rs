//! The key of an account: what signs requests, and what key authorizations end in.

use super::{
    csr,
    jwk::{Jwk, coordinate_bytes},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openssl::{
    bn::{BigNum, BigNumContext},
    ec::{EcGroup, EcKey, EcPoint},
    ecdsa::EcdsaSig,
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{Id, PKey, Private},
    rsa::RsaPrivateKeyBuilder,
    sign::Signer,
};
use serde::Deserialize;
use shared::domain::{KeyAuthorization, KeyType, Thumbprint, Token};
use std::{fmt, sync::Arc};
use zeroize::{Zeroize, Zeroizing};

/// A private key that signs for an account. Cheap to clone; prints nothing secret.
#[derive(Clone)]
pub struct AccountKey {
    key: PKey<Private>,
    kind: KeyType,
    public: Arc<Jwk>,
}

/// A key that can't be read, made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key is not an unencrypted private key in this format")]
    Malformed,
    #[error("the key has a passphrase: remove it first")]
    Encrypted,
    #[error(
        "the key is of a kind that CAs refuse: use ECDSA P-256 or P-384, or RSA with 2048, 3072 or 4096 bits and exponent 65537"
    )]
    Unsupported,
    #[error("the parts of the key do not fit together")]
    Inconsistent,
    #[error("OpenSSL refused the operation")]
    OpenSsl(#[from] ErrorStack),
}

impl AccountKey {
    /// A new key. Seconds of work for RSA with 4096 bits.
    ///
    /// # Errors
    /// [`KeyError::OpenSsl`] when the system gives no randomness.
    pub fn generate(kind: KeyType) -> Result<Self, KeyError> {
        Self::from_private_key(csr::generate_certificate_key(kind)?)
    }

    /// From PEM: PKCS#8, or the older `RSA PRIVATE KEY` and `EC PRIVATE KEY` (lego, acme.sh).
    ///
    /// # Errors
    /// [`KeyError`] when it is no private key, has a passphrase, or is of a kind that CAs refuse.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let mut asked = false;
        // Without a callback OpenSSL would ask for the passphrase on the terminal.
        let key = PKey::private_key_from_pem_callback(pem, |_| {
            asked = true;
            Ok(0)
        });
        match key {
            Ok(key) => Self::from_private_key(key),
            Err(_) if asked => Err(KeyError::Encrypted),
            Err(_) => Err(KeyError::Malformed),
        }
    }

    /// From what [`AccountKey::to_pkcs8_der`] gave.
    ///
    /// # Errors
    /// [`KeyError`] when it is no PKCS#8 or of a kind that CAs refuse.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        Self::from_private_key(PKey::private_key_from_pkcs8(der).map_err(|_| KeyError::Malformed)?)
    }

    /// From a private JWK (RFC 7518 section 6), as certbot keeps it in `private_key.json`.
    ///
    /// # Errors
    /// [`KeyError`] when a member is missing, or the parts do not belong together.
    pub fn from_jwk(json: &[u8]) -> Result<Self, KeyError> {
        let jwk: PrivateJwk = serde_json::from_slice(json).map_err(|_| KeyError::Malformed)?;
        let jwk = Zeroizing::new(jwk);
        let key = match jwk.kty.as_str() {
            "RSA" => jwk.rsa(),
            "EC" => jwk.ec(),
            _ => Err(KeyError::Unsupported),
        };
        Self::from_private_key(key?)
    }

    /// From a key that OpenSSL holds: also how a certificate's key signs its own revocation.
    ///
    /// # Errors
    /// [`KeyError`] when it is of a kind that CAs refuse, or its parts do not fit together.
    pub fn from_private_key(key: PKey<Private>) -> Result<Self, KeyError> {
        let (public, kind) = Jwk::of(&key)?;
        let consistent = match key.id() {
            Id::RSA => key.rsa()?.check_key().unwrap_or(false),
            _ => key.ec_key()?.check_key().is_ok(),
        };
        if !consistent {
            return Err(KeyError::Inconsistent);
        }
        Ok(Self { key, kind, public: Arc::new(public) })
    }

    /// The whole key, to be sealed and stored.
    ///
    /// # Errors
    /// [`KeyError::OpenSsl`] when it can't be encoded.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        Ok(Zeroizing::new(self.key.private_key_to_pkcs8()?))
    }

    pub fn kind(&self) -> KeyType {
        self.kind
    }

    /// The public half.
    pub fn jwk(&self) -> &Jwk {
        &self.public
    }

    /// The public half as DER (SubjectPublicKeyInfo), to tell that a certificate does not use it.
    ///
    /// # Errors
    /// [`KeyError::OpenSsl`] when it can't be encoded.
    pub fn spki_der(&self) -> Result<Vec<u8>, KeyError> {
        Ok(self.key.public_key_to_der()?)
    }

    /// RFC 7638, over SHA-256.
    pub fn thumbprint(&self) -> Thumbprint {
        self.public.thumbprint()
    }

    /// What the CA expects at the token's path (RFC 8555 section 8.1).
    pub fn key_authorization(&self, token: &Token) -> KeyAuthorization {
        KeyAuthorization::new(token, &self.thumbprint())
    }

    /// The JWS `alg` (RFC 7518 section 3.1).
    pub(super) fn algorithm(&self) -> &'static str {
        match self.kind {
            KeyType::EcdsaP256 => "ES256",
            KeyType::EcdsaP384 => "ES384",
            KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => "RS256",
        }
    }

    /// Whether one signature takes so long (milliseconds) that it does not belong on a thread that serves others.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.kind, KeyType::Rsa3072 | KeyType::Rsa4096)
    }

    /// The signature as JWS wants it: for ECDSA `r || s`, each of the width of the field (RFC 7518 section 3.4).
    pub(super) fn sign(&self, input: &[u8]) -> Result<Vec<u8>, KeyError> {
        let digest = match self.kind {
            KeyType::EcdsaP384 => MessageDigest::sha384(),
            _ => MessageDigest::sha256(),
        };
        let signature = Signer::new(digest, &self.key)?.sign_oneshot_to_vec(input)?;
        match self.kind {
            KeyType::EcdsaP256 | KeyType::EcdsaP384 => fixed_width(&signature, coordinate_bytes(self.kind)),
            KeyType::Rsa2048 | KeyType::Rsa3072 | KeyType::Rsa4096 => Ok(signature),
        }
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountKey").field("kind", &self.kind).finish_non_exhaustive()
    }
}

fn fixed_width(der: &[u8], width: i32) -> Result<Vec<u8>, KeyError> {
    let signature = EcdsaSig::from_der(der)?;
    let mut joined = signature.r().to_vec_padded(width)?;
    joined.extend(signature.s().to_vec_padded(width)?);
    Ok(joined)
}

/// Every member that RFC 7518 gives a private EC or RSA key.
#[derive(Default, Deserialize, Zeroize)]
#[serde(default)]
struct PrivateJwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
    d: String,
    n: String,
    e: String,
    p: String,
    q: String,
    dp: String,
    dq: String,
    qi: String,
}

impl PrivateJwk {
    fn rsa(&self) -> Result<PKey<Private>, KeyError> {
        let key = RsaPrivateKeyBuilder::new(number(&self.n)?, number(&self.e)?, number(&self.d)?)?
            .set_factors(number(&self.p)?, number(&self.q)?)?
            .set_crt_params(number(&self.dp)?, number(&self.dq)?, number(&self.qi)?)?
            .build();
        Ok(PKey::from_rsa(key)?)
    }

    fn ec(&self) -> Result<PKey<Private>, KeyError> {
        let curve = match self.crv.as_str() {
            "P-256" => Nid::X9_62_PRIME256V1,
            "P-384" => Nid::SECP384R1,
            _ => return Err(KeyError::Unsupported),
        };
        let group = EcGroup::from_curve_name(curve)?;
        let (x, y, mut context) = (number(&self.x)?, number(&self.y)?, BigNumContext::new()?);
        let mut point = EcPoint::new(&group)?;
        point.set_affine_coordinates(&group, &x, &y, &mut context).map_err(|_| KeyError::Inconsistent)?;
        let mut secret = number(&self.d)?;
        let key = EcKey::from_private_components(&group, &secret, &point).map_err(|_| KeyError::Inconsistent);
        secret.clear();
        Ok(PKey::from_ec_key(key?)?)
    }
}

fn number(text: &str) -> Result<BigNum, KeyError> {
    if text.is_empty() {
        return Err(KeyError::Malformed);
    }
    let octets = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Malformed)?);
    Ok(BigNum::from_slice(&octets)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::symm::Cipher;
    use proptest::prelude::*;

    /// RFC 7515 appendix A.3.1.
    pub(crate) const EC_EXAMPLE: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;

    #[test]
    fn an_ec_key_of_rfc_7515_is_read() {
        let key = AccountKey::from_jwk(EC_EXAMPLE.as_bytes()).unwrap();
        let Jwk::Ec { crv, x, y, .. } = key.jwk() else { panic!("{:?}", key.jwk()) };
        assert_eq!(crv, "P-256");
        assert_eq!(x, "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU");
        assert_eq!(y, "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");
        assert_eq!(format!("{key:?}"), "AccountKey { kind: EcdsaP256, .. }");
    }

    #[test]
    fn every_kind_survives_every_format() {
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Rsa2048, KeyType::Rsa3072] {
            let key = AccountKey::generate(kind).unwrap();
            assert_eq!(key.kind(), kind);
            let stored = key.to_pkcs8_der().unwrap();
            assert_eq!(AccountKey::from_pkcs8_der(&stored).unwrap().jwk(), key.jwk());
            let pem = key.key.private_key_to_pem_pkcs8().unwrap();
            assert_eq!(AccountKey::from_pem(&pem).unwrap().thumbprint(), key.thumbprint());
            assert_eq!(key.spki_der().unwrap(), key.key.public_key_to_der().unwrap());
        }
        let old = openssl::rsa::Rsa::generate(2048).unwrap().private_key_to_pem().unwrap();
        assert_eq!(AccountKey::from_pem(&old).unwrap().kind(), KeyType::Rsa2048);
    }

    #[test]
    fn bad_keys_are_refused_with_the_reason() {
        let key = PKey::from_rsa(openssl::rsa::Rsa::generate(1024).unwrap()).unwrap();
        assert!(matches!(AccountKey::from_private_key(key), Err(KeyError::Unsupported)));
        assert!(matches!(
            AccountKey::from_private_key(PKey::generate_ed25519().unwrap()),
            Err(KeyError::Unsupported)
        ));
        let p256 = csr::generate_certificate_key(KeyType::EcdsaP256).unwrap();
        let locked = p256.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"secret").unwrap();
        assert!(matches!(AccountKey::from_pem(&locked), Err(KeyError::Encrypted)));
        assert!(matches!(AccountKey::from_pem(b"-----BEGIN NOTHING-----"), Err(KeyError::Malformed)));
        assert!(matches!(AccountKey::from_jwk(br#"{"kty":"RSA","n":"AQAB"}"#), Err(KeyError::Malformed)));
        // A private number that does not belong to the point.
        let foreign = EC_EXAMPLE.replace("jpsQnnGQ", "jpsQnnGR");
        assert!(matches!(AccountKey::from_jwk(foreign.as_bytes()), Err(KeyError::Inconsistent)));
        let off_curve = EC_EXAMPLE.replace("f83OJ3D2", "f83OJ3D3");
        assert!(matches!(AccountKey::from_jwk(off_curve.as_bytes()), Err(KeyError::Inconsistent)));
    }

    #[test]
    fn halves_of_a_signature_have_the_width_of_the_field() {
        let short = EcdsaSig::from_private_components(
            BigNum::from_u32(1).unwrap(),
            BigNum::from_u32(0x0203).unwrap(),
        );
        let joined = fixed_width(&short.unwrap().to_der().unwrap(), 32).unwrap();
        assert_eq!(joined.len(), 64);
        assert_eq!((joined[31], &joined[62..]), (1, [2, 3].as_slice()));
        assert!(joined[..31].iter().chain(&joined[32..62]).all(|octet| *octet == 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn signatures_are_of_fixed_width_and_verify(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (kind, width, digest) in [(KeyType::EcdsaP256, 64, MessageDigest::sha256()), (KeyType::EcdsaP384, 96, MessageDigest::sha384())] {
                let key = AccountKey::generate(kind).unwrap();
                let signature = key.sign(&input).unwrap();
                prop_assert_eq!(signature.len(), width);
                let (r, s) = signature.split_at(width / 2);
                let der = EcdsaSig::from_private_components(BigNum::from_slice(r).unwrap(), BigNum::from_slice(s).unwrap());
                let hash = openssl::hash::hash(digest, &input).unwrap();
                prop_assert!(der.unwrap().verify(&hash, &key.key.ec_key().unwrap()).unwrap());
            }
        }

        #[test]
        fn reading_a_jwk_never_panics(json in "\\PC{0,120}", value in "[A-Za-z0-9_-]{0,60}") {
            let _ = AccountKey::from_jwk(json.as_bytes());
            let ec = format!(r#"{{"kty":"EC","crv":"P-256","x":"{value}","y":"{value}","d":"{value}"}}"#);
            prop_assert!(AccountKey::from_jwk(ec.as_bytes()).is_err());
        }
    }
}
