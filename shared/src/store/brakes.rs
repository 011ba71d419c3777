//! Brakes that are on, all in one small hash: read before each order.

use super::{Store, StoreError, keys};
use crate::domain::{Brake, BrakeScope, Braked};
use redis::cmd;

impl Store {
    /// # Errors
    /// [`StoreError`]. Where it isn't known whether a brake is on, nothing is ordered.
    pub async fn load_brakes(&self) -> Result<Vec<Brake>, StoreError> {
        let records: Vec<String> = self.link.query(cmd("HVALS").arg(keys::BRAKES)).await?;
        let parse =
            |record: String| serde_json::from_str(&record).map_err(|e| StoreError::corrupt(keys::BRAKES, e));
        records.into_iter().map(parse).collect()
    }

    /// # Errors
    /// [`StoreError`].
    pub async fn set_brake(&self, brake: &Brake) -> Result<(), StoreError> {
        let record = serde_json::to_string(brake).map_err(|e| StoreError::corrupt(keys::BRAKES, e))?;
        let mut pipeline = redis::Pipeline::new();
        pipeline.cmd("HSET").arg(keys::BRAKES).arg(format!("{}:{}", brake.what, brake.scope)).arg(record);
        self.confirmed.write(pipeline).await.map(drop)
    }

    /// `false` where it was not on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_brake(&self, what: Braked, scope: &BrakeScope) -> Result<bool, StoreError> {
        let removed: u64 =
            self.link.query(cmd("HDEL").arg(keys::BRAKES).arg(format!("{what}:{scope}"))).await?;
        Ok(removed > 0)
    }
}
