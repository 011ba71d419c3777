//! Problem documents (RFC 9457 as profiled by RFC 8555 section 6.7): why the CA refused.

use super::{identifier::Identifier, reading};
use serde::{Deserialize, Serialize};
use shared::error::{Fault, Retry};
use std::fmt;

const PREFIXES: [&str; 2] = ["urn:ietf:params:acme:error:", "urn:acme:error:"];

/// Why something was refused. Also found in orders and challenges that failed.
///
/// Members of an unexpected type are read as absent: a sloppy document still tells what it can.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The URN as it was sent; [`Problem::kind`] is its meaning.
    #[serde(rename = "type", deserialize_with = "reading::text", skip_serializing_if = "Option::is_none")]
    pub type_urn: Option<String>,
    #[serde(deserialize_with = "reading::text", skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// For people. May carry control characters of a validated host; `Display` escapes them.
    #[serde(deserialize_with = "reading::text", skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// A page to visit, with `userActionRequired` (RFC 8555 section 7.3.3).
    #[serde(deserialize_with = "reading::text", skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What is wrong with each identifier (RFC 8555 section 6.7.1).
    #[serde(deserialize_with = "reading::short_list", skip_serializing_if = "Vec::is_empty")]
    pub subproblems: Vec<Subproblem>,
    /// What the CA would have taken, with `badSignatureAlgorithm` (RFC 8555 section 6.2).
    #[serde(deserialize_with = "reading::short_list", skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<String>,
}

/// One identifier's part in a problem (RFC 8555 section 6.7.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subproblem {
    #[serde(default, deserialize_with = "reading::optional", skip_serializing_if = "Option::is_none")]
    pub identifier: Option<Identifier>,
    #[serde(flatten)]
    pub problem: Box<Problem>,
}

macro_rules! problem_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// The types of RFC 8555 section 6.7, RFC 9773 and the profiles draft, and what Boulder adds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemKind {
            $($(#[$doc])* $kind,)*
            /// None of these, or none at all.
            Other,
        }

        impl ProblemKind {
            /// The type without its prefix; empty for [`ProblemKind::Other`].
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)* Self::Other => "" }
            }

            fn of(name: &str) -> Self {
                match name { $($name => Self::$kind,)* _ => Self::Other }
            }
        }
    };
}

problem_kinds! {
    AccountDoesNotExist = "accountDoesNotExist",
    AlreadyReplaced = "alreadyReplaced",
    AlreadyRevoked = "alreadyRevoked",
    BadCsr = "badCSR",
    BadNonce = "badNonce",
    BadPublicKey = "badPublicKey",
    BadRevocationReason = "badRevocationReason",
    BadSignatureAlgorithm = "badSignatureAlgorithm",
    Caa = "caa",
    Compound = "compound",
    /// Boulder: another request works on the same object.
    Conflict = "conflict",
    Connection = "connection",
    Dns = "dns",
    ExternalAccountRequired = "externalAccountRequired",
    IncorrectResponse = "incorrectResponse",
    InvalidContact = "invalidContact",
    InvalidProfile = "invalidProfile",
    Malformed = "malformed",
    OrderNotReady = "orderNotReady",
    RateLimited = "rateLimited",
    RejectedIdentifier = "rejectedIdentifier",
    ServerInternal = "serverInternal",
    Tls = "tls",
    Unauthorized = "unauthorized",
    UnsupportedContact = "unsupportedContact",
    UnsupportedIdentifier = "unsupportedIdentifier",
    UserActionRequired = "userActionRequired",
}

impl Problem {
    /// Reads a body, if it is a problem document: a JSON object that has a type or a detail.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut problem: Self = serde_json::from_value(reading::json(body).ok()?).ok()?;
        // RFC 8555 section 6.7.1: subproblems have none of their own.
        for subproblem in &mut problem.subproblems {
            subproblem.problem.subproblems.clear();
        }
        (problem.type_urn.is_some() || problem.detail.is_some()).then_some(problem)
    }

    /// Whether its type is one of ACME's, known here or not.
    pub(super) fn is_of_acme(&self) -> bool {
        self.type_urn.as_ref().is_some_and(|urn| PREFIXES.iter().any(|prefix| urn.starts_with(prefix)))
    }

    pub fn kind(&self) -> ProblemKind {
        let Some(urn) = &self.type_urn else { return ProblemKind::Other };
        PREFIXES
            .iter()
            .find_map(|prefix| urn.strip_prefix(prefix))
            .map_or(ProblemKind::Other, ProblemKind::of)
    }

    /// Who has to act when this is the error of a challenge or an authorization, where the CA looked at the customer's
    /// name (RFC 8555 section 8). As the answer to a request the same type may mean something else: see
    /// [`RequestError::fault`](super::RequestError::fault).
    pub fn validation_fault(&self) -> Fault {
        match self.kind() {
            ProblemKind::ServerInternal | ProblemKind::RateLimited | ProblemKind::Other => Fault::Ca,
            _ => Fault::Customer,
        }
    }

    /// Whether a new order may succeed where this was the error of a challenge or an authorization.
    pub fn validation_retry(&self) -> Retry {
        match self.kind() {
            ProblemKind::RejectedIdentifier | ProblemKind::UnsupportedIdentifier => Retry::Never,
            _ => Retry::Backoff,
        }
    }

    /// The page on which a person lifts the pause that Let's Encrypt put on an account's failing names. Nothing is
    /// issued for them before that, and no retry helps.
    pub fn unpause_url(&self) -> Option<&str> {
        let detail = self.detail.as_deref().filter(|_| self.kind() == ProblemKind::RateLimited)?;
        detail.split_ascii_whitespace().find(|word| {
            reading::web_page(word).is_some() && (word.contains("/sfe/") || word.contains("unpause?jwt="))
        })
    }

    /// The identifiers that subproblems name: the others of the order may be asked for again without them.
    pub fn identifiers(&self) -> impl Iterator<Item = &Identifier> {
        self.subproblems.iter().filter_map(|sub| sub.identifier.as_ref())
    }
}

/// The CA's own words, on one line: `rejectedIdentifier: a.example is forbidden by policy`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind() {
            ProblemKind::Other => self.type_urn.as_deref().unwrap_or("problem"),
            kind => kind.as_str(),
        };
        f.write_str(&printable(kind))?;
        if let Some(text) = self.detail.as_deref().or(self.title.as_deref()) {
            write!(f, ": {}", printable(text))?;
        }
        for sub in &self.subproblems {
            f.write_str("; ")?;
            if let Some(identifier) = &sub.identifier {
                write!(f, "{}: ", printable(&identifier.value))?;
            }
            write!(f, "{}", sub.problem)?;
        }
        Ok(())
    }
}

/// Text of others, safe for a terminal and a log line.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 8555 section 6.7.1.
    const EXAMPLE: &str = r#"{
        "type": "urn:ietf:params:acme:error:malformed",
        "detail": "Some of the identifiers requested were rejected",
        "subproblems": [
            {
                "type": "urn:ietf:params:acme:error:malformed",
                "detail": "Invalid underscore in DNS name \"_example.org\"",
                "identifier": {"type": "dns", "value": "_example.org"}
            },
            {
                "type": "urn:ietf:params:acme:error:rejectedIdentifier",
                "detail": "This CA will not issue for \"example.net\"",
                "identifier": {"type": "dns", "value": "example.net"}
            }
        ]
    }"#;

    #[test]
    fn subproblems_are_read_and_survive_storage() {
        let problem = Problem::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(problem.kind(), ProblemKind::Malformed);
        assert_eq!(problem.subproblems[1].problem.kind(), ProblemKind::RejectedIdentifier);
        let named: Vec<_> = problem.identifiers().map(|i| i.value.as_str()).collect();
        assert_eq!(named, ["_example.org", "example.net"]);
        let stored = serde_json::to_vec(&problem).unwrap();
        assert_eq!(Problem::parse(&stored), Some(problem.clone()));
        assert_eq!(
            problem.to_string(),
            "malformed: Some of the identifiers requested were rejected; \
             _example.org: malformed: Invalid underscore in DNS name \"_example.org\"; \
             example.net: rejectedIdentifier: This CA will not issue for \"example.net\""
        );
    }

    #[test]
    fn sloppy_documents_tell_what_they_can() {
        let sloppy = br#"{"type":"about:blank","status":"500","detail":7,"subproblems":[1,{"detail":"x","identifier":"y"}],"algorithms":"RS256"}"#;
        let problem = Problem::parse(sloppy).unwrap();
        assert_eq!(
            (problem.kind(), problem.detail.as_deref(), problem.subproblems.len()),
            (ProblemKind::Other, None, 1)
        );
        assert_eq!(problem.to_string(), "about:blank; problem: x");
        for other in [
            &b"<html>502</html>"[..],
            b"{}",
            b"[]",
            b"null",
            b"",
            br#"{"message":"Missing Authentication Token"}"#,
        ] {
            assert_eq!(Problem::parse(other), None);
        }
    }

    #[test]
    fn texts_and_lists_are_no_longer_than_anything_sensible() {
        let long = "x".repeat(900_000);
        let subproblem = serde_json::json!({
            "detail": long, "subproblems": [{"detail": "below"}],
            "identifier": {"type": "dns", "value": "a.example"},
        });
        let document = serde_json::json!({
            "type": long, "title": long, "detail": long, "instance": long, "subproblems": vec![subproblem; 150],
        });
        let problem = Problem::parse(document.to_string().as_bytes()).unwrap();
        for text in [&problem.type_urn, &problem.title, &problem.detail, &problem.instance] {
            assert_eq!(text.as_ref().unwrap().chars().count(), 1_000);
        }
        assert_eq!(problem.subproblems.len(), 100);
        assert!(problem.subproblems.iter().all(|sub| sub.problem.subproblems.is_empty()));
    }

    #[test]
    fn a_pause_is_told_from_a_limit() {
        let detail = "Your account is temporarily prevented from requesting certificates for a.example. Please visit: https://portal.example/sfe/v1/unpause?jwt=abc";
        let mut problem = Problem {
            type_urn: Some("urn:ietf:params:acme:error:rateLimited".to_owned()),
            detail: Some(detail.to_owned()),
            ..Problem::default()
        };
        assert_eq!(problem.unpause_url(), Some("https://portal.example/sfe/v1/unpause?jwt=abc"));
        problem.detail = Some(
            "too many new orders (300) from this account: see https://letsencrypt.org/docs/rate-limits/"
                .to_owned(),
        );
        assert_eq!(problem.unpause_url(), None);
    }

    #[test]
    fn a_detail_can_not_write_to_the_terminal() {
        let problem = Problem { detail: Some("bad \u{1b}[2J body\r\n".to_owned()), ..Problem::default() };
        assert_eq!(problem.to_string(), "problem: bad \u{fffd}[2J body\u{fffd}\u{fffd}");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[{}\\[\\]\":,a-z0-9\\PC]{0,100}", detail in "\\PC{0,40}") {
            let _ = Problem::parse(text.as_bytes());
            let json = serde_json::json!({"type": detail, "detail": detail, "subproblems": [{"detail": detail}]});
            let problem = Problem::parse(json.to_string().as_bytes()).unwrap();
            prop_assert!(!problem.to_string().chars().any(char::is_control));
        }
    }
}
