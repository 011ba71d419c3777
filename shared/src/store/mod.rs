//! Everything that is stored, in Redis. One file for each thing that is kept; `keys` is the map.
//!
//! Two kinds of connections: reads and what may be lost go over one that heals itself ([`link`]); a write that the CA is
//! about to be told of goes over one that never reconnects ([`confirmed`]), so that a confirmation counts what it wrote.
//! Both ask [`servers`] which server a key lives on: the only one, the primary that Sentinels name, or one of a Cluster's.
//!
//! An error of the store is an error. It never reads as "not found".

mod accounts;
mod audit;
mod canary;
mod certificates;
mod challenges;
mod check;
mod confirmed;
mod dial;
mod directories;
mod discovery;
mod embedded;
mod error;
mod failover;
mod frontends;
mod internal_ca;
mod keys;
mod leases;
mod link;
mod node;
mod open;
mod orders;
mod parts;
mod scripts;
mod servers;
mod sites;
mod slots;

pub use accounts::{Account, AccountStatus, CandidateKey, StoredAccount};
pub use audit::AuditEntry;
pub use canary::{VaultError, open_vault};
pub use certificates::lineage_of;
pub use check::Health;
pub use embedded::{Embedded, EmbeddedError};
pub use error::StoreError;
pub use internal_ca::InternalCaRecord;
pub use leases::{Lease, LeaseAnswer, LeaseAttempt, Owner};
pub use open::{Role, Store};
pub use orders::StoredOrder;
pub use sites::{Pointers, StoredSite};
