//! A place among the orders of an account that are worked on at once. Some private CAs bear few: smallstep's, which Caddy embeds,
//! breaks an account's list of orders when several are worked on, and answers 500 from then on.

use super::{Issuance, progress::Timeline, verdict::Verdict};
use shared::{
    domain::{FailureClass, Slot},
    error::Fault,
    store::{Store, StoreError},
};
use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// How long a place counts where its worker was killed.
const HELD_FOR: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longer than any order takes that comes to something.
const LONGEST_WAIT: Duration = Duration::from_secs(900);

/// A place, for as long as this lives.
pub(super) struct Place {
    held: Held,
    renewal: JoinHandle<()>,
}

#[derive(Clone)]
struct Held {
    store: Store,
    ca: String,
    account: String,
    order: String,
    most: NonZeroU32,
}

impl Held {
    async fn take(&self) -> Result<bool, StoreError> {
        self.store.take_place(&self.ca, &self.account, &self.order, self.most, HELD_FOR).await
    }

    async fn leave(&self) {
        if let Err(error) = self.store.leave_place(&self.ca, &self.account, &self.order).await {
            tracing::debug!(error = shared::error::chain(&error), "an order's place ends by itself");
        }
    }
}

impl Place {
    /// Gives it back, before the program may end.
    pub(super) async fn leave(self) {
        self.renewal.abort();
        self.held.leave().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.renewal.is_finished() {
            return;
        }
        self.renewal.abort();
        let held = self.held.clone();
        tokio::spawn(async move { held.leave().await });
    }
}

impl Issuance {
    /// A place for an order, once there is one; `None` where the CA bears any number.
    pub(super) async fn take_place(
        &self,
        order: &str,
        slot: Slot,
        timeline: &Timeline,
    ) -> Result<Option<Place>, Verdict> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Some(most) = self.ca.section.orders_at_once else { return Ok(None) };
        // What is given back is never what another try has taken.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let held = Held {
            store: self.store.clone(),
            ca: self.ca.name.clone(),
            account: self.account_name.clone(),
            order: format!("{order}@{}-{number}", std::process::id()),
            most,
        };
        let until = Instant::now() + LONGEST_WAIT;
        let mut is_told = false;
        while !held.take().await.map_err(|e| Verdict::from_store(&e))? {
            if !is_told {
                is_told = true;
                timeline.tell(
                    "waiting",
                    Some(slot),
                    "for the account's other orders: ca.NAME.orders_at_once",
                );
            }
            if Instant::now() >= until {
                let what = "the account's other orders have been worked on for minutes";
                let remedy = "see what they wait for, or raise ca.NAME.orders_at_once; the next run goes on";
                let verdict = Verdict::new(Fault::Operator, FailureClass::Store, what, remedy);
                return Err(verdict.keeping_the_order());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let renewal = tokio::spawn({
            let held = held.clone();
            async move {
                loop {
                    tokio::time::sleep(HELD_FOR / 4).await;
                    let _ = held.take().await;
                }
            }
        });
        Ok(Some(Place { held, renewal }))
    }
}
