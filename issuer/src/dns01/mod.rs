//! Proofs in the DNS (RFC 8555 section 8.4): for wildcards, and for frontends that the CA can't reach on port 80.
//!
//! A record is noted in the store before it is made, so that another node removes it where the one that made it was killed.
//! The CA is told to look once every nameserver with authority that answers has it.
//!
//! - [`Prover`]: the way in: which record proves a name and who writes it, made, waited for, removed;
//! - `propagation`: what each nameserver of the zone says, and whether that is enough;
//! - `provider`: the places where records can be written: `rfc2136` (signed by `tsig`), `acme_dns`, `webhook`, `exec`;
//! - `standing`: records that stay (dns-persist-01);
//! - `sweep`: what others have left behind.

mod acme_dns;
mod exec;
mod propagation;
mod prover;
mod provider;
mod rfc2136;
mod standing;
mod sweep;
mod tsig;
mod webhook;

pub use propagation::Propagation;
pub use prover::{Dns01Error, Lead, Prover};
pub(crate) use prover::{labelled_record, own_record};
pub(crate) use provider::check;
pub use provider::{ProviderError, SetupError};
pub use standing::Holder;
