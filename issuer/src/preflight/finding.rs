//! What a validation met, and how to say it to the person who can change it.

use super::{
    fetch::{DialFailure, FetchError},
    redirect::RedirectRefusal,
    resolve::{Addresses, ResolveFailure},
};
use serde::{Serialize, Serializer};
use std::net::IpAddr;

/// Kinds of findings that an operator acts upon differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The name's DNS records.
    Dns,
    /// The name leads to another server, or another server answers.
    NotPointingHere,
    /// The redirect rule is missing, or leads where a CA does not follow.
    RedirectRule,
    /// Nobody answers.
    Firewall,
    /// Somebody answers too late.
    Slow,
    /// The right place answers with the wrong thing.
    OtherContent,
    /// IPv6 and IPv4 lead to different results.
    Ipv6Differs,
}

/// One request of a validation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    pub url: String,
    pub address: Option<IpAddr>,
    /// Absent when no answer came.
    pub status: Option<u16>,
    /// From the start of the connection to the end of the answer, in milliseconds.
    pub time_ms: u64,
    /// Why no answer came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How a validation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Status 200 with a short body; white space at its end is removed.
    Answered {
        body: String,
    },
    Failed(Failure),
}

/// Why a validation failed. `redirects` counts those followed before: 0 is the name itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    Dns {
        redirects: usize,
        failure: ResolveFailure,
    },
    Fetch {
        url: String,
        address: IpAddr,
        redirects: usize,
        error: FetchError,
    },
    Redirect {
        url: String,
        refusal: RedirectRefusal,
    },
    Status {
        url: String,
        address: IpAddr,
        redirects: usize,
        status: u16,
    },
    TooLong {
        url: String,
        address: IpAddr,
        redirects: usize,
    },
    /// Only where an answer was expected: another one came. `got` is the start of it, printable.
    OtherContent {
        url: String,
        redirects: usize,
        got: String,
    },
}

/// Everything that one validation met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub host: String,
    pub addresses: Addresses,
    pub hops: Vec<Hop>,
    /// Whether the address asked first is one of the operator's frontends; unknown when he named none.
    pub at_frontend: Option<bool>,
    pub outcome: Outcome,
}

impl Finding {
    pub fn failure(&self) -> Option<&Failure> {
        match &self.outcome {
            Outcome::Answered { .. } => None,
            Outcome::Failed(failure) => Some(failure),
        }
    }

    /// `None` when an answer came.
    pub fn class(&self) -> Option<Class> {
        let elsewhere =
            if self.at_frontend == Some(true) { Class::RedirectRule } else { Class::NotPointingHere };
        Some(match self.failure()? {
            Failure::Dns { redirects: 0, .. } => Class::Dns,
            Failure::Dns { .. } | Failure::Redirect { .. } => Class::RedirectRule,
            Failure::Fetch { error, redirects, .. } => match error {
                FetchError::Dial(_) | FetchError::Reset => Class::Firewall,
                FetchError::Timeout => Class::Slow,
                FetchError::Tls(_) => Class::RedirectRule,
                FetchError::Response(_) | FetchError::Io(_) if *redirects == 0 => elsewhere,
                FetchError::Response(_) | FetchError::Io(_) => Class::OtherContent,
            },
            Failure::Status { redirects: 0, status: 429, .. } => Class::Firewall,
            Failure::Status { redirects: 0, status: 401 | 403, .. } => Class::RedirectRule,
            Failure::Status { redirects: 0, .. }
            | Failure::TooLong { redirects: 0, .. }
            | Failure::OtherContent { redirects: 0, .. } => elsewhere,
            Failure::Status { .. } | Failure::TooLong { .. } | Failure::OtherContent { .. } => {
                Class::OtherContent
            }
        })
    }

    /// What is wrong and what to change, in plain words; for a success, the way it took.
    pub fn explain(&self) -> String {
        let host = &self.host;
        match self.failure() {
            None => {
                let way: Vec<_> = self.hops.iter().map(|hop| hop.url.as_str()).collect();
                let total_ms: u64 = self.hops.iter().map(|hop| hop.time_ms).sum();
                format!("{host} answers in {total_ms} ms: {}", way.join(" -> "))
            }
            Some(Failure::Dns { redirects: 0, failure }) => explain_dns(host, failure),
            Some(Failure::Dns { failure, .. }) => {
                format!(
                    "The redirect of {host} leads to a host without a usable address ({failure}). Give the validation host public DNS records, or correct the host in the redirect rule."
                )
            }
            Some(Failure::Redirect { url, refusal }) => explain_refusal(url, refusal),
            Some(Failure::Fetch { url, address, redirects, error }) => {
                self.explain_fetch(url, *address, *redirects, error)
            }
            Some(Failure::Status { url, address, redirects: 0, status: status @ (401 | 403) }) => {
                format!(
                    "{url} was answered with {status} by {address}. A password, a bot filter or a rule for hidden files stands before the redirect rule: let the path /.well-known/acme-challenge/ pass without it."
                )
            }
            Some(Failure::Status { url, address, redirects: 0, status: 429 }) => {
                format!(
                    "{url} was answered with 429 by {address}: a rate limiter. A CA asks six times and more within seconds, from many addresses: exempt /.well-known/acme-challenge/."
                )
            }
            Some(Failure::Status { url, address, redirects: 0, status }) => {
                format!(
                    "{url} was answered with {status} by {address} itself instead of the redirect. {}",
                    self.whose_server(*address)
                )
            }
            Some(Failure::Status { url, status: 404, .. }) => {
                format!(
                    "The redirect works, but {url} was answered with 404: that host does not know the token. Check that it is the validation server, and that it uses the same store as the issuer."
                )
            }
            Some(Failure::Status { url, status, .. }) => {
                format!(
                    "The redirect works, but {url} was answered with {status} instead of 200. Check the validation server and its connection to the store."
                )
            }
            Some(Failure::TooLong { url, address, redirects: 0 }) => {
                format!(
                    "{url} was answered by {address} with a page of its own instead of the redirect. {}",
                    self.whose_server(*address)
                )
            }
            Some(Failure::TooLong { url, .. }) => {
                format!(
                    "{url} was answered with 128 bytes or more, which is no key authorization. Check that the redirect rule leads to the validation server."
                )
            }
            Some(Failure::OtherContent { url, redirects: 0, got }) => {
                let address = self.hops.last().and_then(|hop| hop.address);
                let whose = address.map(|address| self.whose_server(address)).unwrap_or_default();
                format!(
                    "{url} was answered with {got:?} instead of this order's key authorization: another ACME client or a page answers. {whose}"
                )
            }
            Some(Failure::OtherContent { url, got, .. }) => {
                format!(
                    "{url} was answered with {got:?} instead of this order's key authorization. Check that the redirect leads to the validation server of this issuer, and that no cache stands before it."
                )
            }
        }
    }

    fn explain_fetch(&self, url: &str, address: IpAddr, redirects: usize, error: &FetchError) -> String {
        let family = if address.is_ipv6() { "AAAA" } else { "A" };
        let who = if redirects == 0 { "the frontend" } else { "the validation host" };
        let elsewhere = match (redirects, self.at_frontend) {
            (0, Some(false)) => format!(
                " {address} is none of your frontends: if the {family} record of {} is outdated, change it instead.",
                self.host
            ),
            _ => String::new(),
        };
        let advice = match error {
            FetchError::Dial(DialFailure::Timeout | DialFailure::Unreachable) => {
                format!(
                    "Open the port for everybody in the firewall before {who}; a CA asks from addresses that nobody can list."
                )
            }
            FetchError::Dial(DialFailure::Refused) => {
                format!("Nothing listens there: start {who} on this address and port.")
            }
            FetchError::Dial(_) | FetchError::Reset => {
                format!("A firewall or a filter before {who} cuts the connection: let it pass.")
            }
            FetchError::Timeout => format!(
                "Connected, but {who} did not answer in time: it is overloaded, or waits for something."
            ),
            FetchError::Tls(_) => "Let the redirect lead to http:// instead of https://.".to_owned(),
            FetchError::Response(_) | FetchError::Io(_) => {
                format!(
                    "What listens there is no usable web server: check which program has the port on {who}."
                )
            }
        };
        format!("{url} at {address}: {error}. {advice}{elsewhere}")
    }

    fn whose_server(&self, address: IpAddr) -> String {
        let host = &self.host;
        let family = if address.is_ipv6() { "AAAA" } else { "A" };
        match self.at_frontend {
            Some(true) => format!(
                "{address} is one of your frontends: the redirect rule is missing in its port-80 server for {host}, or stands behind another rule."
            ),
            Some(false) => format!(
                "{address} is none of your frontends: point the {family} record of {host} at one of them."
            ),
            None => format!(
                "Either the {family} record of {host} does not lead to your frontends, or the redirect rule is missing there."
            ),
        }
    }
}

fn explain_dns(host: &str, failure: &ResolveFailure) -> String {
    let advice = match failure {
        ResolveFailure::NoSuchName(_) => format!(
            "The name does not exist: create an A or AAAA record for {host} that leads to a frontend, or correct its spelling."
        ),
        ResolveFailure::NoAddresses(_) => format!(
            "The name has no address: create an A or AAAA record for {host} that leads to a frontend."
        ),
        ResolveFailure::OnlySpecialPurpose { .. } => {
            format!("A CA asks public addresses only: give {host} a public A or AAAA record.")
        }
        ResolveFailure::ServerFailure { .. } => format!(
            "The nameservers of {host} fail, or its DNSSEC signatures are broken: the owner of the zone must repair it."
        ),
        ResolveFailure::Timeout(_) => {
            format!("The nameservers of {host} do not answer: check the delegation of the zone.")
        }
        ResolveFailure::Other { .. } => "Check the name and the resolvers of this machine.".to_owned(),
    };
    format!("{failure}. {advice}")
}

fn explain_refusal(url: &str, refusal: &RedirectRefusal) -> String {
    let advice = match refusal {
        RedirectRefusal::Status(_) => "Use 302.",
        RedirectRefusal::NoLocation | RedirectRefusal::Unparsable | RedirectRefusal::EmptyHost => {
            "Write the whole address of the validation host into the rule."
        }
        RedirectRefusal::TooMany | RedirectRefusal::Loop(_) => {
            "Redirect the challenge path once, straight to the validation host, before any other redirect."
        }
        RedirectRefusal::Scheme(_) => "Redirect to http://.",
        RedirectRefusal::Port(_) => {
            "Let the validation host listen on port 80, and name no port in the rule."
        }
        RedirectRefusal::MissingSlash(_) => "Put a slash after the host in the rule's target.",
        RedirectRefusal::NotPublic(_) | RedirectRefusal::SpecialPurpose(_) => {
            "Redirect to a public host name that everybody can look up."
        }
        RedirectRefusal::TooLong => {
            "Redirect to /.well-known/acme-challenge/ and the token, and nothing else."
        }
    };
    format!("A CA does not follow the redirect of {url}: {refusal}. {advice}")
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            host: &'a str,
            answered: bool,
            class: Option<Class>,
            explanation: String,
            hops: &'a [Hop],
        }
        Document {
            host: &self.host,
            answered: self.failure().is_none(),
            class: self.class(),
            explanation: self.explain(),
            hops: &self.hops,
        }
        .serialize(serializer)
    }
}
