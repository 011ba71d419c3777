//! Who may issue for a name: CAA records, climbed as RFC 8659 section 3 says and judged as Boulder does (`va/caa.go`), with
//! the account and the methods that RFC 8657 adds.

use super::resolve::{ResolveFailure, Resolver};
use hickory_resolver::proto::rr::RecordType;
use shared::domain::DnsName;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::{Mutex, OnceCell};

const HEADER_BYTES: usize = 12;
const CAA_TYPE: u16 = 257;
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
        // A name that is missing has none; its parent may have some. Read by hand: the library takes nothing of an answer with one
        // record that it can't read.
        let answer = self.resolver.raw_answer(at, RecordType::CAA).await?;
        properties(&answer).ok_or_else(|| ResolveFailure::Other {
            name: at.to_owned(),
            reason: "the answer ends in the middle".to_owned(),
        })
    }
}

/// The CAA records in the answer section of a message (RFC 1035 section 4.1, RFC 8659 section 4.1), aliases followed by the
/// resolver. A record that can't be read is left out. `None` where the message ends in the middle.
fn properties(message: &[u8]) -> Option<Vec<Property>> {
    let count = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let mut at = HEADER_BYTES;
    for _ in 0..count(4)? {
        at = end_of_name(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..count(6)? {
        let fixed = end_of_name(message, at)?;
        let data = fixed + 10;
        let end = data + usize::from(count(fixed + 8)?);
        let data = message.get(data..end)?;
        if count(fixed)? == CAA_TYPE {
            found.extend(property(data));
        }
        at = end;
    }
    Some(found)
}

/// The place behind a name, which may end in a pointer to an earlier one.
fn end_of_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            label => at += label + 1,
        }
    }
}

fn property(data: &[u8]) -> Option<Property> {
    let (flags, rest) = data.split_first()?;
    let (length, rest) = rest.split_first()?;
    let tag = rest.get(..usize::from(*length)).filter(|tag| !tag.is_empty() && tag.is_ascii())?;
    if !tag.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    Some(Property {
        // Boulder takes the lowest bit for the critical one as well.
        critical: flags & 0x81 != 0,
        tag: String::from_utf8_lossy(tag).to_ascii_lowercase(),
        value: String::from_utf8_lossy(&rest[tag.len()..]).into_owned(),
    })
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
    fn a_record_that_cannot_be_read_hides_no_other() {
        // One question for `x`, and three answers that point to its name: no tag at all, one of other characters, a good one.
        let mut message = vec![0, 1, 0x81, 0x80, 0, 1, 0, 3, 0, 0, 0, 0, 1, b'x', 0, 1, 1, 0, 1];
        for data in [&b"\x00\x00"[..], b"\x00\x05is-ueca.example", b"\x80\x05issuepki.goog"] {
            message.extend_from_slice(&[0xc0, 12, 1, 1, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            message.extend_from_slice(data);
        }
        let found = properties(&message).unwrap();
        let expected = Property { critical: true, tag: "issue".into(), value: "pki.goog".into() };
        assert_eq!(found, [expected]);
        for end in 0..message.len() {
            assert_eq!(properties(&message[..end]), None, "{end} bytes");
        }
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
