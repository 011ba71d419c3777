//! Records that nobody needs any more: whoever made them was killed before they were removed.

use super::prover::Prover;
use jiff::{SignedDuration, Timestamp};
use shared::{
    domain::OrderState,
    store::{JournalledTxt, StoreError},
};
use std::time::Duration;

/// Whoever has noted a record writes the order's next state within this time.
const SETTLED: SignedDuration = SignedDuration::from_secs(60);
/// Between two sweeps, about.
const EVERY: Duration = Duration::from_secs(60);
/// Records that one sweep looks at.
const MOST: usize = 1_000;

impl Prover {
    /// Sweeps from time to time, each node at moments of its own: `draw` gives numbers between 0 and 1.
    pub async fn sweep_forever(&self, draw: impl Fn() -> f64) {
        loop {
            if let Err(error) = self.sweep(Timestamp::now()).await {
                tracing::debug!(
                    error = shared::error::chain(&error),
                    "left-over TXT records are looked for later"
                );
            }
            tokio::time::sleep(EVERY.mul_f64(0.5 + draw())).await;
        }
    }

    /// Removes what no order needs. Answers how many records that were.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is concluded.
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, StoreError> {
        let mut left_behind = Vec::new();
        for (record, at) in self.store.load_txt_journal(MOST).await?.found {
            if self.is_left_behind(&record, now.duration_since(at) > SETTLED).await? {
                left_behind.push(record);
            }
        }
        if !left_behind.is_empty() {
            tracing::info!(records = left_behind.len(), "TXT records that were left behind are removed");
            let left = self.remove(&left_behind).await;
            // To the end: what can't be removed keeps nothing else from being looked at.
            self.store.journal_txt(&left, now).await?;
        }
        Ok(left_behind.len())
    }

    async fn is_left_behind(&self, record: &JournalledTxt, is_settled: bool) -> Result<bool, StoreError> {
        let Some(open) = self.store.load_order(&record.site, record.slot).await? else {
            return Ok(is_settled);
        };
        // Nobody goes on with the order of a site that is no longer wanted.
        if is_settled && self.store.load_site(&record.site).await?.is_none() {
            return Ok(true);
        }
        Ok(match &open.order.state {
            OrderState::Challenged(challenged) => {
                let is_of_it = challenged.tokens.iter().any(|token| token.token == record.token);
                !is_of_it && is_settled
            }
            // About to be written.
            OrderState::Planned(_) | OrderState::Ordered(_) => is_settled,
            OrderState::Ready(_)
            | OrderState::Finalizing(_)
            | OrderState::Issued(_)
            | OrderState::Stored(_) => true,
        })
    }
}
