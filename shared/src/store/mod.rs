//! Everything that is stored, in Redis. One file for each thing that is kept; `keys` is the map.
//!
//! Two kinds of connections: reads and what may be lost go over one that heals itself ([`link`]); a write that the CA is
//! about to be told of goes over one that never reconnects ([`confirmed`]), so that a confirmation counts what it wrote.
//!
//! An error of the store is an error. It never reads as "not found".

mod accounts;
mod audit;
mod canary;
mod certificates;
mod challenges;
mod check;
mod confirmed;
mod directories;
mod embedded;
mod error;
mod frontends;
mod internal_ca;
mod keys;
mod leases;
mod link;
mod nodes;
mod open;
mod orders;
mod rotation;
mod scripts;
mod sealed;
mod sealed_sites;
mod sites;

pub use accounts::{Account, AccountStatus, CandidateKey, StoredAccount};
pub use audit::AuditEntry;
pub use canary::{VaultError, follow_vault, open_vault};
pub use certificates::lineage_of;
pub use check::Health;
pub use embedded::{Embedded, EmbeddedError};
pub use error::StoreError;
pub use internal_ca::InternalCaRecord;
pub use leases::{Lease, LeaseAnswer, LeaseAttempt, Owner};
pub use nodes::{LiveNode, NODE_TTL, NodeReport, report_forever};
pub use open::{Role, Store};
pub use orders::StoredOrder;
pub use rotation::{Phase, RotationRecord, RotationWriteError};
pub use sealed::{RewrapError, SealedRecord};
pub use sealed_sites::SealedSite;
pub use sites::{Pointers, StoredSite};
