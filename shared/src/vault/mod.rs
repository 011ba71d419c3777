//! Private keys never reach the store in the clear. Each is sealed with a key of its own (AES-256-GCM), and that key is
//! wrapped by a key-encryption key that is kept outside the store.
//!
//! What is sealed is bound to the record it belongs to: moved to another record, it can't be opened.
//!
//! - [`keyring`]: the file of key-encryption keys, read. `ring_file`: made, added to, taken from.
//! - [`seal`]: the sealing itself. [`mac`]: records that hold no secret and must not be forged. [`held`]: the ring that a program holds, read again when its file changes.

mod held;
mod keyring;
mod mac;
mod ring_file;
mod seal;

pub use held::{SealError, Vault, VaultMarks};
pub use keyring::{Keyring, KeyringError};
pub use mac::{Unverified, mac_kek_id, unverified_text};
pub use seal::{Binding, OpenError, SealedKind, kek_id};
