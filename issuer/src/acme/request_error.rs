//! What can go wrong with a request, whose fault it is, and when to try again.

use super::{
    account_key::KeyError,
    chain::ChainError,
    problem::{Problem, ProblemKind},
};
use shared::error::{Fault, Retry};
use std::time::Duration;

/// A request that did not get what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The CA was not reached, or the answer broke off. Whether the request had an effect is unknown.
    #[error("the CA could not be reached at {url}")]
    Transport { url: String, source: reqwest::Error },
    /// The CA refused with a problem document.
    #[error("the CA refused ({}): {}", .0.status, .0.problem)]
    Problem(Box<Refusal>),
    /// An error without a problem document: a proxy's, a load balancer's, or a redirect.
    #[error("{url} answered with HTTP status {status} and no problem document: {excerpt:?}")]
    Body {
        url: String,
        status: u16,
        excerpt: String,
        retry_after: Option<Duration>,
        /// It came with a nonce, which only the CA gives.
        from_ca: bool,
    },
    /// Nothing was sent: the CA takes no more requests at this endpoint before.
    #[error("the CA takes no more requests of the kind {endpoint:?} for {} seconds: it was not asked", .wait.as_secs())]
    Paused {
        endpoint: &'static str,
        wait: Duration,
        /// The CA has asked for it.
        by_the_ca: bool,
    },
    /// A success that can't be understood.
    #[error("{url} answered with {what}")]
    Malformed { url: String, what: String },
    /// The downloaded certificate can't be used.
    #[error("{url} answered with an unusable certificate chain")]
    Chain { url: String, source: ChainError },
    /// The answer was longer than any ACME object.
    #[error("the answer of {url} is longer than {limit_bytes} bytes")]
    TooLong { url: String, limit_bytes: usize },
    /// Nothing was sent: the object is of an account whose place another has taken.
    #[error("{url} is of the account before: another one has taken its place")]
    OtherAccount { url: String },
    /// The directory has no such entry.
    #[error("this CA does not offer {entry:?} in its directory")]
    NotOffered { entry: &'static str },
    /// The request could not be signed.
    #[error("the request could not be signed")]
    Signing(#[from] KeyError),
    /// The HTTP client could not be set up.
    #[error("the HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
}

/// A problem document, and what its headers said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status; the one inside the document is ignored.
    pub status: u16,
    pub problem: Problem,
    /// As far as it is believed: see [`Moment::RetryAfter`](super::Moment::RetryAfter).
    pub retry_after: Option<Duration>,
    /// `Link: rel="help"`: where the CA explains the limit.
    pub help: Option<String>,
    /// `Link: rel="terms-of-service"`: what has to be agreed to (RFC 8555 section 7.3.3).
    pub terms_of_service: Option<String>,
    /// The account that has the key already, when a rollover was refused (RFC 8555 section 7.3.5).
    pub location: Option<String>,
}

impl RequestError {
    /// The type of the problem document, where there is one.
    pub fn kind(&self) -> Option<ProblemKind> {
        self.refusal().map(|refusal| refusal.problem.kind())
    }

    /// The CA's words, where it said any.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Problem(refusal) => Some(refusal),
            _ => None,
        }
    }

    pub fn problem(&self) -> Option<&Problem> {
        self.refusal().map(|refusal| &refusal.problem)
    }

    /// The HTTP status of an answer that was an error.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(refusal) => Some(refusal.status),
            Self::Body { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The server's word on when to come back, as far as it is believed.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(refusal) => refusal.retry_after,
            Self::Body { retry_after, .. } => *retry_after,
            Self::Paused { wait, .. } => Some(*wait),
            _ => None,
        }
    }

    /// Whether the CA says that the object is gone: an order or authorization that it has purged after it expired, or that belongs
    /// to another account. Start anew. The page of a load balancer says nothing of the object.
    pub fn is_gone(&self) -> bool {
        self.is_not_found() && !self.is_of_the_way()
    }

    /// Whether somebody says that there is no such object: the CA, or what stands before it.
    pub fn is_not_found(&self) -> bool {
        matches!(self.status(), Some(404 | 410))
    }

    /// Whether it need not be the CA that answered: a proxy, a firewall, a load balancer or a portal on the way may have.
    pub fn is_of_the_way(&self) -> bool {
        matches!(self, Self::Body { from_ca: false, .. })
    }

    /// Whether it may be about who signed: a key or an account that is not, or no longer, what the CA has. It can't be told
    /// for sure; to look costs less than to be wrong.
    pub fn may_blame_the_signature(&self) -> bool {
        let blamed = |refusal: &Refusal| {
            let kind = refusal.problem.kind();
            (400..=404).contains(&refusal.status)
                && matches!(
                    kind,
                    ProblemKind::AccountDoesNotExist
                        | ProblemKind::BadPublicKey
                        | ProblemKind::BadSignatureAlgorithm
                        | ProblemKind::Malformed
                        | ProblemKind::Other
                        | ProblemKind::Unauthorized
                )
        };
        self.refusal().is_some_and(blamed)
    }

    /// Whether the CA takes no signature of this key for this account, as far as its words tell (Boulder and Pebble say
    /// "JWS verification error").
    pub fn refuses_the_signature(&self) -> bool {
        let Some(problem) = self.problem() else { return false };
        let detail = problem.detail.as_deref().unwrap_or_default();
        match problem.kind() {
            ProblemKind::Malformed | ProblemKind::Unauthorized => {
                detail.contains("JWS verification") || detail.contains("signature verification")
            }
            _ => false,
        }
    }

    /// Whether the CA refuses in its own words what it was asked about: not a limit, not a fault of its own, and not a nonce.
    pub fn is_final(&self) -> bool {
        self.problem().is_some_and(|problem| problem.kind() != ProblemKind::BadNonce)
            && self.status().is_some_and(|status| (400..500).contains(&status) && status != 429)
    }

    /// Whether the CA may have done what it was asked to all the same: the answer was lost, can't be read, or is that of a
    /// server that failed on the way.
    pub fn may_have_acted(&self) -> bool {
        match self {
            Self::Transport { source, .. } => !source.is_builder() && !source.is_connect(),
            Self::Malformed { .. } | Self::TooLong { .. } => true,
            _ => self.status().is_some_and(|status| status >= 500 && status != 503),
        }
    }

    /// Whether it is a limit of the CA: by its status or by its words.
    pub fn is_limit(&self) -> bool {
        self.status() == Some(429) || self.kind() == Some(ProblemKind::RateLimited)
    }

    /// Whether what may be made twice can be asked for once more in the same run: nothing was refused, but the CA was not reached,
    /// has failed itself, or did not like a nonce.
    pub fn is_no_refusal(&self) -> bool {
        matches!(self.kind(), Some(ProblemKind::BadNonce | ProblemKind::Conflict))
            || self.status().is_none_or(|status| status >= 500 || matches!(status, 408 | 425))
    }

    /// Who was asked, where no problem document came back.
    pub fn silent_url(&self) -> Option<&str> {
        match self {
            Self::Transport { url, .. }
            | Self::Body { url, .. }
            | Self::Malformed { url, .. }
            | Self::Chain { url, .. }
            | Self::TooLong { url, .. } => Some(url),
            _ => None,
        }
    }

    /// Whether somebody has answered, and nobody knows what it means: what the CA has by now tells, and nothing else.
    pub fn is_doubtful(&self) -> bool {
        self.problem().is_none() && self.may_have_acted()
    }

    /// Whether the server's certificate is of no CA that is trusted here.
    pub fn is_untrusted(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if shared::error::chain(source).contains("certificate verify failed"))
    }

    /// Whether the answer to the question for the directory shows that the settings are wrong: no such host, no trust, or
    /// something that is no directory.
    pub fn is_of_the_settings(&self) -> bool {
        match self {
            Self::Transport { source, .. } => {
                self.is_untrusted() || shared::error::chain(source).contains("Name or service not known")
            }
            Self::Malformed { .. } => true,
            _ => self.status().is_some_and(|status| matches!(status, 300..=399 | 400..=405 | 410)),
        }
    }

    /// Who has to act. What the CA says about a validation is in the challenge instead, with its own
    /// [`Problem::validation_fault`].
    pub fn fault(&self) -> Fault {
        match self {
            Self::Transport { source, .. } if source.is_builder() => Fault::Operator,
            Self::Transport { .. } | Self::Malformed { .. } | Self::Chain { .. } | Self::TooLong { .. } => {
                Fault::Ca
            }
            Self::NotOffered { .. } | Self::Setup(_) => Fault::Operator,
            Self::OtherAccount { .. } => Fault::Store,
            Self::Signing(_) => Fault::Bug,
            Self::Body { status: 429, .. } | Self::Paused { .. } => Fault::Operator,
            Self::Body { .. } => Fault::Ca,
            Self::Problem(refusal) => refusal.fault(),
        }
    }

    /// Whether the same request may succeed later. Where the CA named a time, that is the answer.
    pub fn retry(&self) -> Retry {
        let later = self.retry_after().map_or(Retry::Backoff, Retry::After);
        match self {
            Self::Transport { source, .. } if source.is_builder() => Retry::Never,
            Self::Transport { .. } | Self::Malformed { .. } | Self::Chain { .. } | Self::TooLong { .. } => {
                Retry::Backoff
            }
            Self::NotOffered { .. } | Self::OtherAccount { .. } | Self::Signing(_) | Self::Setup(_) => {
                Retry::Never
            }
            Self::Body { from_ca: true, status: 404 | 410, .. } => Retry::Never,
            Self::Body { .. } | Self::Paused { .. } => later,
            Self::Problem(refusal) => refusal.retry(),
        }
    }
}

impl Refusal {
    fn fault(&self) -> Fault {
        use ProblemKind as Kind;
        match self.problem.kind() {
            Kind::BadNonce | Kind::Conflict | Kind::OrderNotReady | Kind::ServerInternal => Fault::Ca,
            Kind::Caa
            | Kind::Compound
            | Kind::Connection
            | Kind::Dns
            | Kind::IncorrectResponse
            | Kind::RejectedIdentifier
            | Kind::Tls
            | Kind::UnsupportedIdentifier => Fault::Customer,
            Kind::AccountDoesNotExist
            | Kind::AlreadyRevoked
            | Kind::BadRevocationReason
            | Kind::BadSignatureAlgorithm
            | Kind::ExternalAccountRequired
            | Kind::InvalidContact
            | Kind::InvalidProfile
            | Kind::RateLimited
            | Kind::Unauthorized
            | Kind::UnsupportedContact
            | Kind::UserActionRequired => Fault::Operator,
            Kind::AlreadyReplaced | Kind::BadCsr | Kind::BadPublicKey => Fault::Bug,
            // Boulder says "malformed" of names too, and of objects that it has purged.
            Kind::Malformed | Kind::Other if self.problem.identifiers().next().is_some() => Fault::Customer,
            Kind::Malformed | Kind::Other => match self.status {
                404 => Fault::Ca,
                429 => Fault::Operator,
                500.. => Fault::Ca,
                _ => Fault::Bug,
            },
        }
    }

    fn retry(&self) -> Retry {
        use ProblemKind as Kind;
        let later = self.retry_after.map_or(Retry::Backoff, Retry::After);
        match self.problem.kind() {
            // A pause has no end of its own.
            Kind::RateLimited if self.problem.unpause_url().is_some() => Retry::Never,
            Kind::BadNonce
            | Kind::Caa
            | Kind::Conflict
            | Kind::Connection
            | Kind::Dns
            | Kind::IncorrectResponse
            | Kind::OrderNotReady
            | Kind::RateLimited
            | Kind::ServerInternal
            | Kind::Tls => later,
            Kind::Compound | Kind::Malformed | Kind::Other if self.status == 429 || self.status >= 500 => {
                later
            }
            _ => Retry::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, kind: &str, retry_after: Option<u64>) -> RequestError {
        RequestError::Problem(Box::new(Refusal {
            status,
            problem: Problem {
                type_urn: Some(format!("urn:ietf:params:acme:error:{kind}")),
                detail: Some("why".to_owned()),
                ..Problem::default()
            },
            retry_after: retry_after.map(Duration::from_secs),
            help: None,
            terms_of_service: None,
            location: None,
        }))
    }

    #[test]
    fn each_refusal_says_whose_fault_it_is_and_when_to_try_again() {
        let after = |seconds| Retry::After(Duration::from_secs(seconds));
        for (status, kind, retry_after, fault, retry) in [
            (429, "rateLimited", Some(36), Fault::Operator, after(36)),
            (429, "rateLimited", None, Fault::Operator, Retry::Backoff),
            (500, "serverInternal", Some(60), Fault::Ca, after(60)),
            (400, "rejectedIdentifier", None, Fault::Customer, Retry::Never),
            (403, "caa", None, Fault::Customer, Retry::Backoff),
            (403, "unauthorized", None, Fault::Operator, Retry::Never),
            (403, "userActionRequired", None, Fault::Operator, Retry::Never),
            (409, "conflict", None, Fault::Ca, Retry::Backoff),
            (400, "badCSR", None, Fault::Bug, Retry::Never),
            (400, "malformed", None, Fault::Bug, Retry::Never),
            (404, "malformed", None, Fault::Ca, Retry::Never),
            (503, "somethingNew", Some(5), Fault::Ca, after(5)),
        ] {
            let error = refused(status, kind, retry_after);
            assert_eq!((error.fault(), error.retry()), (fault, retry), "{kind}");
            assert_eq!((error.status(), error.is_gone()), (Some(status), status == 404));
        }
    }

    #[test]
    fn a_malformed_name_is_the_customers() {
        let document = br#"{"type":"urn:ietf:params:acme:error:malformed","subproblems":[
            {"type":"urn:ietf:params:acme:error:malformed","identifier":{"type":"dns","value":"_example.org"}}]}"#;
        let RequestError::Problem(mut refusal) = refused(400, "malformed", None) else {
            unreachable!("made as one")
        };
        refusal.problem = Problem::parse(document).unwrap();
        assert_eq!((refusal.fault(), refusal.retry()), (Fault::Customer, Retry::Never));
    }

    #[test]
    fn a_page_of_a_load_balancer_keeps_status_and_time() {
        let error = RequestError::Body {
            url: "https://a/".to_owned(),
            status: 503,
            excerpt: "<html>".to_owned(),
            retry_after: Some(Duration::from_secs(7)),
            from_ca: false,
        };
        assert_eq!((error.kind(), error.status()), (None, Some(503)));
        assert_eq!((error.fault(), error.retry()), (Fault::Ca, Retry::After(Duration::from_secs(7))));
    }

    #[test]
    fn what_was_refused_is_not_asked_for_again_at_once() {
        let page = |status| RequestError::Body {
            url: "https://a/".to_owned(),
            status,
            excerpt: String::new(),
            retry_after: None,
            from_ca: false,
        };
        for status in [307, 400, 403, 404, 418, 429] {
            assert!(!page(status).is_no_refusal(), "{status}");
        }
        for status in [408, 500, 502, 503] {
            assert!(page(status).is_no_refusal(), "{status}");
        }
        assert!(!refused(400, "rateLimited", None).is_no_refusal());
        assert!(refused(400, "rateLimited", None).is_limit() && page(429).is_limit());
        assert!(refused(400, "badNonce", None).is_no_refusal());
    }

    #[test]
    fn the_message_is_the_cas_own() {
        assert_eq!(refused(429, "rateLimited", None).to_string(), "the CA refused (429): rateLimited: why");
    }
}
