//! Making and using the internal CA. Its key lies sealed in the store.

use super::VALID_BEFORE;
use crate::{
    digest::sha256_hex,
    domain::FrontendName,
    store::{InternalCaRecord, Store, StoreError},
    vault::{Binding, OpenError, SealError, SealedKind, Vault},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{HasPublic, PKey, PKeyRef, Private},
    x509::{
        X509, X509Builder, X509Name, X509NameBuilder,
        extension::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
            SubjectKeyIdentifier,
        },
    },
};
use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use zeroize::Zeroizing;

/// Lifetimes. Frontends pin the CA, so it outlives everything; they must survive a long outage of the centre.
const CA_LIFE: Duration = days(7300);
const CLIENT_LIFE: Duration = days(825);
const SERVER_LIFE: Duration = days(90);

/// The internal CA, opened.
pub struct InternalCa {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate with its chain, and its key.
pub struct KeyPair {
    pub certificate_pem: String,
    pub key_pem: Zeroizing<Vec<u8>>,
    /// SHA-256 of the public key, hex.
    pub spki_sha256: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the internal CA can't be read from the store")]
    Store(#[from] StoreError),
    #[error("the internal CA's key can't be opened")]
    Open(#[from] OpenError),
    #[error("the internal CA's key can't be sealed")]
    Seal(#[from] SealError),
    #[error("the internal CA is damaged")]
    Damaged(#[from] base64::DecodeError),
    #[error(
        "the internal CA's certificate in the store (sp:internal-ca) is not signed by its own key: this fleet has not written it"
    )]
    Foreign,
    #[error("making a certificate failed")]
    OpenSsl(#[from] ErrorStack),
}

impl InternalCa {
    /// The fleet's CA; the first program that asks makes it.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn of(store: &Store, vault: &Vault) -> Result<Self, AuthorityError> {
        if let Some(record) = store.load_internal_ca().await? {
            return Self::open(&record, vault);
        }
        store.learn_current_kek(vault).await?;
        store.offer_internal_ca(&new_record(vault)?).await?;
        let record = store.load_internal_ca().await?.ok_or(StoreError::Conflict)?;
        Self::open(&record, vault)
    }

    /// What clients trust, PEM.
    ///
    /// # Errors
    /// [`AuthorityError::OpenSsl`].
    pub fn certificate_pem(&self) -> Result<String, AuthorityError> {
        Ok(String::from_utf8_lossy(&self.certificate.to_pem()?).into_owned())
    }

    pub fn certificate(&self) -> &X509 {
        &self.certificate
    }

    /// A key for a frontend, and a client certificate to it, which is not renewed by itself.
    ///
    /// # Errors
    /// [`AuthorityError::OpenSsl`].
    pub fn issue_client(&self, frontend: &FrontendName) -> Result<KeyPair, AuthorityError> {
        let key = new_key()?;
        let certificate_pem = self.certify_client(frontend, &key, CLIENT_LIFE)?;
        Ok(KeyPair::new(certificate_pem, &key)?)
    }

    /// A client certificate, with its chain, for a key of the frontend's own. Its name is `spiffe://signpost/frontend/NAME`;
    /// what counts is its key.
    ///
    /// # Errors
    /// [`AuthorityError::OpenSsl`].
    pub fn certify_client<T: HasPublic>(
        &self,
        frontend: &FrontendName,
        key: &PKeyRef<T>,
        life: Duration,
    ) -> Result<String, AuthorityError> {
        let mut names = SubjectAlternativeName::new();
        names.uri(&format!("spiffe://signpost/frontend/{frontend}"));
        Ok(self.certify(frontend.as_str(), &names, ExtendedKeyUsage::new().client_auth(), key, life)?)
    }

    /// A server certificate for hostnames and addresses.
    ///
    /// # Errors
    /// [`AuthorityError::OpenSsl`].
    pub fn issue_server(&self, hosts: &[String]) -> Result<KeyPair, AuthorityError> {
        let mut names = SubjectAlternativeName::new();
        for host in hosts {
            if host.parse::<IpAddr>().is_ok() {
                names.ip(host)
            } else {
                names.dns(host)
            };
        }
        let key = new_key()?;
        let mut usage = ExtendedKeyUsage::new();
        let certificate_pem =
            self.certify("Signpost certificates", &names, usage.server_auth(), &key, SERVER_LIFE)?;
        Ok(KeyPair::new(certificate_pem, &key)?)
    }

    fn open(record: &InternalCaRecord, vault: &Vault) -> Result<Self, AuthorityError> {
        let sealed = STANDARD.decode(&record.sealed_key)?;
        let key = vault.open(&sealed, &binding(&record.key_spki_sha256))?;
        let key = PKey::private_key_from_pkcs8(&key)?;
        let certificate = X509::from_pem(record.certificate_pem.as_bytes())?;
        // Its own signature is as good as a MAC: nobody else has the key, and the key can only have been sealed by the fleet.
        if !certificate.verify(&key)? {
            return Err(AuthorityError::Foreign);
        }
        Ok(Self { certificate, key })
    }

    fn certify<T: HasPublic>(
        &self,
        common_name: &str,
        names: &SubjectAlternativeName,
        usage: &ExtendedKeyUsage,
        key: &PKeyRef<T>,
        life: Duration,
    ) -> Result<String, ErrorStack> {
        let mut builder = begin(common_name, key, life)?;
        builder.set_issuer_name(self.certificate.subject_name())?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
        builder.append_extension(usage.build()?)?;
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let names = names.build(&context)?;
        let authority = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
        builder.append_extension(names)?;
        builder.append_extension(authority)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        let mut certificate_pem = builder.build().to_pem()?;
        certificate_pem.extend(self.certificate.to_pem()?);
        Ok(String::from_utf8_lossy(&certificate_pem).into_owned())
    }
}

impl KeyPair {
    fn new(certificate_pem: String, key: &PKey<Private>) -> Result<Self, ErrorStack> {
        Ok(Self {
            certificate_pem,
            key_pem: Zeroizing::new(key.private_key_to_pem_pkcs8()?),
            spki_sha256: sha256_hex(&key.public_key_to_der()?),
        })
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").field("spki_sha256", &self.spki_sha256).finish_non_exhaustive()
    }
}

fn new_record(vault: &Vault) -> Result<InternalCaRecord, AuthorityError> {
    let key = new_key()?;
    let mut builder = begin("Signpost internal CA", &key, CA_LIFE)?;
    let issuer = name("Signpost internal CA")?;
    builder.set_issuer_name(&issuer)?;
    builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    let identifier = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
    builder.append_extension(identifier)?;
    builder.sign(&key, MessageDigest::sha256())?;
    let key_spki_sha256 = sha256_hex(&key.public_key_to_der()?);
    let sealed = vault.seal(&Zeroizing::new(key.private_key_to_pkcs8()?), &binding(&key_spki_sha256))?;
    Ok(InternalCaRecord {
        v: InternalCaRecord::VERSION,
        certificate_pem: String::from_utf8_lossy(&builder.build().to_pem()?).into_owned(),
        sealed_key: STANDARD.encode(sealed),
        key_spki_sha256,
    })
}

fn binding(spki_sha256: &str) -> Binding<'_> {
    Binding { kind: SealedKind::InternalCa, owner: "fleet", spki_sha256 }
}

fn begin<T: HasPublic>(
    common_name: &str,
    key: &PKeyRef<T>,
    life: Duration,
) -> Result<X509Builder, ErrorStack> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let mut serial = [0; 16];
    openssl::rand::rand_bytes(&mut serial)?;
    serial[0] &= 0x7f;
    let serial = BigNum::from_slice(&serial)?.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    let subject = name(common_name)?;
    builder.set_subject_name(&subject)?;
    builder.set_pubkey(key)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = |at: Duration| Asn1Time::from_unix(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
    let not_before = moment(now.saturating_sub(VALID_BEFORE))?;
    builder.set_not_before(&not_before)?;
    let not_after = moment(now.saturating_add(life))?;
    builder.set_not_after(&not_after)?;
    Ok(builder)
}

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 3600)
}

fn name(common_name: &str) -> Result<X509Name, ErrorStack> {
    let mut builder = X509NameBuilder::new()?;
    builder.append_entry_by_nid(Nid::COMMONNAME, common_name)?;
    Ok(builder.build())
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)
}
