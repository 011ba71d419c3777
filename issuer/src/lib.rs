//! The issuer: orders certificates from an ACME CA and stores them for the fleet.

pub mod acme;
pub mod preflight;
