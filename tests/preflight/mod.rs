//! Names before they are ordered: a DNS and frontends of every kind of brokenness, and what the preflight says of each.
//!
//! - `surroundings`: the DNS, the frontends and the validation host;
//! - `zoo`: broken names and healthy ones; `ahead`: what it means for orders; `frontend`: a frontend that nothing leads to yet.

mod ahead;
mod frontend;
mod surroundings;
mod zoo;
