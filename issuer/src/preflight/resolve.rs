//! A and AAAA of a name, asked as a CA's resolver asks: no hosts file, no search list, no cache.

use super::{Rules, special_purpose::is_special_purpose};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, Record, RecordType},
    },
};
use shared::domain::DnsName;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Longest chain of aliases that is followed.
const MOST_ALIASES: usize = 8;
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

/// All that the DNS says about where a name leads, special-purpose addresses included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trail {
    /// The targets of the chain of CNAME records, the name's own first.
    pub(super) aliases: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// Why there may be more than that.
    pub(super) gap: Option<ResolveFailure>,
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
        let name = absolute(host)?;
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

    /// A and AAAA of a name with the aliases on the way. Aliases that end without an address take one more question
    /// each, since the answer does not show them.
    pub(super) async fn trail(&self, host: &DnsName) -> Trail {
        if let Some(address) = host.address() {
            return Trail { addresses: vec![address], ..Trail::default() };
        }
        let name = match absolute(host.as_str()) {
            Ok(name) => name,
            Err(failure) => return Trail { gap: Some(failure), ..Trail::default() },
        };
        let (v6, v4) =
            tokio::join!(self.look_up(&name, RecordType::AAAA), self.look_up(&name, RecordType::A));
        let mut trail = Trail::default();
        let mut records = Vec::new();
        let mut dangling = false;
        for answer in [v4, v6] {
            match answer {
                Ok(found) => records.extend(found),
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) if is_final(&none) => {
                    dangling |= none.query.name() != &name;
                }
                Err(error) => trail.gap = Some(why_unknown(host.as_str(), &error)),
            }
        }
        trail.addresses = addresses_in(&records);
        trail.aliases = follow(&name, &records).iter().map(as_text).collect();
        if dangling && trail.addresses.is_empty() && trail.gap.is_none() {
            self.follow_dangling(name, &mut trail).await;
        }
        trail
    }

    async fn follow_dangling(&self, name: Name, trail: &mut Trail) {
        let mut last = name;
        while trail.aliases.len() < MOST_ALIASES {
            match self.look_up(&last, RecordType::CNAME).await {
                Ok(records) => {
                    let Some(next) = alias_in(&last, &records) else { return };
                    let text = as_text(&next);
                    if trail.aliases.contains(&text) {
                        return;
                    }
                    trail.aliases.push(text);
                    last = next;
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) if is_final(&none) => return,
                Err(error) => {
                    trail.gap = Some(why_unknown(&as_text(&last), &error));
                    return;
                }
            }
        }
    }

    async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Vec<IpAddr>, NetError> {
        Ok(addresses_in(&self.look_up(name, record_type).await?))
    }

    async fn look_up(&self, name: &Name, record_type: RecordType) -> Result<Vec<Record>, NetError> {
        Ok(self.inner.lookup(name.clone(), record_type).await?.answers().to_vec())
    }
}

/// The name as it is asked for: no search list applies to it.
fn absolute(host: &str) -> Result<Name, ResolveFailure> {
    Name::from_ascii(format!("{}.", host.trim_end_matches('.')))
        .map_err(|error| ResolveFailure::Other { name: host.to_owned(), reason: error.to_string() })
}

fn addresses_in(records: &[Record]) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    records.iter().filter_map(address).collect()
}

fn alias_in(name: &Name, records: &[Record]) -> Option<Name> {
    records.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if &record.name == name => Some(target.0.clone()),
        _ => None,
    })
}

/// The chain of aliases from `name` on, in whatever order the records came.
fn follow(name: &Name, records: &[Record]) -> Vec<Name> {
    let mut chain = Vec::new();
    let mut last = name.clone();
    while chain.len() < MOST_ALIASES
        && let Some(next) = alias_in(&last, records)
    {
        chain.push(next.clone());
        last = next;
    }
    chain
}

/// Lower case, without the dot of the root.
fn as_text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// Whether this says that there is nothing. A server that does not resolve refers to others instead, for every name.
fn is_final(none: &NoRecords) -> bool {
    matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) && !refers(none)
}

fn refers(none: &NoRecords) -> bool {
    none.ns.is_some() && none.soa.is_none()
}

fn why_unknown(host: &str, error: &NetError) -> ResolveFailure {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if refers(none) => ResolveFailure::Other {
            name: host.to_owned(),
            reason: "the resolver refers to other nameservers instead of asking them".to_owned(),
        },
        other => describe(host, other),
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
