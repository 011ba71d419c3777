//! Opening the store: by URL, or the embedded one.

use super::{Embedded, StoreError, chains::KnownChains, confirmed::ConfirmedPool, link::Link};
use crate::config::StoreSection;
use redis::{
    Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, TlsCertificates,
    io::tcp::{TcpSettings, socket2},
};
use std::{fmt, path::Path, sync::Arc, time::Duration};

/// Which program asks: each has rights of its own in the embedded store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Challenge,
    Certificates,
    Issuer,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) link: Arc<Link>,
    pub(super) confirmed: Arc<ConfirmedPool>,
    pub(super) chains: Arc<KnownChains>,
    pub(super) embedded: Option<Arc<Embedded>>,
    pub(super) role: Role,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Challenge, Self::Certificates, Self::Issuer];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Challenge => "challenge",
            Self::Certificates => "certificates",
            Self::Issuer => "issuer",
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("role", &self.role)
            .field("embedded", &self.embedded)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store. One with a URL is connected to when it is first used; the embedded one is started where it does
    /// not run.
    ///
    /// # Errors
    /// A URL, a credential or a file that can't be used; an embedded store that can't be started.
    pub async fn open(section: &StoreSection, role: Role) -> Result<Self, StoreError> {
        let (client, embedded) = match &section.url {
            Some(url) => (client_of_url(url, section)?, None),
            None => {
                let embedded = Arc::new(Embedded::at(section)?);
                embedded.ensure_running().await?;
                let info = embedded.connection_info(role)?;
                (Client::open(with_settings(info)).map_err(StoreError::Url)?, Some(embedded))
            }
        };
        let link = Link::new(client.clone(), embedded.clone())?;
        let confirmed = ConfirmedPool::new(client, section.confirm_replicas);
        Ok(Self {
            link: Arc::new(link),
            confirmed: Arc::new(confirmed),
            chains: Arc::default(),
            embedded,
            role,
        })
    }

    /// Whether the last command was answered. Programs that run for long also run [`Store::watch`].
    pub fn is_healthy(&self) -> bool {
        self.link.is_healthy()
    }

    /// Notices a silent store within three seconds and replaces the connection. Never returns.
    pub async fn watch(&self) {
        self.link.watch().await;
    }

    /// The embedded store, where this is one.
    pub fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_deref()
    }
}

fn client_of_url(url: &str, section: &StoreSection) -> Result<Client, StoreError> {
    let mut info = url.into_connection_info().map_err(StoreError::Url)?;
    if let Some(path) = &section.password_file {
        let password = read(path)?;
        let settings = info.redis_settings().clone().set_password(String::from_utf8_lossy(&password).trim());
        info = info.set_redis_settings(settings);
    }
    let info = with_settings(info);
    match &section.trusted_roots_file {
        Some(path) => {
            let roots = TlsCertificates { client_tls: None, root_cert: Some(read(path)?) };
            Client::build_with_tls(info, roots).map_err(StoreError::Url)
        }
        None => Client::open(info).map_err(StoreError::Url),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|e| StoreError::Credentials(format!("{} can't be read: {e}", path.display())))
}

/// RESP3, because with it a closed connection is noticed before the next command; the rest, because a peer that vanished
/// is otherwise noticed after a quarter of an hour.
fn with_settings(info: ConnectionInfo) -> ConnectionInfo {
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
