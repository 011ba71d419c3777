//! What the programs of Signpost share: the words of the domain, and everything two programs need.
//!
//! # Where to start reading
//!
//! - [`domain`]: what a name, a site, an order, a certificate and a frontend *are*. Pure: no I/O, no clock.
//! - [`vault`]: how private keys are sealed before they are stored, and opened again.
//! - [`store`]: how all of it is kept in Redis. `store/keys.rs` is the map of the keys.
//! - [`config`]: the one TOML file of all programs.
//! - [`tls`]: the fleet's own certificate authority, for its own connections.
//! - [`telemetry`]: logs and metrics. [`printing`]: results and errors, on standard output and standard error.
//! - [`text`]: text from outside, and moments for people. [`digest`]: bytes as text.
//!
//! # How data flows
//!
//! The issuer plans an order, persists every step of it, publishes tokens, and stores the certificate with its sealed
//! key. The validation server reads tokens (role `challenge`) or certificates (role `certificates`). Nothing else
//! connects the two programs than the store.

pub mod config;
pub mod digest;
pub mod domain;
pub mod error;
pub mod printing;
pub mod store;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod vault;

/// The version of every program of this workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
