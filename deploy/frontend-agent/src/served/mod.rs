//! What the web server of this machine really serves, and telling the centre.
//!
//! - [`handshake`]: one handshake with it, as a client would make it.
//! - [`watch`]: what is to be looked at when, and what came of it.
//! - [`reporter`]: the task that looks, and reports.

mod handshake;
mod reporter;
mod watch;

pub(crate) use reporter::{News, Reporter, ServedState, report_once};
pub(crate) use watch::Target;
