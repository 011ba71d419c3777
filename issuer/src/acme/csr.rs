//! Keys of certificates, and requests for them (RFC 2986, RFC 8555 section 7.4).

use super::identifier::Identifier;
use openssl::{
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, PKeyRef, Private},
    rsa::Rsa,
    stack::Stack,
    x509::{X509ReqBuilder, extension::SubjectAlternativeName},
};
use shared::domain::KeyType;

/// A new private key. Up to seconds of work for RSA with 4096 bits: not on a thread that serves others.
///
/// # Errors
/// [`ErrorStack`] when the system gives no randomness.
pub fn generate_certificate_key(kind: KeyType) -> Result<PKey<Private>, ErrorStack> {
    let elliptic = |curve| PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(curve)?)?);
    let rsa = |bits| PKey::from_rsa(Rsa::generate(bits)?);
    match kind {
        KeyType::EcdsaP256 => elliptic(Nid::X9_62_PRIME256V1),
        KeyType::EcdsaP384 => elliptic(Nid::SECP384R1),
        KeyType::Rsa2048 => rsa(2048),
        KeyType::Rsa3072 => rsa(3072),
        KeyType::Rsa4096 => rsa(4096),
    }
}

/// The request for a certificate, DER: exactly these names, as subject alternative names, and an empty subject. A common
/// name is limited to 64 characters and no client reads it.
///
/// # Errors
/// [`ErrorStack`] when a name can't be encoded or the key can't sign.
pub fn for_names(key: &PKeyRef<Private>, names: &[Identifier]) -> Result<Vec<u8>, ErrorStack> {
    let mut builder = X509ReqBuilder::new()?;
    builder.set_version(0)?;
    builder.set_pubkey(key)?;
    let mut alternative = SubjectAlternativeName::new();
    for name in names {
        match name.kind.as_str() {
            Identifier::IP => alternative.ip(&name.value),
            _ => alternative.dns(&name.value),
        };
    }
    let mut extensions = Stack::new()?;
    extensions.push(alternative.build(&builder.x509v3_context(None))?)?;
    builder.add_extensions(&extensions)?;
    builder.sign(key, MessageDigest::sha256())?;
    builder.build().to_der()
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::x509::X509Req;

    #[test]
    fn a_request_has_the_names_the_key_and_nothing_else() {
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Rsa2048] {
            let key = generate_certificate_key(kind).unwrap();
            let names = [
                Identifier::dns("xn--vj4bp7i.example.kr"),
                Identifier::dns("www.example.org"),
                Identifier::ip([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()),
            ];
            let request = X509Req::from_der(&for_names(&key, &names).unwrap()).unwrap();
            assert!(request.verify(&key).unwrap());
            assert_eq!(request.subject_name().entries().count(), 0);
            assert_eq!(request.version(), 0);
            assert_eq!(request.extensions().unwrap().len(), 1);
            let text = String::from_utf8(request.to_text().unwrap()).unwrap();
            assert!(
                text.contains(
                    "DNS:xn--vj4bp7i.example.kr, DNS:www.example.org, IP Address:2001:DB8:0:0:0:0:0:1"
                ),
                "{text}"
            );
            assert!(text.contains("sha256") || text.contains("SHA256"), "{text}");
        }
    }
}
