//! What went wrong with an order: whose fault it is, what happened in plain words, and what to change.

use crate::acme::{ChainError, Problem, ProblemKind, RequestError};
use crate::limits::{Later, wait_in_text};
use jiff::Timestamp;
use shared::{
    domain::{DnsName, Failure, FailureClass, NameSet},
    error::Fault,
    store::StoreError,
    vault::SealError,
};
use std::time::Duration;

/// So long a whole order waits for the limit of some of its names, rather than to go without them.
const PATIENCE_FOR_A_DOMAIN: Duration = Duration::from_secs(600);

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub fault: Fault,
    pub class: FailureClass,
    pub what: String,
    pub remedy: String,
    /// The CA will refuse before this long from now.
    pub wait: Option<Duration>,
    /// The order is still open at the CA, and the next run goes on with it.
    pub keep_order: bool,
    /// Which of the order's names spoilt it, each with its own verdict: the others can be ordered without them. Empty
    /// where it is about the order as a whole.
    pub culprits: Vec<(DnsName, Self)>,
    /// Names that the CA looked at in vain: it counts them.
    pub failed_validations: Vec<DnsName>,
}

impl Verdict {
    pub fn new(
        fault: Fault,
        class: FailureClass,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            fault,
            class,
            what: what.into(),
            remedy: remedy.into(),
            wait: None,
            keep_order: false,
            culprits: Vec::new(),
            failed_validations: Vec::new(),
        }
    }

    /// The order has to wait: the CA would refuse it, and is not asked.
    pub fn from_limits(later: &Later, names: &NameSet) -> Self {
        let mut verdict = Self::new(
            Fault::Operator,
            FailureClass::Limit,
            later.what.clone(),
            "wait: it is ordered by itself when its turn comes; `issuer limits` shows every limit",
        );
        verdict.wait = Some(later.wait);
        // The others need not wait for long because of some.
        let is_short = later.names.len() > 1 && later.wait < PATIENCE_FOR_A_DOMAIN;
        if !later.names.is_empty() && later.names.len() < names.as_slice().len() && !is_short {
            let alone = verdict.clone();
            verdict.culprits = later.names.iter().map(|name| (name.clone(), alone.clone())).collect();
        }
        verdict
    }

    /// The verdict on an order that these names spoilt; `None` where there is none.
    pub fn of_culprits(culprits: Vec<(DnsName, Self)>) -> Option<Self> {
        let (_, first) = culprits.first()?;
        let what = culprits.iter().map(|(_, verdict)| verdict.what.as_str()).collect::<Vec<_>>().join("; ");
        Some(Self { what, culprits: culprits.clone(), ..first.clone() })
    }

    #[must_use]
    pub fn keeping_the_order(self) -> Self {
        Self { keep_order: true, ..self }
    }

    /// As it is remembered with the site, after `before`.
    pub fn to_failure(&self, before: Option<&Failure>, now: Timestamp) -> Failure {
        Failure {
            at: now,
            count: before.map_or(0, |failure| failure.count).saturating_add(1),
            fault: self.fault,
            class: self.class,
            what: self.what.clone(),
            remedy: self.remedy.clone(),
            not_before: self.wait.and_then(|wait| now.checked_add(wait).ok()),
            since: Some(before.map_or(now, |failure| failure.since.unwrap_or(failure.at))),
            next: None,
        }
    }

    pub fn from_store(error: &StoreError) -> Self {
        let remedy = match error {
            StoreError::Fenced => "nothing: the other issuer finishes the order",
            StoreError::Unconfirmed { .. } => "bring the replicas back, or lower store.confirm_replicas",
            _ => "look at Redis; nothing was lost, and the next run goes on where this one stopped",
        };
        Self::new(Fault::Store, FailureClass::Store, shared::error::chain(error), remedy).keeping_the_order()
    }

    /// The key could not be sealed, so it was not used either.
    pub fn from_sealing(error: &SealError) -> Self {
        match error {
            SealError::Lacking { .. } => Self::new(
                Fault::Operator,
                FailureClass::Store,
                error.to_string(),
                "copy the keyring to this node; the next run goes on with the same order",
            )
            .keeping_the_order(),
            SealError::OpenSsl(_) => Self::bug(shared::error::chain(error)),
        }
    }

    pub fn bug(what: impl Into<String>) -> Self {
        Self::new(Fault::Bug, FailureClass::Bug, what, "please report this, with the log")
    }

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
            let whole = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-');
            let words = detail.split(whole).map(|word| word.trim_matches('.').to_ascii_lowercase());
            let named: std::collections::BTreeSet<DnsName> =
                words.filter_map(|word| known(&word).cloned()).collect();
            let alone = Self { culprits: Vec::new(), ..verdict.clone() };
            verdict.culprits = named.into_iter().map(|name| (name, alone.clone())).collect();
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
        })
    }

    /// What the CA says of one identifier of an order.
    fn from_identifier(name: &DnsName, problem: &Problem) -> Self {
        match problem.kind() {
            ProblemKind::RejectedIdentifier | ProblemKind::UnsupportedIdentifier | ProblemKind::Malformed => {
                policy(format!("{}: {problem}", name.to_unicode()))
            }
            _ => Self::from_validation(name, problem),
        }
    }

    /// The CA refused a request.
    pub fn from_request(error: &RequestError) -> Self {
        let what = shared::error::chain(error);
        if let RequestError::Paused { wait, .. } = error {
            return Self { wait: Some(*wait), ..limit(what).keeping_the_order() };
        }
        if let RequestError::OtherAccount { .. } = error {
            let remedy = "nothing: the next run, in a moment, orders with the account of now";
            return Self::new(Fault::Store, FailureClass::Store, what, remedy).keeping_the_order();
        }
        if error.refuses_the_signature() {
            let remedy = "see `issuer account show`: the CA has another key, or another account, than the store; \
                          `issuer account create --replace` makes another account";
            return Self::new(Fault::Operator, FailureClass::Account, what, remedy).keeping_the_order();
        }
        let Some(refusal) = error.refusal() else {
            let mut verdict = match error.fault() {
                Fault::Operator if error.status() == Some(429) => limit(what),
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
            return verdict;
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
                    .or(problem.instance.as_deref())
                    .unwrap_or("the CA's page");
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
            ProblemKind::AccountDoesNotExist | ProblemKind::Unauthorized => Self::new(
                Fault::Operator,
                FailureClass::Account,
                what,
                "see `issuer account show`: where the CA no longer knows the account or has revoked it, `issuer account create --replace` \
                 makes another in its place, and orders go on by themselves",
            ),
            ProblemKind::InvalidProfile => Self::new(
                Fault::Operator,
                FailureClass::Account,
                what,
                "set another `profile` in the CA's section, or none",
            ),
            _ => match error.fault() {
                Fault::Ca => Self::new(Fault::Ca, FailureClass::Ca, what, "wait: the fault is the CA's")
                    .keeping_the_order(),
                Fault::Bug => Self::bug(what),
                fault => Self::new(fault, FailureClass::Policy, what, "see what the CA says"),
            },
        };
        verdict.wait = refusal.retry_after;
        if verdict.class == FailureClass::Limit && verdict.wait.is_none() {
            verdict.wait = wait_in_text(problem.detail.as_deref().unwrap_or_default(), Timestamp::now());
        }
        verdict
    }

    /// The CA looked at a name and was not satisfied.
    pub fn from_validation(name: &DnsName, problem: &Problem) -> Self {
        let what = format!("{}: {problem}", name.to_unicode());
        let detail = problem.detail.as_deref().unwrap_or_default();
        let our_path = "every frontend must redirect /.well-known/acme-challenge/ to the validation host";
        match problem.kind() {
            ProblemKind::Dns => dns(what),
            ProblemKind::Caa => caa(what),
            ProblemKind::Connection if detail.contains("resolve") || detail.contains("no such host") => {
                dns(what)
            }
            ProblemKind::Connection if detail.contains("redirect") => Self::new(
                Fault::Operator,
                FailureClass::RedirectRule,
                what,
                format!("the CA does not follow this redirect: {our_path}, with 302 and one hop, on port 80"),
            ),
            ProblemKind::Connection => Self::new(
                Fault::Customer,
                FailureClass::Firewall,
                what,
                "port 80 must be open to the whole world, over every address that the name's DNS gives",
            ),
            ProblemKind::Unauthorized | ProblemKind::IncorrectResponse => Self::new(
                Fault::Customer,
                FailureClass::NotPointingHere,
                what,
                format!("another server answers, or the redirect rule is missing there: {our_path}"),
            ),
            ProblemKind::ServerInternal | ProblemKind::RateLimited => {
                Self::new(Fault::Ca, FailureClass::Ca, what, "wait: the fault is the CA's")
            }
            _ => Self::new(
                problem.validation_fault(),
                FailureClass::NotPointingHere,
                what,
                format!("see what the CA says; {our_path}"),
            ),
        }
    }

    pub fn from_chain(error: &ChainError) -> Self {
        Self::new(
            Fault::Ca,
            FailureClass::BadCertificate,
            format!("the CA's certificate is not stored: {}", shared::error::chain(error)),
            "the next run orders again; if it repeats, ask the CA",
        )
    }
}

fn limit(what: String) -> Verdict {
    Verdict::new(
        Fault::Operator,
        FailureClass::Limit,
        what,
        "wait: a limit of the CA is reached; the order is placed when it allows",
    )
}

fn policy(what: String) -> Verdict {
    Verdict::new(
        Fault::Customer,
        FailureClass::Policy,
        what,
        "the CA's policy forbids the name: it can only be had from another CA, or after the CA's policy has changed",
    )
}

fn dns(what: String) -> Verdict {
    Verdict::new(
        Fault::Customer,
        FailureClass::Dns,
        what,
        "the name's DNS must answer: an A or AAAA record that leads to a frontend, and DNSSEC, where it is signed, must hold",
    )
}

fn caa(what: String) -> Verdict {
    Verdict::new(
        Fault::Customer,
        FailureClass::Caa,
        what,
        "the name's CAA records must allow this CA, or be removed",
    )
}
