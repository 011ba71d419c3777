//! What a node did.

use crate::issuance::Outcome;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use shared::domain::Class;

/// Metrics of the schedule. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    claimed: Family<OfClass, Counter>,
    running: Family<OfClass, Gauge>,
    outcomes: Family<OfOutcome, Counter>,
    requests: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
    cause: String,
}

impl Counters {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("claimed", "Groups taken from the schedule", self.claimed.clone());
        registry.register("running", "Groups that are worked on", self.running.clone());
        registry.register("outcomes", "How the work on groups ended", self.outcomes.clone());
        registry.register("ca_requests", "Requests sent to CAs for groups", self.requests.clone());
    }

    pub(super) fn begin(&self, class: Class) {
        self.claimed.get_or_create(&OfClass { class: class.as_str() }).inc();
        self.running.get_or_create(&OfClass { class: class.as_str() }).inc();
    }

    pub(super) fn end(&self, class: Class) {
        self.running.get_or_create(&OfClass { class: class.as_str() }).dec();
    }

    pub(super) fn outcome(&self, outcome: &Outcome, requests: u64) {
        self.requests.inc_by(requests);
        let class = |class: &shared::domain::FailureClass| {
            serde_json::to_value(class)
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned))
                .unwrap_or_default()
        };
        let (outcome, cause) = match outcome {
            Outcome::AlreadyValid(_) => ("valid", String::new()),
            Outcome::Issued(_) => ("issued", String::new()),
            Outcome::Failed(verdict) => ("failed", class(&verdict.class)),
            Outcome::Waiting(failure) => ("waiting", class(&failure.class)),
            Outcome::Stopped(_) => ("stopped", String::new()),
        };
        self.outcomes.get_or_create(&OfOutcome { outcome, cause }).inc();
    }
}
