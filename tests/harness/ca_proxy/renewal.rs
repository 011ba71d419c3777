//! Renewal information (RFC 9773) as Let's Encrypt gives it, before a Pebble that has none: the directory's entry, a window for each
//! certificate that was fetched through the proxy, and orders that say what they replace.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use openssl::{asn1::Asn1Time, x509::X509};
use serde_json::{Value, json};

use super::{Answer, Endpoint, Seen, Shared, jws::Signed};

/// Where the directory's entry leads. Pebble has nothing there.
pub(super) const PATH: &str = "/renewal-info/";
/// Every answer says to come again then.
const AGAIN_S: u64 = 21_600;

/// The certificates that were issued, by their RFC 9773 identifiers.
#[derive(Debug, Default)]
pub(super) struct RenewalInfo {
    issued: HashMap<String, Issued>,
    /// The orders that replace one, by their URLs.
    replacing: HashMap<String, String>,
}

#[derive(Debug)]
struct Issued {
    account: String,
    names: Vec<String>,
    /// In nanoseconds since 1970; the end is no part of it.
    window: (u64, u64),
    /// The order that replaces it.
    replaced_by: Option<String>,
}

/// What an order says it replaces, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Replacing {
    Nothing,
    /// This certificate; within its window or not.
    Certificate {
        id: String,
        inside: bool,
    },
}

impl Shared {
    /// The answer to a question for a window.
    pub(super) fn renewal_info(&self, seen: &Seen) -> Option<Answer> {
        if seen.endpoint != Endpoint::RenewalInfo {
            return None;
        }
        let kept = self.renewals.lock().expect("no panic while held");
        let Some(issued) = seen.path.strip_prefix(PATH).and_then(|id| kept.as_ref()?.issued.get(id)) else {
            return Some(Answer::problem(404, "malformed", "Certificate replaced by this ID is not known"));
        };
        let moment = |at: u64| {
            jiff::Timestamp::from_nanosecond(i128::from(at)).unwrap_or(jiff::Timestamp::MAX).to_string()
        };
        let body = json!({
            "suggestedWindow": { "start": moment(issued.window.0), "end": moment(issued.window.1) },
        });
        let answer = Answer::page(200, "application/json", &body.to_string());
        Some(answer.header("retry-after", &AGAIN_S.to_string()))
    }

    /// Boulder's checks of `replaces`, in its order.
    pub(super) fn replaces(&self, seen: &Seen, signed: &Signed, now: u64) -> Result<Replacing, Answer> {
        let kept = self.renewals.lock().expect("no panic while held");
        let (Endpoint::NewOrder, Some(kept), Some(id)) =
            (seen.endpoint, kept.as_ref(), signed.payload["replaces"].as_str())
        else {
            return Ok(Replacing::Nothing);
        };
        let refuse = |status, kind, what: &str| {
            Err(Answer::problem(status, kind, &format!("Could not validate ARI 'replaces' field: {what}")))
        };
        let Some(issued) = kept.issued.get(id) else {
            return refuse(404, "malformed", "no such certificate");
        };
        if Some(&issued.account) != signed.kid.as_ref() {
            return refuse(403, "unauthorized", "requester account did not request the certificate");
        }
        if !seen.names.iter().any(|name| issued.names.contains(name)) {
            return refuse(400, "malformed", "identifiers in this order do not match");
        }
        if issued.replaced_by.is_some() {
            return refuse(409, "alreadyReplaced", "certificate has already been replaced by another order");
        }
        let inside = issued.window.0 <= now && now < issued.window.1;
        Ok(Replacing::Certificate { id: id.to_owned(), inside })
    }

    /// What the CA has answered: the directory gets its entry, an order what it replaces, and a certificate its window.
    pub(super) fn renew(
        &self,
        seen: &Seen,
        signed: &Signed,
        host: &str,
        location: Option<&str>,
        replacing: &Replacing,
        body: &[u8],
    ) -> Option<Value> {
        let mut kept = self.renewals.lock().expect("no panic while held");
        let kept = kept.as_mut()?;
        let mut document: Value = serde_json::from_slice(body).unwrap_or_default();
        match (seen.endpoint, replacing) {
            (Endpoint::Directory, _) => {
                document["renewalInfo"] = format!("https://{host}{}", PATH.trim_end_matches('/')).into();
                Some(document)
            }
            (Endpoint::NewOrder, Replacing::Certificate { id, .. }) => {
                let url = location?.to_owned();
                kept.issued.get_mut(id)?.replaced_by = Some(url.clone());
                kept.replacing.insert(url, id.clone());
                document["replaces"] = id.clone().into();
                Some(document)
            }
            (Endpoint::Order, _) if document["status"] == "invalid" => {
                // An order that came to nothing frees what it was to replace.
                let url = format!("https://{host}{}", seen.path);
                let id = kept.replacing.remove(&url)?;
                kept.issued.get_mut(&id)?.replaced_by = None;
                None
            }
            (Endpoint::Certificate, _) => {
                let leaf = X509::stack_from_pem(body).ok()?.into_iter().next()?;
                let issued = Issued {
                    account: signed.kid.clone()?,
                    names: seen.names.clone(),
                    window: window(&leaf, self.renewal_divisor),
                    replaced_by: None,
                };
                kept.issued.entry(identifier(&leaf)?).or_insert(issued);
                None
            }
            _ => None,
        }
    }
}

/// Boulder's `RenewalInfoSimple`: one hundredth of the lifetime around two thirds of it, or the half where it is short.
fn window(leaf: &X509, divisor: u32) -> (u64, u64) {
    let (from, until) = (seconds(leaf.not_before()), seconds(leaf.not_after()) + 1);
    let lifetime = Duration::from_secs(until - from);
    let left = if lifetime < Duration::from_secs(864_000) / divisor { lifetime / 2 } else { lifetime / 3 };
    let centre = Duration::from_secs(until) - left;
    let half = lifetime / 100;
    let ns = |time: Duration| u64::try_from(time.as_nanos()).expect("a certificate's dates");
    (ns(centre - half), ns(centre + half))
}

fn seconds(time: &openssl::asn1::Asn1TimeRef) -> u64 {
    let since = Asn1Time::from_unix(0).and_then(|epoch| epoch.diff(time)).expect("a certificate's dates");
    u64::try_from(i64::from(since.days) * 86_400 + i64::from(since.secs)).expect("after 1970")
}

/// RFC 9773 section 4.1, read from the DER of the serial number.
fn identifier(leaf: &X509) -> Option<String> {
    let issuer = leaf.authority_key_id()?;
    let mut serial = leaf.serial_number().to_bn().ok()?.to_vec();
    if serial.first().is_some_and(|first| *first >= 0x80) {
        serial.insert(0, 0);
    }
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    Some(format!("{}.{}", encode(issuer.as_slice()), encode(&serial)))
}

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
