//! The words of the domain: values and rules, without I/O and without a clock.

mod api_token;
mod audit;
mod backoff;
mod brake;
mod certificate;
mod event;
mod feed;
mod forecast;
mod frontend;
mod frontend_report;
mod grouping;
mod hsts;
mod identifier;
mod key_authorization;
mod key_type;
mod limit;
mod name_error;
mod order;
mod plot;
mod public_suffix;
mod renewal;
mod renewal_plan;
mod schedule;
mod sighting;
mod site;
mod spread;
mod tag;
mod text;
mod tls_policy;
mod usage;

pub use api_token::{ApiRole, ApiToken, InvalidTokenName, TokenName};
pub use audit::{AuditAction, AuditChain, AuditCheck, AuditEntry, AuditFault, AuditLine, AuditedKey};
pub use backoff::Backoff;
pub use brake::{Brake, BrakeScope, Braked, brake_of};
pub use certificate::{Certificate, CertificateError, CertificateId, Leaf};
pub use event::{Event, EventKind, Severity, UnknownEventKind};
pub use feed::{FeedCursor, InvalidCursor};
pub use forecast::{FORECAST_HOURS, Fleet, Forecast, Headroom, OrderLimit, Peak};
pub use frontend::{Frontend, FrontendName, InvalidFrontend, NotItself, Right, Scope, ScopePattern};
pub use frontend_report::{FrontendReport, ItemProblem, ServedItem, StoredReport};
pub use grouping::{Groups, Room, plan_groups};
pub use hsts::{HSTS_REMOVED, HSTS_WARNINGS, Hsts, HstsGoal, HstsStanding, HstsStep, announced};
pub use identifier::{DnsName, MAX_LABELS, MAX_NAME_BYTES, NameSet, for_people};
pub use key_authorization::{InvalidToken, KeyAuthorization, Thumbprint, Token};
pub use key_type::{KeyType, Slot, UnknownKeyType};
pub use limit::{Counted, Limit, LimitScope, OrderClass, Rate, Tried};
pub use name_error::NameError;
pub use order::{
    AuthorizationRef, Challenged, Finalizing, Issued, Obstacle, Order, OrderState, Ordered, Planned,
    PublishedToken, Ready, Standing, Stored, Stuck, Txt,
};
pub use plot::Plot;
pub use public_suffix::{PublicSuffixes, SuffixListError};
pub use renewal::{
    ExpiryStage, RenewalWindow, expiry_stage, life_begin, renewal_cycle, renewal_moment, renewal_window,
    urgent_from,
};
pub use renewal_plan::{RenewalPlan, RenewalPlans};
pub use schedule::{Class, Place, leftovers, quotas};
pub use sighting::{NotSightable, sightable};
pub use site::{
    ChallengeType, DEFAULT_SOURCE, Failure, FailureClass, MAX_SITE_NAMES, Origin, PARTITIONS, Parked,
    ParkedReason, Partition, SanPolicy, Site, SiteId,
};
pub use spread::{Candidates, Chosen, Occasion, candidates, hour_of};
pub use tag::{InvalidTag, is_word, parse_tag};
pub use text::{LONGEST_SENTENCE, bounded};
pub use tls_policy::{StagedTlsPolicy, TlsGroup, TlsPolicies, TlsPolicy, TlsPolicyError, TlsVersion};
pub use usage::{UsageError, check_usage};

/// A draw as it may be used: between 0 and 1, whatever the caller gave.
fn fraction(draw: f64) -> f64 {
    if draw.is_nan() { 0.0 } else { draw.clamp(0.0, 1.0) }
}
