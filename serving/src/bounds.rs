//! How many connections a listener takes, and how long each part of one may take.

use crate::open_files;
use shared::config::AddressPrefix;
use std::time::Duration;

/// Files that a program needs beside its connections: the store, logs, what it reads and writes.
const FILES_FOR_THE_REST: u64 = 256;
/// The part of all connections that one address may have, whatever the setting says.
const LARGEST_SHARE: usize = 4;

/// What one listener allows.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections of all workers together. Where they are used up, those go first that have been waited for the longest.
    pub connections: usize,
    /// Connections of one client address (IPv6: of one /64); absent: as many as of all.
    pub of_one_address: Option<usize>,
    /// Addresses that may have any number, such as those of load balancers.
    pub unlimited_addresses: Vec<AddressPrefix>,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// From the first byte that is waited for to the end of a request's head; and for the TLS handshake.
    pub head: Duration,
    /// From a request's head to the head of its answer, the body of the request included. Handlers have shorter ones of
    /// their own: this is for what they overlook.
    pub answer: Duration,
    /// Between an answer and the next request.
    pub idle: Duration,
    /// After this a connection ends with its next answer.
    pub life: Duration,
    /// How long open requests may take to be answered once the program has been told to end.
    pub drain: Duration,
}

/// An answer must be taken within this, and at this rate beyond.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
const BYTES_TAKEN_A_SECOND: u64 = 32 << 10;

impl Bounds {
    /// Bounds that most listeners share.
    pub const fn usual() -> Self {
        Self {
            connections: 10_000,
            of_one_address: None,
            unlimited_addresses: Vec::new(),
            head_bytes: 32 << 10,
            head: Duration::from_secs(5),
            answer: Duration::from_secs(90),
            idle: Duration::from_secs(75),
            life: Duration::from_secs(3_600),
            drain: Duration::from_secs(5),
        }
    }

    /// The same within what the system allows: an address never gets more than its share of what there is.
    pub(crate) fn within_the_systems(mut self) -> Self {
        let files = open_files::limit().saturating_sub(FILES_FOR_THE_REST).max(64);
        self.connections = self.connections.min(usize::try_from(files).unwrap_or(usize::MAX)).max(1);
        let share = (self.connections / LARGEST_SHARE).max(1);
        self.of_one_address = self.of_one_address.map(|most| most.clamp(1, share));
        self
    }

    /// How long a client may take to take an answer of so many bytes.
    pub(crate) fn taking(bytes: u64) -> Duration {
        TAKEN_WITHIN + Duration::from_secs(bytes / BYTES_TAKEN_A_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_never_gets_all_there_is() {
        let bounds = Bounds { connections: 100, of_one_address: Some(1_000), ..Bounds::usual() };
        assert_eq!(bounds.within_the_systems().of_one_address, Some(25));
        let few = Bounds { connections: 1, of_one_address: Some(0), ..Bounds::usual() }.within_the_systems();
        assert_eq!((few.connections, few.of_one_address), (1, Some(1)));
        assert_eq!(Bounds::usual().within_the_systems().of_one_address, None);
    }

    #[test]
    fn what_most_listeners_share() {
        let bounds = Bounds::usual();
        assert_eq!((bounds.head, bounds.idle), (Duration::from_secs(5), Duration::from_secs(75)));
        assert_eq!((TAKEN_WITHIN, BYTES_TAKEN_A_SECOND), (Duration::from_secs(10), 32 << 10));
    }

    #[test]
    fn a_large_answer_may_take_longer() {
        assert_eq!(Bounds::taking(0), TAKEN_WITHIN);
        assert_eq!(Bounds::taking(32 << 20), TAKEN_WITHIN + Duration::from_secs(1_024));
    }
}
