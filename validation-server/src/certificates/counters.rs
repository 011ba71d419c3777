//! What is counted of the role.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    status: u16,
}

pub(crate) struct Counters {
    requests: Family<Labels, Counter>,
    pub(crate) key_reads: Counter,
    pub(crate) denials: Counter,
}

impl Counters {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let counters =
            Self { requests: Family::default(), key_reads: Counter::default(), denials: Counter::default() };
        registry.register(
            "certificate_requests",
            "Requests of frontends by route and status",
            counters.requests.clone(),
        );
        registry.register("key_reads", "Private keys given to frontends", counters.key_reads.clone());
        registry.register(
            "denials",
            "Requests for what is out of the frontend's scope",
            counters.denials.clone(),
        );
        counters
    }

    pub(crate) fn request(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&Labels { route, status }).inc();
    }
}
