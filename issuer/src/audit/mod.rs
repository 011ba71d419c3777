//! The audit of who was given which private keys: every issuer copies it from the store to its own disk, and is asked there.
//!
//! - [`segments`]: the files, appended to and never changed.
//! - [`copying`]: the daemon's part; what every issuer has on disk leaves the store.
//! - [`inquiry`]: everything that is known, from the disk and from the store, and since when nothing is missing.

mod copying;
mod inquiry;
mod segments;

pub use copying::copy_forever;
pub use inquiry::{Coverage, InquiryError, read};

use shared::config::Config;
use std::path::PathBuf;

/// Where this node's copy is.
pub fn directory(config: &Config) -> PathBuf {
    config.audit.directory.clone().unwrap_or_else(|| config.store.state_dir.join("audit"))
}
