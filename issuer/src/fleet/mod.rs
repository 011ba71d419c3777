//! The frontends of the fleet: what each of them serves, what not yet, and since when.
//!
//! - [`convergence`]: what they have reported, held against the changes that there were.
//! - [`watch`]: tells the operator of one that lags, is silent, or serves what the store does not know.
//! - [`tls_rollout`]: has the canaries try a TLS policy before all frontends get it.

mod convergence;
mod tls_rollout;
mod watch;

pub use convergence::{Convergence, FrontendStanding, GroupStanding, LiveAfter, Standing, WaitingGroup};
pub use tls_rollout::set_tls_policy;
pub use watch::watch_forever;
