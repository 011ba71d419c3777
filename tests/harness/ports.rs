//! Free loopback addresses and ports.
//!
//! Every test runs in a process of its own beside others. Ports are drawn at random below the kernel's ephemeral range
//! (32768 on Linux), so that no outgoing connection of another test can take one between our probe and the server's bind;
//! servers that find one taken after all are started again on another.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Mutex,
};

use anyhow::{Context as _, Result, bail};

const FIRST: u16 = 10_000;
const LAST: u16 = 32_000;
const TRIES: u32 = 1_000;

/// Ports already handed out in this process: their servers may not have bound them yet.
static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that is free for TCP and UDP on 127.0.0.1.
pub fn free_port() -> Result<u16> {
    free_port_on(&[IpAddr::V4(Ipv4Addr::LOCALHOST)])
}

/// A TCP address on 127.0.0.1 with a free port.
pub fn free_address() -> Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

/// One port that is free for TCP and UDP on every one of `addresses`.
pub fn free_port_on(addresses: &[IpAddr]) -> Result<u16> {
    for _ in 0..TRIES {
        let [high, low] = random_bytes()?;
        let port = FIRST + u16::from_be_bytes([high, low]) % (LAST - FIRST);
        let free =
            |ip: &IpAddr| TcpListener::bind((*ip, port)).is_ok() && UdpSocket::bind((*ip, port)).is_ok();
        if addresses.iter().all(free) && HANDED_OUT.lock().expect("no panic while held").insert(port) {
            return Ok(port);
        }
    }
    bail!("no port between {FIRST} and {LAST} is free on all of {addresses:?}")
}

/// A /24 of 127.0.0.0/8 for one test: several hosts that may all listen on the CA's http-01 port.
///
/// Let's Encrypt asks every host on port 80; an unprivileged test does the same with one high port on several loopback
/// addresses, so that a redirect need not change the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopbackNet {
    second: u8,
    third: u8,
}

impl LoopbackNet {
    /// Draws a network at random; 127.0.0.x is left to ordinary servers.
    pub fn pick() -> Result<Self> {
        let [second, third] = random_bytes()?;
        Ok(Self { second: second % 254 + 1, third })
    }

    /// The host with this last number.
    pub fn host(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.second, self.third, number)
    }

    /// One port that is free on all these hosts and on 127.0.0.1.
    pub fn free_port(&self, numbers: &[u8]) -> Result<u16> {
        let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        addresses.extend(numbers.iter().map(|number| IpAddr::V4(self.host(*number))));
        free_port_on(&addresses)
    }
}

fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    openssl::rand::rand_bytes(&mut bytes).context("random bytes for a port")?;
    Ok(bytes)
}
