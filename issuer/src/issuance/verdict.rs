//! What went wrong with an order: whose fault it is, what happened in plain words, and what to change.

use crate::acme::{ChainError, Problem, ProblemKind};
use crate::dns::Resolver;
use crate::limits::Later;
use jiff::Timestamp;
use shared::{
    domain::{DnsName, Failure, FailureClass, LONGEST_SENTENCE, NameSet, bounded},
    error::Fault,
    store::StoreError,
    vault::{OpenError, SealError},
};
use std::time::Duration;

/// So long a whole order waits for the limit of some of its names, rather than to go without them.
const PATIENCE_FOR_A_DOMAIN: Duration = Duration::from_secs(600);

/// What a failure is about: whether others are held back by it follows from that, and from nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Names of the order: their DNS, their servers, their CAA records, or what the CA's policy says of them.
    Names,
    /// This order and no other: its profile, what it replaces, its certificate.
    Order,
    /// The kind of this order's key: what another key's order comes to is another matter.
    Key,
    /// The account, or this order: the CA's words don't tell. It is asked for the account before anybody is held back.
    AccountOrOrder,
    Account,
    Ca,
    Limit,
    /// Our own network, or the resolvers that we ask.
    Network,
    Store,
    /// This program.
    Program,
}

/// What an order that is kept may still come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// Nothing speaks against it.
    Open,
    /// Nobody answered: what the CA has of it may be as good as ever.
    Silent,
    /// What the CA has of it leads to nothing: after a few tries it is ordered anew.
    Nowhere,
    /// Nothing is wrong but the moment.
    Early,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub fault: Fault,
    pub class: FailureClass,
    pub about: About,
    /// The CA has said so, after a look at the order: what is about neither it nor the account shows that both work.
    pub said_by_ca: bool,
    pub prospect: Prospect,
    pub what: String,
    pub remedy: String,
    /// The CA will refuse before this long from now.
    pub wait: Option<Duration>,
    /// The order is still open at the CA, and the next run goes on with it.
    pub keep_order: bool,
    /// Another order is placed in its stead, in the same run.
    pub given_up: bool,
    /// Which of the order's names spoilt it, each with its own verdict: the others can be ordered without them. Empty
    /// where it is about the order as a whole.
    pub culprits: Vec<(DnsName, Self)>,
    /// Names that the CA looked at in vain: it counts them.
    pub failed_validations: Vec<DnsName>,
}

impl About {
    /// What failures of a class are about, unless it is known better.
    const fn usual_of(class: FailureClass) -> Self {
        match class {
            FailureClass::Dns
            | FailureClass::NotPointingHere
            | FailureClass::RedirectRule
            | FailureClass::Firewall
            | FailureClass::Caa
            | FailureClass::Policy => Self::Names,
            FailureClass::BadCertificate => Self::Order,
            FailureClass::Limit | FailureClass::Paused => Self::Limit,
            FailureClass::Account => Self::Account,
            FailureClass::Ca => Self::Ca,
            FailureClass::Store => Self::Store,
            FailureClass::Bug => Self::Program,
        }
    }
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
            about: About::usual_of(class),
            said_by_ca: false,
            prospect: Prospect::Open,
            what: what.into(),
            remedy: remedy.into(),
            wait: None,
            keep_order: false,
            given_up: false,
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
    pub fn about(self, about: About) -> Self {
        Self { about, ..self }
    }

    /// The CA has said so.
    #[must_use]
    pub(super) fn heard(self) -> Self {
        Self { said_by_ca: true, ..self }
    }

    #[must_use]
    pub(super) fn leading_nowhere(self) -> Self {
        Self { prospect: Prospect::Nowhere, ..self }
    }

    /// It was asked for where the CA has nothing else.
    #[must_use]
    pub(super) fn elsewhere(self) -> Self {
        let remedy = "the CA names this server for this order, and nowhere else: ask the CA; after some hours it is ordered anew, and with \
                      `issuer retry --new-order NAME` at once";
        Self { remedy: remedy.to_owned(), ..self }.about(About::Order)
    }

    #[must_use]
    pub(super) fn until_its_time(self) -> Self {
        Self { prospect: Prospect::Early, ..self }
    }

    /// Whether it is the order itself that stands in the way, and not who it is for or what the way to the CA is.
    pub(super) fn is_of_the_order(&self) -> bool {
        matches!(self.about, About::Ca | About::Order | About::Program)
            && self.keep_order
            && self.prospect != Prospect::Early
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
            what: bounded(&self.what, LONGEST_SENTENCE),
            remedy: bounded(&self.remedy, LONGEST_SENTENCE),
            not_before: self.wait.and_then(|wait| now.checked_add(wait).ok()),
            since: Some(before.map_or(now, |failure| failure.since.unwrap_or(failure.at))),
            next: None,
            waits: self.class == FailureClass::Limit || self.prospect == Prospect::Early,
            remembered: false,
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

    /// Nobody whom we ask can tell anything of the DNS: no name is to blame.
    pub(super) fn from_silent_resolvers(resolver: &Resolver) -> Self {
        let servers = resolver.servers().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Self::new(
            Fault::Operator,
            FailureClass::Dns,
            format!("none of the resolvers that this machine asks answers: {servers}"),
            "see that they run and are reached from here (UDP and TCP), or set `issuer.resolvers` to others",
        )
        .about(About::Network)
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

    /// What is sealed could not be opened. A key-encryption key that this node lacks, or a program that is too old here, is neither the
    /// CA's fault nor the order's: it is gone on with where that is otherwise.
    pub(super) fn from_opening(what: &str, error: &OpenError) -> Self {
        let remedy = match error {
            OpenError::UnknownKek(_) => {
                "copy the keyring file from a node that has the key; nothing is lost: the next run, here or on such a node, goes on with the \
                 same order"
            }
            OpenError::Newer(_) => {
                "update this node; nothing is lost: a node with the newer program goes on with the same order"
            }
            OpenError::Refused => {
                let what = format!("{what} can't be opened: {error}");
                let remedy = "the store's record is damaged: after a few tries it is ordered anew; look at Redis and at what wrote to it";
                return Self::new(Fault::Store, FailureClass::Bug, what, remedy)
                    .about(About::Order)
                    .keeping_the_order()
                    .leading_nowhere();
            }
        };
        Self::new(
            Fault::Operator,
            FailureClass::Store,
            format!("{what} can't be opened here: {error}"),
            remedy,
        )
        .keeping_the_order()
    }

    pub fn bug(what: impl Into<String>) -> Self {
        Self::new(Fault::Bug, FailureClass::Bug, what, "please report this, with the log")
    }

    /// The CA looked at a name and was not satisfied.
    pub fn from_validation(name: &DnsName, problem: &Problem) -> Self {
        let what = format!("{}: {problem}", name.to_unicode());
        let detail = problem.detail.as_deref().unwrap_or_default();
        let our_path = "every frontend must redirect /.well-known/acme-challenge/ to the validation host";
        let verdict = match problem.kind() {
            ProblemKind::Dns => dns(what),
            ProblemKind::Caa => caa(what),
            ProblemKind::Connection if is_of_dns(detail) => dns(what),
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
        };
        verdict.heard()
    }

    pub fn from_chain(error: &ChainError) -> Self {
        Self::new(
            Fault::Ca,
            FailureClass::BadCertificate,
            format!("the CA's certificate is not stored: {}", shared::error::chain(error)),
            "it is asked for again, and after a few tries ordered anew; if it repeats, ask the CA",
        )
    }
}

/// Whether the CA could not look the name up, and so never came to its server.
fn is_of_dns(detail: &str) -> bool {
    let words = ["resolv", "no such host", "lookup ", "read udp", "NXDOMAIN", "SERVFAIL", "DNS problem"];
    words.iter().any(|word| detail.contains(word))
}

pub(super) fn limit(what: String) -> Verdict {
    Verdict::new(
        Fault::Operator,
        FailureClass::Limit,
        what,
        "wait: a limit of the CA is reached; the order is placed when it allows",
    )
}

pub(super) fn policy(what: String) -> Verdict {
    Verdict::new(
        Fault::Customer,
        FailureClass::Policy,
        what,
        "the CA's policy forbids the name: it can only be had from another CA, or after the CA's policy has changed",
    )
}

pub(super) fn dns(what: String) -> Verdict {
    Verdict::new(
        Fault::Customer,
        FailureClass::Dns,
        what,
        "the name's DNS must answer: an A or AAAA record that leads to a frontend, and DNSSEC, where it is signed, must hold",
    )
}

pub(super) fn caa(what: String) -> Verdict {
    Verdict::new(
        Fault::Customer,
        FailureClass::Caa,
        what,
        "the name's CAA records must allow this CA, or be removed",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_node_can_not_open_is_no_fault_of_the_ca_and_keeps_the_order() {
        for error in [OpenError::UnknownKek("kek-7".to_owned()), OpenError::Newer(9)] {
            let verdict = Verdict::from_opening("the key", &error);
            assert_eq!((verdict.fault, verdict.about), (Fault::Operator, About::Store), "{error}");
            assert!(verdict.keep_order && !verdict.is_of_the_order(), "{error}: it is never given up for it");
        }
        let lacking = Verdict::from_opening("the key", &OpenError::UnknownKek("kek-7".to_owned()));
        assert!(lacking.what.contains("kek-7") && lacking.remedy.contains("keyring"), "{lacking:?}");
        let damaged = Verdict::from_opening("the key", &OpenError::Refused);
        assert_eq!((damaged.fault, damaged.prospect), (Fault::Store, Prospect::Nowhere));
        assert!(damaged.keep_order && damaged.is_of_the_order());
    }

    #[test]
    fn a_name_that_could_not_be_looked_up_is_no_closed_port() {
        let name = DnsName::parse("a.example").unwrap();
        let class = |detail: &str| {
            let problem = Problem {
                type_urn: Some("urn:ietf:params:acme:error:connection".to_owned()),
                detail: Some(detail.to_owned()),
                ..Problem::default()
            };
            Verdict::from_validation(&name, &problem).class
        };
        for dns in [
            "error occurred while resolving URL \"http://a.example/\": read udp 10.0.0.1:53: i/o timeout",
            "dial tcp: lookup a.example: no such host",
        ] {
            assert_eq!(class(dns), FailureClass::Dns, "{dns}");
        }
        assert_eq!(class("dial tcp 192.0.2.1:80: i/o timeout"), FailureClass::Firewall);
    }
}
