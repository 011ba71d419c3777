//! The words of the domain: values and rules, without I/O and without a clock.

mod certificate;
mod event;
mod frontend;
mod identifier;
mod key_authorization;
mod key_type;
mod order;
mod public_suffix;
mod site;

pub use certificate::{Certificate, CertificateError, CertificateId, Leaf};
pub use event::{Event, EventKind, Severity, UnknownEventKind};
pub use frontend::{Frontend, FrontendName, InvalidFrontend, Right, Scope, ScopePattern};
pub use identifier::{DnsName, MAX_LABELS, MAX_NAME_BYTES, NameError, NameSet};
pub use key_authorization::{InvalidToken, KeyAuthorization, Thumbprint, Token};
pub use key_type::{KeyType, Slot, UnknownKeyType};
pub use order::{
    AuthorizationRef, Challenged, Finalizing, Issued, Order, OrderState, Ordered, Planned, PublishedToken,
    Ready, Stored,
};
pub use public_suffix::{PublicSuffixes, SuffixListError};
pub use site::{Failure, FailureClass, PARTITIONS, Partition, Site, SiteId};
