//! The issuer: orders certificates from an ACME CA and stores them for the fleet.
//!
//! Entry points (`cli`, [`api`]) use [`sites`], the wanted state, and [`issuance`], which drives orders; [`acme`] speaks to
//! the CA, [`preflight`] looks at names as the CA will, with [`dns`], [`dns01`] proves them there, and [`limits`] knows what its limiter will say; [`schedule`] is the
//! daemon's work, [`notify`] tells the operator what happened, [`outlook`] what will, and [`rotation`] seals everything with
//! another key-encryption key; [`supervision`] keeps the daemon's parts going; `waiting` says what holds back what has no certificate yet; [`lists`] reads text files, `setup_check` tries what a configuration names, [`audit`] keeps who was given which keys, [`fleet`] knows what the
//! frontends serve, and [`sightings`] decides about names that visitors come with. What is stored goes through `shared::store`.

pub mod acme;
pub mod api;
pub mod audit;
pub mod ca;
pub mod cli;
pub mod dns;
pub mod dns01;
pub mod fleet;
pub mod issuance;
pub mod limits;
pub mod lists;
pub mod monitoring;
pub mod notify;
pub mod outlook;
pub mod preflight;
pub mod rotation;
pub mod schedule;
mod setup_check;
pub mod sightings;
pub mod sites;
pub mod suffixes;
pub mod supervision;
mod waiting;
