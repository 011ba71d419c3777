//! The daemon's schedule: what is due is claimed from the store, worked on, and given back with its next moment.
//!
//! - [`Node`]: one daemon of the fleet, and everything that its workers share. Any number of nodes share the work.
//! - `claims`: takes what is due, each kind of work within its share. Costs what is due, not what exists.
//! - `work`: one group that was claimed: ordered, looked at, or deleted.
//! - `renewal_info`: asking the CA whether a certificate is still to be renewed when it was to be.
//! - `trouble`: a CA or an account that works for nobody is not asked for everybody.
//! - `watchdog`: what must always be true of the schedule and its records, looked at all the time.
//! - `clocks`: how far the store's and the CAs' clocks are from ours.
//! - `room`: whether the store has room.
//! - `counters`: what a node did, for its metrics.
//!
//! What waits (for a retry, a limit, a CA) holds no worker, no lease and no memory: it is a score in a sorted set.

mod claims;
mod clocks;
mod counters;
mod node;
mod renewal_info;
mod room;
mod trouble;
mod watchdog;
mod work;

pub use counters::Counters;
pub use node::Node;
