//! Who may issue for a name: CAA records, climbed as RFC 8659 section 3 says and judged as Boulder does (`va/caa.go`), with
//! the account and the methods that RFC 8657 adds.

use super::resolve::{ResolveFailure, Resolver};
use hickory_resolver::proto::rr::{RData, RecordType};
use shared::domain::DnsName;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::{Mutex, OnceCell};

/// Properties that are understood. An unknown one that is critical forbids everything.
const KNOWN: [&str; 5] = ["issue", "issuewild", "iodef", "issuemail", "issuevmc"];

/// Who wants to issue, and how.
#[derive(Clone, Debug)]
pub struct Asker {
    /// What the CA calls itself in CAA records.
    pub identities: Vec<String>,
    /// `None` where there is no account yet.
    pub account_url: Option<String>,
    /// The challenge that is to be used, as in `http-01`.
    pub method: String,
}

/// What the records say of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaaVerdict {
    /// No record, or one that lets the CA issue.
    Permitted,
    Forbidden {
        /// The name that has the records.
        at: String,
        records: Vec<String>,
        why: Refusal,
    },
    /// The records are asked for in vain, which a CA takes for a refusal.
    Unknown { at: String, failure: ResolveFailure },
}

/// Why records don't let the CA issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// They name other CAs, or none.
    OtherIssuer,
    /// They name the CA for another account.
    OtherAccount,
    /// They name the CA for other methods.
    OtherMethod,
    /// They hold a critical property that nobody knows.
    Critical(String),
}

/// One property.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Property {
    critical: bool,
    tag: String,
    value: String,
}

type Found = Result<Vec<Property>, ResolveFailure>;

/// Climbs for many names: what names have in common is asked for once.
#[derive(Debug)]
pub struct Climb {
    resolver: Resolver,
    known: Mutex<HashMap<String, Arc<OnceCell<Found>>>>,
}

impl Climb {
    pub fn new(resolver: Resolver) -> Self {
        Self { resolver, known: Mutex::default() }
    }

    /// The records that count for a name are those of the nearest name above it that has some.
    pub async fn judge(&self, name: &DnsName, asker: &Asker) -> CaaVerdict {
        if name.address().is_some() {
            return CaaVerdict::Permitted;
        }
        let mut at = name.as_str().strip_prefix("*.").unwrap_or(name.as_str());
        loop {
            match self.records(at).await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => {
                    return match refusal(&records, name.is_wildcard(), asker) {
                        None => CaaVerdict::Permitted,
                        Some(why) => CaaVerdict::Forbidden {
                            at: at.to_owned(),
                            records: records.iter().map(Property::to_string).collect(),
                            why,
                        },
                    };
                }
                Err(failure) => return CaaVerdict::Unknown { at: at.to_owned(), failure },
            }
            match at.split_once('.') {
                Some((_, above)) => at = above,
                None => return CaaVerdict::Permitted,
            }
        }
    }

    async fn records(&self, at: &str) -> Found {
        let known = Arc::clone(self.known.lock().await.entry(at.to_owned()).or_default());
        known.get_or_init(|| self.look_up(at)).await.clone()
    }

    async fn look_up(&self, at: &str) -> Found {
        // A name that is missing has none; its parent may have some.
        let records = self.resolver.records(at, RecordType::CAA).await?;
        let property = |data: &RData| match data {
            RData::CAA(caa) => Some(Property {
                // Boulder takes the lowest bit for the critical one as well.
                critical: caa.issuer_critical || caa.reserved_flags & 1 == 1,
                tag: caa.tag.to_ascii_lowercase(),
                value: String::from_utf8_lossy(&caa.value).into_owned(),
            }),
            _ => None,
        };
        Ok(records.iter().filter_map(|record| property(&record.data)).collect())
    }
}

fn refusal(records: &[Property], wildcard: bool, asker: &Asker) -> Option<Refusal> {
    if let Some(unknown) = records.iter().find(|one| one.critical && !KNOWN.contains(&one.tag.as_str())) {
        return Some(Refusal::Critical(unknown.tag.clone()));
    }
    let of = |tag: &str| records.iter().filter(|one| one.tag == tag).collect::<Vec<_>>();
    let wild = of("issuewild");
    let judged = if wildcard && !wild.is_empty() { wild } else { of("issue") };
    if judged.is_empty() {
        return None;
    }
    let mut nearest = Refusal::OtherIssuer;
    for property in judged {
        match permits(&property.value, asker) {
            None => return None,
            Some(Refusal::OtherIssuer) => {}
            Some(why) => nearest = why,
        }
    }
    Some(nearest)
}

/// `None` where the value lets the CA issue.
fn permits(value: &str, asker: &Asker) -> Option<Refusal> {
    let (issuer, parameters) = value.split_once(';').unwrap_or((value, ""));
    let issuer = issuer.trim().to_ascii_lowercase();
    if !asker.identities.iter().any(|identity| identity.eq_ignore_ascii_case(&issuer)) {
        return Some(Refusal::OtherIssuer);
    }
    let mut accounts = Vec::new();
    let mut methods = Vec::new();
    for parameter in parameters.split(';').map(str::trim).filter(|_| !parameters.trim().is_empty()) {
        // What can't be read names nobody.
        let Some((tag, value)) = parameter.split_once('=') else { return Some(Refusal::OtherIssuer) };
        match tag.trim().to_ascii_lowercase().as_str() {
            "accounturi" => accounts.push(value.trim()),
            "validationmethods" => methods.push(value.trim()),
            _ => {}
        }
    }
    match (accounts.as_slice(), &asker.account_url) {
        ([], _) => {}
        ([account], Some(own)) if account == own => {}
        _ => return Some(Refusal::OtherAccount),
    }
    match methods.as_slice() {
        [] => None,
        [methods] if methods.split(',').any(|method| method.trim() == asker.method) => None,
        _ => Some(Refusal::OtherMethod),
    }
}

impl std::fmt::Display for Property {
    /// As in a zone file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CAA {} {} {:?}", if self.critical { 128 } else { 0 }, self.tag, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://ca.example/acct/1";

    fn judge(records: &[&str], wildcard: bool) -> Option<Refusal> {
        let asker = Asker {
            identities: vec!["letsencrypt.org".into()],
            account_url: Some(OWN.into()),
            method: "http-01".into(),
        };
        let parse = |text: &&str| {
            let mut words = text.splitn(3, ' ');
            Property {
                critical: words.next() == Some("128"),
                tag: words.next().unwrap_or_default().to_owned(),
                value: words.next().unwrap_or_default().to_owned(),
            }
        };
        refusal(&records.iter().map(parse).collect::<Vec<_>>(), wildcard, &asker)
    }

    #[test]
    fn records_are_judged_as_the_ca_judges_them() {
        use Refusal::{Critical, OtherAccount, OtherIssuer, OtherMethod};
        let (own, others) = (
            format!("0 issue letsencrypt.org; accounturi={OWN}"),
            "0 issue letsencrypt.org;accounturi=https://ca.example/acct/2",
        );
        let twice = format!("{own}; accounturi={OWN}");
        for (records, expected) in [
            (vec!["0 issue letsencrypt.org"], None),
            (vec!["0 issue LetsEncrypt.org ; "], None),
            (vec!["0 issue pki.goog", "0 issue letsencrypt.org"], None),
            (vec!["0 issue pki.goog"], Some(OtherIssuer)),
            (vec!["0 issue ;"], Some(OtherIssuer)),
            (vec!["0 issue "], Some(OtherIssuer)),
            (vec!["0 issue letsencrypt.org; nonsense"], Some(OtherIssuer)),
            (vec!["0 issuewild pki.goog"], None),
            (vec!["0 iodef mailto:a@example.com"], None),
            (vec!["0 tbs unknown"], None),
            (vec!["128 tbs unknown"], Some(Critical("tbs".into()))),
            (vec!["128 issue letsencrypt.org"], None),
            (vec![own.as_str()], None),
            (vec![others], Some(OtherAccount)),
            (vec![others, own.as_str()], None),
            (vec![twice.as_str()], Some(OtherAccount)),
            (vec!["0 issue letsencrypt.org; validationmethods=dns-01"], Some(OtherMethod)),
            (vec!["0 issue letsencrypt.org; validationmethods=dns-01,http-01"], None),
            (vec!["0 issue letsencrypt.org; priority=1"], None),
        ] {
            assert_eq!(judge(&records, false), expected, "{records:?}");
        }
        for (records, expected) in [
            (vec!["0 issue letsencrypt.org"], None),
            (vec!["0 issue letsencrypt.org", "0 issuewild ;"], Some(OtherIssuer)),
            (vec!["0 issue pki.goog", "0 issuewild letsencrypt.org"], None),
        ] {
            assert_eq!(judge(&records, true), expected, "wildcard: {records:?}");
        }
    }
}
