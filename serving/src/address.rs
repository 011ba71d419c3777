//! Connections counted by where they come from.

use shared::config::AddressPrefix;
use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// So that workers seldom meet at one lock.
const SHARDS: usize = 16;

/// A client: an IPv4 address, or the /64 of an IPv6 address, which is what one machine has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    V4(u32),
    V6(u64),
}

impl Client {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6(upper_half(address)),
        }
    }

    fn shard(self) -> usize {
        let bits = match self {
            Self::V4(bits) => u64::from(bits),
            Self::V6(bits) => bits,
        };
        // Neighbors share their upper bits.
        usize::try_from(bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60).unwrap_or(0) % SHARDS
    }
}

fn upper_half(address: Ipv6Addr) -> u64 {
    u64::try_from(address.to_bits() >> 64).unwrap_or(0)
}

/// How many connections each client has, on all workers of a listener.
#[derive(Debug)]
pub(crate) struct Addresses {
    most: Option<usize>,
    unlimited: Vec<AddressPrefix>,
    counts: [Mutex<HashMap<Client, usize>>; SHARDS],
}

/// A connection's place among those of its client, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<(Arc<Addresses>, Client)>);

impl Addresses {
    pub(crate) fn new(most: Option<usize>, unlimited: Vec<AddressPrefix>) -> Arc<Self> {
        Arc::new(Self { most, unlimited, counts: Default::default() })
    }

    /// `None` where the client has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let Some(most) = self.most else { return Some(Place(None)) };
        let address = address.to_canonical();
        if self.unlimited.iter().any(|prefix| prefix.holds(address)) {
            return Some(Place(None));
        }
        let client = Client::of(address);
        let mut counts = self.shard(client);
        let count = counts.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place(Some((Arc::clone(self), client))))
    }

    /// Nothing is left half done in a shard, whatever panics.
    fn shard(&self, client: Client) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.counts[client.shard()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((addresses, client)) = &self.0 else { return };
        if let Entry::Occupied(mut count) = addresses.shard(*client).entry(*client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_client_has_so_many_places_and_leaves_nothing_behind() {
        let addresses = Addresses::new(Some(2), Vec::new());
        let first = addresses.enter(ip("192.0.2.1"));
        let second = addresses.enter(ip("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some(), "an IPv4 address is one on a listener for both, too");
        assert!(addresses.enter(ip("192.0.2.1")).is_none());
        assert!(addresses.enter(ip("192.0.2.2")).is_some());
        drop(first);
        assert!(addresses.enter(ip("192.0.2.1")).is_some());
        drop(second);
        assert!(addresses.counts.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn a_network_of_64_bits_is_one_client() {
        let addresses = Addresses::new(Some(1), Vec::new());
        let _place = addresses.enter(ip("2001:db8:0:1::1"));
        assert!(addresses.enter(ip("2001:db8:0:1:ffff::2")).is_none());
        assert!(addresses.enter(ip("2001:db8:0:2::1")).is_some());
    }

    #[test]
    fn some_addresses_have_no_bound() {
        let unlimited = vec!["10.0.0.0/8".parse().unwrap()];
        let addresses = Addresses::new(Some(1), unlimited);
        let held: Vec<_> = (0..5).map(|_| addresses.enter(ip("10.1.2.3"))).collect();
        assert!(held.iter().all(Option::is_some));
        let unbounded = Addresses::new(None, Vec::new());
        let held: Vec<_> = (0..5).map(|_| unbounded.enter(ip("192.0.2.1"))).collect();
        assert!(held.iter().all(Option::is_some));
    }
}
