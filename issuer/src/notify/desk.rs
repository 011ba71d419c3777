//! What every receiver works with: its own state in the store, the streams, and the question whether it may tell.

use super::{Pace, lead::Lead, repeats::Memory};
use serde::{Serialize, de::DeserializeOwned};
use shared::store::{EventCursor, EventPage, Store, StoreError, StoredEvent, ToldChange};
use std::{future::Future, time::Duration};
use tokio_util::sync::CancellationToken;

/// Events of one partition that are read at once: a page of all partitions is a few MiB at most.
const PAGE: usize = 50;

/// The newest version of the receivers' states that this program can read.
pub(super) const STATE_VERSION: u32 = 1;

/// The place that a receiver is served from.
pub(super) struct Desk {
    pub(super) store: Store,
    pub(super) lead: Lead,
    pub(super) receiver: String,
    pub(super) pace: Pace,
    /// Cancelled when this node is to end, or no longer leads.
    pub(super) stop: CancellationToken,
}

/// Somebody who is told.
pub(super) trait Receiver: Send + 'static {
    /// Does what is to be done now, and answers how long to wait before the next step.
    fn step(&mut self, desk: &Desk) -> impl Future<Output = Result<Duration, StoreError>> + Send;

    /// The store has failed: what was read from it is read again.
    fn forget(&mut self);
}

/// Serves one receiver for a term.
pub(super) async fn serve<R: Receiver>(mut receiver: R, desk: Desk) {
    let mut in_trouble = false;
    while !desk.stop.is_cancelled() {
        let pause = match receiver.step(&desk).await {
            Ok(pause) => {
                in_trouble = false;
                pause
            }
            Err(StoreError::Fenced) => return,
            Err(error) => {
                if !in_trouble {
                    let error = shared::error::chain(&error);
                    tracing::warn!(
                        receiver = desk.receiver,
                        error,
                        "the store fails: told is what comes later"
                    );
                }
                in_trouble = true;
                receiver.forget();
                desk.pace.poll
            }
        };
        tokio::select! {
            () = desk.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Desk {
    /// The receiver's state as it was committed; `None` for a new receiver.
    pub(super) async fn load<S: DeserializeOwned>(&self) -> Result<Option<S>, StoreError> {
        let text = self.store.load_notify_state(&self.receiver).await?;
        text.map(|text| self.parse(&text)).transpose()
    }

    fn parse<S: DeserializeOwned>(&self, text: &str) -> Result<S, StoreError> {
        #[derive(serde::Deserialize)]
        struct Version {
            v: u32,
        }
        let corrupt = |error: serde_json::Error| StoreError::Corrupt {
            key: format!("sp:{{notify}}:state {}", self.receiver),
            source: error.into(),
        };
        let found = serde_json::from_str::<Version>(text).map_err(corrupt)?.v;
        if found > STATE_VERSION {
            return Err(StoreError::NewerSchema { found, known: STATE_VERSION });
        }
        serde_json::from_str(text).map_err(corrupt)
    }

    /// Writes state and memory at once, if this node still leads.
    pub(super) async fn commit<S: Serialize + Sync>(
        &self,
        state: &S,
        told: &[ToldChange],
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(state).expect("states are plain data");
        self.store.commit_notify_state(self.lead.token(), &self.receiver, &text, told).await
    }

    /// Asks whether this node may tell. To be asked before each delivery.
    pub(super) async fn confirm(&self) -> Result<(), StoreError> {
        self.lead.confirm().await
    }

    /// What happened after `cursor`. What was trimmed before it was told is said in the log.
    pub(super) async fn page(&self, cursor: &EventCursor) -> Result<EventPage, StoreError> {
        let page = self.store.events_after(cursor, PAGE).await?;
        for lost in &page.lost {
            tracing::error!(
                receiver = self.receiver,
                partition = %lost.partition,
                after = %lost.after,
                before = %lost.before,
                "events were trimmed before they were told: at least one of the time in between is lost"
            );
        }
        Ok(page)
    }

    /// Loads what the receiver knows of the sites of these events.
    pub(super) async fn recall(&self, memory: &mut Memory, events: &[StoredEvent]) -> Result<(), StoreError> {
        let sites = memory.unknown_sites(events.iter().map(|stored| &stored.event));
        let records = self.store.load_told(&self.receiver, &sites).await?;
        for (site, record) in sites.into_iter().zip(records) {
            memory.learn(site, record.as_deref());
        }
        Ok(())
    }
}
