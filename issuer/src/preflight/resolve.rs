//! A and AAAA of a name, asked as a CA's resolver asks: no hosts file, no search list, no cache.

use super::{Rules, special_purpose::is_special_purpose};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// How long one question to one resolver may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);

/// Looks names up.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
}

/// The resolvers cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("the system's resolver configuration cannot be used")]
pub struct ResolverError(#[source] NetError);

/// The addresses of a name that a CA would use, in the order of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub v6: Vec<IpAddr>,
    pub v4: Vec<IpAddr>,
    /// Special-purpose addresses, which the CA ignores.
    pub ignored: Vec<IpAddr>,
}

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveFailure {
    #[error("DNS problem: NXDOMAIN looking up {0}")]
    NoSuchName(String),
    #[error("no valid A records found for {0}; no valid AAAA records found for {0}")]
    NoAddresses(String),
    #[error("{name} has only special-purpose addresses: {}", list(.addresses))]
    OnlySpecialPurpose { name: String, addresses: Vec<IpAddr> },
    #[error("DNS problem: {code} looking up {name}")]
    ServerFailure { name: String, code: String },
    #[error("DNS problem: query timed out looking up {0}")]
    Timeout(String),
    #[error("DNS problem looking up {name}: {reason}")]
    Other { name: String, reason: String },
}

impl Resolver {
    /// With the resolvers of `/etc/resolv.conf`.
    ///
    /// # Errors
    /// [`ResolverError`] when that file cannot be read.
    pub fn system() -> Result<Self, ResolverError> {
        let builder = TokioResolver::builder_tokio().map_err(ResolverError)?;
        let inner = builder.with_options(options()).build().map_err(ResolverError)?;
        Ok(Self { inner })
    }

    /// With the given resolvers; the system's when there are none.
    ///
    /// # Errors
    /// [`ResolverError`].
    pub fn with_servers(servers: &[SocketAddr]) -> Result<Self, ResolverError> {
        if servers.is_empty() {
            return Self::system();
        }
        let servers = servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let inner = builder.with_options(options()).build().map_err(ResolverError)?;
        Ok(Self { inner })
    }

    /// Both families at once. One family that fails is no failure while the other has an address.
    ///
    /// # Errors
    /// [`ResolveFailure`] when no address is left that a CA would ask.
    pub async fn addresses(&self, host: &str, rules: &Rules) -> Result<Addresses, ResolveFailure> {
        let name = Name::from_ascii(format!("{}.", host.trim_end_matches('.')))
            .map_err(|error| ResolveFailure::Other { name: host.to_owned(), reason: error.to_string() })?;
        let (v6, v4) = tokio::join!(self.ask(&name, RecordType::AAAA), self.ask(&name, RecordType::A));
        // A resolver that fails says more than one that has no record.
        let mut failures: Vec<_> =
            [&v4, &v6].into_iter().flat_map(|r| r.as_ref().err()).map(|e| describe(host, e)).collect();
        failures.sort_by_key(|failure| matches!(failure, ResolveFailure::NoAddresses(_)));
        let mut addresses = Addresses::default();
        for address in v6.into_iter().chain(v4).flatten() {
            if is_special_purpose(address) && !rules.allow_special_purpose_addresses {
                addresses.ignored.push(address);
            } else if address.is_ipv6() {
                addresses.v6.push(address);
            } else {
                addresses.v4.push(address);
            }
        }
        if !addresses.v6.is_empty() || !addresses.v4.is_empty() {
            return Ok(addresses);
        }
        let name = host.to_owned();
        if !addresses.ignored.is_empty() {
            return Err(ResolveFailure::OnlySpecialPurpose { name, addresses: addresses.ignored });
        }
        Err(failures.into_iter().next().unwrap_or(ResolveFailure::NoAddresses(name)))
    }

    async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Vec<IpAddr>, NetError> {
        let lookup = self.inner.lookup(name.clone(), record_type).await?;
        Ok(lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
                _ => None,
            })
            .collect())
    }
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = QUESTION_TIMEOUT;
    options.attempts = 2;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options
}

fn describe(host: &str, error: &NetError) -> ResolveFailure {
    let name = host.to_owned();
    match error {
        NetError::Timeout => ResolveFailure::Timeout(name),
        NetError::Dns(DnsError::ResponseCode(code)) => {
            ResolveFailure::ServerFailure { name, code: code.to_string() }
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => ResolveFailure::NoSuchName(name),
            ResponseCode::NoError => ResolveFailure::NoAddresses(name),
            code => ResolveFailure::ServerFailure { name, code: code.to_string() },
        },
        other => ResolveFailure::Other { name, reason: other.to_string() },
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}
