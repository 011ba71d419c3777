//! Listening sockets, bound before anything is started, so that a taken port is the first thing one hears of.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{SocketAddr, TcpListener},
};

/// Connections that wait for a worker. The kernel's own bound (`net.core.somaxconn`) may be lower.
pub const BACKLOG: i32 = 4096;

/// The address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        error.source
    }
}

/// One socket for `address`. One on `[::]` takes IPv4 too.
///
/// # Errors
/// [`BindError`].
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    listen(address, false).map_err(|source| BindError { address, source })
}

/// `count` sockets on the same address; the kernel spreads connections over them, so that workers share nothing.
///
/// # Errors
/// [`BindError`], also when another process listens there: the kernel would let two of the same user share a port.
pub fn bind_shared(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let failed = |source| BindError { address, source };
    let probe = listen(address, false).map_err(failed)?;
    // Port 0 was an invitation to choose one: all sockets must be on the same.
    let address = probe.local_addr().map_err(failed)?;
    if count == 1 {
        return Ok(vec![probe]);
    }
    drop(probe);
    (0..count).map(|_| listen(address, true).map_err(failed)).collect()
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    // Accepted connections inherit it: no system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    #[test]
    fn a_listener_on_every_ipv6_address_takes_ipv4_too() {
        let listener = bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn workers_share_a_port_and_nobody_else_does() {
        let shared = bind_shared((Ipv4Addr::LOCALHOST, 0).into(), 3).unwrap();
        let address = shared[0].local_addr().unwrap();
        assert!(shared.iter().all(|one| one.local_addr().unwrap() == address));
        for count in [1, 2] {
            let error = bind_shared(address, count).unwrap_err();
            assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        }
    }
}
