//! A client certificate for a key of the frontend's own: in exchange for its token, once; or for the client certificate that it
//! has, before that ends.

use super::{Certificates, audit::Asker, identity::Identity, refusal::Refusal};
use jiff::Timestamp;
use openssl::{
    nid::Nid,
    pkey::{Id, PKey, Public},
    x509::X509Req,
};
use serde::Serialize;
use shared::{
    digest::sha256_hex,
    domain::{Frontend, FrontendName, NotItself},
};
use std::time::Duration;

/// The largest request for a certificate, bytes.
pub(crate) const BODY_BYTES: usize = 16 * 1024;

/// What a frontend that enrols, or renews its client certificate, is given.
#[derive(Debug, Serialize)]
pub(crate) struct Issued {
    name: String,
    /// With the internal CA's.
    certificate_pem: String,
}

impl Certificates {
    /// Certifies the key of a signing request (PKCS #10, PEM) for who asks.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`]: to somebody whose token was exchanged already, by another key, as to a stranger.
    pub(crate) async fn certify(
        &self,
        identity: &Identity,
        name: &FrontendName,
        from: &str,
        request: &[u8],
    ) -> Result<Issued, Refusal> {
        let authority = self.internal_ca.get().ok_or(Refusal::Starting)?;
        let key = key_of(request)?;
        let spki = sha256_hex(&key.public_key_to_der().map_err(|e| Refusal::Damaged(e.into()))?);
        let now = Timestamp::now();
        let take = |frontend: &mut Frontend| -> Result<(), NotItself> {
            match identity {
                Identity::Token(token) => frontend.enrol(token, &spki, now),
                Identity::Key(old) => frontend.renew(old, &spki),
            }
        };
        let changed = self.store.change_frontend(name, |frontend| take(frontend).is_ok()).await?;
        let frontend = changed.ok_or(Refusal::Unauthorized)?;
        let life = Duration::from_secs(self.client_certificate_seconds);
        let certificate_pem =
            authority.certify_client(name, &key, life).map_err(|e| Refusal::Damaged(e.into()))?;
        let asker =
            Asker { name: frontend.name.to_string(), identity: identity.clone(), from: from.to_owned() };
        self.audit.enrolled(&asker, &spki).await?;
        Ok(Issued { name: name.to_string(), certificate_pem })
    }
}

/// The key that the request was signed with.
fn key_of(request: &[u8]) -> Result<PKey<Public>, Refusal> {
    let mistaken =
        |what: &str| Refusal::Mistaken(format!("{what}: expected a signing request (PKCS #10) in PEM"));
    let request = X509Req::from_pem(request).map_err(|_| mistaken("this can't be read"))?;
    let key = request.public_key().map_err(|_| mistaken("its key can't be read"))?;
    if !request.verify(&key).unwrap_or(false) {
        return Err(mistaken("its signature is wrong"));
    }
    let curve = || key.ec_key().ok().and_then(|key| key.group().curve_name());
    let is_strong = match key.id() {
        Id::EC => curve().is_some_and(|curve| matches!(curve, Nid::X9_62_PRIME256V1 | Nid::SECP384R1)),
        Id::RSA => (2048..=4096).contains(&key.bits()),
        Id::ED25519 => true,
        _ => false,
    };
    if is_strong {
        Ok(key)
    } else {
        Err(mistaken("its key is none of P-256, P-384, RSA of 2048 to 4096 bits and Ed25519"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::{
        ec::{EcGroup, EcKey},
        hash::MessageDigest,
        pkey::Private,
        rsa::Rsa,
    };

    fn request(key: &PKey<Private>, signer: &PKey<Private>) -> Vec<u8> {
        let mut builder = X509Req::builder().unwrap();
        builder.set_pubkey(key).unwrap();
        builder.sign(signer, MessageDigest::sha256()).unwrap();
        builder.build().to_pem().unwrap()
    }

    fn on_curve(curve: Nid) -> PKey<Private> {
        let group = EcGroup::from_curve_name(curve).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    }

    #[test]
    fn only_strong_keys_that_have_signed_themselves_are_certified() {
        let key = on_curve(Nid::X9_62_PRIME256V1);
        assert!(key_of(&request(&key, &key)).unwrap().public_eq(&key));
        let other = on_curve(Nid::SECP384R1);
        assert!(key_of(&request(&other, &other)).is_ok());
        let weak = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
        for bad in [request(&key, &other), request(&weak, &weak), b"nothing".to_vec(), Vec::new()] {
            assert!(matches!(key_of(&bad), Err(Refusal::Mistaken(_))));
        }
        let odd = on_curve(Nid::SECP256K1);
        assert!(key_of(&request(&odd, &odd)).is_err());
    }
}
