//! Logs and metrics. Logs go to standard error, one event a line; a failure is logged once, at the boundary, with its
//! whole chain of causes.

mod registry;

pub use registry::{Metrics, render};

use crate::config::{LogFormat, Telemetry};
use tracing_subscriber::{EnvFilter, fmt};

/// Begins to log as the configuration says, for the rest of the process.
///
/// # Errors
/// The filter can't be read, or logging has begun already.
pub fn begin_logging(
    section: &Telemetry,
    filter: Option<&str>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_new(filter.unwrap_or(&section.log))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match section.format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
}
