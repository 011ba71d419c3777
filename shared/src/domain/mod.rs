//! The words of the domain: values and rules, without I/O and without a clock.

mod backoff;
mod certificate;
mod frontend;
mod identifier;
mod key_authorization;
mod key_type;
mod order;
mod public_suffix;
mod renewal;
mod site;

pub use backoff::Backoff;
pub use certificate::{Certificate, CertificateError, CertificateId, Leaf};
pub use frontend::{Frontend, FrontendName, InvalidFrontend, Right, Scope, ScopePattern};
pub use identifier::{DnsName, MAX_LABELS, MAX_NAME_BYTES, NameError, NameSet};
pub use key_authorization::{InvalidToken, KeyAuthorization, Thumbprint, Token};
pub use key_type::{KeyType, Slot, UnknownKeyType};
pub use order::{
    AuthorizationRef, Challenged, Finalizing, Issued, Order, OrderState, Ordered, Planned, PublishedToken,
    Ready, Stored,
};
pub use public_suffix::{PublicSuffixes, SuffixListError};
pub use renewal::{ExpiryStage, expiry_stage, renewal_moment, urgent_from};
pub use site::{Failure, FailureClass, PARTITIONS, Partition, Site, SiteId};

/// A draw as it may be used: between 0 and 1, whatever the caller gave.
fn fraction(draw: f64) -> f64 {
    if draw.is_nan() { 0.0 } else { draw.clamp(0.0, 1.0) }
}
