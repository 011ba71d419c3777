//! The DNS, asked as a CA asks it: no hosts file, no search list, no cache.
//!
//! - [`resolve`]: questions to the resolvers: addresses, aliases, and whether it is the signatures that fail;
//! - [`exchange`]: one question to one server, with the flags of the answer;
//! - [`zone`]: the zone that a name lies in, and what each of its servers says;
//! - [`caa`]: who may issue for a name (RFC 8659, RFC 8657);
//! - [`special_purpose`]: addresses that no public CA asks.

pub mod caa;
pub mod exchange;
pub mod resolve;
pub mod special_purpose;
pub mod zone;

pub use caa::{Asker, CaaVerdict};
pub use exchange::{Answer, AskError};
pub use resolve::{Addresses, ResolveFailure, Resolver, ResolverError, Trail};
pub use special_purpose::is_special_purpose;
pub use zone::{NameServer, Zone};
