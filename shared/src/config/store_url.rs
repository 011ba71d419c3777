//! `store.url`: one server, or several behind Sentinel or in a Cluster.
//!
//! Those of several servers list them: `redis+sentinel://[user:password@]host[:port],host[:port]/service[/database]`,
//! `redis+cluster://[user:password@]host[:port],host[:port]`; with `rediss+` the data nodes are spoken to over TLS.

use std::{fmt, path::PathBuf};

const SENTINEL_PORT: u16 = 26379;
const REDIS_PORT: u16 = 6379;

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// One server, as the Redis library reads it.
    Single(Secret),
    Sentinel(SentinelUrl),
    Cluster(ClusterUrl),
}

/// A primary that Sentinels know by the name of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelUrl {
    /// Whether the data nodes are spoken to over TLS.
    pub tls: bool,
    /// For the data nodes: `user:password@`, percent-encoded as it stands in the URL, or nothing.
    pub login: Secret,
    pub sentinels: Vec<HostPort>,
    pub service: String,
    pub database: u32,
    /// For the Sentinels, where they want one.
    pub sentinel_user: Option<String>,
    pub sentinel_password_file: Option<PathBuf>,
    pub sentinel_tls: bool,
}

/// A Cluster, and some nodes of it that tell of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterUrl {
    pub tls: bool,
    pub login: Secret,
    pub nodes: Vec<HostPort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name or an address, an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

/// Text that may hold a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// The URL can't be read; says what was expected.
#[derive(Debug, thiserror::Error)]
#[error("store.url: {0}")]
pub struct StoreUrlError(String);

impl StoreUrl {
    /// # Errors
    /// [`StoreUrlError`].
    pub fn parse(url: &str) -> Result<Self, StoreUrlError> {
        let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
        let tls = scheme.starts_with("rediss+");
        let kind = match scheme {
            "redis" | "rediss" | "redis+unix" | "unix" => return Ok(Self::Single(Secret(url.to_owned()))),
            "redis+sentinel" | "rediss+sentinel" => Kind::Sentinel,
            "redis+cluster" | "rediss+cluster" => Kind::Cluster,
            _ => {
                return Err(mistake(
                    "expected redis://, rediss://, redis+unix://, redis+sentinel:// or redis+cluster://",
                ));
            }
        };
        let rest = rest.strip_prefix("//").ok_or_else(|| mistake(format!("expected {scheme}://")))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) =
            authority.rfind('@').map_or(("", authority), |at| (&authority[..=at], &authority[at + 1..]));
        let login = Secret(login.to_owned());
        let default_port = if kind == Kind::Sentinel { SENTINEL_PORT } else { REDIS_PORT };
        let hosts =
            hosts.split(',').map(|host| HostPort::parse(host, default_port)).collect::<Result<_, _>>()?;
        match kind {
            Kind::Sentinel => SentinelUrl::new(tls, login, hosts, path, query).map(Self::Sentinel),
            Kind::Cluster if !matches!(path, "" | "0") => {
                Err(mistake("a Redis Cluster has one database, the URL ends with its hosts"))
            }
            Kind::Cluster if !query.is_empty() => Err(mistake("redis+cluster:// has no ?options")),
            Kind::Cluster => Ok(Self::Cluster(ClusterUrl { tls, login, nodes: hosts })),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sentinel,
    Cluster,
}

impl SentinelUrl {
    fn new(
        tls: bool,
        login: Secret,
        sentinels: Vec<HostPort>,
        path: &str,
        query: &str,
    ) -> Result<Self, StoreUrlError> {
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        if service.is_empty() {
            return Err(mistake(
                "the name of the service that the Sentinels watch is missing: redis+sentinel://HOST,HOST/SERVICE",
            ));
        }
        let database = match database {
            "" => 0,
            text => text.parse().map_err(|_| mistake(format!("{text:?} is no number of a database")))?,
        };
        let mut url = Self {
            tls,
            login,
            sentinels,
            service: service.to_owned(),
            database,
            sentinel_user: None,
            sentinel_password_file: None,
            sentinel_tls: false,
        };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("sentinel_user", user)) => url.sentinel_user = Some(user.to_owned()),
                Some(("sentinel_password_file", path)) => url.sentinel_password_file = Some(path.into()),
                Some(("sentinel_tls", "true")) => url.sentinel_tls = true,
                Some(("sentinel_tls", "false")) => url.sentinel_tls = false,
                _ => {
                    return Err(mistake(format!(
                        "unknown option {option:?}: sentinel_user=, sentinel_password_file= and sentinel_tls=true are known"
                    )));
                }
            }
        }
        if url.sentinel_user.is_some() && url.sentinel_password_file.is_none() {
            return Err(mistake("sentinel_user needs a sentinel_password_file"));
        }
        Ok(url)
    }
}

impl HostPort {
    fn parse(text: &str, default_port: u16) -> Result<Self, StoreUrlError> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err(mistake(format!("a host is missing in {text:?}")));
        }
        let port = match port {
            None => default_port,
            Some(port) => port.parse().map_err(|_| mistake(format!("{port:?} is no port")))?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

fn mistake(message: impl Into<String>) -> StoreUrlError {
    StoreUrlError(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_behind_sentinels() {
        let url = "rediss+sentinel://issuer:a%2Fb@s1.example,[2001:db8::2]:5000,s3.example:26380/store/2?sentinel_user=watch&sentinel_password_file=/etc/p";
        let StoreUrl::Sentinel(found) = StoreUrl::parse(url).unwrap() else { panic!("a Sentinel's URL") };
        assert!(found.tls && !found.sentinel_tls);
        assert_eq!(found.login.reveal(), "issuer:a%2Fb@");
        let hosts: Vec<_> = found.sentinels.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["s1.example:26379", "[2001:db8::2]:5000", "s3.example:26380"]);
        assert_eq!((found.service.as_str(), found.database), ("store", 2));
        assert_eq!(found.sentinel_user.as_deref(), Some("watch"));
        assert!(!format!("{found:?}").contains("a%2Fb"));
    }

    #[test]
    fn a_cluster() {
        let StoreUrl::Cluster(found) = StoreUrl::parse("redis+cluster://a,b:7000").unwrap() else {
            panic!("a Cluster's URL")
        };
        assert!(!found.tls && found.login.reveal().is_empty());
        assert_eq!(found.nodes[0].to_string(), "a:6379");
        assert_eq!(found.nodes[1].to_string(), "b:7000");
    }

    #[test]
    fn one_server_is_left_to_the_library() {
        for url in ["redis://127.0.0.1/", "rediss://u@h:6379/0", "redis+unix:///run/redis.sock", "unix:/x"] {
            assert!(matches!(StoreUrl::parse(url), Ok(StoreUrl::Single(_))), "{url}");
        }
    }

    #[test]
    fn mistakes_say_what_was_expected() {
        for (url, expected) in [
            ("mysql://x", "expected redis://"),
            ("", "expected redis://"),
            ("redis+sentinel:x", "expected redis+sentinel://"),
            ("redis+sentinel://a,b", "name of the service"),
            ("redis+sentinel://a,,b/s", "host is missing"),
            ("redis+sentinel://a:x/s", "no port"),
            ("redis+sentinel://a/s/x", "number of a database"),
            ("redis+sentinel://a/s?x=1", "unknown option"),
            ("redis+sentinel://a/s?sentinel_user=u", "needs a sentinel_password_file"),
            ("redis+cluster://a/1", "one database"),
            ("redis+cluster://a?x=1", "no ?options"),
            ("redis+cluster://", "host is missing"),
        ] {
            let shown = StoreUrl::parse(url).unwrap_err().to_string();
            assert!(shown.contains(expected), "{url}: {shown}");
        }
    }
}
