//! From what was met on the way to each address of a name to what the CA will make of it.

use super::{
    Class, Failure, Finding,
    fetch::FetchError,
    finding::family_of,
    words::{Cause, Language},
};
use jiff::SignedDuration;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use shared::domain::DnsName;
use std::net::IpAddr;

/// What the CA will make of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    Ready,
    /// It may go well, depending on what the CA happens to ask.
    Doubtful,
    WillFail,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// What it means for the name; `Ready` is a remark and nothing more.
    pub weight: Readiness,
    pub class: Class,
    pub cause: Cause,
}

/// Everything that was found about one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub name: DnsName,
    /// The gravest first.
    pub remarks: Vec<Remark>,
    /// What was met at each of its addresses, in the order in which the CA prefers them.
    pub ways: Vec<Finding>,
    pub took: SignedDuration,
}

impl Remark {
    pub(super) fn new(weight: Readiness, class: Class, cause: Cause) -> Self {
        Self { weight, class, cause }
    }
}

impl Report {
    pub fn readiness(&self) -> Readiness {
        self.remarks.iter().map(|remark| remark.weight).max().unwrap_or(Readiness::Ready)
    }

    /// What decides; `None` where all is well.
    pub fn gravest(&self) -> Option<&Remark> {
        self.remarks.iter().max_by_key(|remark| remark.weight).filter(|found| found.weight > Readiness::Ready)
    }
}

/// What the CA will make of these: one of each family at most is asked, IPv6 first, IPv4 after a failed connection. Which one
/// is the resolver's affair.
pub(super) fn judge_addresses(name: &DnsName, found: &[Finding]) -> Vec<Remark> {
    let (v6, v4): (Vec<&Finding>, Vec<&Finding>) =
        found.iter().partition(|way| at(way).is_some_and(|address| address.is_ipv6()));
    let outcomes = outcomes(&v6, &v4);
    let failed = |ways: &[&Finding]| ways.iter().filter(|way| way.failure().is_some()).count();
    let remark = |weight, code: Cause, way: &Finding| {
        let class = way.class().unwrap_or(Class::NotPointingHere);
        Remark::new(weight, class, code.with("name", name.to_unicode()))
    };
    let why = |way: &Finding| way.cause().unwrap_or_else(|| Cause::new("dns-other"));
    let first_failure = || outcomes.iter().find_map(|outcome| *outcome);
    if outcomes.iter().all(Option::is_some) {
        let Some(way) = first_failure() else { return Vec::new() };
        let only_v6 = !v4.is_empty() && failed(&v4) == 0 && at(way).is_some_and(|address| address.is_ipv6());
        let cause = why(way);
        return vec![if only_v6 {
            let differs = Cause::new("ipv6-differs").with_cause("reason", cause);
            Remark { class: Class::Ipv6Differs, ..remark(Readiness::WillFail, differs, way) }
        } else {
            remark(Readiness::WillFail, cause, way)
        }];
    }
    let all_pass = outcomes.iter().all(Option::is_none);
    let v4_differs = all_pass && !v6.is_empty() && failed(&v6) == 0 && failed(&v4) == v4.len();
    let mut remarks = Vec::new();
    for way in found.iter().filter(|way| way.failure().is_some()) {
        let Some(address) = at(way) else { continue };
        let reason = way.hops.iter().rev().find_map(|hop| hop.problem.clone()).unwrap_or_default();
        if all_pass && address.is_ipv6() {
            let dead = Cause::new("ipv6-dead").with("reason", format!("{address}: {reason}"));
            remarks.push(Remark { class: Class::Ipv6Differs, ..remark(Readiness::Doubtful, dead, way) });
        } else if v4_differs {
            let differs = Cause::new("ipv4-differs").with_cause("reason", why(way));
            remarks.push(Remark { class: Class::Ipv6Differs, ..remark(Readiness::Doubtful, differs, way) });
            break;
        } else {
            let one = Cause::new("one-of-many")
                .with("address", address)
                .with("family", family_of(address))
                .with("ca", why(way).ca_answer().unwrap_or_default())
                .with_cause("reason", why(way));
            remarks.push(remark(Readiness::Doubtful, one, way));
        }
    }
    remarks
}

/// The failure of each pair of addresses that the CA may happen to ask; `None` is an answer.
fn outcomes<'a>(v6: &[&'a Finding], v4: &[&'a Finding]) -> Vec<Option<&'a Finding>> {
    let failure = |way: &'a Finding| way.failure().map(|_| way);
    if v6.is_empty() {
        return v4.iter().map(|way| failure(way)).collect();
    }
    let mut outcomes = Vec::new();
    for first in v6 {
        let dial_failed =
            matches!(first.failure(), Some(Failure::Fetch { redirects: 0, error: FetchError::Dial(_), .. }));
        if dial_failed && !v4.is_empty() {
            outcomes.extend(v4.iter().map(|way| failure(way)));
        } else {
            outcomes.push(failure(first));
        }
    }
    outcomes
}

/// The address that was asked first.
fn at(way: &Finding) -> Option<IpAddr> {
    way.addresses.iter().next()
}

impl Serialize for Remark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_struct("remark", 8)?;
        document.serialize_field("weight", &self.weight)?;
        document.serialize_field("code", self.cause.code())?;
        document.serialize_field("class", &self.class)?;
        document.serialize_field("what", &self.cause.what(Language::En))?;
        document.serialize_field("remedy", &self.cause.remedy(Language::En))?;
        document.serialize_field("what_ko", &self.cause.what(Language::Ko))?;
        document.serialize_field("remedy_ko", &self.cause.remedy(Language::Ko))?;
        document.serialize_field("ca_answer", &self.cause.ca_answer())?;
        document.end()
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_struct("report", 6)?;
        document.serialize_field("name", &self.name)?;
        document.serialize_field("name_unicode", &self.name.to_unicode())?;
        document.serialize_field("verdict", &self.readiness())?;
        document.serialize_field("remarks", &self.remarks)?;
        document.serialize_field("addresses", &self.ways.iter().map(Way).collect::<Vec<_>>())?;
        document.serialize_field("time_ms", &self.took.as_millis())?;
        document.end()
    }
}

struct Way<'a>(&'a Finding);

impl Serialize for Way<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_struct("way", 4)?;
        document.serialize_field("address", &at(self.0))?;
        document.serialize_field("answered", &self.0.failure().is_none())?;
        document.serialize_field("frontend", &self.0.at_frontend)?;
        document.serialize_field("hops", &self.0.hops)?;
        document.end()
    }
}
