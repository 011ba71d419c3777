//! A site's certificates as JSON: metadata only, with links to the files.

use super::{
    route::{FileKind, ItemId},
    scope,
};
use jiff::Timestamp;
use openssl::sha::Sha256;
use serde::Serialize;
use shared::{
    digest::hex,
    domain::{DnsName, Frontend, HstsStep, KeyType, Leaf, Right, Slot},
    store::{FollowedCertificate, FollowedGroup, Pointers, StoredSite},
};
use std::collections::BTreeMap;

/// One site as a frontend sees it.
#[derive(Debug, Serialize)]
pub(crate) struct Item {
    id: ItemId,
    /// Another one whenever names or certificates are; not when what is done with them is.
    version: String,
    /// What its certificates are valid for, of the names that are wanted.
    names: Vec<String>,
    lineages: BTreeMap<Slot, Lineage>,
    /// Slots whose record can't be read. The item is listed all the same: what vanished would be taken down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<Slot>,
    /// Why what is wanted of the site can't be read; what it serves is shown all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    /// The operator has gone back to an older certificate: that it is older is no reason to refuse it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rolled_back: bool,
    https: Https,
}

/// What a frontend does with its names over plain HTTP, and announces over HTTPS.
#[derive(Debug, Serialize)]
pub(crate) struct Https {
    redirect: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hsts: Option<Announcement>,
}

/// HSTS: the steps of its age, each from its moment on.
#[derive(Debug, Serialize)]
struct Announcement {
    include_subdomains: bool,
    steps: Vec<HstsStep>,
}

/// What is served of one kind of key.
#[derive(Debug, Serialize)]
struct Lineage {
    serial: String,
    fingerprint_sha256: String,
    spki_sha256: String,
    not_before: Timestamp,
    not_after: Timestamp,
    issuer: String,
    key_type: String,
    state: State,
    links: BTreeMap<&'static str, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Valid,
    Expired,
    Revoked,
    /// No record of it can be read.
    Damaged,
}

impl Item {
    /// What a frontend sees of a group: what it serves, and what it serves on to names that this lacks. Nothing where
    /// nothing of it is this frontend's to see.
    pub(crate) fn of_group(frontend: &Frontend, group: &FollowedGroup, now: Timestamp) -> Vec<Self> {
        let mut items = Vec::new();
        let Some(stored) = &group.wanted else { return items };
        if !scope::sees_site(frontend, &stored.site) {
            return items;
        }
        let given = stored.serving.given_to(&frontend.scope.tags);
        let Some(item) = Self::of(frontend, group, stored, false, &given, now) else { return items };
        // Where a record is damaged, nobody knows what it lacks.
        let lacks_a_name = item.damaged.is_empty()
            && stored.site.names.iter().any(|name| !item.names.iter().any(|own| own == name.as_str()));
        let kept = if lacks_a_name && !stored.serving.kept.is_empty() {
            Self::of(frontend, group, stored, true, &stored.serving.kept, now)
        } else {
            None
        };
        if let Some(mut kept) = kept {
            kept.names.retain(|name| !item.names.contains(name));
            if !kept.names.is_empty() && kept.state() == State::Valid {
                items.push(kept.with_version());
            }
        }
        items.insert(0, item.with_version());
        items
    }

    fn of(
        frontend: &Frontend,
        group: &FollowedGroup,
        stored: &StoredSite,
        kept: bool,
        pointers: &Pointers,
        now: Timestamp,
    ) -> Option<Self> {
        let mut item = Self {
            id: ItemId { group: stored.id.clone(), kept },
            version: String::new(),
            names: Vec::new(),
            lineages: BTreeMap::new(),
            damaged: Vec::new(),
            record: group.damaged.as_ref().map(|_| "damaged".to_owned()),
            rolled_back: stored.held.is_some() && !kept,
            https: Https { redirect: stored.site.redirect.unwrap_or(false), hsts: None },
        };
        let mut covered = Vec::new();
        for (slot, id) in pointers {
            match group.certificates.get(id) {
                Some(FollowedCertificate::There { leaf, key_type, issued: _ }) => {
                    if !scope::sees_certificate(frontend, &stored.site, leaf) {
                        continue;
                    }
                    covered.extend(stored.site.names.iter().filter(|name| leaf.covers(name)).cloned());
                    let state = State::of(leaf, stored.is_revoked(*slot, id), now);
                    let links = links(&item.id, *slot, frontend.may(Right::ReadKey));
                    if item.names.is_empty() {
                        item.names.clone_from(&leaf.names);
                    }
                    item.lineages.insert(*slot, Lineage::new(*key_type, leaf, state, links));
                }
                Some(FollowedCertificate::Damaged(reason)) => {
                    tracing::error!(site = %stored.id, %slot, certificate = %id, reason, "a certificate can't be read");
                    item.damaged.push(*slot);
                }
                None => item.damaged.push(*slot),
            }
        }
        if item.lineages.is_empty() && item.damaged.is_empty() {
            return None;
        }
        item.https.hsts =
            Announcement::of(stored, kept, item.lineages.values().map(|lineage| lineage.not_after).min());
        item.names = names(stored, &covered, std::mem::take(&mut item.names));
        Some(item)
    }

    /// What a frontend that has the same version need not fetch again.
    fn with_version(mut self) -> Self {
        let mut digest = Sha256::new();
        for name in &self.names {
            digest.update(name.as_bytes());
            digest.update(b"\n");
        }
        for (slot, lineage) in &self.lineages {
            digest.update(format!("{slot} {}\n", lineage.fingerprint_sha256).as_bytes());
        }
        self.version = hex(&digest.finish()[..8]);
        self
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.lineages.keys().copied()
    }

    pub(crate) fn is_rolled_back(&self) -> bool {
        self.rolled_back
    }

    pub(crate) fn https(&self) -> &Https {
        &self.https
    }

    pub(crate) fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    pub(crate) fn is_for(&self, name: &DnsName) -> bool {
        let covering = name.covering_wildcard();
        let is_it =
            |own: &String| own == name.as_str() || covering.as_ref().is_some_and(|star| own == star.as_str());
        self.names.iter().any(is_it)
    }

    pub(crate) fn id(&self) -> &ItemId {
        &self.id
    }

    /// Valid while one of its certificates is; damaged where that can't be told.
    pub(crate) fn state(&self) -> State {
        let has = |state: State| self.lineages.values().any(|lineage| lineage.state == state);
        match (has(State::Valid), has(State::Revoked)) {
            (true, _) => State::Valid,
            // Whether what can't be read is valid, nobody knows.
            _ if self.is_damaged() => State::Damaged,
            (false, true) => State::Revoked,
            (false, false) => State::Expired,
        }
    }
}

impl Announcement {
    fn of(stored: &StoredSite, kept: bool, ends: Option<Timestamp>) -> Option<Self> {
        let hsts = stored.site.hsts?;
        let mut standing = stored.hsts_standing(ends);
        if kept {
            // The newer certificate lacks these names.
            standing.failing = true;
            standing.held = standing.held.or_else(|| Some(0).filter(|_| hsts.is_on()));
        }
        let steps = hsts.plan(standing);
        (!steps.is_empty()).then_some(Self { include_subdomains: hsts.include_subdomains, steps })
    }
}

impl Lineage {
    fn new(key_type: KeyType, leaf: &Leaf, state: State, links: BTreeMap<&'static str, String>) -> Self {
        Self {
            serial: leaf.serial.clone(),
            fingerprint_sha256: leaf.fingerprint_sha256.clone(),
            spki_sha256: leaf.spki_sha256.clone(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            issuer: leaf.issuer.clone(),
            key_type: key_type.to_string(),
            state,
            links,
        }
    }
}

impl State {
    fn of(leaf: &Leaf, revoked: bool, now: Timestamp) -> Self {
        if revoked {
            Self::Revoked
        } else if leaf.not_after <= now {
            Self::Expired
        } else {
            Self::Valid
        }
    }
}

/// By the item's id: a name may have moved on to another site.
fn links(id: &ItemId, slot: Slot, with_key: bool) -> BTreeMap<&'static str, String> {
    [FileKind::Fullchain, FileKind::Chain, FileKind::Cert, FileKind::Privkey, FileKind::Bundle]
        .into_iter()
        .filter(|kind| with_key || !kind.holds_key())
        .map(|kind| {
            let file = kind.as_str();
            (file, format!("/v1/certificates/{id}/{slot}/{file}.pem"))
        })
        .collect()
}

/// The wanted names that a certificate has; where there is none (every record is damaged, or all names were replaced),
/// what comes nearest.
fn names(stored: &StoredSite, covered: &[DnsName], of_leaf: Vec<String>) -> Vec<String> {
    let text = |name: &DnsName| name.as_str().to_owned();
    if !covered.is_empty() {
        stored.site.names.iter().filter(|name| covered.contains(name)).map(text).collect()
    } else if of_leaf.is_empty() {
        stored.site.names.iter().map(text).collect()
    } else {
        of_leaf
    }
}
