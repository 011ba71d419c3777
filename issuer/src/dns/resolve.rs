//! Questions to the resolvers: the addresses of a name and the aliases on the way to them.

use super::{
    exchange::{Question, address_of, ask, ask_bytes, code_of},
    special_purpose::is_special_purpose,
};
use futures_util::future::join_all;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, Record, RecordType},
    },
    system_conf::read_system_conf,
};
use shared::domain::DnsName;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// Longest chain of aliases that is followed.
const MOST_ALIASES: usize = 8;
/// How long one question to one resolver may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it is believed that a resolver answers, and that none does.
const ANSWERING_KEPT: Duration = Duration::from_secs(30);
const SILENCE_KEPT: Duration = Duration::from_secs(5);

/// Looks names up.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
    servers: Vec<SocketAddr>,
    /// Whether one of them answers, and when that was found.
    answering: Arc<Mutex<Option<(Instant, bool)>>>,
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
pub struct Trail {
    /// The targets of the chain of CNAME records, the name's own first.
    pub aliases: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Why there may be more than that.
    pub gap: Option<ResolveFailure>,
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

impl Addresses {
    /// This one.
    pub fn only(address: IpAddr) -> Self {
        let (v6, v4) = if address.is_ipv6() { (vec![address], vec![]) } else { (vec![], vec![address]) };
        Self { v6, v4, ignored: Vec::new() }
    }

    /// All that a CA would ask, in the order in which it prefers them.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.v6.iter().chain(&self.v4).copied()
    }
}

impl Resolver {
    /// With the resolvers of `/etc/resolv.conf`.
    ///
    /// # Errors
    /// [`ResolverError`] when that file cannot be read.
    pub fn system() -> Result<Self, ResolverError> {
        let (config, _) = read_system_conf().map_err(ResolverError)?;
        Self::with(config)
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
        Self::with(ResolverConfig::from_name_servers(servers.collect()))
    }

    fn with(config: ResolverConfig) -> Result<Self, ResolverError> {
        let of_server = |server: &NameServerConfig| {
            server.connections.first().map(|connection| SocketAddr::new(server.ip, connection.port))
        };
        let servers = config.name_servers().iter().filter_map(of_server).collect();
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let inner = builder.with_options(options()).build().map_err(ResolverError)?;
        Ok(Self { inner, servers, answering: Arc::default() })
    }

    /// As they are named in explanations.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Both families at once. One family that fails is no failure while the other has an address. Addresses of special
    /// purpose count only where `special_purpose` says so.
    ///
    /// # Errors
    /// [`ResolveFailure`] when no address is left that a CA would ask.
    pub async fn addresses(&self, host: &str, special_purpose: bool) -> Result<Addresses, ResolveFailure> {
        let name = absolute(host)?;
        let (v6, v4) = tokio::join!(self.ask(&name, RecordType::AAAA), self.ask(&name, RecordType::A));
        // A resolver that fails says more than one that has no record.
        let mut failures: Vec<_> =
            [&v4, &v6].into_iter().flat_map(|r| r.as_ref().err()).map(|e| describe(host, e)).collect();
        failures.sort_by_key(|failure| matches!(failure, ResolveFailure::NoAddresses(_)));
        let mut addresses = Addresses::default();
        for address in v6.into_iter().chain(v4).flatten() {
            if is_special_purpose(address) && !special_purpose {
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
    pub async fn trail(&self, host: &DnsName) -> Trail {
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
            self.follow_dangling(host.as_str(), &mut trail).await;
        }
        trail
    }

    async fn follow_dangling(&self, host: &str, trail: &mut Trail) {
        let mut last = host.to_owned();
        while trail.aliases.len() < MOST_ALIASES {
            match self.alias_of(&last).await {
                Ok(Some(next)) if !trail.aliases.contains(&next) => {
                    trail.aliases.push(next.clone());
                    last = next;
                }
                Ok(_) => return,
                Err(failure) => {
                    trail.gap = Some(failure);
                    return;
                }
            }
        }
    }

    /// What a name is an alias of (CNAME), lower case, without the dot of the root.
    ///
    /// # Errors
    /// [`ResolveFailure`]: the DNS did not tell.
    pub async fn alias_of(&self, host: &str) -> Result<Option<String>, ResolveFailure> {
        let records = self.records(host, RecordType::CNAME).await?;
        Ok(alias_in(&absolute(host)?, &records).as_ref().map(as_text))
    }

    /// [`Resolver::alias_of`], where the name has the alias itself: one that a wildcard gives to every name beside it as well is
    /// nobody's word about this one (RFC 4592), and a record that is made there takes its place.
    ///
    /// # Errors
    /// [`ResolveFailure`]: the DNS did not tell.
    pub async fn own_alias_of(&self, host: &str) -> Result<Option<String>, ResolveFailure> {
        let Some(alias) = self.alias_of(host).await? else { return Ok(None) };
        let Some((_, above)) = host.split_once('.') else { return Ok(Some(alias)) };
        let mut random = [0; 8];
        if openssl::rand::rand_bytes(&mut random).is_err() {
            return Ok(Some(alias));
        }
        let beside = format!("_{}.{above}", shared::digest::hex(&random));
        let from_wildcard = self.alias_of(&beside).await.is_ok_and(|other| other.as_ref() == Some(&alias));
        Ok((!from_wildcard).then_some(alias))
    }

    /// The records of a kind; none where there are none. Aliases are followed by the resolver.
    ///
    /// # Errors
    /// [`ResolveFailure`]: the DNS did not tell.
    pub async fn records(&self, host: &str, kind: RecordType) -> Result<Vec<Record>, ResolveFailure> {
        match self.look_up(&absolute(host)?, kind).await {
            Ok(records) => Ok(records),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) if is_final(&none) => Ok(Vec::new()),
            Err(error) => Err(why_unknown(host, &error)),
        }
    }

    /// The zone that a name lies in: the owner of the record of authority that answers for it. `None` for an alias, which
    /// answers with the authority of where it leads.
    ///
    /// # Errors
    /// [`ResolveFailure`]: the DNS did not tell.
    pub async fn zone_of(&self, host: &str) -> Result<Option<Name>, ResolveFailure> {
        let name = absolute(host)?;
        match self.look_up(&name, RecordType::SOA).await {
            Ok(records) if alias_in(&name, &records).is_some() => Ok(None),
            Ok(records) => {
                let of_zone = |record: &&Record| matches!(record.data, RData::SOA(_));
                Ok(records.iter().find(of_zone).map(|record| record.name.clone()))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) if is_final(&none) => {
                let soa = none.soa.as_ref().filter(|_| none.query.name() == &name);
                Ok(soa.map(|soa| soa.name.clone()))
            }
            Err(error) => Err(why_unknown(host, &error)),
        }
    }

    /// Whether a resolver knows an answer that it holds back because its signatures don't hold (RFC 4035 section 3.2.2).
    pub async fn holds_back(&self, host: &str) -> bool {
        let Ok(name) = absolute(host) else { return false };
        for server in &self.servers {
            for kind in [RecordType::A, RecordType::AAAA] {
                let question = Question { name: name.clone(), kind, recurse: true, unchecked: true };
                match ask(*server, &question).await {
                    Ok(answer) if answer.is_final() => return true,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        false
    }

    /// Whether one of them answers anything. What was found a moment ago is not asked again: where none does, each order would
    /// wait for it.
    pub async fn answers(&self) -> bool {
        let mut known = self.answering.lock().await;
        if let Some((at, answers)) = *known
            && at.elapsed() < if answers { ANSWERING_KEPT } else { SILENCE_KEPT }
        {
            return answers;
        }
        let question =
            Question { name: Name::root(), kind: RecordType::SOA, recurse: true, unchecked: false };
        let asked = join_all(self.servers.iter().map(|server| ask(*server, &question))).await;
        let answers = self.servers.is_empty() || asked.iter().any(Result::is_ok);
        *known = Some((Instant::now(), answers));
        answers
    }

    /// Whether one of them answers at all: asked for the root, which everybody knows.
    pub async fn is_usable(&self) -> bool {
        let question =
            Question { name: Name::root(), kind: RecordType::SOA, recurse: true, unchecked: false };
        for server in &self.servers {
            let answer = ask(*server, &question).await;
            let fails = |code| matches!(code, ResponseCode::ServFail | ResponseCode::Refused);
            if answer.is_ok_and(|answer| !fails(answer.code)) {
                return true;
            }
        }
        false
    }

    /// One question to the resolvers, the answer's bytes as they came: for what the library can't read.
    ///
    /// # Errors
    /// [`ResolveFailure`]: none of them told.
    pub(super) async fn raw_answer(&self, host: &str, kind: RecordType) -> Result<Vec<u8>, ResolveFailure> {
        let question = Question { name: absolute(host)?, kind, recurse: true, unchecked: false };
        let mut failure = ResolveFailure::Timeout(host.to_owned());
        for server in &self.servers {
            let Ok(bytes) = ask_bytes(*server, &question).await else { continue };
            match code_of(&bytes) {
                ResponseCode::NoError | ResponseCode::NXDomain => return Ok(bytes),
                code => {
                    let (name, code) = (host.to_owned(), code.to_string());
                    failure = ResolveFailure::ServerFailure { name, code };
                }
            }
        }
        Err(failure)
    }

    async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Vec<IpAddr>, NetError> {
        Ok(addresses_in(&self.look_up(name, record_type).await?))
    }

    async fn look_up(&self, name: &Name, record_type: RecordType) -> Result<Vec<Record>, NetError> {
        Ok(self.inner.lookup(name.clone(), record_type).await?.answers().to_vec())
    }
}

/// The name as it is asked for: no search list applies to it.
pub(super) fn absolute(host: &str) -> Result<Name, ResolveFailure> {
    Name::from_ascii(format!("{}.", host.trim_end_matches('.')))
        .map_err(|error| ResolveFailure::Other { name: host.to_owned(), reason: error.to_string() })
}

fn addresses_in(records: &[Record]) -> Vec<IpAddr> {
    records.iter().filter_map(address_of).collect()
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
pub(super) fn as_text(name: &Name) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn resolvers_that_refuse_connections_are_known_as_such() {
        // Bound and not listened on: nobody else gets the port, and nobody answers.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        let resolver = Resolver::with_servers(&[address]).unwrap();
        assert!(!resolver.answers().await && !resolver.clone().answers().await);
        assert_eq!(resolver.servers(), [address]);
    }
}
