//! One order for one key type of a site, as it is persisted: a state carries exactly what is known by then.
//!
//! `Planned -> Ordered -> Challenged -> Ready -> Finalizing -> Issued -> Stored`. Each step consumes a state and returns
//! the next, so a step can't be left out. Each is persisted before its side effect is relied on, so that any issuer can
//! go on where another one was killed.

use super::{CertificateId, DnsName, KeyType, NameSet, Slot, Token};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The record of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Version of this record.
    pub v: u32,
    pub names: NameSet,
    pub key_type: KeyType,
    pub ca: String,
    pub account: String,
    /// The account's URL at the CA: another account may take the place of one, and has nothing of its orders. Absent in
    /// records of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    pub created: Timestamp,
    /// Since when, and how often, it could not be gone on with from this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Stuck>,
    #[serde(flatten)]
    pub state: OrderState,
}

/// How long an order has been where it is, although the CA was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    pub since: Timestamp,
    pub runs: u32,
}

/// What a run that could not go on has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// What the CA has of the order is of no use.
    DeadEnd,
    /// The CA answers, and fails.
    Failing,
    /// Nobody answers.
    Silence,
}

impl Stuck {
    /// One run more.
    #[must_use]
    pub fn again(before: Option<Self>, now: Timestamp) -> Self {
        before.map_or(Self { since: now, runs: 1 }, |before| Self {
            runs: before.runs.saturating_add(1),
            ..before
        })
    }

    /// Whether the order is given up, and another one placed. What the CA may have issued for our key is waited for longest.
    pub fn is_over(&self, state: &OrderState, obstacle: Obstacle, now: Timestamp) -> bool {
        let is_precious = matches!(state, OrderState::Finalizing(_) | OrderState::Issued(_));
        let (runs, hours) = match obstacle {
            Obstacle::DeadEnd => (3, 0),
            Obstacle::Failing | Obstacle::Silence if !is_precious => (5, 1),
            Obstacle::Failing => (6, 24),
            Obstacle::Silence => (10, 72),
        };
        self.runs >= runs && now.duration_since(self.since) >= SignedDuration::from_hours(hours)
    }
}

impl Order {
    /// The newest version of this record that this program can read.
    pub const VERSION: u32 = 2;

    pub fn slot(&self) -> Slot {
        self.key_type.slot()
    }

    /// The same order, one step on.
    pub fn with(&self, state: impl Into<OrderState>) -> Self {
        Self { state: state.into(), stuck: None, ..self.clone() }
    }
}

/// Where an order stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum OrderState {
    Planned(Planned),
    Ordered(Ordered),
    Challenged(Challenged),
    Ready(Ready),
    Finalizing(Finalizing),
    Issued(Issued),
    Stored(Stored),
}

impl OrderState {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Planned(_) => "planned",
            Self::Ordered(_) => "ordered",
            Self::Challenged(_) => "challenged",
            Self::Ready(_) => "ready",
            Self::Finalizing(_) => "finalizing",
            Self::Issued(_) => "issued",
            Self::Stored(_) => "stored",
        }
    }
}

/// About to be ordered. The CA may or may not have heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {}

/// The CA knows the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    pub order_url: String,
    pub finalize_url: String,
    pub authorization_urls: Vec<String>,
    /// Until when the CA keeps the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// An authorization that is still to be proved, and the challenge that will prove it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedToken {
    /// With `*.` for a wildcard, which its authorization leaves out.
    pub name: DnsName,
    pub token: Token,
    #[serde(flatten)]
    pub at: AuthorizationRef,
    /// The record that proves it; absent: it is answered over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txt: Option<Txt>,
    /// The record that proves it and that stays. Its challenge has no token: what stands for it is made of the challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
}

/// A TXT record that stands in a zone for good: dns-persist-01.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Without the dot of the root.
    pub record: String,
    pub value: String,
}

/// A TXT record that proves a name (RFC 8555 section 8.4), and who writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Txt {
    /// The section of the configuration, as in `[dns.NAME]`.
    pub provider: String,
    /// The name that has it, where aliases lead; without the dot of the root.
    pub record: String,
    pub value: String,
}

/// Where the CA keeps an authorization and the challenge that is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationRef {
    pub authorization_url: String,
    pub challenge_url: String,
}

/// The tokens are published; the CA may have been told to look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenged {
    #[serde(flatten)]
    pub ordered: Ordered,
    pub tokens: Vec<PublishedToken>,
}

/// Every name is proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub order_url: String,
    pub finalize_url: String,
}

/// The key is stored, the CA may have been sent the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finalizing {
    pub order_url: String,
    pub finalize_url: String,
    /// The private key, sealed; base64.
    pub sealed_key: String,
    /// The certificate request, DER; base64.
    pub csr: String,
}

/// The CA has issued; the certificate can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    pub order_url: String,
    pub certificate_url: String,
    pub sealed_key: String,
    /// Says which key it is that is sealed. Records of older programs lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr: Option<String>,
}

/// The certificate is in the store; what is left is to publish it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub certificate: CertificateId,
}

impl Planned {
    pub fn ordered(self, ordered: Ordered) -> Ordered {
        ordered
    }
}

impl Ordered {
    pub fn challenged(self, tokens: Vec<PublishedToken>) -> Challenged {
        Challenged { ordered: self, tokens }
    }

    /// Every authorization was valid already.
    pub fn ready(self) -> Ready {
        Ready { order_url: self.order_url, finalize_url: self.finalize_url }
    }
}

impl Challenged {
    pub fn ready(self) -> Ready {
        self.ordered.ready()
    }
}

impl Ready {
    pub fn finalizing(self, sealed_key: String, csr: String) -> Finalizing {
        Finalizing { order_url: self.order_url, finalize_url: self.finalize_url, sealed_key, csr }
    }
}

impl Finalizing {
    pub fn issued(self, certificate_url: String) -> Issued {
        Issued {
            order_url: self.order_url,
            certificate_url,
            sealed_key: self.sealed_key,
            csr: Some(self.csr),
        }
    }
}

impl Issued {
    pub fn stored(self, certificate: CertificateId) -> Stored {
        Stored { certificate }
    }
}

macro_rules! states {
    ($($state:ident),*) => {
        $(impl From<$state> for OrderState {
            fn from(state: $state) -> Self {
                Self::$state(state)
            }
        })*
    };
}
states!(Planned, Ordered, Challenged, Ready, Finalizing, Issued, Stored);

#[cfg(test)]
mod tests {
    use super::*;

    /// Records as earlier releases wrote them. Samples stay for ever: a newer program reads them.
    const SAMPLES: [&str; 8] = [
        r#"{"v":2,"names":["a.example.com"],"key_type":"ecdsa-p256","ca":"letsencrypt","account":"default","created":"2026-11-30T00:00:00Z","stuck":{"since":"2026-11-30T00:01:00Z","runs":2},"state":"issued","order_url":"https://ca.example/o/1","certificate_url":"https://ca.example/x/1","sealed_key":"AAAA","csr":"AAAA"}"#,
        r#"{"v":2,"names":["*.example.com"],"key_type":"ecdsa-p256","ca":"letsencrypt","account":"default","created":"2026-11-28T00:00:00Z","state":"challenged","order_url":"https://ca.example/o/1","finalize_url":"https://ca.example/f/1","authorization_urls":["https://ca.example/a/1"],"tokens":[{"name":"*.example.com","token":"evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA","authorization_url":"https://ca.example/a/1","challenge_url":"https://ca.example/c/1","txt":{"provider":"own","record":"_acme-challenge.example.com","value":"LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo"}}]}"#,
        r#"{"v":1,"names":["a.example.com"],"key_type":"ecdsa-p256","ca":"letsencrypt","account":"default","created":"2026-11-22T00:00:00Z","state":"planned"}"#,
        r#"{"v":1,"names":["a.example.com"],"key_type":"rsa-2048","ca":"letsencrypt","account":"default","created":"2026-11-22T00:00:00Z","state":"ordered","order_url":"https://ca.example/o/1","finalize_url":"https://ca.example/f/1","authorization_urls":["https://ca.example/a/1"],"expires":"2026-11-29T00:00:00Z"}"#,
        r#"{"v":1,"names":["a.example.com"],"key_type":"ecdsa-p256","ca":"letsencrypt","account":"default","created":"2026-11-22T00:00:00Z","state":"challenged","order_url":"https://ca.example/o/1","finalize_url":"https://ca.example/f/1","authorization_urls":["https://ca.example/a/1"],"tokens":[{"name":"a.example.com","token":"evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA","authorization_url":"https://ca.example/a/1","challenge_url":"https://ca.example/c/1"}]}"#,
        r#"{"v":1,"names":["a.example.com"],"key_type":"ecdsa-p256","ca":"letsencrypt","account":"default","created":"2026-11-22T00:00:00Z","state":"finalizing","order_url":"https://ca.example/o/1","finalize_url":"https://ca.example/f/1","sealed_key":"AAAA","csr":"AAAA"}"#,
        r#"{"v":1,"names":["a.example.com"],"key_type":"ecdsa-p256","ca":"letsencrypt","account":"default","created":"2026-11-22T00:00:00Z","state":"issued","order_url":"https://ca.example/o/1","certificate_url":"https://ca.example/x/1","sealed_key":"AAAA"}"#,
        r#"{"v":1,"names":["a.example.com"],"key_type":"ecdsa-p256","ca":"letsencrypt","account":"default","created":"2026-11-22T00:00:00Z","state":"issued","order_url":"https://ca.example/o/1","certificate_url":"https://ca.example/x/1","sealed_key":"AAAA","csr":"AAAA"}"#,
    ];

    #[test]
    fn every_order_has_an_end() {
        let order: Order = serde_json::from_str(SAMPLES[0]).unwrap();
        let issued = order.state;
        let ready = Ready { order_url: String::new(), finalize_url: String::new() }.into();
        let begin: Timestamp = "2026-11-30T00:00:00Z".parse().unwrap();
        let after =
            |hours: i64, runs| (Stuck { since: begin, runs }, begin + SignedDuration::from_hours(hours));
        for (state, obstacle, hours, runs, over) in [
            (&issued, Obstacle::DeadEnd, 0, 2, false),
            (&issued, Obstacle::DeadEnd, 0, 3, true),
            (&issued, Obstacle::Failing, 23, 100, false),
            (&issued, Obstacle::Failing, 24, 6, true),
            (&issued, Obstacle::Silence, 71, 100, false),
            (&issued, Obstacle::Silence, 72, 10, true),
            (&ready, Obstacle::Silence, 1, 4, false),
            (&ready, Obstacle::Failing, 1, 5, true),
        ] {
            let (stuck, now) = after(hours, runs);
            assert_eq!(stuck.is_over(state, obstacle, now), over, "{obstacle:?}, {hours} h, {runs}");
        }
        let again = Stuck::again(Some(Stuck::again(None, begin)), begin + SignedDuration::from_hours(1));
        assert_eq!(again, Stuck { since: begin, runs: 2 });
    }

    #[test]
    fn records_of_version_1_are_read_and_written_unchanged() {
        for sample in SAMPLES {
            let order: Order = serde_json::from_str(sample).unwrap();
            assert_eq!(serde_json::to_string(&order).unwrap(), sample);
            assert!(sample.contains(&format!("\"state\":\"{}\"", order.state.as_str())));
        }
    }
}
