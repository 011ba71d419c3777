//! What the CA has made of the challenges that were answered. An error in one of them is an answer, whatever the states of
//! challenge, authorization and order: some CAs leave all three pending.

use super::verdict::Verdict;
use crate::acme::{Authorization, AuthorizationStatus, Challenge, ChallengeStatus, Problem};
use shared::domain::{DnsName, PublishedToken};
use std::time::Duration;
use tokio::time::Instant;

/// A CA that says `processing` beside an error is trying again by itself (RFC 8555 section 8.2): for so long it may.
const OWN_TRIES: Duration = Duration::from_secs(60);
/// How long the other names are waited for once one has failed.
const OTHERS: Duration = Duration::from_secs(10);

/// A name that the CA was not satisfied with.
#[derive(Clone, Debug)]
pub(super) struct FailedProof {
    name: DnsName,
    problem: Problem,
    by_record: bool,
}

/// The challenges that were answered, as far as they are undecided, and those that have failed.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) open: Vec<PublishedToken>,
    pub(super) failed: Vec<FailedProof>,
    /// Since when the CA tries again by itself.
    trying_since: Option<Instant>,
    failed_since: Option<Instant>,
}

impl FailedProof {
    /// `failed` has an error.
    pub(super) fn of(name: DnsName, failed: &Challenge) -> Self {
        let problem = failed.error.clone().unwrap_or_default();
        Self { name, problem, by_record: failed.kind.as_str().starts_with("dns-") }
    }
}

impl Answers {
    pub(super) fn to(tokens: &[PublishedToken]) -> Self {
        Self { open: tokens.to_vec(), ..Self::default() }
    }

    /// Whether it is known by now which names have failed.
    pub(super) fn learn(&mut self, authorizations: &[(String, Authorization)], now: Instant) -> bool {
        let mut is_trying = false;
        let since = *self.trying_since.get_or_insert(now);
        let failed = &mut self.failed;
        self.open.retain(|token| {
            let found = authorizations.iter().find(|(url, _)| *url == token.at.authorization_url);
            let Some((_, authorization)) = found else { return true };
            if authorization.status == AuthorizationStatus::Valid {
                return false;
            }
            let answered =
                authorization.challenges.iter().find(|challenge| challenge.url == token.at.challenge_url);
            let Some(challenge) = answered.filter(|challenge| challenge.error.is_some()) else { return true };
            match challenge.status {
                ChallengeStatus::Valid => true,
                ChallengeStatus::Processing if now.duration_since(since) < OWN_TRIES => {
                    is_trying = true;
                    true
                }
                _ => {
                    failed.push(FailedProof::of(token.name.clone(), challenge));
                    false
                }
            }
        });
        if !is_trying {
            self.trying_since = None;
        }
        if self.failed.is_empty() {
            return false;
        }
        let since = *self.failed_since.get_or_insert(now);
        self.open.is_empty() || now.duration_since(since) >= OTHERS
    }
}

/// The verdict on names that the CA was not satisfied with; there is at least one.
pub(super) fn failed_names(failed: &[FailedProof]) -> Verdict {
    let culprits = failed.iter().map(|failed| {
        let verdict = Verdict::from_validation(&failed.name, &failed.problem);
        let verdict = if failed.by_record { verdict.of_a_record(&failed.name) } else { verdict };
        (failed.name.clone(), verdict)
    });
    let verdict = Verdict::of_culprits(culprits.collect())
        .unwrap_or_else(|| Verdict::bug("an authorization failed without a problem"));
    Verdict { failed_validations: failed.iter().map(|failed| failed.name.clone()).collect(), ..verdict }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::domain::{AuthorizationRef, Token};

    fn token(name: &str) -> PublishedToken {
        let at = AuthorizationRef {
            authorization_url: format!("https://ca/a/{name}"),
            challenge_url: format!("https://ca/c/{name}"),
        };
        let token = Token::parse(&"x".repeat(43)).unwrap();
        PublishedToken { name: DnsName::parse(name).unwrap(), token, at, txt: None, standing: None }
    }

    fn said(name: &str, authorization: &str, challenge: &str, error: bool) -> (String, Authorization) {
        let error = if error {
            r#","error":{"type":"urn:ietf:params:acme:error:connection","detail":"refused"}"#
        } else {
            ""
        };
        // The other one failed for an account before.
        let text = format!(
            r#"{{"status":"{authorization}","identifier":{{"type":"dns","value":"{name}"}},"challenges":[
            {{"type":"dns-01","url":"https://ca/other","status":"pending","error":{{"type":"x","detail":"old"}}}},
            {{"type":"http-01","url":"https://ca/c/{name}","status":"{challenge}"{error}}}]}}"#
        );
        (format!("https://ca/a/{name}"), serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn an_error_in_an_answered_challenge_is_an_answer() {
        let now = Instant::now();
        for (authorization, challenge, error, known) in [
            ("pending", "pending", false, false),
            ("pending", "processing", false, false),
            ("pending", "processing", true, false),
            ("pending", "pending", true, true),
            ("pending", "invalid", true, true),
            ("invalid", "invalid", true, true),
            ("valid", "valid", false, false),
        ] {
            let mut answers = Answers::to(&[token("a.example")]);
            let learned = answers.learn(&[said("a.example", authorization, challenge, error)], now);
            assert_eq!(learned, known, "{authorization}, {challenge}, {error}");
        }
    }

    #[test]
    fn a_ca_that_tries_by_itself_is_left_to_it_for_a_time() {
        let (now, trying) = (Instant::now(), said("a.example", "pending", "processing", true));
        let mut answers = Answers::to(&[token("a.example")]);
        assert!(!answers.learn(std::slice::from_ref(&trying), now));
        assert!(!answers.learn(std::slice::from_ref(&trying), now + OWN_TRIES / 2));
        assert!(answers.learn(&[trying], now + OWN_TRIES));
    }

    #[test]
    fn the_other_names_are_waited_for_a_little() {
        let now = Instant::now();
        let mut answers = Answers::to(&[token("a.example"), token("b.example"), token("c.example")]);
        let said = [
            said("a.example", "pending", "pending", true),
            said("b.example", "pending", "pending", false),
            said("c.example", "valid", "valid", false),
        ];
        assert!(!answers.learn(&said, now));
        assert!(answers.learn(&said[1..2], now + OTHERS));
        let verdict = failed_names(&answers.failed);
        let culprits: Vec<_> = verdict.culprits.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((culprits, verdict.said_by_ca), (vec!["a.example"], true));
    }
}
