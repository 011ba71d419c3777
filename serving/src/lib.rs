//! The one way in: how every program of ours that serves HTTP takes connections, and what it needs beside its own routes.
//!
//! - [`listener`]: listening sockets, bound before anything is started.
//! - [`accept`]: the workers and their accept loops. A connection is counted by its [`address`], gets its [`life`], and where
//!   there is TLS a handshake; then actix' protocol layer speaks HTTP on a [`stream`] that is watched ([`connection`],
//!   [`exchange`]).
//! - [`bounds`]: how many connections, and how long each part of one may take. [`open_files`]: what the system allows.
//! - [`traffic`]: what is counted and told of them.
//! - [`monitoring`]: `/metrics`, `/healthz`, `/readyz` on an address of their own.
//! - [`seldom`]: a line of the log that strangers could have written as often as they like.
//!
//! A crate of its own, because the library `shared` knows no HTTP server and the programs never use each other.

mod accept;
mod address;
pub mod bounds;
mod connection;
mod exchange;
mod life;
pub mod listener;
pub mod monitoring;
pub mod open_files;
pub mod seldom;
mod stream;
mod traffic;

pub use accept::{Entrance, Tls, serve};
pub use bounds::Bounds;
pub use connection::RefusalBody;
pub use exchange::of_app;
pub use life::Connection;
pub use traffic::Traffic;

/// What a log leaves out unless its operator asks for it: the protocol layer has a line for each malformed request, which is
/// a stranger's to write. They are counted instead.
pub const LOG_FILTER: &str = "actix_http=off";
