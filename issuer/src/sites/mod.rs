//! The wanted state: sites as an operator, a file or a control panel asks for them.
//!
//! - [`SiteWish`]: what is asked for, in the words of files and of the API; what it doesn't say is taken from the tenant and
//!   the configuration.
//! - [`Registry`]: turns wishes into changes of the store, one site at a time. The command line and the API use it alike.
//! - [`WishFile`]: many wishes in one file, read as a stream.
//! - [`Plan`]: what a file would change, and making it so.

mod change;
mod file;
mod mistakes;
mod plan;
mod registry;
mod rollback;
mod walk;
mod whose;
mod wish;

pub use change::{Change, Kind};
pub(crate) use file::in_words;
pub use file::{Line, WishFile};
pub use plan::{Applied, Plan, PlanError, Planned, SiteFile, apply_file, plan_file};
pub use registry::{Registry, SiteError};
pub use rollback::{MOST_HOURS_HELD, RolledBack};
pub use whose::{Whose, whose};
pub use wish::{HstsWish, SiteWish, WishError, Wisher};
pub(crate) use wish::{check_provable, is_word};
