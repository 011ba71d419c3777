//! Certificates: leaf and sealed key in one record, the chain apart, each distinct one once.

use super::{Store, StoreError, certificate_record::CertificateRecord, keys};
use crate::domain::{Certificate, CertificateId, SiteId, Slot};
use jiff::Timestamp;
use redis::cmd;

/// The lineage a key is sealed for.
pub fn lineage_of(site: &SiteId, slot: Slot) -> String {
    format!("{site}.{slot}")
}

impl Store {
    /// # Errors
    /// [`StoreError`]; a certificate that isn't there is `None`.
    pub async fn load_certificate(
        &self,
        site: &SiteId,
        id: &CertificateId,
    ) -> Result<Option<Certificate>, StoreError> {
        let key = keys::certificate(site, id);
        let bytes: Option<Vec<u8>> = self.link.query(cmd("GET").arg(&key)).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        let record = CertificateRecord::parse(&bytes).map_err(|e| e.of(&key))?;
        // A leaf is what its certificate's name says. One that isn't may only mean that what is known of its chain is old.
        for _ in 0..2 {
            let chain = self.load_chain(&record.chain).await?;
            let chain = chain.ok_or_else(|| StoreError::corrupt(&key, "its chain is missing"))?;
            if let Some(leaf_der) = record.leaf(&chain.template)
                && CertificateId::of(&leaf_der) == *id
            {
                return Ok(Some(Certificate {
                    leaf_der,
                    chain_pem: chain.pem.clone(),
                    sealed_key: record.sealed_key,
                    key_type: record.key_type,
                    ca: record.ca,
                    account: record.account,
                    issued: Timestamp::from_second(record.issued)
                        .map_err(|e| StoreError::corrupt(&key, e))?,
                }));
            }
            self.forget_chain(&record.chain);
        }
        Err(StoreError::corrupt(&key, "the leaf is damaged"))
    }

    /// The record of a certificate; its chain is stored on the way.
    pub(super) async fn pack_certificate(&self, certificate: &Certificate) -> Result<Vec<u8>, StoreError> {
        let template = self.store_chain(&certificate.chain_pem, &certificate.leaf_der).await?;
        CertificateRecord::pack(certificate, &template).map_err(|e| e.of("certificate"))
    }
}
