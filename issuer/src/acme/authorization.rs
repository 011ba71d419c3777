//! Authorizations (RFC 8555 sections 7.1.4 and 7.5).

use super::{
    account::Account,
    answer::Answer,
    challenge::Challenge,
    challenge::ChallengeKind,
    identifier::Identifier,
    problem::Problem,
    reading::{self, Wire},
    request_error::RequestError,
    timestamp,
    transport::reachable,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Leave to have one identifier certified, or the way to get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// Without `*.`, also for a wildcard. Absent where the CA does not say it so that it can be read.
    #[serde(default, deserialize_with = "reading::optional", skip_serializing_if = "Option::is_none")]
    pub identifier: Option<Identifier>,
    #[serde(default, deserialize_with = "reading::or_default")]
    pub status: AuthorizationStatus,
    #[serde(default, deserialize_with = "timestamp::lenient", skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// In any order, also of types that are not known here.
    #[serde(default, deserialize_with = "reading::list")]
    pub challenges: Vec<Challenge>,
    #[serde(default, deserialize_with = "reading::or_default")]
    pub wildcard: bool,
}

impl Wire for Authorization {
    const MEMBERS: &'static [&'static str] = &["status", "challenges"];
}

/// RFC 8555 section 7.1.6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", from = "String")]
pub enum AuthorizationStatus {
    /// Also whatever is not known here, and `processing`, which some CAs say while they validate.
    #[default]
    Pending,
    Valid,
    Invalid,
    Deactivated,
    Expired,
    Revoked,
}

impl Authorization {
    /// The challenge of a kind, if the CA offers it: one that can be answered, where it offers several.
    pub fn challenge(&self, kind: &ChallengeKind) -> Option<&Challenge> {
        let of_kind = || self.challenges.iter().filter(|challenge| challenge.kind == *kind);
        of_kind().find(|challenge| challenge.is_usable()).or_else(|| of_kind().next())
    }

    /// Why the CA could not validate: the error of the challenge that was tried.
    pub fn problem(&self) -> Option<&Problem> {
        self.challenges.iter().find_map(|challenge| challenge.error.as_ref())
    }
}

impl fmt::Display for AuthorizationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Deactivated => "deactivated",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        })
    }
}

impl From<String> for AuthorizationStatus {
    fn from(text: String) -> Self {
        match text.as_str() {
            "valid" => Self::Valid,
            "invalid" => Self::Invalid,
            "deactivated" => Self::Deactivated,
            "expired" => Self::Expired,
            "revoked" => Self::Revoked,
            _ => Self::Pending,
        }
    }
}

impl Account {
    /// The authorization as it is now.
    ///
    /// # Errors
    /// [`RequestError`]; [`RequestError::is_gone`] where it expired and was purged.
    pub async fn fetch_authorization(&self, url: &str) -> Result<Answer<Authorization>, RequestError> {
        let mut answer: Answer<Authorization> = self.fetch_object(url).await?;
        for challenge in &mut answer.value.challenges {
            // One that can't be asked for stays as it is: it is not usable.
            challenge.url = reachable(url, &challenge.url).unwrap_or_default();
        }
        Ok(answer)
    }

    /// Gives an authorization up (RFC 8555 section 7.5.2), when a customer has left. Meant for valid ones: Let's Encrypt
    /// counts the deactivation of a pending one as a failed validation.
    ///
    /// # Errors
    /// [`RequestError`] when the CA refuses.
    pub async fn deactivate_authorization(&self, url: &str) -> Result<Answer<Authorization>, RequestError> {
        let reply = self.post(url, &serde_json::json!({"status": "deactivated"})).await?;
        Ok(Answer { value: reply.object()?, retry_after: reply.retry_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8555 section 7.1.4, with challenges of other kinds added.
    const EXAMPLE: &str = r#"{
        "status": "valid",
        "expires": "2018-09-09T14:09:01.13Z",
        "identifier": {"type": "dns", "value": "www.example.org"},
        "challenges": [
            {"type": "dns-persist-01", "url": "https://example.com/acme/chall/p", "status": "pending",
             "issuer-domain-names": ["example.com"], "accounturi": "https://example.com/acme/acct/1"},
            {
                "type": "http-01",
                "url": "https://example.com/acme/chall/prV_B7yEyA4",
                "status": "valid",
                "validated": "2014-12-01T12:05:13.72Z",
                "token": "DGyRejmCefe7v4NfDGDKfA"
            }
        ],
        "wildcard": false
    }"#;

    #[test]
    fn the_example_is_read_and_survives_storage() {
        let authorization: Authorization = serde_json::from_str(EXAMPLE).unwrap();
        assert_eq!(authorization.status, AuthorizationStatus::Valid);
        assert_eq!(authorization.identifier, Some(Identifier::dns("www.example.org")));
        let challenge = authorization.challenge(&ChallengeKind::Http01).unwrap();
        assert_eq!(challenge.url, "https://example.com/acme/chall/prV_B7yEyA4");
        assert_eq!(authorization.challenges[0].token, None);
        let stored = serde_json::to_string(&authorization).unwrap();
        assert_eq!(serde_json::from_str::<Authorization>(&stored).unwrap(), authorization);
    }

    #[test]
    fn a_challenge_that_can_not_be_used_leaves_the_others() {
        let odd = r#"{"identifier":{"type":"dns","value":"a.example"},"status":null,"wildcard":null,"challenges":[
            {"type":"dns-persist-01","issuerDomainNames":["ca.example"],"issuer-domain-names":["ca.example","b.example"]},
            null, "http-01", {"type":"dns-persist-01","url":"https://a/p","issuerDomainNames":["ca.example"],
            "issuer-domain-names":["ca.example","b.example"],"status":null,"token":null,"error":null},
            {"type":"http-01","url":"https://a/h","token":"DGyRejmCefe7v4NfDGDKfA"}]}"#;
        let authorization: Authorization = serde_json::from_str(odd).unwrap();
        assert_eq!(authorization.status, AuthorizationStatus::Pending);
        assert!(!authorization.wildcard && authorization.challenges.len() == 2);
        assert_eq!(authorization.challenges[0].issuer_domain_names, ["ca.example", "b.example"]);
        assert_eq!(authorization.challenge(&ChallengeKind::Http01).unwrap().url, "https://a/h");
        let stored = serde_json::to_string(&authorization).unwrap();
        assert_eq!(serde_json::from_str::<Authorization>(&stored).unwrap(), authorization);
    }

    #[test]
    fn one_odd_member_leaves_the_others() {
        let odd = r#"{"identifier":null,"status":"pending","challenges":[
            {"type":"http-01","url":"https://a/odd","token":"../../etc/passwd"},
            {"type":"http-01","url":"https://a/spent","token":"DGyRejmCefe7v4NfDGDKfA","status":"invalid"},
            {"type":"http-01","url":"https://a/good","token":"DGyRejmCefe7v4NfDGDKfA"}]}"#;
        let authorization: Authorization = serde_json::from_str(odd).unwrap();
        assert_eq!(authorization.identifier, None);
        assert_eq!(authorization.challenge(&ChallengeKind::Http01).unwrap().url, "https://a/good");
    }

    #[test]
    fn states_in_between_are_pending() {
        for (text, status) in [
            ("pending", AuthorizationStatus::Pending),
            ("processing", AuthorizationStatus::Pending),
            ("queued", AuthorizationStatus::Pending),
            ("invalid", AuthorizationStatus::Invalid),
            ("expired", AuthorizationStatus::Expired),
            ("revoked", AuthorizationStatus::Revoked),
            ("deactivated", AuthorizationStatus::Deactivated),
        ] {
            assert_eq!(AuthorizationStatus::from(text.to_owned()), status, "{text}");
        }
        assert_eq!(serde_json::to_string(&AuthorizationStatus::Expired).unwrap(), "\"expired\"");
    }
}
