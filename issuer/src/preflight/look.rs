//! A name before it is ordered: its addresses, the way to a challenge at each of them, CAA, and the servers of its zone.

use super::{
    Canary, Class, Readiness, Remark, Report, Validator, finding::of_dns, judge::judge_addresses,
    reach::expect, validator::First, words::Cause,
};
use crate::dns::{
    Answer, AskError, Asker, CaaVerdict, NameServer, ResolveFailure, Zone,
    caa::{Climb, Refusal},
};
use futures_util::future::join_all;
use hickory_resolver::proto::rr::RecordType;
use shared::domain::DnsName;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// Addresses of one name that are asked. A CA asks two.
const MOST_ADDRESSES: usize = 8;
/// For one name, all in all: a little more than a CA takes.
const LOOK_LIMIT: Duration = Duration::from_secs(25);

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What the CA will look at.
    AsTheCa,
    /// Besides, each nameserver of the zone by itself.
    Full,
}

/// How a name is to be proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Over its addresses.
    Http,
    /// In its zone; its addresses are nobody's affair.
    Dns,
}

/// Looks at names as the CA will. Kept for one run: what names have in common is asked for once.
#[derive(Debug)]
pub struct Preflight {
    validator: Validator,
    climb: Climb,
    /// For people, as in "Let's Encrypt".
    ca_title: String,
}

impl Preflight {
    pub fn new(validator: Validator, ca_title: impl Into<String>) -> Self {
        Self { climb: Climb::new(validator.resolver().clone()), validator, ca_title: ca_title.into() }
    }

    /// Never fails: what goes wrong is what it reports. Without a canary the way to it is not looked at.
    pub async fn look(
        &self,
        name: &DnsName,
        asker: &Asker,
        proof: Proof,
        canary: Option<&Canary>,
        depth: Depth,
    ) -> Report {
        let began = Instant::now();
        let work = async {
            let over_addresses = async {
                match proof {
                    Proof::Http => self.over_addresses(name, canary).await,
                    Proof::Dns => (Vec::new(), Vec::new()),
                }
            };
            let servers = async { if depth == Depth::Full { self.servers(name).await } else { Vec::new() } };
            tokio::join!(over_addresses, self.caa(name, asker), servers)
        };
        let mut report = Report {
            name: name.clone(),
            remarks: Vec::new(),
            ways: Vec::new(),
            took: jiff::SignedDuration::ZERO,
        };
        match tokio::time::timeout(LOOK_LIMIT, work).await {
            Ok(((remarks, ways), caa, servers)) => {
                report.remarks = [remarks, caa, servers].concat();
                report.ways = ways;
            }
            Err(_) => {
                let cause = Cause::new("nameservers-silent").with("name", name);
                report.remarks = vec![Remark::new(Readiness::Doubtful, Class::Dns, cause)];
            }
        }
        report.remarks.sort_by_key(|remark| std::cmp::Reverse(remark.weight));
        report.took = began.elapsed().try_into().unwrap_or_default();
        report
    }

    /// What is met at a frontend that nothing leads to yet.
    pub async fn look_at_frontend(&self, name: &DnsName, frontend: IpAddr, canary: &Canary) -> Report {
        let began = Instant::now();
        let finding = self.validator.fetch_over(First::At(frontend), name.as_str(), &canary.path()).await;
        let finding = expect(finding, &canary.expected);
        Report {
            name: name.clone(),
            remarks: judge_addresses(name, std::slice::from_ref(&finding)),
            ways: vec![finding],
            took: began.elapsed().try_into().unwrap_or_default(),
        }
    }

    async fn over_addresses(
        &self,
        name: &DnsName,
        canary: Option<&Canary>,
    ) -> (Vec<Remark>, Vec<super::Finding>) {
        let special_purpose = self.validator.allows_special_purpose();
        let addresses = match name.address() {
            Some(address) => vec![address],
            None => match self.validator.resolver().addresses(name.as_str(), special_purpose).await {
                Ok(addresses) => addresses.iter().take(MOST_ADDRESSES).collect(),
                Err(failure) => return (vec![self.unresolved(name, &failure).await], Vec::new()),
            },
        };
        let Some(canary) = canary else { return (Vec::new(), Vec::new()) };
        let path = canary.path();
        let asked = addresses.iter().map(|address| async {
            let finding = self.validator.fetch_over(First::At(*address), name.as_str(), &path).await;
            expect(finding, &canary.expected)
        });
        let ways = join_all(asked).await;
        let mut remarks = judge_addresses(name, &ways);
        let strangers = ways.iter().filter(|way| way.at_frontend == Some(false) && way.failure().is_none());
        for address in strangers.filter_map(|way| way.addresses.iter().next()) {
            let cause =
                Cause::new("leads-elsewhere").with("name", name.to_unicode()).with("address", address);
            remarks.push(Remark::new(Readiness::Ready, Class::NotPointingHere, cause));
        }
        (remarks, ways)
    }

    /// Why a name has no address, looked into: the resolver's word alone does not tell whose fault it is.
    async fn unresolved(&self, name: &DnsName, failure: &ResolveFailure) -> Remark {
        let resolver = self.validator.resolver();
        let fails = |cause: Cause| {
            Remark::new(Readiness::WillFail, Class::Dns, cause.with("name", name.to_unicode()))
        };
        match failure {
            ResolveFailure::NoSuchName(_) | ResolveFailure::NoAddresses(_) => {
                match resolver.trail(name).await.aliases.pop() {
                    Some(target) => fails(Cause::new("dangling-alias").with("target", target)),
                    None => fails(of_dns(name.as_str(), failure)),
                }
            }
            ResolveFailure::OnlySpecialPurpose { .. } => fails(of_dns(name.as_str(), failure)),
            ResolveFailure::ServerFailure { .. } if resolver.holds_back(name.as_str()).await => {
                fails(Cause::new("dnssec-bogus"))
            }
            ResolveFailure::ServerFailure { .. }
            | ResolveFailure::Timeout(_)
            | ResolveFailure::Other { .. } => {
                if resolver.is_usable().await {
                    let sure = !matches!(failure, ResolveFailure::Other { .. });
                    let weight = if sure { Readiness::WillFail } else { Readiness::Doubtful };
                    Remark { weight, ..fails(of_dns(name.as_str(), failure)) }
                } else {
                    let servers: Vec<_> = resolver.servers().iter().map(ToString::to_string).collect();
                    let cause = Cause::new("resolver-unusable").with("servers", servers.join(", "));
                    Remark { weight: Readiness::Doubtful, ..fails(cause) }
                }
            }
        }
    }

    async fn caa(&self, name: &DnsName, asker: &Asker) -> Vec<Remark> {
        let identity = asker.identities.first().cloned().unwrap_or_default();
        let (weight, cause) = match self.climb.judge(name, asker).await {
            CaaVerdict::Permitted => return Vec::new(),
            // A CA whose name in CAA records nobody knows.
            CaaVerdict::Forbidden { .. } if asker.identities.is_empty() => return Vec::new(),
            CaaVerdict::Forbidden { at, records, why } => {
                let cause = match why {
                    Refusal::OtherIssuer => Cause::new("caa-other-issuer"),
                    Refusal::OtherAccount => Cause::new("caa-other-account"),
                    Refusal::OtherMethod => Cause::new("caa-other-method"),
                    Refusal::Critical(property) => Cause::new("caa-critical").with("property", property),
                };
                let account = asker.account_url.as_deref().unwrap_or("the account that is made first");
                let cause = cause
                    .with("at", at)
                    .with("records", records.join("; "))
                    .with("identity", identity)
                    .with("account", account);
                (Readiness::WillFail, cause)
            }
            CaaVerdict::Unknown { at, failure } => {
                let usable = self.validator.resolver().is_usable().await;
                let weight = if usable { Readiness::WillFail } else { Readiness::Doubtful };
                (weight, Cause::new("caa-unknown").with("at", at).with("reason", failure))
            }
        };
        let tag = if name.is_wildcard() { "issuewild" } else { "issue" };
        let cause = cause
            .with("name", name.to_unicode())
            .with("ca", &self.ca_title)
            .with("method", &asker.method)
            .with("tag", tag);
        vec![Remark::new(weight, Class::Caa, cause)]
    }

    /// Whether every nameserver of the zone says the same.
    async fn servers(&self, name: &DnsName) -> Vec<Remark> {
        if name.address().is_some() {
            return Vec::new();
        }
        let host = name.as_str().strip_prefix("*.").unwrap_or(name.as_str());
        let Ok(zone) = Zone::of(self.validator.resolver(), host).await else { return Vec::new() };
        let (v4, v6) =
            tokio::join!(zone.ask_each(host, RecordType::A), zone.ask_each(host, RecordType::AAAA));
        let (Ok(v4), Ok(v6)) = (v4, v6) else { return Vec::new() };
        let mut remarks = Vec::new();
        let mut answers: Vec<(&NameServer, Vec<String>)> = Vec::new();
        for ((server, v4), (_, v6)) in v4.into_iter().zip(v6) {
            // There is no way to it from here: that says nothing about it.
            if v4.as_ref().is_err_and(AskError::is_out_of_reach) {
                continue;
            }
            let cause = match (says(&v4), says(&v6)) {
                (Some(v4), Some(v6)) => {
                    answers.push((server, [v4, v6].concat()));
                    continue;
                }
                _ => match [v4, v6].into_iter().flatten().find(says_nothing) {
                    Some(answer) => Cause::new("lame-server").with("answer", said(&answer)),
                    None => Cause::new("silent-server"),
                },
            };
            let cause =
                cause.with("server", &server.name).with("zone", zone.name()).with("name", name.to_unicode());
            remarks.push(Remark::new(Readiness::Doubtful, Class::Dns, cause));
        }
        let ours = self.validator.frontends();
        let are_ours = |said: &Vec<String>| {
            !said.is_empty()
                && said.iter().all(|one| one.parse().is_ok_and(|address: IpAddr| ours.contains(&address)))
        };
        let all_ours = answers.iter().all(|(_, said)| are_ours(said));
        if !all_ours && answers.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            let each = answers.iter().map(|(server, said)| {
                let said = if said.is_empty() { "nothing".to_owned() } else { said.join(", ") };
                format!("{}: {said}", server.name)
            });
            let cause = Cause::new("servers-disagree")
                .with("zone", zone.name())
                .with("name", name.to_unicode())
                .with("answers", each.collect::<Vec<_>>().join("; "));
            remarks.push(Remark::new(Readiness::Doubtful, Class::Dns, cause));
        }
        remarks
    }
}

/// What a server with authority says, in an order of its own; `None` where it has none or says nothing.
fn says(answer: &Result<Answer, AskError>) -> Option<Vec<String>> {
    let answer = answer.as_ref().ok().filter(|answer| !says_nothing(answer))?;
    let mut said: Vec<String> = answer.values();
    said.sort();
    Some(said)
}

fn says_nothing(answer: &Answer) -> bool {
    !answer.authoritative || !answer.is_final()
}

fn said(answer: &Answer) -> String {
    if answer.refers { "it names other servers".to_owned() } else { answer.code.to_string() }
}
