//! What a signing request (PKCS #10, RFC 2986) must be like before its key is certified. Looked at as it came: OpenSSL reads weak
//! ones as well, and gives parameters that were written out the name of the curve that they are of.

use super::refusal::Refusal;
use openssl::{
    pkey::{Id, PKey, Public},
    x509::X509Req,
};

/// Digests that a request is signed with, by the content of their OIDs: RSA and ECDSA with SHA-256, SHA-384 or SHA-512; Ed25519.
const SIGNATURES: [&[u8]; 7] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04],
    &[0x2b, 0x65, 0x70],
];
/// P-256 and P-384.
const CURVES: [&[u8]; 2] =
    [&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], &[0x2b, 0x81, 0x04, 0x00, 0x22]];
/// An exponent is at least 65537 and at most 256 bits long (SP 800-56B rev. 2 section 6.2).
const LEAST_EXPONENT_BITS: i32 = 17;
const MOST_EXPONENT_BITS: i32 = 256;

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;

/// The key that a request is signed with.
///
/// # Errors
/// [`Refusal::Mistaken`] for one that is weak, or no request.
pub(crate) fn key_of(request: &[u8]) -> Result<PKey<Public>, Refusal> {
    let mistaken =
        |what: &str| Refusal::Mistaken(format!("{what}: expected a signing request (PKCS #10) in PEM"));
    let request = X509Req::from_pem(request).map_err(|_| mistaken("this can't be read"))?;
    let der = request.to_der().map_err(|_| mistaken("this can't be read"))?;
    let Parts { signature, parameters } = Parts::of(&der).ok_or_else(|| mistaken("this can't be read"))?;
    let key = request.public_key().map_err(|_| mistaken("its key can't be read"))?;
    let is_strong = match key.id() {
        Id::EC => parameters.is_some_and(|curve| CURVES.contains(&curve)),
        Id::RSA => {
            let exponent = key.rsa().map(|key| key.e().num_bits()).unwrap_or_default();
            (2048..=4096).contains(&key.bits())
                && (LEAST_EXPONENT_BITS..=MOST_EXPONENT_BITS).contains(&exponent)
        }
        Id::ED25519 => true,
        _ => false,
    };
    if !is_strong {
        return Err(mistaken(
            "its key is none of P-256 and P-384 (named curves), RSA of 2048 to 4096 bits with an exponent of at least 65537, and Ed25519",
        ));
    }
    if !SIGNATURES.contains(&signature) {
        return Err(mistaken("it is signed with something weaker than SHA-256"));
    }
    if !request.verify(&key).unwrap_or(false) {
        return Err(mistaken("its signature is wrong"));
    }
    Ok(key)
}

/// OIDs of a request.
struct Parts<'a> {
    signature: &'a [u8],
    /// Those of the key's algorithm, where they are an OID: the name of a curve.
    parameters: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn of(der: &'a [u8]) -> Option<Self> {
        let mut request = Der(der).enter(SEQUENCE)?;
        let mut info = request.enter(SEQUENCE)?;
        // Version, subject.
        info.next()?;
        info.next()?;
        let mut algorithm = info.enter(SEQUENCE)?.enter(SEQUENCE)?;
        algorithm.next()?;
        let parameters = algorithm.next().and_then(|(tag, content)| (tag == OID).then_some(content));
        let (tag, signature) = request.enter(SEQUENCE)?.next()?;
        (tag == OID).then_some(Self { signature, parameters })
    }
}

/// What is left to read of a value in DER (X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The tag of the next element, and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn enter(&mut self, wanted: u8) -> Option<Self> {
        let (tag, content) = self.next()?;
        (tag == wanted).then_some(Self(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::{
        bn::BigNum,
        ec::{Asn1Flag, EcGroup, EcKey},
        hash::MessageDigest,
        nid::Nid,
        pkey::Private,
        rsa::Rsa,
    };

    fn signed(key: &PKey<Private>, signer: &PKey<Private>, digest: MessageDigest) -> Vec<u8> {
        let mut builder = X509Req::builder().unwrap();
        builder.set_pubkey(key).unwrap();
        builder.sign(signer, digest).unwrap();
        builder.build().to_pem().unwrap()
    }

    fn request(key: &PKey<Private>) -> Vec<u8> {
        signed(key, key, MessageDigest::sha256())
    }

    fn on_curve(curve: Nid, flag: Asn1Flag) -> PKey<Private> {
        let mut group = EcGroup::from_curve_name(curve).unwrap();
        group.set_asn1_flag(flag);
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    }

    fn rsa(bits: u32, exponent: u32) -> PKey<Private> {
        let exponent = BigNum::from_u32(exponent).unwrap();
        PKey::from_rsa(Rsa::generate_with_e(bits, &exponent).unwrap()).unwrap()
    }

    #[test]
    fn only_strong_keys_that_have_signed_themselves_are_certified() {
        let named = Asn1Flag::NAMED_CURVE;
        let key = on_curve(Nid::X9_62_PRIME256V1, named);
        assert!(key_of(&request(&key)).unwrap().public_eq(&key));
        let other = on_curve(Nid::SECP384R1, named);
        let rsa_key = rsa(2048, 65_537);
        for good in [
            request(&other),
            request(&rsa_key),
            signed(&rsa_key, &rsa_key, MessageDigest::sha512()),
            signed(&key, &key, MessageDigest::sha384()),
        ] {
            assert!(key_of(&good).is_ok());
        }
        let edwards = PKey::generate_ed25519().unwrap();
        assert!(key_of(&signed(&edwards, &edwards, MessageDigest::null())).is_ok());
        for (what, bad) in [
            ("another's signature", signed(&key, &other, MessageDigest::sha256())),
            ("no request", b"nothing".to_vec()),
            ("nothing", Vec::new()),
            ("RSA of 1024 bits", request(&rsa(1024, 65_537))),
            ("an exponent of 3", request(&rsa(2048, 3))),
            ("SHA-1", signed(&rsa_key, &rsa_key, MessageDigest::sha1())),
            ("SHA-1 with ECDSA", signed(&key, &key, MessageDigest::sha1())),
            ("MD5", signed(&rsa_key, &rsa_key, MessageDigest::md5())),
            ("another curve", request(&on_curve(Nid::SECP256K1, named))),
            ("parameters written out", request(&on_curve(Nid::X9_62_PRIME256V1, Asn1Flag::EXPLICIT_CURVE))),
        ] {
            assert!(matches!(key_of(&bad), Err(Refusal::Mistaken(_))), "{what}");
        }
    }

    #[test]
    fn der_that_is_cut_or_too_long_is_none() {
        let der = X509Req::from_pem(&request(&on_curve(Nid::X9_62_PRIME256V1, Asn1Flag::NAMED_CURVE)))
            .unwrap()
            .to_der()
            .unwrap();
        assert!(Parts::of(&der).is_some());
        for cut in 0..der.len() {
            assert!(Parts::of(&der[..cut]).is_none(), "{cut}");
        }
        assert!(Parts::of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none());
    }
}
