//! A site's certificates as JSON: metadata only, with links to the files.

use super::{
    refusal::Refusal,
    route::{FileKind, ItemId},
    scope,
};
use jiff::Timestamp;
use serde::Serialize;
use shared::{
    domain::{Certificate, CertificateId, DnsName, Frontend, Leaf, Right, Slot},
    error::chain,
    store::{Pointers, Store, StoreError, StoredSite},
};
use std::collections::BTreeMap;

/// One site as a frontend sees it.
#[derive(Debug, Serialize)]
pub(crate) struct Item {
    id: ItemId,
    /// What its certificates are valid for, of the names that are wanted.
    names: Vec<String>,
    lineages: BTreeMap<Slot, Lineage>,
    /// Slots whose record can't be read. The item is listed all the same: what vanished would be taken down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<Slot>,
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
}

/// What a slot points to.
enum Loaded {
    There(Box<Certificate>, Leaf),
    Damaged,
}

impl Item {
    /// What a frontend sees of a group: what it serves, and what it serves on to names that this lacks. Nothing where
    /// nothing of it is this frontend's to see.
    ///
    /// # Errors
    /// [`Refusal::Store`]. A single record that can't be read is no error.
    pub(crate) async fn load(
        store: &Store,
        frontend: &Frontend,
        stored: &StoredSite,
        now: Timestamp,
    ) -> Result<Vec<Self>, Refusal> {
        let mut items = Vec::new();
        if !scope::sees_site(frontend, &stored.site) {
            return Ok(items);
        }
        let given = stored.serving.given_to(&frontend.scope.tags);
        let Some(item) = Self::of(store, frontend, stored, false, &given, now).await? else {
            return Ok(items);
        };
        // Where a record is damaged, nobody knows what it lacks.
        let lacks_a_name = |item: &Self| {
            item.damaged.is_empty()
                && stored.site.names.iter().any(|name| !item.names.iter().any(|own| own == name.as_str()))
        };
        let kept = if lacks_a_name(&item) && !stored.serving.kept.is_empty() {
            Self::of(store, frontend, stored, true, &stored.serving.kept, now).await?
        } else {
            None
        };
        if let Some(mut kept) = kept {
            kept.names.retain(|name| !item.names.contains(name));
            if !kept.names.is_empty() && kept.state() == State::Valid {
                items.push(kept);
            }
        }
        items.insert(0, item);
        Ok(items)
    }

    async fn of(
        store: &Store,
        frontend: &Frontend,
        stored: &StoredSite,
        kept: bool,
        pointers: &Pointers,
        now: Timestamp,
    ) -> Result<Option<Self>, Refusal> {
        let mut item = Self {
            id: ItemId { group: stored.id.clone(), kept },
            names: Vec::new(),
            lineages: BTreeMap::new(),
            damaged: Vec::new(),
        };
        let mut covered = Vec::new();
        for (slot, id) in pointers {
            match load(store, stored, *slot, id).await? {
                Loaded::Damaged => item.damaged.push(*slot),
                Loaded::There(certificate, leaf)
                    if scope::sees_certificate(frontend, &stored.site, &leaf) =>
                {
                    covered.extend(stored.site.names.iter().filter(|name| leaf.covers(name)).cloned());
                    let state = State::of(&leaf, stored.is_revoked(*slot, id), now);
                    let links = links(&item.id, *slot, frontend.may(Right::ReadKey));
                    if item.names.is_empty() {
                        item.names = leaf.names.clone();
                    }
                    item.lineages.insert(*slot, Lineage::new(&certificate, leaf, state, links));
                }
                Loaded::There(..) => {}
            }
        }
        if item.lineages.is_empty() && item.damaged.is_empty() {
            return Ok(None);
        }
        item.names = names(stored, &covered, std::mem::take(&mut item.names));
        Ok(Some(item))
    }

    pub(crate) fn is_for(&self, name: &DnsName) -> bool {
        self.names.iter().any(|own| own == name.as_str())
    }

    pub(crate) fn id(&self) -> &ItemId {
        &self.id
    }

    /// Valid while one of its certificates is.
    pub(crate) fn state(&self) -> State {
        let has = |state: State| self.lineages.values().any(|lineage| lineage.state == state);
        match (has(State::Valid), has(State::Revoked)) {
            (true, _) => State::Valid,
            (false, true) => State::Revoked,
            (false, false) => State::Expired,
        }
    }
}

impl Lineage {
    fn new(
        certificate: &Certificate,
        leaf: Leaf,
        state: State,
        links: BTreeMap<&'static str, String>,
    ) -> Self {
        Self {
            serial: leaf.serial,
            fingerprint_sha256: leaf.fingerprint_sha256,
            spki_sha256: leaf.spki_sha256,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            issuer: leaf.issuer,
            key_type: certificate.key_type.to_string(),
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

async fn load(store: &Store, stored: &StoredSite, slot: Slot, id: &CertificateId) -> Result<Loaded, Refusal> {
    let damaged = |reason: String| {
        tracing::error!(site = %stored.id, %slot, certificate = %id, reason, "a certificate can't be read");
        Loaded::Damaged
    };
    match store.load_certificate(&stored.id, id).await {
        Ok(Some(certificate)) => match certificate.leaf() {
            Ok(leaf) => Ok(Loaded::There(Box::new(certificate), leaf)),
            Err(error) => Ok(damaged(chain(&error))),
        },
        Ok(None) => Ok(damaged("it is not there".to_owned())),
        Err(error @ (StoreError::Corrupt { .. } | StoreError::NewerSchema { .. })) => {
            Ok(damaged(chain(&error)))
        }
        Err(error) => Err(error.into()),
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
