//! Everything that is stored, in Redis. One file for each thing that is kept; `keys` is the map.
//!
//! Two kinds of connections: reads and what may be lost go over one that heals itself ([`link`]); a write that the CA is
//! about to be told of goes over one that never reconnects ([`confirmed`]), so that a confirmation counts what it wrote.
//! Both ask [`servers`] which server a key lives on: the only one, the primary that Sentinels name, or one of a Cluster's.
//!
//! An error of the store is an error. It never reads as "not found".

mod accounts;
mod api_tokens;
mod audit;
mod brakes;
mod canary;
mod certificate_record;
mod certificates;
mod chains;
mod challenges;
mod check;
mod clock;
mod confirmed;
mod damaged;
mod declared;
mod delegations;
mod dial;
mod directories;
mod discovery;
mod embedded;
mod embedded_owner;
mod ended_leases;
mod error;
mod event_cursor;
mod events;
mod failover;
mod failures;
mod feed;
mod filling;
mod frontends;
mod grants;
mod halt;
mod idempotency;
mod inspection;
mod internal_ca;
mod keys;
mod lacking;
mod leaf_facts;
mod leases;
mod limits;
mod link;
mod mending;
mod names;
mod node;
mod nodes;
mod notify;
mod open;
mod orders;
mod parts;
mod pauses;
mod reading;
mod renewals;
mod rollovers;
mod rotation;
mod schedule;
mod scripts;
mod sealed;
mod sealed_sites;
mod servers;
mod serving;
mod sightings;
mod site_lists;
mod sites;
mod slots;
mod tenants;
mod tls_policy;
mod txt_journal;
mod watch;

pub use accounts::{Account, AccountStatus, CandidateKey, StoredAccount};
pub use api_tokens::{ListedToken, TokenChange};
pub use audit::{AuditId, AuditPage, NotAnId};
pub use canary::{RingStanding, VaultError, compare_ring, follow_vault, open_vault};
pub use certificates::lineage_of;
pub use check::Health;
pub use clock::ClockOffset;
pub use damaged::{CheckedRecord, DamagedRecord, DamagedSite, with_damage};
pub use delegations::Delegation;
pub use embedded::{Embedded, EmbeddedError};
pub use error::StoreError;
pub use event_cursor::{EventCursor, EventId, InvalidPlace};
pub use events::{EventFilter, EventPage, LostEvents, StoredEvent};
pub use failures::Failures;
pub use feed::{FeedHead, FollowedCertificate, FollowedGroup, FormerScope};
pub use filling::SettledGroup;
pub use frontends::{ListedFrontend, TroubledFrontend};
pub use grants::UnverifiedRecord;
pub use idempotency::{AnswerMark, KeptAnswer, Repetition};
pub use internal_ca::InternalCaRecord;
pub use leases::{Lease, LeaseAnswer, LeaseAttempt, Owner};
pub use limits::{BucketState, BucketUse, BucketWish, Claimant, LimitAnswer, LimitWish, Settled, Spending};
pub use mending::{Disorder, GroupList, Mended};
pub use names::NamePointer;
pub use nodes::{LiveNode, NODE_TTL, NodeReport, report_forever};
pub use notify::ToldChange;
pub use open::{Role, Store};
pub use orders::StoredOrder;
pub use pauses::{CaPause, PauseTurn};
pub use reading::{Damage, Listing};
pub use renewals::PlannedRenewals;
pub use rotation::{Phase, RotationRecord, RotationWriteError};
pub use schedule::{Claim, Claimed, Field, Load, Settlement};
pub use sealed::{RewrapError, SealedRecord};
pub use sealed_sites::SealedSite;
pub use serving::{Serving, Staged};
pub use sightings::{DeniedSighting, Sighting, SightingVerdict};
pub use sites::{
    Cut, LoadedSites, Pointers, RETRY_WITH_NEW_ORDER, Retired, SiteChange, StoredSite, WantedSite,
};
pub use tenants::{StoredTenant, Tenant};
pub use txt_journal::JournalledTxt;
pub use watch::Obstacle;
