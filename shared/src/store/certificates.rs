//! Certificates: leaf and sealed key in one record, the chain apart, each distinct one once.
//!
//! Layout of a record, version 1: `1 | len(meta) u16 | meta JSON | len(leaf) u16 | leaf DER | sealed key`.

use super::{Store, StoreError, keys};
use crate::digest::hex;
use crate::domain::{Certificate, CertificateId, KeyType, SiteId, Slot};
use jiff::Timestamp;
use openssl::sha::sha256;
use redis::cmd;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;

/// What is stored of a certificate besides leaf and key. Short names: there are millions.
#[derive(Serialize, Deserialize)]
struct Meta {
    #[serde(rename = "c")]
    chain_sha256: String,
    #[serde(rename = "k")]
    key_type: KeyType,
    ca: String,
    #[serde(rename = "a")]
    account: String,
    /// Unix time, seconds.
    #[serde(rename = "t")]
    issued: i64,
}

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
        let record: Option<Vec<u8>> = self.link.query(cmd("GET").arg(&key)).await?;
        let Some(record) = record else { return Ok(None) };
        let damaged = || StoreError::corrupt(&key, "the record is damaged");
        let (&version, rest) = record.split_first().ok_or_else(damaged)?;
        if version > VERSION {
            return Err(StoreError::NewerSchema { found: version.into(), known: VERSION.into() });
        }
        let (meta, rest) = take(rest).ok_or_else(damaged)?;
        let (leaf_der, sealed_key) = take(rest).ok_or_else(damaged)?;
        let meta: Meta = serde_json::from_slice(meta).map_err(|e| StoreError::corrupt(&key, e))?;
        let chain: Option<String> = self.link.query(cmd("GET").arg(keys::chain(&meta.chain_sha256))).await?;
        Ok(Some(Certificate {
            leaf_der: leaf_der.to_vec(),
            chain_pem: chain.ok_or_else(|| StoreError::corrupt(&key, "its chain is missing"))?,
            sealed_key: sealed_key.to_vec(),
            key_type: meta.key_type,
            ca: meta.ca,
            account: meta.account,
            issued: Timestamp::from_second(meta.issued).map_err(|e| StoreError::corrupt(&key, e))?,
        }))
    }

    /// Stores a chain, where it isn't stored yet.
    pub(super) async fn store_chain(&self, chain_pem: &str) -> Result<(), StoreError> {
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(keys::chain(&chain_id(chain_pem))).arg(chain_pem).arg("NX");
        self.confirmed.write(set).await.map(drop)
    }

    /// The record of a certificate. Its chain is stored before it is.
    pub(super) fn pack_certificate(certificate: &Certificate) -> Result<Vec<u8>, StoreError> {
        let meta = serde_json::to_vec(&Meta {
            chain_sha256: chain_id(&certificate.chain_pem),
            key_type: certificate.key_type,
            ca: certificate.ca.clone(),
            account: certificate.account.clone(),
            issued: certificate.issued.as_second(),
        })
        .map_err(|e| StoreError::corrupt("certificate", e))?;
        let mut record = vec![VERSION];
        for part in [&meta, &certificate.leaf_der] {
            let length = u16::try_from(part.len()).map_err(|e| StoreError::corrupt("certificate", e))?;
            record.extend_from_slice(&length.to_be_bytes());
            record.extend_from_slice(part);
        }
        record.extend_from_slice(&certificate.sealed_key);
        Ok(record)
    }
}

/// The first 16 bytes of its SHA-256, in hex.
fn chain_id(chain_pem: &str) -> String {
    hex(&sha256(chain_pem.as_bytes())[..16])
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
