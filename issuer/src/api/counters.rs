//! How often what was asked, and how it was answered.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters(Family<Labels, Counter>);

/// The route, not the path: a site's name is no label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: String,
    route: String,
    status: u16,
}

impl Counters {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("api_requests", "Requests to the operators' API", self.0.clone());
    }

    pub(super) fn count(&self, method: &str, route: &str, status: u16) {
        let labels = Labels { method: method.to_owned(), route: route.to_owned(), status };
        self.0.get_or_create(&labels).inc();
    }
}
