//! What a validation met, and how to say it to the person who can change it.

use super::{
    fetch::{DialFailure, FetchError},
    redirect::RedirectRefusal,
    words::{Cause, Language},
};
use crate::dns::{Addresses, ResolveFailure};
use serde::{Serialize, Serializer};
use shared::domain::DnsName;
use std::net::IpAddr;
use url::Url;

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
    /// The redirect works, and what it leads to answers with the wrong thing.
    OtherContent,
    /// The redirect works, and nobody answers where it leads, or too late.
    ValidationHost,
    /// IPv6 and IPv4 lead to different results.
    Ipv6Differs,
    /// CAA records.
    Caa,
    /// The CA issues nothing for such a name.
    Name,
    /// Who writes into the DNS for dns-01, or the delegation to it.
    DnsChallenge,
    /// The CA, or this machine's clock beside it.
    Ca,
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
        // The site's own redirect comes before the rule, whatever is met behind it.
        if self.site_redirect().is_some() {
            return Some(elsewhere);
        }
        // What a server that is not ours leads to is not ours either.
        let behind = |class| if self.at_frontend == Some(false) { Class::NotPointingHere } else { class };
        Some(match self.failure()? {
            Failure::Dns { redirects: 0, .. } => Class::Dns,
            Failure::Dns { .. } | Failure::Redirect { .. } => Class::RedirectRule,
            Failure::Fetch { error, redirects, .. } => match error {
                FetchError::Dial(_) | FetchError::Reset | FetchError::Timeout if *redirects > 0 => {
                    behind(Class::ValidationHost)
                }
                FetchError::Dial(_) | FetchError::Reset => Class::Firewall,
                FetchError::Timeout => Class::Slow,
                FetchError::Tls(_) => Class::RedirectRule,
                FetchError::Response(_) | FetchError::Io(_) if *redirects == 0 => elsewhere,
                FetchError::Response(_) | FetchError::Io(_) => behind(Class::OtherContent),
            },
            Failure::Status { redirects: 0, status: 429, .. } => Class::Firewall,
            Failure::Status { redirects: 0, status: 401 | 403, .. } => Class::RedirectRule,
            Failure::Status { redirects: 0, .. }
            | Failure::TooLong { redirects: 0, .. }
            | Failure::OtherContent { redirects: 0, .. } => elsewhere,
            Failure::Status { .. } | Failure::TooLong { .. } | Failure::OtherContent { .. } => {
                behind(Class::OtherContent)
            }
        })
    }

    /// What is wrong and what to change, in plain words; for a success, the way it took.
    pub fn explain(&self) -> String {
        self.cause().map_or_else(|| self.way(), |cause| cause.explain(Language::En))
    }

    /// The way that led to an answer.
    pub fn way(&self) -> String {
        self.way_in(Language::En)
    }

    /// The same in a language.
    pub fn way_in(&self, language: Language) -> String {
        let way = self.hops.iter().map(|hop| hop.url.as_str()).collect::<Vec<_>>().join(" -> ");
        let total_ms: u64 = self.hops.iter().map(|hop| hop.time_ms).sum();
        let host = DnsName::parse_identifier(&self.host)
            .map_or_else(|_| self.host.clone(), |name| name.to_unicode());
        match language {
            Language::En => format!("{host} answers in {total_ms} ms: {way}"),
            Language::Ko => format!("{host}: {total_ms} ms 만에 응답함: {way}"),
        }
    }

    /// What is wrong; `None` when an answer came.
    pub fn cause(&self) -> Option<Cause> {
        let failure = self.failure()?;
        let cause = match self.site_redirect() {
            Some(to) => self.of_site_redirect(to, failure),
            None => self.of(failure),
        };
        let is_address = self.host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let cause = if is_address { cause.of_address() } else { cause };
        let cause = cause.with("name", &self.host);
        let at = match failure {
            Failure::Fetch { address, .. }
            | Failure::Status { address, .. }
            | Failure::TooLong { address, .. } => Some(*address),
            _ => self.hops.last().and_then(|hop| hop.address),
        };
        Some(match at {
            Some(address) => cause.with("address", address).with("family", family_of(address)),
            None => cause,
        })
    }

    fn of(&self, failure: &Failure) -> Cause {
        match failure {
            Failure::Dns { redirects: 0, failure } => of_dns(&self.host, failure),
            Failure::Dns { failure, .. } => Cause::new("redirect-target-dns").with("reason", failure),
            Failure::Redirect { url, refusal } => of_refusal(url, refusal),
            Failure::Fetch { url, redirects, error, .. } => self.of_fetch(url, *redirects, error),
            Failure::Status { url, redirects: 0, status, .. } => {
                let cause = match status {
                    401 | 403 => Cause::new("frontend-guarded"),
                    429 => Cause::new("frontend-limited"),
                    _ => Cause::new("frontend-answered").remedied_by(self.whose_server()),
                };
                cause.with("url", url).with("status", status)
            }
            Failure::Status { url, status: 404, .. } => {
                Cause::new("validation-unknown-token").with("url", url)
            }
            Failure::Status { url, status, .. } => {
                Cause::new("validation-status").with("url", url).with("status", status)
            }
            Failure::TooLong { url, redirects: 0, .. } => {
                Cause::new("frontend-page").remedied_by(self.whose_server()).with("url", url)
            }
            Failure::TooLong { url, .. } => Cause::new("validation-page").with("url", url),
            Failure::OtherContent { url, redirects: 0, got } => Cause::new("frontend-content")
                .remedied_by(self.whose_server())
                .with("url", url)
                .with("got", format!("{got:?}")),
            Failure::OtherContent { url, got, .. } => {
                Cause::new("validation-content").with("url", url).with("got", format!("{got:?}"))
            }
        }
    }

    fn of_fetch(&self, url: &str, redirects: usize, error: &FetchError) -> Cause {
        let connected = !matches!(error, FetchError::Dial(_));
        let cause = if connected { Cause::new("no-answer") } else { Cause::new("no-connection") };
        let remedy = match (error, redirects) {
            _ if redirects == 0 && self.at_frontend == Some(false) => "points-elsewhere",
            (FetchError::Dial(DialFailure::Timeout | DialFailure::Unreachable), 0) => "open-frontend",
            (FetchError::Dial(DialFailure::Timeout | DialFailure::Unreachable), _) => "open-validation-host",
            (FetchError::Dial(DialFailure::Refused), 0) => "start-frontend",
            (FetchError::Dial(DialFailure::Refused), _) => "start-validation-host",
            (FetchError::Dial(_) | FetchError::Reset, _) => "let-pass",
            (FetchError::Timeout, _) => "answer-sooner",
            (FetchError::Tls(_), _) => "redirect-to-http",
            (FetchError::Response(_) | FetchError::Io(_), _) => "no-web-server",
        };
        cause.remedied_by(remedy).with("url", url).with("reason", error)
    }

    /// Where the name's own host led on to itself (to `https://`, or to `www.`) instead of to the validation host: that is how far
    /// the validation came. Whose host a hop is decides, not how many there were.
    fn site_redirect(&self) -> Option<&str> {
        let (first, last) = (self.hops.first()?, self.hops.last()?);
        if self.hops.len() < 2 || first.url == last.url {
            return None;
        }
        let host_of = |hop: &Hop| Some(Url::parse(&hop.url).ok()?.host_str()?.to_owned());
        let bare = |host: String| host.strip_prefix("www.").map(str::to_owned).unwrap_or(host);
        (bare(host_of(first)?) == bare(host_of(last)?)).then_some(last.url.as_str())
    }

    fn of_site_redirect(&self, to: &str, failure: &Failure) -> Cause {
        let reason = match failure {
            Failure::Fetch { error, .. } => error.to_string(),
            Failure::Redirect { refusal, .. } => refusal.to_string(),
            Failure::Dns { failure, .. } => failure.to_string(),
            Failure::Status { status, .. } => format!("status {status}"),
            Failure::TooLong { .. } => "a page".to_owned(),
            Failure::OtherContent { got, .. } => format!("{got:?}"),
        };
        let remedy = if self.at_frontend == Some(false) { "points-elsewhere" } else { "rule-first" };
        Cause::new("site-redirect").remedied_by(remedy).with("url", to).with("reason", reason)
    }

    /// The remedy where a frontend, or what is taken for one, has answered by itself.
    fn whose_server(&self) -> &'static str {
        match self.at_frontend {
            Some(true) => "rule-missing",
            Some(false) => "points-elsewhere",
            None => "record-or-rule",
        }
    }
}

/// The kind of record that an address stands in.
pub(super) const fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "AAAA" } else { "A" }
}

/// Why a name has no address that a CA would ask.
pub(super) fn of_dns(host: &str, failure: &ResolveFailure) -> Cause {
    let cause = match failure {
        ResolveFailure::NoSuchName(_) => Cause::new("nxdomain"),
        ResolveFailure::NoAddresses(_) => Cause::new("no-address"),
        ResolveFailure::OnlySpecialPurpose { addresses, .. } => {
            let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
            Cause::new("special-purpose").with("addresses", addresses.join(", "))
        }
        ResolveFailure::ServerFailure { code, .. } => Cause::new("nameservers-fail").with("code", code),
        ResolveFailure::Timeout(_) => Cause::new("nameservers-silent"),
        ResolveFailure::Other { reason, .. } => Cause::new("dns-other").with("reason", reason),
    };
    cause.with("name", host)
}

fn of_refusal(url: &str, refusal: &RedirectRefusal) -> Cause {
    let remedy = match refusal {
        RedirectRefusal::Status(_) => "redirect-status",
        RedirectRefusal::Unparsable | RedirectRefusal::EmptyHost => "redirect-whole-address",
        RedirectRefusal::TooMany | RedirectRefusal::Loop(_) => "redirect-once",
        RedirectRefusal::Scheme(_) => "redirect-scheme",
        RedirectRefusal::Port(_) => "redirect-port",
        RedirectRefusal::MissingSlash(_) => "redirect-slash",
        RedirectRefusal::NotPublic(_) | RedirectRefusal::SpecialPurpose(_) => "redirect-public",
        RedirectRefusal::TooLong => "redirect-short",
    };
    Cause::new("redirect-refused").remedied_by(remedy).with("url", url).with("reason", refusal)
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
