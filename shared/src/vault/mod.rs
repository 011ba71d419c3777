//! Private keys never reach the store in the clear. Each is sealed with a key of its own (AES-256-GCM), and that key is
//! wrapped by a key-encryption key that is kept outside the store.
//!
//! What is sealed is bound to the record it belongs to: moved to another record, it can't be opened.

mod keyring;
mod seal;

pub use keyring::{Keyring, KeyringError};
pub use seal::{Binding, OpenError, SealedKind, Vault};
