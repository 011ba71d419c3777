//! Everything that is stored, in Redis. One file for each thing that is kept; `keys` is the map.
//!
//! Two kinds of connections: reads and what may be lost go over one that heals itself ([`link`]); a write that the CA is
//! about to be told of goes over one that never reconnects ([`confirmed`]), so that a confirmation counts what it wrote.
//!
//! An error of the store is an error. It never reads as "not found".

mod accounts;
mod audit;
mod brakes;
mod canary;
mod certificate_record;
mod certificates;
mod chains;
mod challenges;
mod check;
mod confirmed;
mod directories;
mod embedded;
mod error;
mod event_cursor;
mod events;
mod filling;
mod frontends;
mod internal_ca;
mod keys;
mod leases;
mod link;
mod names;
mod notify;
mod open;
mod orders;
mod schedule;
mod scripts;
mod sites;
mod tenants;

pub use accounts::{Account, AccountStatus, CandidateKey, StoredAccount};
pub use audit::AuditEntry;
pub use canary::{VaultError, open_vault};
pub use certificates::lineage_of;
pub use check::Health;
pub use embedded::{Embedded, EmbeddedError};
pub use error::StoreError;
pub use event_cursor::{EventCursor, EventId, InvalidPlace};
pub use events::{EventFilter, EventPage, LostEvents, StoredEvent};
pub use filling::SettledGroup;
pub use internal_ca::InternalCaRecord;
pub use leases::{Lease, LeaseAnswer, LeaseAttempt, Owner};
pub use names::NamePointer;
pub use notify::ToldChange;
pub use open::{Role, Store};
pub use orders::StoredOrder;
pub use schedule::{Claim, Claimed, Field, Load, Settlement};
pub use sites::{Cut, Pointers, Retired, SiteChange, StoredSite, WantedSite};
pub use tenants::{StoredTenant, Tenant};
