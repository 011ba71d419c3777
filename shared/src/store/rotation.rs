//! One key-encryption key taking another's place: how far it has come, and the few records that say so.

use super::{Store, StoreError, keys, scripts};
use crate::{
    domain::SiteId,
    vault::{SealError, Vault},
};
use jiff::Timestamp;
use redis::cmd;
use serde::{Deserialize, Serialize};

/// How far a rotation has come. It is there from before the first record changes until nothing is left to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationRecord {
    pub v: u32,
    pub from: String,
    pub to: String,
    pub phase: Phase,
    /// Every site up to this one has been sealed anew, but for those that somebody worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<SiteId>,
    /// Records that were sealed anew so far.
    pub rewrapped: u64,
    pub started: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Records are sealed anew.
    Rewrap,
    /// Every site is looked at once more.
    Verify,
}

impl RotationRecord {
    pub const VERSION: u32 = 1;
}

impl Store {
    /// # Errors
    /// [`StoreError`]; none under way is `None`.
    pub async fn load_rotation(&self) -> Result<Option<RotationRecord>, StoreError> {
        let text: Option<String> = self.link.query(cmd("GET").arg(keys::ROTATION)).await?;
        let Some(text) = text else { return Ok(None) };
        let record: RotationRecord =
            serde_json::from_str(&text).map_err(|e| StoreError::corrupt(keys::ROTATION, e))?;
        if record.v > RotationRecord::VERSION {
            return Err(StoreError::NewerSchema { found: record.v, known: RotationRecord::VERSION });
        }
        Ok(Some(record))
    }

    /// Begins a rotation where none is under way. Of two that begin at once, one wins: load it afterwards.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn offer_rotation(&self, record: &RotationRecord) -> Result<(), StoreError> {
        self.set_rotation(record, "NX").await
    }

    /// Remembers how far it has come. One that another program has brought to its end stays ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn write_rotation(&self, record: &RotationRecord) -> Result<(), StoreError> {
        self.set_rotation(record, "XX").await
    }

    async fn set_rotation(&self, record: &RotationRecord, condition: &str) -> Result<(), StoreError> {
        let text = serde_json::to_string(record).map_err(|e| StoreError::corrupt(keys::ROTATION, e))?;
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(keys::ROTATION).arg(text).arg(condition);
        self.confirmed.write(set).await.map(drop)
    }

    /// Lets nodes start that have only the new key, from now on.
    ///
    /// # Errors
    /// [`RotationWriteError`]. Safe to repeat, as all of these are.
    pub async fn plant_next_canary(&self, vault: &Vault, to: &str) -> Result<(), RotationWriteError> {
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(keys::NEXT_CANARY).arg(vault.seal_canary_with(to)?);
        self.confirmed.write(set).await?;
        Ok(())
    }

    /// Everything is sealed with the key `to` from now on; it was `from`, or nothing where the store didn't say.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: it was another one.
    pub async fn replace_current_kek(&self, from: Option<&str>, to: &str) -> Result<(), StoreError> {
        let arguments = [from.unwrap_or_default().as_bytes(), to.as_bytes()];
        self.confirmed
            .script::<i64>(&scripts::REPLACE_RECORD, &[keys::CURRENT_KEK.into()], &arguments)
            .await
            .map(drop)
    }

    /// The end: nothing is sealed with the old key any more, and nodes that have only that one are refused.
    ///
    /// # Errors
    /// [`RotationWriteError`].
    pub async fn end_rotation(&self, vault: &Vault, to: &str) -> Result<(), RotationWriteError> {
        let canary = vault.seal_canary_with(to)?;
        // Each command on its own: in a cluster these keys lie on different nodes.
        for command in [
            cmd("SET").arg(keys::CANARY).arg(canary),
            cmd("DEL").arg(keys::NEXT_CANARY),
            cmd("DEL").arg(keys::ROTATION),
        ] {
            let mut write = redis::Pipeline::new();
            write.add_command(command.clone());
            self.confirmed.write(write).await?;
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RotationWriteError {
    #[error("the store can't be written")]
    Store(#[from] StoreError),
    #[error("the canary can't be sealed")]
    Seal(#[from] SealError),
}
