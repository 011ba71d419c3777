//! A CA that is down, or an account that it refuses, fails every order. It is asked by one order now and then, until one
//! succeeds; the others wait without a failure of their own.
//!
//! Only what is about the CA or the account counts, and each site counts once: one whose own profile or names are refused
//! holds nobody else. Who tries is a site that has not failed, where one waits.

use crate::issuance::{About, Outcome, Verdict};
use shared::domain::SiteId;
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Sites in a row whose orders fail by a fault of the CA, before it is more than chance.
const CHANCE: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Sites that are remembered as those that failed.
const MOST_FAILED: usize = 1000;

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
    /// The sites whose orders have failed by it.
    failed: HashSet<SiteId>,
    /// Nobody asks before, but for the one that found it past.
    until: Option<Instant>,
    pause: Duration,
    what: String,
    /// The site that tries.
    probe: Option<SiteId>,
    /// Whether a site waits that has not failed.
    healthy_waits: bool,
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
    pub(super) fn wait(&self, ca: &str, account: &str, site: &SiteId) -> Option<Duration> {
        let mut known = self.known();
        let now = Instant::now();
        let subjects = subjects(ca, account);
        for subject in &subjects {
            if let Some(wait) = known.get_mut(subject).and_then(|trouble| trouble.wait(site, now)) {
                return Some(wait);
            }
        }
        for subject in &subjects {
            if let Some(trouble) = known.get_mut(subject).filter(|trouble| trouble.until.is_some()) {
                trouble.until = Some(now + trouble.pause);
                trouble.probe = Some(site.clone());
                trouble.healthy_waits = false;
            }
        }
        None
    }

    pub(super) fn learn(&self, ca: &str, account: &str, site: &SiteId, outcome: &Outcome) -> Change {
        let [of_ca, of_account] = subjects(ca, account);
        let mut known = self.known();
        match outcome {
            Outcome::Issued(_) => ended(&mut known, [of_account, of_ca]),
            Outcome::Failed(verdict) => match verdict.about {
                About::Ca => fault(&mut known, of_ca, site, verdict, CHANCE),
                About::Account => {
                    // It has answered: what failed before was chance.
                    if verdict.said_by_ca && known.get(&of_ca).is_some_and(|trouble| trouble.until.is_none())
                    {
                        known.remove(&of_ca);
                    }
                    learned_nothing(&mut known, [of_ca], site);
                    fault(&mut known, of_account, site, verdict, 1)
                }
                // The CA has looked at the order, for this account: both work.
                About::Names | About::Order | About::Key if verdict.said_by_ca => {
                    ended(&mut known, [of_account, of_ca])
                }
                _ => learned_nothing(&mut known, [of_account, of_ca], site),
            },
            _ => learned_nothing(&mut known, [of_account, of_ca], site),
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

impl Trouble {
    fn wait(&mut self, site: &SiteId, now: Instant) -> Option<Duration> {
        let until = self.until?;
        let has_failed = self.failed.contains(site);
        // Who has failed already would say little; those who have not go first, for as long as they take to come.
        let until = if has_failed && self.healthy_waits { until + self.pause } else { until };
        if until <= now {
            return None;
        }
        self.healthy_waits |= !has_failed;
        Some(until - now)
    }
}

fn ended(known: &mut HashMap<Subject, Trouble>, subjects: [Subject; 2]) -> Change {
    let ended = subjects.into_iter().filter_map(|subject| {
        let trouble = known.remove(&subject)?;
        trouble.until.is_some().then_some(Change::Ended { subject })
    });
    ended.last().unwrap_or(Change::None)
}

/// Another may try, where it was this one's turn.
fn learned_nothing<const N: usize>(
    known: &mut HashMap<Subject, Trouble>,
    subjects: [Subject; N],
    site: &SiteId,
) -> Change {
    for subject in subjects {
        if let Some(trouble) = known.get_mut(&subject)
            && trouble.probe.as_ref() == Some(site)
        {
            trouble.probe = None;
            trouble.until = trouble.until.map(|_| Instant::now());
        }
    }
    Change::None
}

fn fault(
    known: &mut HashMap<Subject, Trouble>,
    subject: Subject,
    site: &SiteId,
    verdict: &Verdict,
    chance: usize,
) -> Change {
    let trouble = known.entry(subject.clone()).or_insert_with(|| Trouble {
        failed: HashSet::new(),
        until: None,
        pause: FIRST_PAUSE,
        what: String::new(),
        probe: None,
        healthy_waits: false,
    });
    if trouble.failed.len() < MOST_FAILED {
        trouble.failed.insert(site.clone());
    }
    trouble.what.clone_from(&verdict.what);
    if trouble.until.is_none() {
        if trouble.failed.len() < chance {
            return Change::None;
        }
        trouble.until = Some(Instant::now() + trouble.pause);
        return Change::Began { subject, what: verdict.what.clone(), remedy: verdict.remedy.clone() };
    }
    // Those that were under way already, or that a person sent, make it no worse.
    if trouble.probe.as_ref() == Some(site) {
        trouble.probe = None;
        trouble.pause = (trouble.pause * 2).min(LONGEST_PAUSE);
        trouble.until = Some(Instant::now() + trouble.pause);
    }
    Change::None
}

fn subjects(ca: &str, account: &str) -> [Subject; 2] {
    [None, Some(account.to_owned())].map(|account| Subject { ca: ca.to_owned(), account })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::{
        domain::{DnsName, FailureClass, NameSet},
        error::Fault,
    };

    fn failed(about: About) -> Outcome {
        let verdict = Verdict::new(Fault::Ca, FailureClass::Ca, "what", "remedy");
        Outcome::Failed(Verdict { about, said_by_ca: true, ..verdict })
    }

    fn site(number: usize) -> SiteId {
        SiteId::of(&NameSet::one(DnsName::parse(&format!("n{number}.example")).unwrap()))
    }

    fn issued() -> Outcome {
        Outcome::Issued(Vec::new())
    }

    /// As if the pause were over.
    fn pass(troubles: &Troubles) {
        for trouble in troubles.known().values_mut() {
            trouble.until = trouble.until.map(|_| Instant::now());
        }
    }

    #[test]
    fn a_ca_that_fails_everybody_is_asked_by_one() {
        let troubles = Troubles::default();
        for number in 1..CHANCE {
            assert_eq!(troubles.learn("a", "x", &site(number), &failed(About::Ca)), Change::None);
            assert_eq!(troubles.wait("a", "x", &site(number)), None);
        }
        let began = troubles.learn("a", "x", &site(CHANCE), &failed(About::Ca));
        assert!(matches!(began, Change::Began { .. }));
        assert!(troubles.wait("a", "y", &site(90)).is_some() && troubles.wait("b", "x", &site(1)).is_none());
        assert_eq!(troubles.list().len(), 1);
        let ended = troubles.learn("a", "y", &site(90), &issued());
        assert!(matches!(ended, Change::Ended { .. }));
        assert_eq!(troubles.wait("a", "x", &site(1)), None);
    }

    #[test]
    fn one_site_alone_is_no_evidence_against_a_ca() {
        let troubles = Troubles::default();
        for _ in 0..100 {
            assert_eq!(troubles.learn("a", "x", &site(1), &failed(About::Ca)), Change::None);
        }
        assert_eq!(troubles.wait("a", "x", &site(2)), None);
    }

    #[test]
    fn an_account_that_is_refused_stops_itself_only() {
        let troubles = Troubles::default();
        let began = troubles.learn("a", "x", &site(1), &failed(About::Account));
        assert!(matches!(began, Change::Began { .. }));
        assert!(troubles.wait("a", "x", &site(2)).is_some() && troubles.wait("a", "y", &site(3)).is_none());
    }

    #[test]
    fn what_is_about_a_site_is_nobodys_trouble() {
        let troubles = Troubles::default();
        for number in 0..100 {
            for about in
                [About::Names, About::Order, About::Key, About::Limit, About::Network, About::Program]
            {
                assert_eq!(troubles.learn("a", "x", &site(number), &failed(about)), Change::None);
            }
        }
        assert_eq!(troubles.wait("a", "x", &site(1)), None);
    }

    #[test]
    fn a_healthy_site_tries_before_those_that_have_failed() {
        let troubles = Troubles::default();
        troubles.learn("a", "x", &site(1), &failed(About::Account));
        assert!(troubles.wait("a", "x", &site(2)).is_some(), "a healthy one waits");
        pass(&troubles);
        assert!(troubles.wait("a", "x", &site(1)).is_some(), "who has failed lets it go first");
        assert_eq!(troubles.wait("a", "x", &site(2)), None);
        assert!(troubles.wait("a", "x", &site(3)).is_some(), "one tries at a time");
        assert!(matches!(troubles.learn("a", "x", &site(2), &issued()), Change::Ended { .. }));
        // Where nobody else waits, it tries by itself.
        troubles.learn("a", "x", &site(1), &failed(About::Account));
        pass(&troubles);
        assert_eq!(troubles.wait("a", "x", &site(1)), None);
    }

    #[test]
    fn only_the_one_that_tries_makes_the_pause_longer() {
        let troubles = Troubles::default();
        for number in 0..64 {
            troubles.learn("a", "x", &site(number), &failed(About::Ca));
        }
        assert!(troubles.wait("a", "x", &site(99)).unwrap() <= FIRST_PAUSE);
        pass(&troubles);
        assert_eq!(troubles.wait("a", "x", &site(99)), None);
        troubles.learn("a", "x", &site(99), &failed(About::Ca));
        let wait = troubles.wait("a", "x", &site(98)).unwrap();
        assert!(wait > FIRST_PAUSE && wait <= 2 * FIRST_PAUSE);
        // Whose turn it was and who did not get to ask leaves it to the next.
        pass(&troubles);
        assert_eq!(troubles.wait("a", "x", &site(98)), None);
        troubles.learn("a", "x", &site(98), &failed(About::Limit));
        assert_eq!(troubles.wait("a", "x", &site(97)), None);
    }

    #[test]
    fn what_the_ca_says_of_a_name_shows_that_it_works() {
        let troubles = Troubles::default();
        for number in 0..CHANCE {
            troubles.learn("a", "x", &site(number), &failed(About::Ca));
        }
        let unheard = Verdict::new(Fault::Customer, FailureClass::Dns, "preflight", "");
        assert_eq!(troubles.learn("a", "x", &site(9), &Outcome::Failed(unheard)), Change::None);
        assert_eq!(troubles.list().len(), 1);
        let ended = troubles.learn("a", "x", &site(9), &failed(About::Names));
        assert!(matches!(ended, Change::Ended { .. }));
    }
}
