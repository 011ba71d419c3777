//! What every program that serves HTTP needs beside its own routes.
//!
//! - [`listener`]: listening sockets, bound before anything is started.
//! - [`monitoring`]: `/metrics`, `/healthz`, `/readyz` on an address of their own.
//!
//! A crate of its own, because the library `shared` knows no HTTP server and the programs never use each other.

pub mod listener;
pub mod monitoring;
