//! The fleet's own certificate authority, for its own connections: the server certificate of the role `certificates`, and
//! the client certificates of frontends. Hostnames of customers never get a certificate from it.

mod authority;
mod validity;

pub use authority::{AuthorityError, InternalCa, KeyPair};
pub use validity::{VALID_BEFORE, is_outdated, renewal_moment};
