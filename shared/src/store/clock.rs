//! The store's clock, which is another than ours.

use super::{Store, StoreError, keys};
use crate::domain::SiteId;
use jiff::{SignedDuration, Timestamp};
use redis::cmd;
use std::time::Duration;

/// How far a store's clock is from this program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// How much later the store's is.
    pub ahead: SignedDuration,
    /// How long the answer took: no more is known than to half of that.
    pub within: Duration,
}

impl ClockOffset {
    /// A moment of the store by our clock.
    pub fn to_ours(&self, stores: Timestamp) -> Timestamp {
        stores.saturating_sub(self.ahead).unwrap_or(stores)
    }
}

impl Store {
    /// How far the store's clock is from ours.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn clock_offset(&self) -> Result<ClockOffset, StoreError> {
        let (began, asked) = (std::time::Instant::now(), Timestamp::now());
        let (seconds, micros): (i64, i64) = self.link.query(&cmd("TIME")).await?;
        let within = began.elapsed();
        let stores = seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(micros));
        let stores = stores.and_then(|us| Timestamp::from_microsecond(us).ok());
        let stores = stores.ok_or_else(|| StoreError::corrupt("TIME", format!("{seconds} {micros}")))?;
        let ours = asked.saturating_add(within / 2).unwrap_or(asked);
        Ok(ClockOffset { ahead: stores.duration_since(ours), within })
    }

    /// The store's time, ms.
    pub(super) async fn now_ms(&self) -> Result<i64, StoreError> {
        let offset = self.clock_offset().await?;
        let now = Timestamp::now();
        Ok(now.saturating_add(offset.ahead).unwrap_or(now).as_millisecond())
    }

    /// When a group is next looked at; `None` while it is due, or not scheduled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_look(&self, id: &SiteId) -> Result<Option<Timestamp>, StoreError> {
        let mut score = cmd("ZSCORE");
        score.arg(keys::due(id.partition())).arg(id.as_str());
        let score: Option<f64> = match self.link.query(&score).await {
            // The schedule is damaged, not the site.
            Err(error) if error.is_of_its_keys() => None,
            score => score?,
        };
        let moment = score.and_then(|ms| Timestamp::from_millisecond(ms as i64).ok());
        let Some(moment) = moment else { return Ok(None) };
        Ok(Some(self.clock_offset().await?.to_ours(moment)))
    }
}
