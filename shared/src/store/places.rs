//! Orders of one account that are worked on at once, where a CA bears only so many: each has a place, in the whole fleet.

use super::{Store, StoreError, keys, scripts};
use redis::cmd;
use std::{num::NonZeroU32, time::Duration};

impl Store {
    /// Takes a place for an order, or keeps it, for `length`: `false` while all `most` are taken.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_place(
        &self,
        ca: &str,
        account: &str,
        order: &str,
        most: NonZeroU32,
        length: Duration,
    ) -> Result<bool, StoreError> {
        let (most, length) = (most.to_string(), length.as_millis().to_string());
        let arguments = [order.as_bytes(), most.as_bytes(), length.as_bytes()];
        let taken: u64 =
            self.link.script(&scripts::TAKE_PLACE, &[keys::at_work(ca, account)], &arguments).await?;
        Ok(taken == 1)
    }

    /// Gives it back.
    ///
    /// # Errors
    /// [`StoreError`]; it then ends by itself.
    pub async fn leave_place(&self, ca: &str, account: &str, order: &str) -> Result<(), StoreError> {
        let _: u64 = self.link.query(cmd("ZREM").arg(keys::at_work(ca, account)).arg(order)).await?;
        Ok(())
    }
}
