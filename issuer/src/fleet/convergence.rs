//! What frontends have reported, held against the changes that there were. A frontend serves a group as the store has it once it
//! has come past the group's last change and names no problem with it.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use shared::{
    domain::{CertificateId, DnsName, FeedCursor, Frontend, ItemProblem, Partition, SiteId, StoredReport},
    store::{FeedHead, FollowedCertificate, FollowedGroup, Store, StoreError},
};
use std::collections::{BTreeMap, BTreeSet};

/// Changes of one partition that are looked at; of more is said that there are.
const MOST_CHANGES: usize = 200;
/// Groups that are named as waiting.
const MOST_WAITING: usize = 200;

/// How a frontend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Serves everything in its scope as the store has it.
    Converged,
    /// Has not come to the last changes in its scope yet.
    Behind,
    /// Names problems.
    Problems,
    /// Has not reported for longer than it should.
    Silent,
    /// Has never reported: it pulls without an agent, or not at all.
    Unknown,
}

/// One frontend.
#[derive(Clone, Debug, Serialize)]
pub struct FrontendStanding {
    pub name: String,
    pub standing: Standing,
    pub reported: Option<Timestamp>,
    pub agent: Option<String>,
    /// Items in service, as it says.
    pub items: u64,
    /// Whether it looks at what its web server serves.
    pub probes: bool,
    /// Groups in its scope that have changed since.
    pub behind: u64,
    /// There are more of them than were looked at.
    pub behind_more: bool,
    /// When the oldest certificate was issued that it does not have yet.
    pub behind_since: Option<Timestamp>,
    pub problem_count: u64,
    pub problems: Vec<ItemProblem>,
    /// Certificates that it serves and that the store does not know: SHA-256, hex.
    pub unknown_certificates: Vec<String>,
}

/// A group that some frontends do not serve as the store has it.
#[derive(Clone, Debug, Serialize)]
pub struct WaitingGroup {
    pub site: SiteId,
    pub names: Vec<DnsName>,
    /// When its newest certificate was issued.
    pub since: Option<Timestamp>,
    pub frontends: Vec<String>,
}

/// From issuance until a web server was seen to serve it, seconds, of what frontends reported last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LiveAfter {
    pub count: usize,
    pub p50: i64,
    pub p95: i64,
    pub p99: i64,
    pub max: i64,
}

/// The whole fleet.
#[derive(Clone, Debug, Serialize)]
pub struct Convergence {
    pub frontends: Vec<FrontendStanding>,
    pub waiting: Vec<WaitingGroup>,
    pub live_after_seconds: LiveAfter,
}

/// How one group stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupStanding {
    /// Frontends that serve it as the store has it.
    pub served_by: Vec<String>,
    /// Frontends that do not yet.
    pub waiting: Vec<String>,
    /// Frontends with it in their scope that do not report.
    pub unknown: Vec<String>,
}

/// A frontend with what it said last.
struct Member {
    frontend: Frontend,
    report: Option<StoredReport>,
    /// Where it is; `None`: it has to begin again.
    cursor: Option<FeedCursor>,
}

impl Convergence {
    /// `silent_after`: how long a frontend may go without a report.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load(
        store: &Store,
        now: Timestamp,
        silent_after: SignedDuration,
    ) -> Result<Self, StoreError> {
        let head = store.load_feed_head().await?;
        let members = members(store, &head).await?;
        let (changed, cut) = changes(store, &head, &members).await?;
        let named = named(store, &members).await?;
        let mut waiting: BTreeMap<SiteId, WaitingGroup> = BTreeMap::new();
        let mut frontends = Vec::with_capacity(members.len());
        for member in &members {
            let behind: Vec<&FollowedGroup> = match (&member.report, &member.cursor) {
                (Some(_), Some(cursor)) => changed
                    .values()
                    .filter(|group| group.number > cursor.at(group.id.partition()))
                    .filter(|group| concerns(&member.frontend, group))
                    .collect(),
                _ => Vec::new(),
            };
            for group in behind.iter().copied().chain(problem_groups(member, &named)) {
                let place = waiting.entry(group.id.clone()).or_insert_with(|| WaitingGroup::of(group));
                if place.frontends.last() != Some(&member.frontend.name.to_string()) {
                    place.frontends.push(member.frontend.name.to_string());
                }
            }
            let behind_more = member
                .cursor
                .as_ref()
                .is_some_and(|cursor| cut.iter().any(|(partition, at)| cursor.at(*partition) < *at));
            frontends.push(member.standing(&behind, behind_more, &named, now, silent_after));
        }
        let mut waiting: Vec<WaitingGroup> = waiting.into_values().collect();
        waiting.sort_by(|one, two| one.since.cmp(&two.since).then_with(|| one.site.cmp(&two.site)));
        waiting.truncate(MOST_WAITING);
        Ok(Self { frontends, waiting, live_after_seconds: LiveAfter::of(&members) })
    }
}

impl GroupStanding {
    /// Of the frontends with a group in their scope.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load(store: &Store, id: &SiteId) -> Result<Self, StoreError> {
        let mut standing = Self::default();
        let Some(group) = store.load_followed(std::slice::from_ref(id)).await?.pop() else {
            return Ok(standing);
        };
        let head = store.load_feed_head().await?;
        for member in members(store, &head).await? {
            let Some(wanted) = &group.wanted else { break };
            let scope = &member.frontend.scope;
            if !scope.covers(wanted.site.names.as_slice(), &wanted.site.tags) {
                continue;
            }
            let name = member.frontend.name.to_string();
            let is_there = |cursor: &FeedCursor| cursor.at(id.partition()) >= group.number;
            match &member.report {
                None => standing.unknown.push(name),
                Some(_) if member.cursor.as_ref().is_some_and(is_there) && !member.has_problem_with(id) => {
                    standing.served_by.push(name);
                }
                Some(_) => standing.waiting.push(name),
            }
        }
        Ok(standing)
    }
}

/// Every frontend that may pull.
async fn members(store: &Store, head: &FeedHead) -> Result<Vec<Member>, StoreError> {
    let mut frontends = store.list_frontends().await?;
    frontends.retain(|frontend| frontend.revoked.is_none());
    let names: Vec<_> = frontends.iter().map(|frontend| frontend.name.clone()).collect();
    let reports = store.load_reports(&names).await?;
    let member = |(frontend, report): (Frontend, Option<StoredReport>)| {
        let cursor = report.as_ref().and_then(|report| report.report.cursor.as_ref()?.parse().ok());
        let cursor = cursor.filter(|cursor: &FeedCursor| {
            cursor.epoch == head.epoch && cursor.scope == frontend.scope_version()
        });
        Member { frontend, report, cursor }
    };
    Ok(frontends.into_iter().zip(reports).map(member).collect())
}

/// Groups that changed after the place of some frontend; and where there were too many of them in a partition, up to where they
/// were looked at.
async fn changes(
    store: &Store,
    head: &FeedHead,
    members: &[Member],
) -> Result<(BTreeMap<SiteId, FollowedGroup>, Vec<(Partition, u64)>), StoreError> {
    let (mut ids, mut cut) = (Vec::new(), Vec::new());
    for partition in Partition::all() {
        let cursors = members.iter().filter_map(|member| member.cursor.as_ref());
        let Some(from) = cursors.map(|cursor| cursor.at(partition)).min() else { continue };
        let end = head.end(partition);
        if from >= end {
            continue;
        }
        let found = store.load_changed(partition, from, end, MOST_CHANGES).await?;
        if let Some((last, _)) = found.last().filter(|_| found.len() == MOST_CHANGES) {
            cut.push((partition, *last));
        }
        ids.extend(found.into_iter().map(|(_, id)| id));
    }
    let groups = store.load_followed(&ids).await?;
    Ok((groups.into_iter().map(|group| (group.id.clone(), group)).collect(), cut))
}

/// The groups that problems are about.
async fn named(store: &Store, members: &[Member]) -> Result<BTreeMap<SiteId, FollowedGroup>, StoreError> {
    let ids: BTreeSet<SiteId> = members.iter().flat_map(Member::problems).filter_map(group_of).collect();
    let groups = store.load_followed(&ids.into_iter().collect::<Vec<_>>()).await?;
    Ok(groups.into_iter().map(|group| (group.id.clone(), group)).collect())
}

/// `GROUP` or `GROUP_kept`.
fn group_of(problem: &ItemProblem) -> Option<SiteId> {
    SiteId::parse(problem.id.as_deref()?.split('_').next()?)
}

fn problem_groups<'a>(
    member: &'a Member,
    named: &'a BTreeMap<SiteId, FollowedGroup>,
) -> impl Iterator<Item = &'a FollowedGroup> {
    member.problems().filter_map(|problem| named.get(&group_of(problem)?))
}

/// Whether a frontend has, or had, something of a group.
fn concerns(frontend: &Frontend, group: &FollowedGroup) -> bool {
    let is_in_scope = group.wanted.as_ref().is_some_and(|wanted| {
        frontend.scope.covers(wanted.site.names.as_slice(), &wanted.site.tags)
            && !wanted.serving.current.is_empty()
    });
    is_in_scope || group.was_seen(&frontend.scope, 0)
}

/// When the newest certificate of a group was issued.
fn issued(group: &FollowedGroup) -> Option<Timestamp> {
    let issued = group.certificates.values().filter_map(|certificate| match certificate {
        FollowedCertificate::There { issued, .. } => Some(*issued),
        FollowedCertificate::Damaged(_) => None,
    });
    issued.max()
}

impl Member {
    fn problems(&self) -> impl Iterator<Item = &ItemProblem> {
        self.report.iter().flat_map(|report| &report.report.problems)
    }

    /// Problems that are too many to be named may be with anything.
    fn has_problem_with(&self, id: &SiteId) -> bool {
        let told = self.report.as_ref().map_or(0, |report| report.report.problem_count);
        let named = self.problems().count() as u64;
        told > named || self.problems().any(|problem| group_of(problem).as_ref() == Some(id))
    }

    /// Fingerprints that it serves and that their groups know nothing of.
    fn unknown_certificates(&self, named: &BTreeMap<SiteId, FollowedGroup>) -> Vec<String> {
        let is_known = |group: &FollowedGroup, print: &str| {
            // What a certificate is known by is the first half of its fingerprint.
            let id = CertificateId::from_stored(print.get(..32).unwrap_or(print).to_owned());
            let was_served = |group: &FollowedGroup| {
                group
                    .wanted
                    .as_ref()
                    .is_some_and(|wanted| wanted.serving.previous.values().any(|known| *known == id))
            };
            group.certificates.contains_key(&id) || was_served(group)
        };
        let unknown = self.problems().filter_map(|problem| {
            let print = problem.serves.as_ref()?;
            let group = named.get(&group_of(problem)?)?;
            (!is_known(group, print)).then(|| print.clone())
        });
        unknown.collect()
    }

    fn standing(
        &self,
        behind: &[&FollowedGroup],
        behind_more: bool,
        named: &BTreeMap<SiteId, FollowedGroup>,
        now: Timestamp,
        silent_after: SignedDuration,
    ) -> FrontendStanding {
        let report = self.report.as_ref();
        let standing = match report {
            None => Standing::Unknown,
            Some(report) if now.duration_since(report.at) > silent_after => Standing::Silent,
            Some(report) if report.report.problem_count > 0 => Standing::Problems,
            Some(_) if self.cursor.is_none() || behind_more || !behind.is_empty() => Standing::Behind,
            Some(_) => Standing::Converged,
        };
        FrontendStanding {
            name: self.frontend.name.to_string(),
            standing,
            reported: report.map(|report| report.at),
            agent: report.map(|report| report.report.agent.clone()),
            items: report.map_or(0, |report| report.report.items),
            probes: report.is_some_and(|report| report.report.probes),
            behind: behind.len() as u64,
            behind_more: behind_more || (report.is_some() && self.cursor.is_none()),
            behind_since: behind.iter().filter_map(|group| issued(group)).min(),
            problem_count: report.map_or(0, |report| report.report.problem_count),
            problems: self.problems().cloned().collect(),
            unknown_certificates: self.unknown_certificates(named),
        }
    }
}

impl WaitingGroup {
    fn of(group: &FollowedGroup) -> Self {
        let names = group.wanted.iter().flat_map(|wanted| wanted.site.names.iter().cloned());
        Self { site: group.id.clone(), names: names.collect(), since: issued(group), frontends: Vec::new() }
    }
}

impl LiveAfter {
    fn of(members: &[Member]) -> Self {
        let reports = members.iter().filter_map(|member| member.report.as_ref());
        let served = reports.flat_map(|report| &report.report.served);
        Self::of_seconds(served.filter_map(|item| item.after_seconds).collect())
    }

    fn of_seconds(mut seconds: Vec<i64>) -> Self {
        seconds.sort_unstable();
        let Some(max) = seconds.last().copied() else { return Self::default() };
        let at = |percent: usize| seconds[(seconds.len() * percent).div_ceil(100).max(1) - 1];
        Self { count: seconds.len(), p50: at(50), p95: at(95), p99: at(99), max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        assert_eq!(LiveAfter::of_seconds(Vec::new()), LiveAfter::default());
        let one = LiveAfter { count: 1, p50: 7, p95: 7, p99: 7, max: 7 };
        assert_eq!(LiveAfter::of_seconds(vec![7]), one);
        let hundred = LiveAfter { count: 100, p50: 50, p95: 95, p99: 99, max: 100 };
        assert_eq!(LiveAfter::of_seconds((1..=100).rev().collect()), hundred);
    }
}
