//! The ACME client: RFC 8555 and friends (RFC 9773 renewal information, profiles, external account binding).
//!
//! It knows nothing of Redis, of sites or of configuration files. What the server sends is plain data that can be
//! stored, and every call takes the URL it works on: whoever has the account key and a stored URL can go on where
//! another process stopped.
//!
//! # Where to start reading
//!
//! - [`Client`] is one CA: its [`Directory`], its pool of nonces, its connections. Cheap to clone.
//! - [`Account`] is a client, an [`AccountKey`] and the account's URL; everything signed starts there.
//! - [`Order`], [`Authorization`] and [`Challenge`] are what the server answers, one file for each object.
//! - [`Chain`] is a downloaded certificate, strictly parsed, and checked against an [`Expectation`] before it is stored.
//! - [`RequestError`] tells what failed, whose fault it is and when to try again.
//!
//! An order, start to end: [`Account::new_order`], [`Account::fetch_authorization`], [`Account::answer_challenge`],
//! [`Account::fetch_order`] until it is ready, [`Account::finalize`], [`Account::fetch_order`] until it is valid,
//! [`Account::fetch_preferred_chain`], [`Chain::check`].

mod account;
mod account_key;
mod answer;
mod authorization;
mod certificate;
mod chain;
mod challenge;
mod client;
pub mod csr;
mod directory;
mod eab;
mod identifier;
mod identity;
mod jwk;
mod jws;
mod link;
mod moments;
mod nonce;
mod order;
mod pacing;
mod pem;
mod problem;
mod reading;
mod renewal_info;
mod request_error;
mod retry_after;
mod revocation;
mod rollover;
mod timestamp;
mod transport;

pub use account::{Account, AccountState, AccountStatus, NewAccount};
pub use account_key::{AccountKey, KeyError};
pub use answer::Answer;
pub use authorization::{Authorization, AuthorizationStatus};
pub use certificate::{DownloadedCertificate, PreferredChain};
pub use chain::{CLOCK_SKEW_ALLOWED, Chain, ChainError, Expectation, MAX_CHAIN_CERTIFICATES};
pub use challenge::{Challenge, ChallengeKind, ChallengeReply, ChallengeStatus};
pub use client::{Client, ClientSettings, MAX_REFUSED_NONCES, NEW_ORDER_PATIENCE};
pub use csr::generate_certificate_key;
pub use directory::{Directory, Meta};
pub use eab::{ExternalAccountBinding, InvalidHmacKey};
pub use identifier::Identifier;
pub use identity::{Identity, Keeper};
pub use jwk::Jwk;
pub use link::Link;
pub use moments::{Believed, Bounds, Moment};
pub use order::{LostOrder, NewOrder, Order, OrderStatus, PlacedOrder};
pub use pacing::{ENDPOINTS, Pacer, Turn};
pub use problem::{Problem, ProblemKind, Subproblem};
pub(crate) use reading::web_page;
pub use renewal_info::{CertificateId, CertificateIdError, RenewalInfo};
pub use request_error::{Refusal, RequestError};
pub use retry_after::{LONGEST_POLL, parse as parse_retry_after, poll_delay};
pub use revocation::{Revocation, RevocationReason, UnknownRevocationReason};
pub use transport::{RequestCounter, is_reachable};
