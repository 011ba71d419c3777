//! Challenges (RFC 8555 sections 7.1.5, 7.5.1 and 8): how control of a name is proved.

use super::{
    account::Account,
    answer::Answer,
    problem::{Problem, ProblemKind},
    reading::{self, Wire},
    request_error::{Refusal, RequestError},
    timestamp,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::domain::Token;

/// One way to prove control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WireChallenge")]
pub struct Challenge {
    #[serde(rename = "type")]
    pub kind: ChallengeKind,
    pub url: String,
    /// Absent in some CAs' answers while nothing has happened.
    pub status: ChallengeStatus,
    /// Not every kind has one (`dns-persist-01` has none). [`Challenge::parse_token`] checks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validated: Option<Timestamp>,
    /// What the CA calls itself in records that stay (draft-ietf-acme-dns-persist, in the words of either draft).
    #[serde(rename = "issuerDomainNames", skip_serializing_if = "Vec::is_empty")]
    pub issuer_domain_names: Vec<String>,
    /// Why the validation failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// As it is sent: both drafts' words may stand side by side.
#[derive(Deserialize)]
struct WireChallenge {
    #[serde(rename = "type")]
    kind: ChallengeKind,
    url: String,
    #[serde(default, deserialize_with = "reading::or_default")]
    status: ChallengeStatus,
    #[serde(default, deserialize_with = "reading::optional")]
    token: Option<String>,
    #[serde(default, deserialize_with = "timestamp::lenient")]
    validated: Option<Timestamp>,
    #[serde(default, rename = "issuerDomainNames", deserialize_with = "reading::short_list")]
    issuer_domain_names: Vec<String>,
    #[serde(default, rename = "issuer-domain-names", deserialize_with = "reading::short_list")]
    issuer_domain_names_of_old: Vec<String>,
    #[serde(default, deserialize_with = "reading::optional")]
    error: Option<Problem>,
}

impl From<WireChallenge> for Challenge {
    fn from(wire: WireChallenge) -> Self {
        let mut issuer_domain_names = wire.issuer_domain_names;
        for name in wire.issuer_domain_names_of_old {
            if !issuer_domain_names.contains(&name) {
                issuer_domain_names.push(name);
            }
        }
        Self {
            kind: wire.kind,
            url: wire.url,
            status: wire.status,
            token: wire.token,
            validated: wire.validated,
            issuer_domain_names,
            error: wire.error,
        }
    }
}

impl Wire for Challenge {
    const MEMBERS: &'static [&'static str] = &["type", "url"];
}

/// RFC 8555 section 8, RFC 8737, and whatever else the CA offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ChallengeKind {
    Http01,
    Dns01,
    TlsAlpn01,
    Other(String),
}

/// RFC 8555 section 7.1.6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", from = "String")]
pub enum ChallengeStatus {
    /// Also whatever is not known here.
    #[default]
    Pending,
    Processing,
    Valid,
    Invalid,
}

/// What answering a challenge came to. Either way the authorization tells the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChallengeReply {
    Accepted(Box<Challenge>),
    /// The CA is at it already, or was before: another node answered, or an earlier attempt whose answer was lost.
    AlreadyAnswered,
}

impl Challenge {
    /// Whether it can be answered.
    pub fn is_usable(&self) -> bool {
        let has_token = match &self.kind {
            ChallengeKind::Other(name) if name == "dns-persist-01" => true,
            _ => self.parse_token().is_some(),
        };
        has_token && !self.url.is_empty() && self.status != ChallengeStatus::Invalid
    }

    /// The token, where there is one and it has the form of one (RFC 8555 section 8.3).
    pub fn parse_token(&self) -> Option<Token> {
        Token::parse(self.token.as_deref()?).ok()
    }
}

impl ChallengeKind {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for ChallengeKind {
    fn from(name: String) -> Self {
        match name.as_str() {
            "http-01" => Self::Http01,
            "dns-01" => Self::Dns01,
            "tls-alpn-01" => Self::TlsAlpn01,
            _ => Self::Other(name),
        }
    }
}

impl From<ChallengeKind> for String {
    fn from(kind: ChallengeKind) -> Self {
        kind.as_str().to_owned()
    }
}

impl From<String> for ChallengeStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "processing" => Self::Processing,
            "valid" => Self::Valid,
            "invalid" => Self::Invalid,
            _ => Self::Pending,
        }
    }
}

impl Account {
    /// Tells the CA that the proof is in place (RFC 8555 section 7.5.1). It must be: a failed validation makes the order
    /// invalid and counts against limits.
    ///
    /// # Errors
    /// [`RequestError`]. That the CA is at it already is no error.
    pub async fn answer_challenge(
        &self,
        challenge_url: &str,
    ) -> Result<Answer<ChallengeReply>, RequestError> {
        match self.post(challenge_url, &serde_json::json!({})).await {
            Ok(reply) => {
                let value = ChallengeReply::Accepted(Box::new(reply.object()?));
                Ok(Answer { value, retry_after: reply.retry_after })
            }
            Err(RequestError::Problem(refusal)) if says_already_answered(&refusal) => {
                Ok(Answer { value: ChallengeReply::AlreadyAnswered, retry_after: refusal.retry_after })
            }
            Err(error) => Err(error),
        }
    }
}

fn says_already_answered(refusal: &Refusal) -> bool {
    if refusal.status == 409 || refusal.problem.kind() == ProblemKind::Conflict {
        return true;
    }
    // Pebble: "Cannot update challenge with status valid, only status pending". Others say "already being processed".
    let detail = refusal.problem.detail.as_deref().unwrap_or_default().to_ascii_lowercase();
    matches!(refusal.problem.kind(), ProblemKind::Malformed | ProblemKind::Unauthorized)
        && refusal.status != 404
        && (detail.contains("only status pending")
            || detail.contains("already") && detail.contains("process"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_of_rfc_8555_section_8_3_is_read() {
        let example = r#"{
            "type": "http-01",
            "url": "https://example.com/acme/chall/prV_B7yEyA4",
            "status": "pending",
            "token": "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
        }"#;
        let challenge: Challenge = serde_json::from_str(example).unwrap();
        assert_eq!(
            (challenge.kind.clone(), challenge.status),
            (ChallengeKind::Http01, ChallengeStatus::Pending)
        );
        assert_eq!(challenge.parse_token().unwrap().as_str(), "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0");
        assert_eq!(
            serde_json::from_str::<Challenge>(&serde_json::to_string(&challenge).unwrap()).unwrap(),
            challenge
        );
    }

    #[test]
    fn a_failed_one_says_why_and_an_unknown_one_is_kept() {
        let failed = r#"{"type":"new-01","url":"https://a/c","status":"invalid","token":"../x",
            "error":{"type":"urn:ietf:params:acme:error:dns","detail":"no valid A records found"}}"#;
        let challenge: Challenge = serde_json::from_str(failed).unwrap();
        assert_eq!(challenge.kind, ChallengeKind::Other("new-01".to_owned()));
        assert_eq!(challenge.parse_token(), None);
        assert_eq!(challenge.error.unwrap().kind(), ProblemKind::Dns);
        let bare: Challenge = serde_json::from_str(r#"{"type":"x","url":"https://a/c"}"#).unwrap();
        assert_eq!((bare.status, bare.token), (ChallengeStatus::Pending, None));
    }

    #[test]
    fn that_the_ca_is_at_it_already_is_known() {
        let refusal = |status, kind: &str, detail: &str| Refusal {
            status,
            problem: Problem {
                type_urn: Some(format!("urn:ietf:params:acme:error:{kind}")),
                detail: Some(detail.to_owned()),
                ..Problem::default()
            },
            retry_after: None,
            help: None,
            terms_of_service: None,
            location: None,
        };
        for (status, kind, detail) in [
            (409, "conflict", "another validation attempt is in progress"),
            (409, "malformed", ""),
            (400, "malformed", "Cannot update challenge with status processing, only status pending"),
            (400, "malformed", "Challenge is already being processed"),
        ] {
            assert!(says_already_answered(&refusal(status, kind, detail)), "{detail}");
        }
        assert!(!says_already_answered(&refusal(400, "malformed", "Expired authorization")));
        assert!(!says_already_answered(&refusal(404, "malformed", "No such challenge")));
        assert!(!says_already_answered(&refusal(403, "unauthorized", "Account is not valid")));
    }
}
