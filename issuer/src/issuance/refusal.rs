//! What a CA's refusal is about: names, the order, the account, a limit, or the CA itself.

use super::verdict::{About, Prospect, Verdict, caa, limit, policy};
use crate::{
    acme::{Problem, ProblemKind, RequestError, web_page},
    limits::{Network, UNKNOWN_WAIT, wait_in_text},
};
use jiff::Timestamp;
use shared::{
    domain::{DnsName, FailureClass, NameSet},
    error::Fault,
};
use std::{collections::BTreeSet, time::Duration};

/// A CA that is in trouble is asked again after this, whatever it says.
const LONGEST_OF_TROUBLE: Duration = Duration::from_secs(3600);
/// What is believed of a CA at most.
const LONGEST_OF_LIMIT: Duration = Duration::from_secs(86_400);

impl Verdict {
    /// The CA refused an order of these names, when it was placed or when it was finalized.
    pub fn from_order(error: &RequestError, names: &NameSet) -> Self {
        let mut verdict = Self::from_request(error);
        let Some(problem) = error.problem() else { return verdict };
        let of_names = matches!(
            problem.kind(),
            ProblemKind::Caa
                | ProblemKind::Compound
                | ProblemKind::Connection
                | ProblemKind::Dns
                | ProblemKind::IncorrectResponse
                | ProblemKind::Malformed
                | ProblemKind::RejectedIdentifier
                | ProblemKind::Tls
                | ProblemKind::Unauthorized
                | ProblemKind::UnsupportedIdentifier
        );
        let known = |text: &str| names.iter().find(|name| name.as_str() == text);
        for subproblem in
            problem.subproblems.iter().filter(|_| of_names || verdict.class == FailureClass::Limit)
        {
            let named = subproblem.identifier.as_ref().and_then(|identifier| known(&identifier.value));
            if let Some(name) = named {
                verdict.culprits.push((name.clone(), Self::from_identifier(name, &subproblem.problem)));
            }
        }
        // A single subproblem is promoted to the problem itself by Boulder; a pause lists its names in the text.
        if verdict.culprits.is_empty() && (of_names || verdict.class == FailureClass::Paused) {
            let detail = problem.detail.as_deref().unwrap_or_default();
            let alone = Self { culprits: Vec::new(), about: About::Names, ..verdict.clone() };
            let named = names_in(detail, names);
            verdict.culprits = named.into_iter().map(|name| (name, alone.clone())).collect();
        }
        if !verdict.culprits.is_empty() && verdict.about != About::Limit {
            verdict.about = About::Names;
        }
        verdict
    }

    /// An order failed although every name was proved: at a second look at CAA, or by the CA's own doing.
    pub fn from_failed_order(problem: &Problem) -> Self {
        let of_names = problem.subproblems.iter().filter_map(|subproblem| {
            let name = DnsName::parse_identifier(&subproblem.identifier.as_ref()?.value).ok()?;
            let verdict = Self::from_identifier(&name, &subproblem.problem);
            Some((name, verdict))
        });
        Self::of_culprits(of_names.collect()).unwrap_or_else(|| {
            let what = format!("the order failed: {problem}");
            match problem.kind() {
                ProblemKind::Caa => caa(what),
                ProblemKind::RejectedIdentifier | ProblemKind::UnsupportedIdentifier => policy(what),
                _ => Self::new(Fault::Ca, FailureClass::Ca, what, "the next run places a new order"),
            }
            .heard()
        })
    }

    /// What the CA says of one identifier of an order.
    fn from_identifier(name: &DnsName, problem: &Problem) -> Self {
        match problem.kind() {
            ProblemKind::RejectedIdentifier | ProblemKind::UnsupportedIdentifier | ProblemKind::Malformed => {
                policy(format!("{}: {problem}", name.to_unicode())).heard()
            }
            _ => Self::from_validation(name, problem),
        }
    }

    /// The CA refused a request.
    pub fn from_request(error: &RequestError) -> Self {
        let what = shared::error::chain(error);
        if let RequestError::Paused { wait, by_the_ca, .. } = error {
            let mut verdict = Self { wait: Some(*wait), ..limit(what).keeping_the_order() };
            if *by_the_ca {
                verdict.fault = Fault::Ca;
                verdict.remedy = "wait: the CA has asked for a pause, and one request an hour finds out whether it is over; `issuer limits` shows \
                                  it, `issuer retry --ca NAME` asks at once"
                    .to_owned();
            }
            return verdict;
        }
        if let RequestError::OtherAccount { .. } = error {
            let remedy = "nothing: the next run, in a moment, orders with the account of now";
            return Self::new(Fault::Store, FailureClass::Store, what, remedy).keeping_the_order();
        }
        if error.refuses_the_signature() {
            let remedy = "see `issuer account show`: the CA has another key, or another account, than the store; \
                          `issuer account create --replace` makes another account";
            return Self::new(Fault::Operator, FailureClass::Account, what, remedy)
                .heard()
                .keeping_the_order();
        }
        let Some(refusal) = error.refusal() else {
            let mut verdict = match error.fault() {
                Fault::Operator if error.is_limit() => limit(what),
                Fault::Operator => Self::new(
                    Fault::Operator,
                    FailureClass::Account,
                    what,
                    "check the [ca] section of the configuration",
                ),
                Fault::Bug => Self::bug(what),
                fault => Self::new(
                    fault,
                    FailureClass::Ca,
                    what,
                    "look at the CA's status page and at the way to it (outbound 443); the next run goes on",
                ),
            };
            verdict.wait = error.retry_after();
            verdict.keep_order = verdict.class == FailureClass::Ca;
            if matches!(error, RequestError::Transport { .. }) {
                verdict.prospect = Prospect::Silent;
            }
            return verdict.bounded();
        };
        let problem = &refusal.problem;
        let mut verdict = match problem.kind() {
            ProblemKind::RateLimited => match problem.unpause_url() {
                Some(url) => Self::new(
                    Fault::Operator,
                    FailureClass::Paused,
                    what,
                    format!(
                        "the CA has paused this name after many failures; put right what failed, then visit {url}"
                    ),
                ),
                None => limit(what),
            },
            ProblemKind::RejectedIdentifier | ProblemKind::UnsupportedIdentifier => policy(what),
            ProblemKind::Caa => caa(what),
            ProblemKind::UserActionRequired => {
                let terms = refusal
                    .terms_of_service
                    .as_deref()
                    .and_then(web_page)
                    .or(problem.instance.as_deref().and_then(web_page))
                    .unwrap_or("what the CA asks for, on its website");
                Self::new(
                    Fault::Operator,
                    FailureClass::Account,
                    what,
                    format!("read and accept {terms}, then run `issuer account update`"),
                )
            }
            ProblemKind::ExternalAccountRequired => Self::new(
                Fault::Operator,
                FailureClass::Account,
                what,
                "the CA wants an external account binding: set eab_kid and eab_hmac_file in its section",
            ),
            ProblemKind::AccountDoesNotExist | ProblemKind::Unauthorized => {
                let is_sure = problem.kind() == ProblemKind::AccountDoesNotExist || is_of_account(problem);
                Self::new(
                    Fault::Operator,
                    FailureClass::Account,
                    what,
                    "see `issuer account show`: where the CA no longer knows the account or has revoked it, `issuer account create --replace` \
                     makes another in its place, and orders go on by themselves",
                )
                .about(if is_sure { About::Account } else { About::AccountOrOrder })
            }
            ProblemKind::BadSignatureAlgorithm
            | ProblemKind::InvalidContact
            | ProblemKind::UnsupportedContact => Self::new(
                Fault::Operator,
                FailureClass::Account,
                what,
                "see `issuer account show`: the CA does not take the account's key or contact",
            ),
            ProblemKind::InvalidProfile => Self::new(
                Fault::Operator,
                FailureClass::Policy,
                what,
                "set another `profile` for the site or in the CA's section, or none",
            )
            .about(About::Order),
            ProblemKind::BadCsr | ProblemKind::BadPublicKey => Self::new(
                Fault::Operator,
                FailureClass::Policy,
                what,
                "the CA takes no such key or request: read its words; the next order is made with a new key, and `issuer site set NAME \
                 --key-type` asks for another kind",
            )
            .about(About::Key),
            _ if error.is_limit() => limit(what),
            _ => match error.fault() {
                Fault::Ca => Self::new(Fault::Ca, FailureClass::Ca, what, "wait: the fault is the CA's")
                    .keeping_the_order(),
                Fault::Bug => Self::bug(what),
                fault => Self::new(fault, FailureClass::Policy, what, "see what the CA says"),
            },
        }
        .heard();
        verdict.wait = refusal.retry_after;
        if verdict.class == FailureClass::Limit && verdict.wait.is_none() {
            verdict.wait = wait_in_text(problem.detail.as_deref().unwrap_or_default(), Timestamp::now());
        }
        verdict.bounded()
    }

    /// A CA that is in trouble is asked by somebody once an hour; as long as a limit may last at most, nobody can tell whether it
    /// does: who asks by hand may try.
    fn bounded(mut self) -> Self {
        if self.class == FailureClass::Limit {
            self = self.named_moment(Timestamp::now());
        }
        if self.class == FailureClass::Ca {
            self.wait = self.wait.map(|wait| wait.min(LONGEST_OF_TROUBLE));
        } else if self.class == FailureClass::Limit && self.wait.is_some_and(|wait| wait >= LONGEST_OF_LIMIT)
        {
            self.fault = Fault::Ca;
        }
        self
    }
}

impl Verdict {
    /// A limit says when it ends. A CA that does not say is asked again after as long as its limits are taken to last.
    fn named_moment(mut self, now: Timestamp) -> Self {
        if self.wait.is_none() {
            // Nobody can tell whether it does: who asks by hand may try.
            self.fault = Fault::Ca;
        }
        let wait = *self.wait.get_or_insert(UNKNOWN_WAIT);
        if let Ok(moment) = now.checked_add(wait) {
            self.remedy = format!("{}: at {}", self.remedy, moment.strftime("%F %T UTC"));
        }
        self
    }
}

/// Whether an `unauthorized` says in words that it is the account that may not.
fn is_of_account(problem: &Problem) -> bool {
    let detail = problem.detail.as_deref().unwrap_or_default().to_ascii_lowercase();
    let states = ["deactivated", "revoked", "not valid", "invalid", "suspended", "disabled", "not active"];
    detail.contains("account") && states.iter().any(|state| detail.contains(state))
}

/// Whether it is the profile of an order for these names that was refused, as far as words tell: a name may have the word in it,
/// too, and what is said of names is not said of the profile.
pub(super) fn may_blame_profile(error: &RequestError, names: &NameSet) -> bool {
    let Some(problem) = error.problem() else { return false };
    match problem.kind() {
        ProblemKind::InvalidProfile => true,
        ProblemKind::Malformed | ProblemKind::Unauthorized | ProblemKind::UserActionRequired => {
            let mut detail = problem.detail.as_deref().unwrap_or_default().to_ascii_lowercase();
            for name in names.iter() {
                detail = detail.replace(name.as_str(), "");
            }
            error.status().is_some_and(|status| status < 500)
                && problem.subproblems.is_empty()
                && detail.contains("profile")
        }
        _ => false,
    }
}

/// The names of the order that a text names; an address also where the text names the network that it lies in.
fn names_in(text: &str, names: &NameSet) -> BTreeSet<DnsName> {
    let whole = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '*' | ':' | '/' | '_'));
    let mut found = BTreeSet::new();
    for word in text.split(whole) {
        let word = word.trim_matches(['.', ':', '/']).to_ascii_lowercase();
        let network = Network::parse(&word);
        found.extend(
            names
                .iter()
                .filter(|name| match (name.address(), &network) {
                    (Some(address), Some(network)) => network.contains(address),
                    _ => name.as_str() == word,
                })
                .cloned(),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::Refusal;

    fn names(list: &[&str]) -> NameSet {
        NameSet::new(list.iter().map(|name| DnsName::parse_identifier(name).unwrap())).unwrap()
    }

    fn refused(status: u16, kind: &str, detail: &str) -> RequestError {
        RequestError::Problem(Box::new(Refusal {
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
        }))
    }

    #[test]
    fn a_refusal_is_laid_to_what_it_is_about() {
        for (status, kind, detail, about) in [
            (400, "invalidProfile", "no such profile", About::Order),
            (403, "unauthorized", "Account is not valid, has status \"deactivated\"", About::Account),
            (403, "unauthorized", "you may not use this", About::AccountOrOrder),
            (400, "accountDoesNotExist", "", About::Account),
            (403, "userActionRequired", "", About::Account),
            (403, "externalAccountRequired", "", About::Account),
            (400, "badSignatureAlgorithm", "", About::Account),
            (400, "rejectedIdentifier", "", About::Names),
            (403, "caa", "", About::Names),
            (429, "rateLimited", "", About::Limit),
            (400, "rateLimited", "", About::Limit),
            (429, "somethingNew", "", About::Limit),
            (400, "badCSR", "", About::Key),
            (400, "badPublicKey", "", About::Key),
            (500, "serverInternal", "", About::Ca),
            (403, "orderNotReady", "", About::Ca),
            (400, "malformed", "", About::Program),
        ] {
            let verdict = Verdict::from_request(&refused(status, kind, detail));
            assert_eq!((verdict.about, verdict.said_by_ca), (about, true), "{kind}: {detail}");
        }
    }

    #[test]
    fn a_limit_says_when_it_ends_whether_the_ca_does_or_not() {
        let page = |retry_after| RequestError::Body {
            url: "https://a/".to_owned(),
            status: 429,
            excerpt: String::new(),
            retry_after,
            from_ca: false,
        };
        for (said, wait) in [(None, UNKNOWN_WAIT), (Some(Duration::from_secs(90)), Duration::from_secs(90))] {
            let verdict = Verdict::from_request(&page(said));
            assert_eq!((verdict.class, verdict.wait), (FailureClass::Limit, Some(wait)));
            assert!(verdict.remedy.contains(" UTC"), "{}", verdict.remedy);
        }
    }

    #[test]
    fn nobody_is_sent_to_what_is_no_website() {
        let to = |instance: &str, terms: Option<&str>| {
            let RequestError::Problem(mut refusal) = refused(403, "userActionRequired", "new terms") else {
                unreachable!("made as one")
            };
            refusal.problem.instance = Some(instance.to_owned());
            refusal.terms_of_service = terms.map(str::to_owned);
            Verdict::from_request(&RequestError::Problem(refusal)).remedy
        };
        assert!(to("https://ca.example/agree", None).contains("accept https://ca.example/agree,"));
        assert!(to("https://ca.example/agree", Some("data:,x")).contains("accept https://ca.example/agree,"));
        assert!(!to("javascript:alert(1)", Some("http://ca.example/")).contains("javascript"));
    }

    #[test]
    fn names_are_read_in_the_cas_words() {
        let of = |detail: &str, list: &[&str]| {
            let verdict = Verdict::from_order(&refused(400, "rejectedIdentifier", detail), &names(list));
            verdict.culprits.iter().map(|(name, _)| name.as_str().to_owned()).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(of("b.example: forbidden", &["a.example", "b.example"]), ["b.example"]);
        let both = ["example.com", "*.example.com"];
        assert_eq!(of("Cannot issue for \"*.example.com\": policy", &both), ["*.example.com"]);
        assert_eq!(of("Cannot issue for \"example.com\".", &both), ["example.com"]);
        let addresses = ["192.0.2.7", "192.0.2.8", "2001:db8:1::4", "2001:db8:2::4"];
        assert_eq!(of("too many for \"192.0.2.8/32\"", &addresses), ["192.0.2.8"]);
        assert_eq!(of("\"192.0.2.9/32\" is forbidden", &addresses), none);
        assert_eq!(of("\"192.0.2.0/24\" is forbidden", &addresses), ["192.0.2.7", "192.0.2.8"]);
        assert_eq!(of("2001:db8:2::/64: forbidden", &addresses), ["2001:db8:2::4"]);
        assert_eq!(of("[2001:db8:1::4] is forbidden", &addresses), ["2001:db8:1::4"]);
    }

    #[test]
    fn a_profile_is_blamed_by_its_type_or_by_name() {
        let names = names(&["profile.example"]);
        let blames = |status, kind, detail| may_blame_profile(&refused(status, kind, detail), &names);
        assert!(blames(400, "invalidProfile", ""));
        assert!(blames(403, "unauthorized", "account may not use profile \"short\""));
        assert!(!blames(429, "rateLimited", "limit of this profile"));
        assert!(!blames(400, "malformed", "bad name"));
        assert!(!blames(400, "rejectedIdentifier", "profile.example is on the profile's list"));
        assert!(!blames(403, "unauthorized", "policy forbids issuing for profile.example"));
    }
}
