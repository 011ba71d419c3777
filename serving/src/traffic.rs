//! What is counted of a listener's connections, and told once a minute: no client has a line of the log for itself.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Why a connection was not taken, or ended before it would have ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names of the values of a label")]
pub(crate) enum Fault {
    /// Its address has as many as it may.
    too_many,
    /// All places were taken, by connections that are at work.
    full,
    /// It was waited for the longest when a place was needed.
    displaced,
    /// No handshake, or none that succeeded.
    handshake,
    /// No request of HTTP.
    malformed,
    /// The head of a request was too large.
    too_large,
    /// A request did not come, or an answer was not taken, in its time.
    slow,
}

const FAULTS: [Fault; 7] = [
    Fault::too_many,
    Fault::full,
    Fault::displaced,
    Fault::handshake,
    Fault::malformed,
    Fault::too_large,
    Fault::slow,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    fault: Fault,
}

/// The counters of a listener. Clones count together.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    open: Gauge,
    faults: [Counter; FAULTS.len()],
    /// Who was refused last for having too many.
    last: Mutex<Option<IpAddr>>,
}

impl Traffic {
    pub fn new(registry: &mut Registry) -> Self {
        let family = Family::<Labels, Counter>::default();
        let open = Gauge::default();
        registry.register("open_connections", "Connections of clients at present", open.clone());
        registry.register(
            "connection_faults",
            "Connections that were refused, or ended early, by why",
            family.clone(),
        );
        let faults = FAULTS.map(|fault| family.get_or_create(&Labels { fault }).clone());
        Self(Arc::new(Counted { open, faults, last: Mutex::default() }))
    }

    /// For a listener that nobody looks at.
    pub fn uncounted() -> Self {
        Self::new(&mut Registry::default())
    }

    pub(crate) fn note(&self, fault: Fault) {
        self.0.faults[fault as usize].inc();
    }

    pub(crate) fn note_too_many(&self, address: IpAddr) {
        self.note(Fault::too_many);
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.to_canonical());
    }

    pub(crate) fn opened(&self) {
        self.0.open.inc();
    }

    pub(crate) fn closed(&self) {
        self.0.open.dec();
    }

    /// A line a minute, where there is something to be told.
    pub(crate) async fn tell_forever(&self, listener: &'static str) {
        let mut told = [0; FAULTS.len()];
        loop {
            tokio::time::sleep(TOLD_EVERY).await;
            self.tell(listener, &mut told);
        }
    }

    /// What has not been told yet.
    pub(crate) fn tell(&self, listener: &'static str, told: &mut [u64; FAULTS.len()]) {
        let now = self.0.faults.each_ref().map(Counter::get);
        let since = |fault: Fault| now[fault as usize] - told[fault as usize];
        let refused = since(Fault::too_many) + since(Fault::full) + since(Fault::displaced);
        if refused > 0 {
            let last = *self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            tracing::warn!(
                listener,
                too_many_of_an_address = since(Fault::too_many),
                last_address = last.map(tracing::field::display),
                all_places_taken = since(Fault::full),
                displaced = since(Fault::displaced),
                "connections were refused in the last minute"
            );
        }
        let broken = [Fault::handshake, Fault::malformed, Fault::too_large, Fault::slow]
            .map(since)
            .iter()
            .sum::<u64>();
        if broken > 0 {
            tracing::info!(
                listener,
                malformed = since(Fault::malformed),
                too_large = since(Fault::too_large),
                too_slow = since(Fault::slow),
                without_handshake = since(Fault::handshake),
                "connections were given up in the last minute"
            );
        }
        *told = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_a_counter_of_its_own() {
        let traffic = Traffic::uncounted();
        for (times, fault) in FAULTS.iter().enumerate() {
            assert_eq!(*fault as usize, times, "the order of the array is that of the variants");
            (0..=times).for_each(|_| traffic.note(*fault));
        }
        for (times, fault) in FAULTS.iter().enumerate() {
            assert_eq!(traffic.0.faults[*fault as usize].get(), times as u64 + 1);
        }
        let mut told = [0; FAULTS.len()];
        traffic.tell("test", &mut told);
        assert_eq!(told, [1, 2, 3, 4, 5, 6, 7]);
    }
}
