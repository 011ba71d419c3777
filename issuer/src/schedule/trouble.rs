//! A CA that is down, or an account that it refuses, fails every order. It is asked by one order now and then, until one
//! succeeds; the others wait without a failure of their own.

use crate::issuance::{Outcome, Verdict};
use shared::domain::FailureClass;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A CA's faults in a row that may be chance.
const CHANCE: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What is known of the CAs and accounts of this node.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<HashMap<Subject, Trouble>>);

/// Whose trouble it is: a CA's, or that of one account with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) ca: String,
    pub(super) account: Option<String>,
}

#[derive(Debug)]
struct Trouble {
    faults: u32,
    /// Nobody asks before, but for the one that found it past.
    until: Option<Instant>,
    pause: Duration,
    what: String,
}

/// What an outcome changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Began { subject: Subject, what: String, remedy: String },
    Ended { subject: Subject },
}

impl Troubles {
    /// How long an order of this account must wait; `None` where it may ask. Whoever is let through while there is
    /// trouble is the one who tries.
    pub(super) fn wait(&self, ca: &str, account: &str) -> Option<Duration> {
        let mut known = self.known();
        let now = Instant::now();
        for subject in subjects(ca, account) {
            let Some(trouble) = known.get_mut(&subject) else { continue };
            let Some(until) = trouble.until else { continue };
            if until > now {
                return Some(until - now);
            }
            trouble.until = Some(now + trouble.pause);
        }
        None
    }

    pub(super) fn learn(&self, ca: &str, account: &str, outcome: &Outcome) -> Change {
        let [of_ca, of_account] = subjects(ca, account);
        let mut known = self.known();
        match outcome {
            Outcome::Issued(_) => {
                let ended = [of_account, of_ca].into_iter().filter_map(|subject| {
                    let trouble = known.remove(&subject)?;
                    trouble.until.is_some().then_some(Change::Ended { subject })
                });
                ended.last().unwrap_or(Change::None)
            }
            Outcome::Failed(verdict) => match verdict.class {
                FailureClass::Ca => fault(&mut known, of_ca, verdict, CHANCE),
                FailureClass::Account => fault(&mut known, of_account, verdict, 1),
                // The CA has looked at the names: it works.
                FailureClass::Store | FailureClass::Bug | FailureClass::Limit => Change::None,
                _ => match known.remove(&of_ca) {
                    Some(Trouble { until: Some(_), .. }) => Change::Ended { subject: of_ca },
                    _ => Change::None,
                },
            },
            _ => Change::None,
        }
    }

    /// What there is trouble with, for people.
    pub(super) fn list(&self) -> Vec<(Subject, String)> {
        let known = self.known();
        let in_trouble = known.iter().filter(|(_, trouble)| trouble.until.is_some());
        in_trouble.map(|(subject, trouble)| (subject.clone(), trouble.what.clone())).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Subject, Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fault(known: &mut HashMap<Subject, Trouble>, subject: Subject, verdict: &Verdict, chance: u32) -> Change {
    let trouble = known.entry(subject.clone()).or_insert(Trouble {
        faults: 0,
        until: None,
        pause: FIRST_PAUSE,
        what: String::new(),
    });
    trouble.faults += 1;
    trouble.what.clone_from(&verdict.what);
    if trouble.faults < chance {
        return Change::None;
    }
    let is_new = trouble.until.is_none();
    if !is_new {
        trouble.pause = (trouble.pause * 2).min(LONGEST_PAUSE);
    }
    trouble.until = Some(Instant::now() + trouble.pause);
    if is_new {
        Change::Began { subject, what: verdict.what.clone(), remedy: verdict.remedy.clone() }
    } else {
        Change::None
    }
}

fn subjects(ca: &str, account: &str) -> [Subject; 2] {
    [None, Some(account.to_owned())].map(|account| Subject { ca: ca.to_owned(), account })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::error::Fault;

    fn failed(class: FailureClass) -> Outcome {
        Outcome::Failed(Verdict::new(Fault::Ca, class, "what", "remedy"))
    }

    #[test]
    fn a_ca_that_fails_everybody_is_asked_by_one() {
        let troubles = Troubles::default();
        for _ in 1..CHANCE {
            assert_eq!(troubles.learn("a", "x", &failed(FailureClass::Ca)), Change::None);
            assert_eq!(troubles.wait("a", "x"), None);
        }
        assert!(matches!(troubles.learn("a", "x", &failed(FailureClass::Ca)), Change::Began { .. }));
        assert!(troubles.wait("a", "y").is_some() && troubles.wait("b", "x").is_none());
        assert_eq!(troubles.list().len(), 1);
        let ended = troubles.learn("a", "y", &Outcome::Issued(Vec::new()));
        assert!(matches!(ended, Change::Ended { .. }));
        assert_eq!(troubles.wait("a", "x"), None);
    }

    #[test]
    fn an_account_that_is_refused_stops_itself_only() {
        let troubles = Troubles::default();
        let began = troubles.learn("a", "x", &failed(FailureClass::Account));
        assert!(matches!(began, Change::Began { .. }));
        assert!(troubles.wait("a", "x").is_some() && troubles.wait("a", "y").is_none());
    }

    #[test]
    fn a_customers_fault_is_nobodys_trouble() {
        let troubles = Troubles::default();
        for _ in 0..100 {
            assert_eq!(troubles.learn("a", "x", &failed(FailureClass::Dns)), Change::None);
        }
        assert_eq!(troubles.wait("a", "x"), None);
    }
}
