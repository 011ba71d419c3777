//! Role `certificates`: who gets what, over real TLS from a real Redis.
//!
//! - `access`: every identity on every route, revocation, the audit.
//! - `bundles`, `changes`: what agents live on.
//! - `commands`: `issuer frontend`.
//! - `documents`: listings, names, files, entity tags.
//! - `enrolment`: a client certificate in exchange for a token, and its renewal.
//! - `frontends`: every make of frontend, with an agent beside it.
//! - `scopes`: who may read what, by table and by dice.
//! - `service`: the server's own certificate, TLS, a store that is away, keyrings, the end.

mod access;
mod bundles;
mod changes;
mod commands;
mod documents;
mod enrolment;
mod fleet;
mod frontends;
mod scopes;
mod service;
