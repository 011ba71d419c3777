//! The self-check: each name's real challenge path is fetched as the CA will fetch it, before the CA is asked to.

use super::{progress::Timeline, verdict::Verdict};
use crate::{
    acme::AccountKey,
    preflight::{Class, Reach, SelfCheck, Validator},
};
use shared::{
    config,
    domain::{DnsName, FailureClass, PublishedToken, Slot},
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

    pub(super) fn mode(&self) -> config::SelfCheck {
        self.mode
    }

    /// What looks as the CA will.
    pub(super) fn validator(&self) -> Validator {
        self.reach.validator().clone()
    }

    /// Checks every token. What is found is told; where checks are required, the first failure ends the attempt before
    /// the CA's quota is touched. Where they only advise, what failed is returned: should the CA fail too, it knows better
    /// why.
    pub(super) async fn check(
        &self,
        tokens: &[PublishedToken],
        key: &AccountKey,
        slot: Slot,
        timeline: &Timeline,
    ) -> Result<Advice, Verdict> {
        if self.mode == config::SelfCheck::Off || tokens.is_empty() {
            return Ok(Advice::default());
        }
        let resolver = self.reach.validator().resolver();
        if !resolver.answers().await {
            let verdict = Verdict::from_silent_resolvers(resolver);
            for token in tokens {
                let what = format!("{} is not looked at: {}", token.name.to_unicode(), verdict.what);
                timeline.tell("self-check", Some(slot), what);
            }
            let is_required = self.mode == config::SelfCheck::Required;
            return if is_required { Err(verdict.keeping_the_order()) } else { Ok(Advice::default()) };
        }
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut checks = JoinSet::new();
        for published in tokens.iter().cloned() {
            let (reach, places) = (Arc::clone(&self.reach), Arc::clone(&places));
            let expected = key.key_authorization(&published.token);
            checks.spawn(async move {
                let _place = places.acquire_owned().await;
                let found = reach.check(published.name.as_str(), &published.token, &expected).await;
                (published.name, found)
            });
        }
        let mut failed: Vec<(DnsName, SelfCheck)> = Vec::new();
        while let Some(found) = checks.join_next().await {
            match found {
                Ok((_, found)) if found.class().is_none() => {}
                Ok((name, found)) => {
                    timeline.tell("self-check", Some(slot), found.explain());
                    if !found.passes() {
                        failed.push((name, found));
                    }
                }
                Err(error) => return Err(Verdict::bug(error.to_string())),
            }
        }
        if failed.is_empty() {
            let passed = "the challenge is answered as the CA will ask for it";
            timeline.tell("self-check", Some(slot), passed);
        } else if self.mode == config::SelfCheck::Required {
            return Err(required(&failed, tokens.len()));
        }
        Ok(Advice(failed))
    }
}

/// What a self-check that only advises has found wrong, name by name.
#[derive(Debug, Default)]
pub(super) struct Advice(Vec<(DnsName, SelfCheck)>);

impl Advice {
    /// What the CA says of a name is short; what was found on the way to it tells what to change.
    pub(super) fn explain(&self, verdict: Verdict) -> Verdict {
        let culprits = verdict
            .culprits
            .iter()
            .map(|(name, verdict)| (name.clone(), self.explain_name(name, verdict.clone())))
            .collect::<Vec<_>>();
        Verdict::of_culprits(culprits).map_or(verdict.clone(), |explained| Verdict {
            wait: verdict.wait,
            keep_order: verdict.keep_order,
            failed_validations: verdict.failed_validations,
            ..explained
        })
    }

    fn explain_name(&self, name: &DnsName, verdict: Verdict) -> Verdict {
        let of_the_way = matches!(
            verdict.class,
            FailureClass::Dns
                | FailureClass::NotPointingHere
                | FailureClass::RedirectRule
                | FailureClass::Firewall
        );
        match self.0.iter().find(|(failed, _)| failed == name) {
            Some((_, found)) if of_the_way => {
                let (fault, class) = fault_and_class(found.class());
                let remedy = format!("the self-check found: {}", found.explain());
                Verdict { fault, class, remedy, ..verdict }
            }
            _ => verdict,
        }
    }
}

/// The CA is not asked. Where other names of the order pass, it is ordered without those that don't.
fn required(failed: &[(DnsName, SelfCheck)], names: usize) -> Verdict {
    let culprits = failed.iter().map(|(name, found)| {
        let (fault, class) = fault_and_class(found.class());
        let what = format!("the self-check failed, the CA was not asked: {}", found.explain());
        (name.clone(), Verdict::new(fault, class, what, "put it right and run again; the same order goes on"))
    });
    let verdict =
        Verdict::of_culprits(culprits.collect()).unwrap_or_else(|| Verdict::bug("no check has failed"));
    if failed.len() < names {
        verdict
    } else {
        Verdict { culprits: Vec::new(), ..verdict }.keeping_the_order()
    }
}

/// Whose affair it is, and what it counts as.
pub(super) fn fault_and_class(class: Option<Class>) -> (Fault, FailureClass) {
    match class {
        Some(Class::Dns) => (Fault::Customer, FailureClass::Dns),
        Some(Class::DnsChallenge) => (Fault::Operator, FailureClass::Dns),
        Some(Class::NotPointingHere) => (Fault::Customer, FailureClass::NotPointingHere),
        // No record of the customer's changes what is behind the redirect.
        Some(Class::RedirectRule | Class::OtherContent) => (Fault::Operator, FailureClass::RedirectRule),
        Some(Class::ValidationHost) => (Fault::Operator, FailureClass::Firewall),
        Some(Class::Caa) => (Fault::Customer, FailureClass::Caa),
        Some(Class::Ca) => (Fault::Ca, FailureClass::Ca),
        Some(Class::Name) => (Fault::Customer, FailureClass::Policy),
        Some(Class::Firewall | Class::Slow | Class::Ipv6Differs) | None => {
            (Fault::Customer, FailureClass::Firewall)
        }
    }
}
