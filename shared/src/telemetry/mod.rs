//! Logs and metrics. Logs go to standard error, one event a line; a failure is logged once, at the boundary, with its
//! whole chain of causes.

mod lines;
mod registry;

pub use registry::{Metrics, render};

use crate::config::{LogFormat, Telemetry};
use lines::Lines;
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Whether a filter can be read.
///
/// # Errors
/// Why it can't.
pub fn check_filter(filter: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    filter.parse::<Targets>()?;
    Ok(())
}

/// Begins to log as the configuration says, for the rest of the process.
///
/// # Errors
/// The filter can't be read, or logging has begun already.
pub fn begin_logging(
    section: &Telemetry,
    filter: Option<&str>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter: Targets = filter.unwrap_or(&section.log).parse()?;
    // No colors: an escape in a log is somebody else's. A line that can't be written is not complained of on standard error,
    // which is what failed: that would be a panic.
    let lines =
        fmt::layer().with_writer(|| Lines(std::io::stderr())).with_target(false).log_internal_errors(false);
    let lines = match section.format {
        LogFormat::Text => lines.with_ansi(false).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    Ok(tracing_subscriber::registry().with(lines).try_init()?)
}
