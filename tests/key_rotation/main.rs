//! The key-encryption key of a fleet is replaced while it issues and serves: nothing is lost, wherever it is killed.
//!
//! - `fleet`: two nodes that serve, issuing in the background, one node that lacks the new key.
//! - `daemons`: two nodes that run the daemon under load.
//! - `killed`: `kill -9` of `issuer key rotate` around each of its writes.
//! - `many`: thousands of sites, page by page, killed in the middle.
//! - `meanwhile`: somebody works on a site, or sleeps over it; what is possible between the old key and the new one.
//! - `scene`: an installation with something sealed of every kind.

mod daemons;
mod fleet;
mod killed;
mod many;
mod meanwhile;
mod scene;
