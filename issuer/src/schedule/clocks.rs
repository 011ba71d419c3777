//! How far the store's clock is from ours, and the CAs'. It is allowed for; an operator is told all the same, for a certificate is valid by
//! the clock.

use super::Node;
use jiff::{SignedDuration, Timestamp};
use shared::domain::{Event, EventKind};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// More than that is told; what has come back below half of it agrees again.
const TOLD_FROM: SignedDuration = SignedDuration::from_secs(5);
const EVERY: Duration = Duration::from_secs(10);

impl Node {
    /// Compares the clocks again and again. Never returns.
    pub async fn watch_clocks(self: Arc<Self>) {
        let mut told: BTreeMap<String, SignedDuration> = BTreeMap::new();
        loop {
            for (whose, ahead) in self.clocks().await {
                let is_told = told.contains_key(&whose);
                match change(is_told, ahead) {
                    Some(EventKind::ClocksDiffer) => {
                        told.insert(whose.clone(), ahead);
                        self.tell(differ(&whose, ahead)).await;
                    }
                    Some(kind) => {
                        told.remove(&whose);
                        let what = format!("the clock of {whose} agrees with this machine's again");
                        tracing::info!(whose, "{what}");
                        self.tell(Event::new(kind, Timestamp::now(), what).with("whose", whose)).await;
                    }
                    None => {}
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// How much later it is by each of the clocks that were heard of.
    async fn clocks(&self) -> Vec<(String, SignedDuration)> {
        let mut heard = Vec::new();
        if let Ok(offset) = self.store.clock_offset().await {
            heard.push(("the store".to_owned(), offset.ahead));
        }
        heard.extend(self.clocks_of_cas().await);
        heard
    }
}

fn change(is_told: bool, ahead: SignedDuration) -> Option<EventKind> {
    match ahead.abs() {
        apart if apart >= TOLD_FROM && !is_told => Some(EventKind::ClocksDiffer),
        apart if apart < TOLD_FROM / 2 && is_told => Some(EventKind::ClocksAgree),
        _ => None,
    }
}

fn differ(whose: &str, ahead: SignedDuration) -> Event {
    let seconds = ahead.abs().as_secs();
    let direction = if ahead.is_negative() { "behind" } else { "ahead of" };
    let what = format!("the clock of {whose} is {seconds} s {direction} this machine's");
    tracing::warn!(whose, ahead_seconds = ahead.as_secs(), "{what}");
    Event::new(EventKind::ClocksDiffer, Timestamp::now(), what)
        .remedy("see to the time of this machine and of the other one (NTP); what is due is counted by the store's clock meanwhile")
        .with("whose", whose)
        .with("ahead_seconds", ahead.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_ends_below_half() {
        let seconds = SignedDuration::from_secs;
        assert_eq!(change(false, seconds(4)), None);
        assert_eq!(change(false, seconds(-7200)), Some(EventKind::ClocksDiffer));
        assert_eq!(change(true, seconds(-7200)), None);
        assert_eq!(change(true, seconds(3)), None);
        assert_eq!(change(true, seconds(1)), Some(EventKind::ClocksAgree));
        let event = differ("the store", seconds(-7200));
        assert_eq!(event.what, "the clock of the store is 7200 s behind this machine's");
        assert_eq!(event.data["ahead_seconds"], -7200);
    }
}
