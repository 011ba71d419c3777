//! How a server is dialled: who we are, over what, and how soon a dead one is noticed.
//!
//! The library's own clients for Sentinel and Cluster are not used: built on native TLS they can't be given private roots,
//! and a `WAIT` must go out on the very connection that the write went out on.

use super::StoreError;
use crate::config::{HostPort, Secret};
use redis::{
    Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, TlsCertificates,
    io::tcp::{TcpSettings, socket2},
};
use std::{path::Path, time::Duration};

/// Everything but the address.
pub(super) struct Dial {
    pub(super) tls: bool,
    /// `user:password@`, percent-encoded, or nothing.
    pub(super) login: Secret,
    pub(super) database: u32,
    /// In the place of the login's.
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// PEM.
    pub(super) roots: Option<Vec<u8>>,
}

impl Dial {
    /// A client of the server at this address. Nothing is sent yet.
    pub(super) fn client(&self, address: &HostPort) -> Result<Client, StoreError> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let url = format!("{scheme}://{}{address}/{}", self.login.reveal(), self.database);
        let mut info = url.into_connection_info().map_err(StoreError::Url)?;
        if let Some(user) = &self.user {
            let settings = info.redis_settings().clone().set_username(user);
            info = info.set_redis_settings(settings);
        }
        let roots = self.roots.as_deref().filter(|_| self.tls);
        client(info, self.password.as_deref(), roots)
    }
}

/// A client of the server that a URL of the library's own kind names.
pub(super) fn client_of_url(
    url: &str,
    password: Option<&str>,
    roots: Option<&[u8]>,
) -> Result<Client, StoreError> {
    client(url.into_connection_info().map_err(StoreError::Url)?, password, roots)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|e| StoreError::Credentials(format!("{} can't be read: {e}", path.display())))
}

pub(super) fn read_password(path: &Path) -> Result<String, StoreError> {
    Ok(String::from_utf8_lossy(&read(path)?).trim().to_owned())
}

fn client(
    mut info: ConnectionInfo,
    password: Option<&str>,
    roots: Option<&[u8]>,
) -> Result<Client, StoreError> {
    if let Some(password) = password {
        let settings = info.redis_settings().clone().set_password(password);
        info = info.set_redis_settings(settings);
    }
    let info = with_settings(info);
    match roots {
        Some(roots) => {
            let roots = TlsCertificates { client_tls: None, root_cert: Some(roots.to_vec()) };
            Client::build_with_tls(info, roots).map_err(StoreError::Url)
        }
        None => Client::open(info).map_err(StoreError::Url),
    }
}

/// RESP3, because with it a closed connection is noticed before the next command; the rest, because a peer that vanished
/// is otherwise noticed after a quarter of an hour.
pub(super) fn with_settings(info: ConnectionInfo) -> ConnectionInfo {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(Duration::from_secs(2));
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    info.set_tcp_settings(tcp).set_redis_settings(redis)
}
