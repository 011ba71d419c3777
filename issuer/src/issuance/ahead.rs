//! A look at the names before they are ordered. What can be known to fail is not ordered: it costs nothing, and the CA's
//! limits are for names that can be had. A renewal goes to the CA all the same, unless the checks are required: a false alarm
//! must not cost a name its certificate.

use super::{
    Issuance, check::fault_and_class, progress::Timeline, proofs::Proofs, site::Published, verdict::Verdict,
};
use crate::{
    dns::Asker,
    preflight::{Canary, Class, Depth, Language, Preflight, Proof, Readiness, Report},
};
use shared::{
    config,
    domain::{ChallengeType, DnsName, FailureClass, NameSet, Slot},
    error::Fault,
    store::StoredSite,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::{sync::Semaphore, task::JoinSet};

/// Names of one order that are looked at at once.
const AT_ONCE: usize = 16;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// What must not be ordered, each with the reason.
    pub(super) doomed: Vec<(DnsName, Verdict)>,
    /// Names that HTTP does not reach and a record may prove.
    pub(super) unreachable: BTreeSet<DnsName>,
}

impl Issuance {
    /// Looks at every name, and tells what is found.
    ///
    /// # Errors
    /// The store: no canary can be published.
    pub(super) async fn look_ahead(
        &self,
        stored: &StoredSite,
        names: &NameSet,
        valid: &BTreeMap<Slot, Published>,
        timeline: &Timeline,
    ) -> Result<Ahead, Verdict> {
        let wanted = stored.site.challenge;
        let is_renewal = |name: &DnsName| valid.values().any(|published| published.leaf.covers(name));
        let blocks = |name: &DnsName| self.checker.mode() == config::SelfCheck::Required || !is_renewal(name);
        let proofs = Proofs { wanted, unreachable: BTreeSet::new() };
        let needs_dns = names.iter().any(|name| proofs.are_in_dns(name));
        if (needs_dns || self.checker.mode() != config::SelfCheck::Off)
            && !self.prover.resolver().answers().await
        {
            let verdict = Verdict::from_silent_resolvers(self.prover.resolver());
            timeline.tell("preflight", None, format!("{}: no name is looked at beforehand", verdict.what));
            // A record that nobody can be asked about is known to prove nothing.
            let must_look = needs_dns || self.checker.mode() == config::SelfCheck::Required;
            return if must_look { Err(verdict) } else { Ok(Ahead::default()) };
        }
        let (mut in_dns, over_http): (Vec<DnsName>, Vec<DnsName>) =
            names.iter().cloned().partition(|name| proofs.are_in_dns(name));
        let (unreachable, mut told) = self.look_over_http(stored, over_http).await?;
        for name in &unreachable {
            let name = name.to_unicode();
            timeline.tell("preflight", None, format!("{name} is not reached over HTTP: dns-01 proves it"));
        }
        in_dns.extend(unreachable.iter().cloned());
        let mut ahead = Ahead { doomed: Vec::new(), unreachable };
        // Who could write the record is known for sure, whatever is checked.
        for name in &in_dns {
            if let Err(verdict) = self.can_be_written(name, wanted).await {
                timeline.tell("preflight", None, format!("{}: {}", name.to_unicode(), verdict.what));
                if verdict.fault == Fault::Operator || (wanted == ChallengeType::DnsPersist01 && blocks(name))
                {
                    ahead.doomed.push((name.clone(), verdict));
                }
            }
        }
        told.extend(self.look_at(in_dns, Proof::Dns, wanted).await?);
        for report in told {
            let Some(gravest) = report.gravest() else { continue };
            timeline.tell("preflight", None, gravest.cause.explain(Language::En));
            if gravest.weight == Readiness::WillFail && blocks(&report.name) {
                let (fault, class) = fault_and_class(Some(gravest.class));
                let said = gravest.cause.what(Language::En);
                let what = format!("{}: {said} (preflight; the CA was not asked)", report.name.to_unicode());
                let verdict = Verdict::new(fault, class, what, gravest.cause.remedy(Language::En));
                ahead.doomed.push((report.name, verdict));
            }
        }
        Ok(ahead)
    }

    /// Names that HTTP does not reach and a record may prove, as far as either will do; and what was found of the others.
    ///
    /// # Errors
    /// The store: no canary can be published.
    pub(super) async fn look_over_http(
        &self,
        stored: &StoredSite,
        names: Vec<DnsName>,
    ) -> Result<(BTreeSet<DnsName>, Vec<Report>), Verdict> {
        let wanted = stored.site.challenge;
        let known: Vec<DnsName> = names.iter().filter(|name| failed_before(stored, name)).cloned().collect();
        let reports = self.look_at(names, Proof::Http, wanted).await?;
        if wanted != ChallengeType::Auto {
            return Ok((BTreeSet::new(), reports));
        }
        // Where nothing is looked at, the last attempt is what is known.
        let is_off = self.checker.mode() == config::SelfCheck::Off;
        let found = reports.iter().filter(|report| leads_elsewhere(report)).map(|report| report.name.clone());
        let candidates: Vec<DnsName> = if is_off { known } else { found.collect() };
        let mut unreachable = BTreeSet::new();
        for name in candidates {
            if self.can_be_written(&name, wanted).await.is_ok() {
                unreachable.insert(name);
            }
        }
        let others = reports.into_iter().filter(|report| !unreachable.contains(&report.name)).collect();
        Ok((unreachable, others))
    }

    /// Whether the record that would prove a name is there or can be written, as far as that is known.
    async fn can_be_written(&self, name: &DnsName, challenge: ChallengeType) -> Result<(), Verdict> {
        let found = if challenge == ChallengeType::DnsPersist01 {
            self.prover.can_stand(&self.standing_of(name, None)?).await
        } else {
            self.prover.can_write(&self.record_of(name, challenge)).await
        };
        found.map_err(|error| Verdict::from_dns01(&error))
    }

    async fn look_at(
        &self,
        names: Vec<DnsName>,
        proof: Proof,
        challenge: ChallengeType,
    ) -> Result<Vec<Report>, Verdict> {
        if names.is_empty()
            || self.checker.mode() == config::SelfCheck::Off
            || !self.prover.resolver().answers().await
        {
            return Ok(Vec::new());
        }
        let canary = match proof {
            Proof::Http => Some(Canary::publish(&self.store).await.map_err(|e| Verdict::from_store(&e))?),
            Proof::Dns => None,
        };
        let preflight = Arc::new(Preflight::new(self.checker.validator(), self.ca.title.clone()));
        let (asker, canary) = (Arc::new(self.asker(proof, challenge)), Arc::new(canary));
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut looks = JoinSet::new();
        for name in names {
            let (preflight, asker, canary) =
                (Arc::clone(&preflight), Arc::clone(&asker), Arc::clone(&canary));
            let places = Arc::clone(&places);
            looks.spawn(async move {
                let _place = places.acquire_owned().await;
                preflight.look(&name, &asker, proof, canary.as_ref().as_ref(), Depth::AsTheCa).await
            });
        }
        let mut reports = Vec::new();
        while let Some(report) = looks.join_next().await {
            reports.push(report.map_err(|error| Verdict::bug(error.to_string()))?);
        }
        reports.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(reports)
    }

    /// Who asks, as CAA records see it. What the CA says of itself goes before what is known of it.
    fn asker(&self, proof: Proof, challenge: ChallengeType) -> Asker {
        let directory = self.account.client().known_directory();
        let said = directory.map(|directory| directory.meta.caa_identities.clone()).unwrap_or_default();
        let identities = if said.is_empty() { self.ca.limits.caa_identities.clone() } else { said };
        let method = match proof {
            Proof::Http => ChallengeType::Http01.as_str(),
            Proof::Dns => challenge.in_dns(),
        };
        Asker { identities, account_url: Some(self.account.url().to_string()), method: method.to_owned() }
    }
}

/// Whether it is the way to the answer that will fail, and not what a record would meet as well.
fn leads_elsewhere(report: &Report) -> bool {
    report.readiness() == Readiness::WillFail
        && report.gravest().is_some_and(|gravest| !matches!(gravest.class, Class::Caa | Class::Name))
}

/// Whether the CA did not reach a name the last time.
fn failed_before(stored: &StoredSite, name: &DnsName) -> bool {
    let failure = stored.cut.get(name).or(stored.failure.as_ref());
    failure.is_some_and(|failure| {
        matches!(
            failure.class,
            FailureClass::Dns
                | FailureClass::NotPointingHere
                | FailureClass::RedirectRule
                | FailureClass::Firewall
        )
    })
}
