//! Whether the store has room: an operator is told before it is full, for then nothing more can be told.

use super::Node;
use jiff::Timestamp;
use shared::domain::{Event, EventKind};
use std::{sync::Arc, time::Duration};

/// Of the memory that the store may use: from here on it is told, and below that it has room again.
const NEARLY_FULL: f64 = 0.9;
const HAS_ROOM: f64 = 0.8;
const EVERY: Duration = Duration::from_secs(10);

impl Node {
    /// Looks again and again how full the store is. Never returns.
    pub async fn watch_room(self: Arc<Self>) {
        let mut is_told = false;
        loop {
            if let Ok(fullness) = self.store.fullness().await
                && let Some(kind) = change(is_told, fullness)
            {
                is_told = kind == EventKind::StoreNearlyFull;
                self.tell(event(kind, fullness.unwrap_or_default())).await;
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

fn change(is_told: bool, fullness: Option<f64>) -> Option<EventKind> {
    match fullness.unwrap_or(0.0) {
        share if share >= NEARLY_FULL && !is_told => Some(EventKind::StoreNearlyFull),
        share if share < HAS_ROOM && is_told => Some(EventKind::StoreHasRoom),
        _ => None,
    }
}

fn event(kind: EventKind, fullness: f64) -> Event {
    let percent = (fullness * 100.0).round() as i64;
    let now = Timestamp::now();
    if kind == EventKind::StoreHasRoom {
        tracing::info!(percent, "the store has room again");
        return Event::new(kind, now, "the store has room again").with("percent", percent);
    }
    let what = format!("the store has used {percent} % of the memory that it may use (maxmemory)");
    tracing::error!(percent, "{what}");
    Event::new(kind, now, what)
        .remedy("give the store more memory (`maxmemory`; of the embedded store `store.embedded_memory_mib`) before nothing can be ordered any more")
        .with("percent", percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_before_the_store_is_full_and_once_it_has_room() {
        assert_eq!(change(false, None), None);
        assert_eq!(change(false, Some(0.89)), None);
        assert_eq!(change(false, Some(0.9)), Some(EventKind::StoreNearlyFull));
        assert_eq!(change(false, Some(1.2)), Some(EventKind::StoreNearlyFull));
        assert_eq!(change(true, Some(0.95)), None);
        assert_eq!(change(true, Some(0.85)), None);
        assert_eq!(change(true, Some(0.7)), Some(EventKind::StoreHasRoom));
        assert_eq!(change(true, None), Some(EventKind::StoreHasRoom));
        assert_eq!(event(EventKind::StoreNearlyFull, 0.954).data["percent"], 95);
    }
}
