//! The self-check: each name's real challenge path is fetched as the CA will fetch it, before the CA is asked to.

use super::{progress::Timeline, verdict::Verdict};
use crate::{
    acme::AccountKey,
    preflight::{Class, Reach, SelfCheck},
};
use shared::{
    config,
    domain::{FailureClass, PublishedToken, Slot},
    error::Fault,
};
use std::sync::Arc;
use tokio::{sync::Semaphore, task::JoinSet};

/// Names of one order that are checked at once.
const AT_ONCE: usize = 16;

/// How names are checked, and what a failed check means.
#[derive(Clone, Debug)]
pub(super) struct Checker {
    reach: Arc<Reach>,
    mode: config::SelfCheck,
}

impl Checker {
    pub(super) fn new(reach: Reach, mode: config::SelfCheck) -> Self {
        Self { reach: Arc::new(reach), mode }
    }

    /// Checks every token. What is found is told; where checks are required, the first failure ends the attempt before
    /// the CA's quota is touched. Where they only advise, the first failure is returned: should the CA fail too, it knows
    /// better why.
    pub(super) async fn check(
        &self,
        tokens: &[PublishedToken],
        key: &AccountKey,
        slot: Slot,
        timeline: &Timeline,
    ) -> Result<Option<Advice>, Verdict> {
        if self.mode == config::SelfCheck::Off || tokens.is_empty() {
            return Ok(None);
        }
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut checks = JoinSet::new();
        for published in tokens.iter().cloned() {
            let (reach, places) = (Arc::clone(&self.reach), Arc::clone(&places));
            let expected = key.key_authorization(&published.token);
            checks.spawn(async move {
                let _place = places.acquire_owned().await;
                reach.check(published.name.as_str(), &published.token, &expected).await
            });
        }
        let mut failed: Vec<SelfCheck> = Vec::new();
        while let Some(found) = checks.join_next().await {
            match found {
                Ok(found) if found.class().is_none() => {}
                Ok(found) => {
                    timeline.tell("self-check", Some(slot), found.explain());
                    if !found.passes() {
                        failed.push(found);
                    }
                }
                Err(error) => return Err(Verdict::bug(error.to_string())),
            }
        }
        match failed.first() {
            Some(first) if self.mode == config::SelfCheck::Required => Err(verdict(first)),
            Some(first) => Ok(Some(Advice::of(first))),
            None => {
                timeline.tell(
                    "self-check",
                    Some(slot),
                    "the challenge is answered as the CA will ask for it",
                );
                Ok(None)
            }
        }
    }
}

/// What a self-check that only advises has found.
#[derive(Clone, Debug)]
pub(super) struct Advice {
    fault: Fault,
    class: FailureClass,
    found: String,
}

impl Advice {
    fn of(check: &SelfCheck) -> Self {
        let (fault, class) = fault_and_class(check);
        Self { fault, class, found: check.explain() }
    }

    /// What the CA says of a name is short; what was found on the way to it tells what to change.
    pub(super) fn explain(self, verdict: Verdict) -> Verdict {
        let of_the_way = matches!(
            verdict.class,
            FailureClass::Dns
                | FailureClass::NotPointingHere
                | FailureClass::RedirectRule
                | FailureClass::Firewall
        );
        if !of_the_way {
            return verdict;
        }
        Verdict {
            fault: self.fault,
            class: self.class,
            remedy: format!("the self-check found: {}", self.found),
            ..verdict
        }
    }
}

fn verdict(found: &SelfCheck) -> Verdict {
    let (fault, class) = fault_and_class(found);
    let what = format!("the self-check failed, the CA was not asked: {}", found.explain());
    Verdict::new(fault, class, what, "put it right and run again; the same order goes on").keeping_the_order()
}

fn fault_and_class(found: &SelfCheck) -> (Fault, FailureClass) {
    match found.class() {
        Some(Class::Dns) => (Fault::Customer, FailureClass::Dns),
        Some(Class::NotPointingHere | Class::OtherContent) => {
            (Fault::Customer, FailureClass::NotPointingHere)
        }
        Some(Class::RedirectRule) => (Fault::Operator, FailureClass::RedirectRule),
        _ => (Fault::Customer, FailureClass::Firewall),
    }
}
