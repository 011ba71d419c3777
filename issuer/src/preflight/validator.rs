//! One validation, hop by hop, as Let's Encrypt's validator walks it (boulder `va/http.go`).

use super::{
    Rules,
    fetch::{FetchError, fetch},
    finding::{Failure, Finding, Hop, Outcome},
    redirect::{Host, RedirectRefusal, Scheme, Target, next_hop},
    response::{BODY_LIMIT_BYTES, is_redirect},
};
use crate::dns::{Addresses, ResolveFailure, Resolver, is_special_purpose};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How long a validator waits.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For one connection, and for one TLS handshake.
    pub dial: Duration,
    /// For all hops of one validation together.
    pub total: Duration,
}

impl Default for Timeouts {
    /// 10 s for a connection and 20 s in all, as in the CA's published configuration.
    fn default() -> Self {
        Self { dial: Duration::from_secs(10), total: Duration::from_secs(20) }
    }
}

/// Which address the first request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// As the CA chooses: the first AAAA, and after a failed connection the first A.
    Any,
    V4,
    /// This one, whatever the name's DNS says.
    At(IpAddr),
}

/// Fetches as the CA would, and records what it met.
#[derive(Clone, Debug)]
pub struct Validator {
    rules: Rules,
    resolver: Resolver,
    timeouts: Timeouts,
    frontends: Vec<IpAddr>,
}

impl Validator {
    pub fn new(rules: Rules, resolver: Resolver) -> Self {
        Self { rules, resolver, timeouts: Timeouts::default(), frontends: Vec::new() }
    }

    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// The addresses of the operator's own frontends. Where they are known, a name that leads elsewhere is told from
    /// a frontend that lacks the rule.
    #[must_use]
    pub fn with_frontends(mut self, frontends: Vec<IpAddr>) -> Self {
        self.frontends = frontends;
        self
    }

    /// Fetches `http://host/path`. Never fails: what goes wrong is the finding.
    pub async fn fetch_as_the_ca(&self, host: &str, path: &str) -> Finding {
        self.fetch_over(First::Any, host, path).await
    }

    /// Where it looks names up.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Whether addresses of special purpose may be asked.
    pub(super) fn allows_special_purpose(&self) -> bool {
        self.rules.allow_special_purpose_addresses
    }

    /// The addresses of the operator's own frontends.
    pub(super) fn frontends(&self) -> &[IpAddr] {
        &self.frontends
    }

    pub(super) async fn fetch_over(&self, place: First, host: &str, path: &str) -> Finding {
        let first = Target::first(host, path, &self.rules);
        let mut walk = Walk {
            validator: self,
            deadline: Instant::now() + self.timeouts.total,
            earlier: Vec::new(),
            hops: Vec::new(),
        };
        let found = match place {
            First::At(address) => Ok(Addresses::only(address)),
            First::Any | First::V4 => walk.addresses(&first).await,
        };
        let (addresses, outcome) = match found {
            Err(failure) => (Addresses::default(), Outcome::Failed(failure)),
            Ok(mut addresses) => {
                if place == First::V4 {
                    addresses.v6.clear();
                }
                let outcome = walk.try_each_family(&first, &addresses).await;
                (addresses, outcome)
            }
        };
        let asked = walk.hops.first().and_then(|hop| hop.address);
        let at_frontend = asked.filter(|_| !self.frontends.is_empty()).map(|ip| self.frontends.contains(&ip));
        Finding { host: host.to_owned(), addresses, hops: walk.hops, at_frontend, outcome }
    }
}

struct Walk<'a> {
    validator: &'a Validator,
    deadline: Instant,
    /// Every URL asked so far, also before a fallback: the CA's loop detection does not forget them.
    earlier: Vec<String>,
    hops: Vec<Hop>,
}

impl Walk<'_> {
    /// The first address of each family, AAAA first; the second only after a failed connection. A failed connection to
    /// the target of a redirect also starts the walk again over IPv4, where it usually ends as a "redirect loop": then
    /// the failed connection is reported, which is the cause.
    async fn try_each_family(&mut self, first: &Target, addresses: &Addresses) -> Outcome {
        let mut dial_failure = None;
        for address in addresses.v6.first().into_iter().chain(addresses.v4.first()) {
            match self.follow(first, *address).await {
                Ok(body) => return Outcome::Answered { body },
                Err(failure @ Failure::Fetch { error: FetchError::Dial(_), .. }) => {
                    dial_failure = Some(failure);
                }
                Err(Failure::Redirect { refusal: RedirectRefusal::Loop(_), .. })
                    if dial_failure.is_some() =>
                {
                    break;
                }
                Err(failure) => return Outcome::Failed(failure),
            }
        }
        let nothing =
            || Failure::Dns { redirects: 0, failure: ResolveFailure::NoAddresses(first.host.to_string()) };
        Outcome::Failed(dial_failure.unwrap_or_else(nothing))
    }

    async fn follow(&mut self, first: &Target, address: IpAddr) -> Result<String, Failure> {
        let (mut target, mut address, mut redirects) = (first.clone(), address, 0);
        let mut referer = None;
        loop {
            let url = target.to_string();
            if !self.earlier.contains(&url) {
                self.earlier.push(url.clone());
            }
            let socket = SocketAddr::new(address, target.port);
            let started = Instant::now();
            let dial = self.validator.timeouts.dial;
            let answer = fetch(&target, socket, referer.as_deref(), dial, self.deadline).await;
            self.hops.push(Hop {
                url: url.clone(),
                address: Some(address),
                status: answer.as_ref().ok().map(|response| response.status),
                time_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                problem: answer.as_ref().err().map(ToString::to_string),
            });
            let response =
                answer.map_err(|error| Failure::Fetch { url: url.clone(), address, redirects, error })?;
            let location = match &response.location {
                Some(location) if is_redirect(response.status, Some(location)) => location,
                _ => return judge_answer(response.status, &response.body, url, address, redirects),
            };
            let next = next_hop(&target, response.status, location, &self.earlier, &self.validator.rules)
                .map_err(|refusal| Failure::Redirect { url: url.clone(), refusal })?;
            redirects += 1;
            let addresses = self.addresses(&next).await.map_err(|failure| match failure {
                Failure::Dns { failure, .. } => Failure::Dns { redirects, failure },
                other => other,
            })?;
            // No fallback here: the CA has none for the target of a redirect.
            address = match addresses.v6.iter().chain(&addresses.v4).next() {
                Some(address) => *address,
                None => {
                    let failure = ResolveFailure::NoAddresses(next.host.to_string());
                    return Err(Failure::Dns { redirects, failure });
                }
            };
            // As Go's client: no Referer from https to http.
            let secret = target.scheme == Scheme::Https && next.scheme == Scheme::Http;
            referer = (!secret).then_some(url);
            target = next;
        }
    }

    async fn addresses(&self, target: &Target) -> Result<Addresses, Failure> {
        let rules = &self.validator.rules;
        let found = match &target.host {
            Host::Name(name) => {
                let special_purpose = rules.allow_special_purpose_addresses;
                let lookup = self.validator.resolver.addresses(name, special_purpose);
                tokio::time::timeout_at(self.deadline.into(), lookup)
                    .await
                    .unwrap_or_else(|_| Err(ResolveFailure::Timeout(name.clone())))
            }
            Host::Address(address)
                if is_special_purpose(*address) && !rules.allow_special_purpose_addresses =>
            {
                Err(ResolveFailure::OnlySpecialPurpose {
                    name: address.to_string(),
                    addresses: vec![*address],
                })
            }
            Host::Address(address) => Ok(Addresses::only(*address)),
        };
        found.map_err(|failure| Failure::Dns { redirects: 0, failure })
    }
}

/// Status exactly 200, fewer than 128 bytes, white space removed at the end only.
fn judge_answer(
    status: u16,
    body: &[u8],
    url: String,
    address: IpAddr,
    redirects: usize,
) -> Result<String, Failure> {
    if status != 200 {
        return Err(Failure::Status { url, address, redirects, status });
    }
    if body.len() >= BODY_LIMIT_BYTES {
        return Err(Failure::TooLong { url, address, redirects });
    }
    Ok(String::from_utf8_lossy(body).trim_end().to_owned())
}
