//! The files of a certificate, as frontends read them.

use super::{refusal::Refusal, route::FileKind};
use actix_web::web::Bytes;
use openssl::pkey::PKey;
use shared::{
    domain::{Certificate, Leaf, SiteId, Slot},
    store::lineage_of,
    vault::{Binding, SealedKind, Vault},
};
use zeroize::Zeroizing;

/// The content of a file that holds no key.
///
/// # Errors
/// [`Refusal::Damaged`].
pub(crate) fn public_file(certificate: &Certificate, kind: FileKind) -> Result<Bytes, Refusal> {
    let leaf = || certificate.leaf_pem().map_err(|e| Refusal::Damaged(e.into()));
    Ok(match kind {
        FileKind::Cert => leaf()?.into(),
        FileKind::Chain => with_newline(certificate.chain_pem.clone()).into(),
        FileKind::Fullchain | FileKind::Privkey | FileKind::Bundle => {
            (with_newline(leaf()?) + &with_newline(certificate.chain_pem.clone())).into()
        }
    })
}

/// The content of a file that holds the private key (PKCS#8). It is wiped when it has been sent.
///
/// # Errors
/// [`Refusal::Damaged`]: the key is sealed for another record or with a key that the ring lacks.
pub(crate) fn file_with_key(
    certificate: &Certificate,
    leaf: &Leaf,
    site: &SiteId,
    slot: Slot,
    kind: FileKind,
    vault: &Vault,
) -> Result<Bytes, Refusal> {
    let key = private_key(certificate, leaf, site, slot, vault)?;
    let before = match kind {
        FileKind::Bundle => public_file(certificate, FileKind::Fullchain)?,
        _ => Bytes::new(),
    };
    let mut content = Zeroizing::new(Vec::with_capacity(before.len() + key.len()));
    content.extend_from_slice(&before);
    content.extend_from_slice(&key);
    Ok(Bytes::from_owner(content))
}

/// The private key, PKCS#8 in PEM.
///
/// # Errors
/// As [`file_with_key`].
pub(crate) fn private_key(
    certificate: &Certificate,
    leaf: &Leaf,
    site: &SiteId,
    slot: Slot,
    vault: &Vault,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let owner = lineage_of(site, slot);
    let binding = Binding { kind: SealedKind::CertificateKey, owner: &owner, spki_sha256: &leaf.spki_sha256 };
    let der = vault.open(&certificate.sealed_key, &binding).map_err(|e| Refusal::Damaged(e.into()))?;
    PKey::private_key_from_pkcs8(&der)
        .and_then(|key| key.private_key_to_pem_pkcs8())
        .map(Zeroizing::new)
        .map_err(|e| Refusal::Damaged(e.into()))
}

impl FileKind {
    /// RFC 8555 section 9.1 for chains; what is in use for the rest.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Fullchain | Self::Chain => "application/pem-certificate-chain",
            Self::Cert | Self::Privkey | Self::Bundle => "application/x-pem-file",
        }
    }
}

fn with_newline(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use openssl::{
        asn1::Asn1Time,
        ec::{EcGroup, EcKey},
        hash::MessageDigest,
        nid::Nid,
        x509::{X509, X509NameBuilder},
    };
    use shared::{domain::KeyType, vault::Keyring};

    const SITE: &str = "0123456789abcdef0123";

    fn sealed(vault: &Vault) -> (Certificate, Leaf) {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "a.example.com").unwrap();
        let name = name.build();
        let mut builder = X509::builder().unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let x509 = builder.build();
        let leaf = Leaf::of(&x509).unwrap();
        let owner = lineage_of(&SiteId::parse(SITE).unwrap(), Slot::Ecdsa);
        let binding =
            Binding { kind: SealedKind::CertificateKey, owner: &owner, spki_sha256: &leaf.spki_sha256 };
        let certificate = Certificate {
            leaf_der: x509.to_der().unwrap(),
            chain_pem: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----".into(),
            sealed_key: vault.seal(&key.private_key_to_pkcs8().unwrap(), &binding).unwrap(),
            key_type: KeyType::EcdsaP256,
            ca: "test".into(),
            account: "default".into(),
            issued: Timestamp::UNIX_EPOCH,
            known: None,
        };
        (certificate, leaf)
    }

    #[test]
    fn a_bundle_is_the_full_chain_and_the_key_that_fits_it() {
        let directory = tempfile::tempdir().unwrap();
        let vault = Vault::new(Keyring::generate(&directory.path().join("kek")).unwrap());
        let (certificate, leaf) = sealed(&vault);
        let site = SiteId::parse(SITE).unwrap();
        let with_key = |slot, kind| file_with_key(&certificate, &leaf, &site, slot, kind, &vault);
        let fullchain = public_file(&certificate, FileKind::Fullchain).unwrap();
        let chain = public_file(&certificate, FileKind::Chain).unwrap();
        let cert = public_file(&certificate, FileKind::Cert).unwrap();
        assert_eq!(fullchain, [cert.clone(), chain.clone()].concat());
        assert!(chain.ends_with(b"-----END CERTIFICATE-----\n"), "files that are joined end in a newline");
        let key = with_key(Slot::Ecdsa, FileKind::Privkey).unwrap();
        assert!(key.starts_with(b"-----BEGIN PRIVATE KEY-----\n") && key.ends_with(b"\n"));
        assert_eq!(with_key(Slot::Ecdsa, FileKind::Bundle).unwrap(), [fullchain, key.clone()].concat());
        let key = PKey::private_key_from_pem(&key).unwrap();
        assert!(X509::from_pem(&cert).unwrap().public_key().unwrap().public_eq(&key));
        assert!(
            matches!(with_key(Slot::Rsa, FileKind::Privkey), Err(Refusal::Damaged(_))),
            "bound to its lineage"
        );
    }
}
