//! The wanted state: sites as an operator, a file or a control panel asks for them.
//!
//! - [`SiteWish`]: what is asked for, in the words of files and of the API; what it doesn't say is taken from the tenant and
//!   the configuration.
//! - [`Registry`]: turns wishes into changes of the store, one site at a time. The command line and the API use it alike.
//! - [`WishFile`]: many wishes in one file, read as a stream.
//! - [`Plan`]: what a file would change, and making it so.

mod file;
mod plan;
mod registry;
mod rollback;
mod wish;

pub use file::{FileError, Line, WishFile};
pub use plan::{Applied, Plan, PlanError, Planned, apply_file, plan_file};
pub use registry::{Change, Kind, Registry, SiteError};
pub use rollback::RolledBack;
pub(crate) use wish::is_word;
pub use wish::{HstsWish, SiteWish, WishError};
