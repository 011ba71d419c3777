//! Certificates: leaf and sealed key in one record, the chain apart, each distinct one once.

use super::{
    Store, StoreError,
    certificate_record::{CertificateRecord, Unpacked},
    keys, leaf_facts,
};
use crate::digest::sha256_hex;
use crate::domain::{Certificate, CertificateId, Partition, SiteId, Slot};
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
        self.unpack(site, id, &bytes).await.map(Some)
    }

    async fn unpack(
        &self,
        site: &SiteId,
        id: &CertificateId,
        bytes: &[u8],
    ) -> Result<Certificate, StoreError> {
        let key = keys::certificate(site, id);
        let record = CertificateRecord::parse(bytes).map_err(|e| e.of(&key))?;
        let chain = self.load_chain(record.chain).await?;
        let chain = chain.ok_or_else(|| StoreError::corrupt(&key, "its chain is missing"))?;
        let Unpacked { leaf_der, facts } = self.unpack_leaf(site.partition(), &key, &record, id).await?;
        Ok(Certificate {
            known: leaf_facts::decode(&facts, sha256_hex(&leaf_der)),
            leaf_der,
            chain_pem: chain.as_ref().to_owned(),
            sealed_key: record.sealed_key,
            key_type: record.key_type,
            ca: record.ca,
            account: record.account,
            issued: Timestamp::from_second(record.issued).map_err(|e| StoreError::corrupt(&key, e))?,
        })
    }

    /// Many certificates, in the order of `wanted`. One that isn't there is an error of that one.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn load_certificates(
        &self,
        wanted: &[(SiteId, CertificateId)],
    ) -> Result<Vec<Result<Certificate, StoreError>>, StoreError> {
        let question =
            |(site, id): &(SiteId, CertificateId)| cmd("GET").arg(keys::certificate(site, id)).clone();
        let questions: Vec<redis::Cmd> = wanted.iter().map(question).collect();
        let records = self.read_each::<Option<Vec<u8>>>(&questions).await?;
        let mut read = Vec::with_capacity(wanted.len());
        for ((site, id), bytes) in wanted.iter().zip(records) {
            let certificate = match bytes {
                Ok(Some(bytes)) => self.unpack(site, id, &bytes).await,
                Ok(None) => Err(StoreError::corrupt(keys::certificate(site, id), "it is not there")),
                Err(error) => Err(error),
            };
            match certificate {
                Err(error)
                    if !matches!(error, StoreError::Corrupt { .. } | StoreError::NewerSchema { .. }) =>
                {
                    return Err(error);
                }
                known => read.push(known),
            }
        }
        Ok(read)
    }

    /// The leaf of a record, DER. It is the one that the certificate's id names.
    pub(super) async fn unpack_leaf(
        &self,
        partition: Partition,
        key: &str,
        record: &CertificateRecord,
        id: &CertificateId,
    ) -> Result<Unpacked, StoreError> {
        // One that isn't may only mean that what is known of its chain is from before a failover.
        for _ in 0..2 {
            let template = match record.is_packed() {
                true => self.load_template(partition, record.chain).await?,
                false => None,
            };
            let leaf = record.leaf(template.as_deref().unwrap_or_default());
            if let Some(leaf) = leaf.filter(|leaf| CertificateId::of(&leaf.leaf_der) == *id) {
                return Ok(leaf);
            }
            self.forget_template(partition, record.chain);
        }
        Err(StoreError::corrupt(key, "the leaf is damaged, or the one that it is packed against is missing"))
    }
}
