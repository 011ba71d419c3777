//! Requests of the whole fleet that leave from one address, no faster than the CA takes them.

use crate::{acme::Pacer, ca::Ca};
use shared::{domain::Rate, store::Store};
use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

/// The queues in the store.
#[derive(Debug)]
pub(crate) struct FleetPacer {
    store: Store,
    ca: String,
    /// The address that the requests come from, as the CA sees it.
    from: String,
    rates: BTreeMap<String, Rate>,
}

impl FleetPacer {
    /// `None` where nothing is known of what the CA takes.
    pub(crate) fn of(store: &Store, ca: &Ca) -> Option<Arc<dyn Pacer>> {
        let rates: BTreeMap<String, Rate> =
            ca.limits.requests.iter().map(|(endpoint, rate)| (endpoint.clone(), rate.rate())).collect();
        if rates.is_empty() {
            return None;
        }
        let (store, ca, from) = (store.clone(), ca.name.clone(), ca.egress.clone());
        Some(Arc::new(Self { store, ca, from, rates }))
    }
}

impl Pacer for FleetPacer {
    fn turn<'a>(&'a self, endpoint: &'static str) -> Pin<Box<dyn Future<Output = Duration> + Send + 'a>> {
        Box::pin(async move {
            let Some(rate) = self.rates.get(endpoint) else { return Duration::ZERO };
            let bucket = format!("{endpoint}:{}", self.from);
            self.store.pace_request(&self.ca, &bucket, *rate).await.unwrap_or_else(|error| {
                // Nobody knows what the others send: one goes at the pace of all.
                tracing::debug!(error = shared::error::chain(&error), endpoint, "its turn is not known");
                Duration::from_micros(rate.interval_us().unsigned_abs())
            })
        })
    }

    fn pause<'a>(
        &'a self,
        endpoint: &'static str,
        pause: Duration,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let Some(rate) = self.rates.get(endpoint) else { return };
            let bucket = format!("{endpoint}:{}", self.from);
            tracing::warn!(ca = self.ca, endpoint, pause_s = pause.as_secs(), "the CA wants a pause");
            if let Err(error) = self.store.pause_requests(&self.ca, &bucket, *rate, pause).await {
                tracing::warn!(error = shared::error::chain(&error), endpoint, "others do not know of it");
            }
        })
    }
}
