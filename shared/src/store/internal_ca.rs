//! The fleet's own certificate authority, as it is stored.

use super::{Store, StoreError, keys};
use redis::cmd;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InternalCaRecord {
    pub v: u32,
    pub certificate_pem: String,
    /// Sealed; base64.
    pub sealed_key: String,
    pub key_spki_sha256: String,
}

impl InternalCaRecord {
    pub const VERSION: u32 = 1;
}

impl Store {
    /// # Errors
    /// [`StoreError`]; none yet is `None`.
    pub async fn load_internal_ca(&self) -> Result<Option<InternalCaRecord>, StoreError> {
        let record: Option<String> = self.link.query(cmd("GET").arg(keys::INTERNAL_CA)).await?;
        record
            .map(|text| serde_json::from_str(&text).map_err(|e| StoreError::corrupt(keys::INTERNAL_CA, e)))
            .transpose()
    }

    /// Stores one where there is none. Of two programs that do so at once, one wins: load it afterwards.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn offer_internal_ca(&self, record: &InternalCaRecord) -> Result<(), StoreError> {
        let text = serde_json::to_string(record).map_err(|e| StoreError::corrupt(keys::INTERNAL_CA, e))?;
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(keys::INTERNAL_CA).arg(text).arg("NX");
        self.confirmed.write(set).await.map(drop)
    }
}
