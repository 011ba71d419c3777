//! The self-check of an order: does the challenge's real path lead to the order's real key authorization?

use super::{
    Class, Failure, Finding, Outcome, Validator,
    fetch::FetchError,
    validator::First,
    words::{Cause, Language},
};
use serde::{Serialize, Serializer};
use shared::domain::{KeyAuthorization, Token};

/// Asks for challenges as the CA will.
#[derive(Clone, Debug)]
pub struct Reach {
    validator: Validator,
}

/// What the self-check of one name found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfCheck {
    /// What the CA will meet.
    pub as_the_ca: Finding,
    /// What IPv4 alone gives, where the name has both families and the CA would not have asked it.
    pub ipv4: Option<Finding>,
}

impl Reach {
    pub fn new(validator: Validator) -> Self {
        Self { validator }
    }

    /// What it looks with.
    pub fn validator(&self) -> &Validator {
        &self.validator
    }

    /// Fetches the challenge of `host` and compares the answer. A name with both address families is asked over each,
    /// since a mistake in one is invisible from the other.
    pub async fn check(&self, host: &str, token: &Token, expected: &KeyAuthorization) -> SelfCheck {
        let path = format!("/.well-known/acme-challenge/{}", token.as_str());
        let as_the_ca = expect(self.validator.fetch_as_the_ca(host, &path).await, expected);
        let both = !as_the_ca.addresses.v6.is_empty() && !as_the_ca.addresses.v4.is_empty();
        let ipv4 = if both && !fell_back(&as_the_ca) {
            Some(expect(self.validator.fetch_over(First::V4, host, &path).await, expected))
        } else {
            None
        };
        SelfCheck { as_the_ca, ipv4 }
    }
}

impl SelfCheck {
    /// Whether the CA will find what it looks for.
    pub fn passes(&self) -> bool {
        self.as_the_ca.failure().is_none()
    }

    /// What to act upon; `None` when all is well over every family. A check that passes can still have one.
    pub fn class(&self) -> Option<Class> {
        if self.families_differ() { Some(Class::Ipv6Differs) } else { self.as_the_ca.class() }
    }

    /// What was found and what to change, in plain words.
    pub fn explain(&self) -> String {
        self.cause().map_or_else(|| self.as_the_ca.way(), |cause| cause.explain(Language::En))
    }

    /// What was found; `None` when all is well over every family.
    fn cause(&self) -> Option<Cause> {
        let differs = |code, other: &Finding| {
            let reason = other.cause().unwrap_or_else(|| Cause::new("dns-other"));
            Some(Cause::new(code).with("name", &self.as_the_ca.host).with_cause("reason", reason))
        };
        match (&self.ipv4, self.passes()) {
            (Some(_), false) if self.families_differ() => differs("ipv6-differs", &self.as_the_ca),
            (Some(ipv4), true) if self.families_differ() => differs("ipv4-differs", ipv4),
            (None, true) if self.families_differ() => {
                let hop = self.as_the_ca.hops.iter().find(|hop| hop.problem.is_some());
                let what = hop.and_then(|hop| Some(format!("{}: {}", hop.address?, hop.problem.as_ref()?)));
                let dead = Cause::new("ipv6-dead").with("name", &self.as_the_ca.host);
                Some(dead.with("reason", what.unwrap_or_default()))
            }
            _ => self.as_the_ca.cause(),
        }
    }

    fn families_differ(&self) -> bool {
        match &self.ipv4 {
            Some(ipv4) => ipv4.failure().is_none() != self.passes(),
            None => self.passes() && fell_back(&self.as_the_ca),
        }
    }
}

impl Serialize for SelfCheck {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            passes: bool,
            class: Option<Class>,
            explanation: String,
            as_the_ca: &'a Finding,
            #[serde(skip_serializing_if = "Option::is_none")]
            ipv4: Option<&'a Finding>,
        }
        Document {
            passes: self.passes(),
            class: self.class(),
            explanation: self.explain(),
            as_the_ca: &self.as_the_ca,
            ipv4: self.ipv4.as_ref(),
        }
        .serialize(serializer)
    }
}

/// Whether IPv4 was asked because a connection over IPv6 had failed.
fn fell_back(finding: &Finding) -> bool {
    let dial_failed = matches!(finding.failure(), Some(Failure::Fetch { error: FetchError::Dial(_), .. }));
    let asked_v4 = finding
        .addresses
        .v4
        .first()
        .is_some_and(|v4| finding.hops.iter().any(|hop| hop.address == Some(*v4)));
    asked_v4 && (dial_failed || finding.hops.iter().any(|hop| hop.problem.is_some()))
}

/// Turns an answer that is not `expected` into a failure.
pub(super) fn expect(mut finding: Finding, expected: &KeyAuthorization) -> Finding {
    let Outcome::Answered { body } = &finding.outcome else { return finding };
    if body != expected.as_str() {
        let got = body.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
        let url = finding.hops.last().map(|hop| hop.url.clone()).unwrap_or_default();
        let redirects =
            finding.hops.iter().filter(|hop| hop.status.is_some_and(|s| (300..400).contains(&s))).count();
        finding.outcome = Outcome::Failed(Failure::OtherContent { url, redirects, got });
    }
    finding
}
