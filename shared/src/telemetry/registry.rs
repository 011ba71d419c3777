//! Metrics, in the text format that Prometheus reads.

use prometheus_client::{encoding::text::encode, registry::Registry};
use std::sync::Arc;

/// A program's metrics, all with the prefix `signpost_`.
pub type Metrics = Arc<Registry>;

/// The page that `/metrics` answers.
pub fn render(metrics: &Metrics) -> String {
    let mut text = String::new();
    encode(&mut text, metrics).expect("writing to a string can't fail");
    text
}
