//! A site as it is shown: what is wanted, and how far its groups have come.

use super::refusal::Refusal;
use crate::waiting::Obstacles;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::{
    domain::{DnsName, NameSet, Site, SiteId, Slot},
    store::{DamagedSite, Store, StoreError, StoredSite},
};

/// A site with the records of its groups.
pub(super) struct View {
    pub(super) id: SiteId,
    /// With all its names.
    pub(super) site: Site,
    groups: Vec<StoredSite>,
}

/// How far a site has come, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Issued,
    /// A certificate is missing, and nothing has failed.
    Pending,
    /// A limit of the CA, or a certificate's own beginning, has not come yet.
    Waiting,
    /// It is left alone until its names come back, or somebody acts.
    Parked,
    /// No certificate could be had, or one without some of the names.
    Failing,
    /// Nothing is ordered for it.
    Paused,
}

impl View {
    /// Of the groups of one site; `None` where there are none.
    pub(super) fn of(groups: Vec<StoredSite>) -> Result<Option<Self>, StoreError> {
        let Some(first) = groups.first() else { return Ok(None) };
        let id = first.id.site();
        let names = groups.iter().flat_map(|group| group.site.names.iter().cloned());
        let names = NameSet::new(names)
            .map_err(|e| StoreError::Corrupt { key: id.to_string(), source: Box::from(e.to_string()) })?;
        let site = Site { names, ..first.site.clone() };
        Ok(Some(Self { id, site, groups }))
    }

    pub(super) fn state(&self) -> State {
        self.groups.iter().map(of_group).max().unwrap_or(State::Pending)
    }

    /// `obstacles` say why what has no certificate has none.
    pub(super) fn describe(&self, obstacles: &Obstacles) -> Value {
        let mut shown = wanted(&self.id, &self.site);
        shown["state"] = json!(self.state());
        shown["groups"] = self.groups.iter().map(|group| describe_group(group, obstacles)).collect();
        shown
    }
}

/// The sites with these ids, and those whose record can't be read; those that aren't there are left out.
pub(super) async fn load(store: &Store, ids: &[SiteId]) -> Result<(Vec<View>, Vec<DamagedSite>), Refusal> {
    let mut damaged = Vec::new();
    let mut wanted = Vec::new();
    for (id, read) in ids.iter().zip(store.load_many_wanted(ids).await?) {
        match read {
            Ok(site) => wanted.extend(site),
            Err(error) => damaged.push(DamagedSite { site: id.clone(), what: shared::error::chain(&error) }),
        }
    }
    let groups: Vec<SiteId> = wanted
        .into_iter()
        .flat_map(|wanted| wanted.groups.keys().map(|number| wanted.id.group(*number)).collect::<Vec<_>>())
        .collect();
    let stored = store.load_sites(&groups).await?;
    damaged.extend(stored.damaged);
    let of_sites = stored.sites.chunk_by(|one, other| one.id.site() == other.id.site());
    let mut found = Vec::new();
    for groups in of_sites {
        found.extend(View::of(groups.to_vec())?);
    }
    Ok((found, damaged))
}

/// What is wanted of a site.
pub(super) fn wanted(id: &SiteId, site: &Site) -> Value {
    json!({
        "id": id,
        "names": site.names,
        "names_unicode": site.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>(),
        "key_types": site.key_types,
        "san": site.san,
        "ca": site.ca,
        "account": site.account,
        "profile": site.profile,
        "challenge": site.challenge,
        "tags": site.tags,
        "tenant": site.tenant,
        "redirect": site.redirect,
        "hsts": site.hsts,
        "paused": site.paused,
        "origin": site.origin,
        "source": site.file_source(),
        "created": site.created,
    })
}

fn of_group(group: &StoredSite) -> State {
    let has = |slot: Slot| group.serving.current.contains_key(&slot) && !group.revoked.contains(&slot);
    let has_all = group.site.key_types.iter().all(|kind| has(kind.slot()));
    if group.site.paused.is_some() {
        State::Paused
    } else if group.parked.is_some() {
        State::Parked
    } else if group.failure.as_ref().is_some_and(|failure| !failure.is_wait()) || !group.cut.is_empty() {
        State::Failing
    } else if group.failure.is_some() {
        State::Waiting
    } else if has_all {
        State::Issued
    } else {
        State::Pending
    }
}

fn describe_group(group: &StoredSite, obstacles: &Obstacles) -> Value {
    let now = Timestamp::now();
    let waits_for = match (of_group(group), &group.failure) {
        (State::Pending, _) => Some(obstacles.in_the_way_of(&group.site, None, None, now)),
        (State::Waiting, Some(failure)) => Some(failure.what.clone()),
        _ => None,
    };
    json!({
        "id": group.id,
        "names": group.site.names,
        "state": of_group(group),
        "certificates": group.serving.current,
        "kept": group.serving.kept,
        "staged": group.serving.staged,
        "revoked": group.revoked,
        "failure": group.failure,
        "parked": group.parked,
        "left_out": group.cut,
        "explanation_url": group.explanation_url,
        "hsts_seconds": group.hsts_seconds(now),
        "waits_for": waits_for,
    })
}
