//! An account gets another key while others order with it. Whoever has the CA look at challenges says so before, and reads the
//! account afterwards; whoever changes the key announces it in the account before, and counts those who look afterwards. So
//! either sees the other.

use super::{Store, StoreError, keys, scripts};
use redis::cmd;
use std::time::Duration;

impl Store {
    /// Says that the CA is about to look at an order's challenges; counts for `length`, and anew with every call.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn begin_looking(
        &self,
        ca: &str,
        account: &str,
        order: &str,
        length: Duration,
    ) -> Result<(), StoreError> {
        let length = length.as_millis().to_string();
        let arguments = [order.as_bytes(), length.as_bytes()];
        let _: u64 =
            self.link.script(&scripts::BEGIN_LOOKING, &[keys::looking(ca, account)], &arguments).await?;
        Ok(())
    }

    /// Says that the CA has looked.
    ///
    /// # Errors
    /// [`StoreError`]; it then ends by itself.
    pub async fn end_looking(&self, ca: &str, account: &str, order: &str) -> Result<(), StoreError> {
        let _: u64 = self.link.query(cmd("ZREM").arg(keys::looking(ca, account)).arg(order)).await?;
        Ok(())
    }

    /// Orders whose challenges the CA is looking at.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_looking(&self, ca: &str, account: &str) -> Result<u64, StoreError> {
        self.link.script(&scripts::BEGIN_LOOKING, &[keys::looking(ca, account)], &[b"", b"0"]).await
    }

    /// Takes the right to give an account another key, or keeps it: `false` while somebody else has it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hold_rollover(
        &self,
        ca: &str,
        account: &str,
        token: &str,
        length: Duration,
    ) -> Result<bool, StoreError> {
        let length = length.as_millis().to_string();
        let arguments = [token.as_bytes(), length.as_bytes()];
        let held: u64 =
            self.link.script(&scripts::HOLD_ROLLOVER, &[keys::rollover(ca, account)], &arguments).await?;
        Ok(held == 1)
    }

    /// Gives it back. One that was lost already is left alone.
    ///
    /// # Errors
    /// [`StoreError`]; it then ends by itself.
    pub async fn release_rollover(&self, ca: &str, account: &str, token: &str) -> Result<(), StoreError> {
        let keys = [keys::rollover(ca, account)];
        let _: u64 = self.link.script(&scripts::RELEASE_ROLLOVER, &keys, &[token.as_bytes()]).await?;
        Ok(())
    }

    /// Whether somebody is about to give the account another key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_rolling_over(&self, ca: &str, account: &str) -> Result<bool, StoreError> {
        self.link.query(cmd("EXISTS").arg(keys::rollover(ca, account))).await
    }
}
