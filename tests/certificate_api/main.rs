//! Role `certificates`: who gets what, over real TLS from a real Redis.
//!
//! - `access`: every identity on every route, revocation, the audit.
//! - `bundles`, `changes`: what agents live on.
//! - `commands`: `issuer frontend`.
//! - `documents`: listings, names, files, entity tags.
//! - `enrolment`: a client certificate in exchange for a token, and its renewal.
//! - `forged`: somebody writes to Redis what nobody of the fleet has written.
//! - `frontends`: every make of frontend, with an agent beside it.
//! - `least_rights`: what it may do in Redis is what it does.
//! - `listener`: clients who say nothing, or go away while they wait.
//! - `memory`: what is left of a key that was given out.
//! - `scopes`: who may read what, by table and by dice.
//! - `service`: the server's own certificate, TLS, a store that is away, keyrings, the end.

mod access;
mod bundles;
mod changes;
mod commands;
mod documents;
mod enrolment;
mod fleet;
mod forged;
mod frontends;
mod least_rights;
mod listener;
mod memory;
mod scopes;
mod service;
