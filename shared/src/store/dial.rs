//! How a server is dialled: who we are, over what, and how soon a dead one is noticed. Passwords and roots in files are
//! read for each connection: what was changed there counts from the next one on.
//!
//! The library's own clients for Sentinel and Cluster are not used: built on native TLS they can't be given private roots,
//! and a `WAIT` must go out on the very connection that the write went out on.

use super::{Embedded, Role, StoreError};
use crate::config::{HostPort, Secret};
use redis::{
    Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, TlsCertificates,
    io::tcp::{TcpSettings, socket2},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How one server is dialled.
pub(super) enum Recipe {
    /// By a URL of the library's own kind.
    Url {
        url: Secret,
        files: Files,
    },
    Address {
        dial: Arc<Dial>,
        address: HostPort,
    },
    Embedded {
        embedded: Arc<Embedded>,
        role: Role,
    },
}

/// What stands in files.
#[derive(Clone, Default)]
pub(super) struct Files {
    pub(super) password: Option<PathBuf>,
    /// PEM.
    pub(super) roots: Option<PathBuf>,
}

/// Everything but the address.
pub(super) struct Dial {
    pub(super) tls: bool,
    /// `user:password@`, percent-encoded, or nothing.
    pub(super) login: Secret,
    pub(super) database: u32,
    /// In the place of the login's.
    pub(super) user: Option<String>,
    pub(super) files: Files,
}

impl Recipe {
    /// A client for one connection. Nothing is sent yet.
    ///
    /// # Errors
    /// [`StoreError`]: a URL or a file that can't be used.
    pub(super) fn client(&self) -> Result<Client, StoreError> {
        match self {
            Self::Url { url, files } => {
                client(url.reveal().into_connection_info().map_err(StoreError::Url)?, files, true)
            }
            Self::Address { dial, address } => dial.client(address),
            Self::Embedded { embedded, role } => {
                Client::open(with_settings(embedded.connection_info(*role)?)).map_err(StoreError::Url)
            }
        }
    }

    /// The place, and the setting that leads to it: ` at HOST:PORT, as store.url names it`.
    pub(super) fn at(&self) -> String {
        match self {
            Self::Url { .. } => format!(" at {}, as store.url names it", self.place()),
            Self::Address { .. } => format!(" at {}, where store.url leads to", self.place()),
            Self::Embedded { .. } => format!(" at {}, the embedded one", self.place()),
        }
    }

    /// Who logs in with which password, and the settings that say so.
    pub(super) fn login(&self) -> String {
        let (user, files) = match self {
            Self::Url { url, files } => (user_of(url.reveal()), files),
            Self::Address { dial, .. } => {
                let in_url = user_of(&format!("redis://{}h", dial.login.reveal()));
                (dial.user.clone().or(in_url), &dial.files)
            }
            Self::Embedded { role, .. } => {
                return format!("of the user {} with a password of its own", role.as_str());
            }
        };
        let user = user.map_or_else(|| "the default user".to_owned(), |user| format!("the user {user:?}"));
        match &files.password {
            Some(file) => format!("of {user} with the password in {}", file.display()),
            None => format!("of {user}, with no more than store.url has (store.password_file is not set)"),
        }
    }

    /// The place that is dialled, for people.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Url { url, .. } => place_of_url(url.reveal()),
            Self::Address { address, .. } => address.to_string(),
            Self::Embedded { embedded, .. } => embedded.socket().display().to_string(),
        }
    }
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
        client(info, &self.files, self.tls)
    }
}

/// The user that a URL names.
fn user_of(url: &str) -> Option<String> {
    let info = url.into_connection_info().ok()?;
    info.redis_settings().username().filter(|user| !user.is_empty()).map(str::to_owned)
}

/// A URL without its login and parameters.
fn place_of_url(url: &str) -> String {
    let without_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let without_login = without_scheme.rsplit_once('@').map_or(without_scheme, |(_, rest)| rest);
    without_login.split(['?', '#']).next().unwrap_or_default().to_owned()
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|e| StoreError::Credentials(format!("{} can't be read: {e}", path.display())))
}

fn client(mut info: ConnectionInfo, files: &Files, may_be_tls: bool) -> Result<Client, StoreError> {
    if let Some(path) = &files.password {
        let password = String::from_utf8_lossy(&read(path)?).trim().to_owned();
        let settings = info.redis_settings().clone().set_password(password);
        info = info.set_redis_settings(settings);
    }
    let info = with_settings(info);
    match files.roots.as_deref().filter(|_| may_be_tls) {
        Some(roots) => {
            let roots = TlsCertificates { client_tls: None, root_cert: Some(read(roots)?) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_without_the_login() {
        for (url, place) in [
            ("rediss://user:p%40ss@redis.example:6380/2", "redis.example:6380/2"),
            ("redis://10.0.0.1:6379", "10.0.0.1:6379"),
            ("redis+unix:///run/redis.sock?user=a&pass=b", "/run/redis.sock"),
        ] {
            assert_eq!(place_of_url(url), place);
        }
    }

    #[test]
    fn a_login_is_told_without_the_password() {
        let told = |url: &str, password: Option<&str>| {
            let files = Files { password: password.map(PathBuf::from), roots: None };
            Recipe::Url { url: Secret::from(url.to_owned()), files }.login()
        };
        let shown = told("redis://issuer:hunter2@h:1/", None);
        assert!(shown.contains("\"issuer\"") && shown.contains("password_file is not set"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        let shown = told("redis://h:1/", Some("/etc/p"));
        assert_eq!(shown, "of the default user with the password in /etc/p");
    }

    #[test]
    fn a_password_that_was_changed_in_its_file_counts_for_the_next_connection() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let files = Files { password: Some(file.clone()), roots: None };
        let recipe = Recipe::Url { url: Secret::from("redis://user@h:1/".to_owned()), files };
        assert!(matches!(recipe.client(), Err(StoreError::Credentials(_))));
        for password in ["one", "two"] {
            std::fs::write(&file, format!("{password}\n")).unwrap();
            let client = recipe.client().unwrap();
            assert_eq!(client.get_connection_info().redis_settings().password(), Some(password));
        }
        // The same with servers of a Cluster, Sentinels, and those whom these name; and with roots.
        let roots = folder.path().join("roots.pem");
        let dial = Dial {
            tls: true,
            login: Secret::default(),
            database: 0,
            user: Some("watcher".into()),
            files: Files { password: Some(file.clone()), roots: Some(roots.clone()) },
        };
        let address = HostPort { host: "sentinel.example".into(), port: 26_379 };
        assert!(
            matches!(dial.client(&address), Err(StoreError::Credentials(what)) if what.contains("roots.pem"))
        );
        std::fs::write(&roots, "no certificate").unwrap();
        assert!(dial.client(&address).is_err(), "it is read");
        let dial = Dial { tls: false, files: Files { roots: None, ..dial.files }, ..dial };
        for password in ["three", "four"] {
            std::fs::write(&file, password).unwrap();
            let client = dial.client(&address).unwrap();
            assert_eq!(client.get_connection_info().redis_settings().password(), Some(password));
        }
    }
}
