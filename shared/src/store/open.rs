//! Opening the store: by URL, or the embedded one.

use super::{
    Embedded, StoreError,
    chains::KnownChains,
    confirmed::ConfirmedPool,
    dial::{Dial, Files, Recipe},
    discovery::Sentinels,
    grants::Grants,
    halt::Halt,
    link::Link,
    node::Node,
    servers::Servers,
    watch::Standing,
};
use crate::config::{Secret, StoreSection, StoreUrl};
use std::{fmt, sync::Arc};
use tokio::sync::watch;

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
    pub(super) failovers: Arc<watch::Sender<u64>>,
    pub(super) grants: Grants,
    pub(super) halt: Arc<Halt>,
    pub(super) standing: Arc<Standing>,
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
        let (servers, embedded) = match &section.url {
            Some(url) => (servers_of_url(url, section)?, None),
            None => {
                let embedded = Arc::new(Embedded::at(section)?);
                embedded.ensure_running().await?;
                let recipe = Recipe::Embedded { embedded: Arc::clone(&embedded), role };
                (Servers::single(Node::new(None, recipe)?), Some(embedded))
            }
        };
        let (servers, halt) = (Arc::new(servers), Arc::<Halt>::default());
        Ok(Self {
            link: Arc::new(Link::new(Arc::clone(&servers), embedded.clone(), Arc::clone(&halt))),
            confirmed: Arc::new(ConfirmedPool::new(servers, section.confirm_replicas, Arc::clone(&halt))),
            chains: Arc::default(),
            embedded,
            role,
            failovers: Arc::new(watch::Sender::new(0)),
            grants: Grants::default(),
            halt,
            standing: Arc::default(),
        })
    }

    /// Whether nothing is known to stand in the way. Programs that run for long also run [`Store::watch`].
    pub fn is_healthy(&self) -> bool {
        self.obstacle().is_none()
    }

    /// The embedded store, where this is one.
    pub fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_deref()
    }
}

fn servers_of_url(url: &str, section: &StoreSection) -> Result<Servers, StoreError> {
    let files = Files { password: section.password_file.clone(), roots: section.trusted_roots_file.clone() };
    match StoreUrl::parse(url).map_err(|e| StoreError::Unsuitable(e.to_string()))? {
        StoreUrl::Single(url) => Ok(Servers::single(Node::new(None, Recipe::Url { url, files })?)),
        StoreUrl::Sentinel(url) => {
            let to_sentinels = Dial {
                tls: url.sentinel_tls,
                login: Secret::default(),
                database: 0,
                user: url.sentinel_user,
                files: Files { password: url.sentinel_password_file, roots: files.roots.clone() },
            };
            let dial = Dial { tls: url.tls, login: url.login, database: url.database, user: None, files };
            // A file that can't be used is found at the start.
            for address in url.sentinels.iter().take(1) {
                to_sentinels.client(address)?;
                dial.client(address)?;
            }
            let sentinels = Sentinels { dial: to_sentinels, addresses: url.sentinels, service: url.service };
            Ok(Servers::behind_sentinels(sentinels, dial))
        }
        StoreUrl::Cluster(url) => {
            let dial = Dial { tls: url.tls, login: url.login, database: 0, user: None, files };
            url.nodes.first().map(|some| dial.client(some)).transpose()?;
            Ok(Servers::cluster(url.nodes, dial))
        }
    }
}
