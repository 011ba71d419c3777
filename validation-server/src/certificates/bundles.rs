//! Many certificates with their keys in one answer: the only bulk way to keys. One line of JSON for each id that was asked
//! for, in their order; the answer is whole before its first byte is sent.

use super::{
    Certificates,
    files::{private_key, public_file},
    item::{Https, Item},
    reader::KeyReader,
    refusal::Refusal,
    route::{FileKind, ItemId},
    scope::even_out,
};
use actix_web::web::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::{
    domain::{AuditedKey, Certificate, CertificateId, Leaf, SiteId, Slot},
    error::chain,
    store::FollowedGroup,
    vault::Vault,
};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Ids in one request.
const MOST_IDS: usize = 200;
/// The largest request, bytes.
pub(crate) const BODY_BYTES: usize = 64 * 1024;

/// What is asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    ids: Vec<String>,
    /// By id: the version that the frontend has already.
    #[serde(default)]
    have: BTreeMap<String, String>,
}

/// One line of the answer.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Bundle {
        id: &'a str,
        version: &'a str,
        names: &'a [String],
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        rolled_back: bool,
        https: &'a Https,
        certificates: BTreeMap<Slot, Files<'a>>,
    },
    Unchanged {
        id: &'a str,
        version: &'a str,
        unchanged: bool,
    },
    /// Not there, or not this frontend's.
    Missing {
        id: &'a str,
        missing: bool,
    },
    /// It is there, and can't be given out now.
    Failed {
        id: &'a str,
        error: &'a str,
    },
}

#[derive(Serialize)]
struct Files<'a> {
    fingerprint_sha256: &'a str,
    fullchain: &'a str,
    privkey: &'a str,
}

/// A certificate that is about to be given out.
pub(super) struct Opened {
    leaf: Leaf,
    id: CertificateId,
    fullchain: Bytes,
    privkey: Zeroizing<Vec<u8>>,
}

impl Wanted {
    /// # Errors
    /// [`Refusal::Mistaken`] for what is no request for bundles.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let wanted: Self = serde_json::from_slice(body)
            .map_err(|e| Refusal::Mistaken(format!("expected {{\"ids\": [...], \"have\": {{...}}}}: {e}")))?;
        match wanted.ids.len() {
            1..=MOST_IDS => Ok(wanted),
            _ => Err(Refusal::Mistaken(format!("ids: 1 to {MOST_IDS}"))),
        }
    }
}

impl Certificates {
    /// # Errors
    /// [`Refusal::Store`], also where what is given out can't be written to the audit.
    pub(crate) async fn bundles(
        &self,
        reader: KeyReader<'_>,
        wanted: &Wanted,
        vault: &Vault,
    ) -> Result<Bytes, Refusal> {
        let begun = Instant::now();
        let ids: Vec<Option<ItemId>> = wanted.ids.iter().map(|id| ItemId::parse(id)).collect();
        let groups: BTreeSet<SiteId> = ids.iter().flatten().map(|id| id.group.clone()).collect();
        let groups = self.followed(reader, groups).await?;
        let unreadable: BTreeSet<&SiteId> =
            groups.iter().filter(|group| group.damaged.is_some()).map(|group| &group.id).collect();
        let items = items_of(reader, &groups);
        let is_new = |id: &ItemId, item: &Item| {
            wanted.have.get(&id.to_string()).is_none_or(|have| have != item.version())
        };
        let new: BTreeMap<&ItemId, &(&FollowedGroup, Item)> = ids
            .iter()
            .flatten()
            .filter_map(|id| items.get_key_value(id))
            .filter(|(id, (_, item))| is_new(id, item))
            .collect();
        if ids.iter().flatten().any(|id| !items.contains_key(id)) {
            even_out(begun).await;
        }
        let opened = self.open(reader, &new, vault).await?;
        self.write_down(reader, &opened).await?;
        let mut answer = Zeroizing::new(Vec::with_capacity(opened.len() * 8 * 1024 + wanted.ids.len() * 100));
        for (text, id) in wanted.ids.iter().zip(&ids) {
            let found = id.as_ref().and_then(|id| items.get_key_value(id));
            let line = match found {
                // What can't be read is not gone.
                None if id.as_ref().is_some_and(|id| unreadable.contains(&id.group)) => {
                    Line::Failed { id: text, error: "the site's record can't be read" }
                }
                None => Line::Missing { id: text, missing: true },
                Some((id, (_, item))) if !is_new(id, item) => {
                    Line::Unchanged { id: text, version: item.version(), unchanged: true }
                }
                Some((id, (_, item))) => match opened.get(id) {
                    Some(Read { slots: certificates, is_damaged: false }) => Line::Bundle {
                        id: text,
                        version: item.version(),
                        names: item.names(),
                        rolled_back: item.is_rolled_back(),
                        https: item.https(),
                        certificates: certificates
                            .iter()
                            .map(|(slot, opened)| Ok((*slot, opened.files()?)))
                            .collect::<Result<_, Refusal>>()?,
                    },
                    _ => Line::Failed { id: text, error: "the certificate can't be read" },
                },
            };
            serde_json::to_writer(&mut *answer, &line).map_err(|e| Refusal::Damaged(e.into()))?;
            answer.push(b'\n');
        }
        Ok(Bytes::from_owner(answer))
    }

    /// Opens the keys of items. One that can't be opened is an error of that one.
    pub(super) async fn open<'a>(
        &self,
        reader: KeyReader<'_>,
        items: &BTreeMap<&'a ItemId, &(&FollowedGroup, Item)>,
        vault: &Vault,
    ) -> Result<BTreeMap<&'a ItemId, Read>, Refusal> {
        let mut wanted: Vec<(&ItemId, &FollowedGroup, Slot, CertificateId)> = Vec::new();
        let mut opened: BTreeMap<&ItemId, Read> = BTreeMap::new();
        for (id, (group, item)) in items {
            opened.insert(id, Read { slots: BTreeMap::new(), is_damaged: item.is_damaged() });
            let Some(stored) = &group.wanted else { continue };
            let pointers =
                if id.kept { stored.serving.kept.clone() } else { stored.serving.given_to(reader.tags()) };
            wanted.extend(
                item.slots().filter_map(|slot| Some((*id, *group, slot, pointers.get(&slot)?.clone()))),
            );
        }
        let keys: Vec<(SiteId, CertificateId)> =
            wanted.iter().map(|(id, _, _, certificate)| (id.group.clone(), certificate.clone())).collect();
        let certificates = self.store.load_certificates(&keys).await?;
        for ((id, group, slot, certificate_id), certificate) in wanted.into_iter().zip(certificates) {
            let read = match certificate {
                Ok(certificate) => Opened::new(&id.group, slot, certificate_id, &certificate, vault),
                Err(error) => Err(error.into()),
            };
            // What was read anew is judged anew.
            let sees = |leaf: &Leaf| {
                group.wanted.as_ref().is_some_and(|wanted| reader.sees_certificate(&wanted.site, leaf))
            };
            let Some(place) = opened.get_mut(id) else { continue };
            match (read, place) {
                (Ok(read), place) if sees(&read.leaf) => drop(place.slots.insert(slot, read)),
                (Ok(_), _) => {}
                (Err(error), place) => {
                    tracing::error!(%id, %slot, error = chain(&error), "a key can't be given out");
                    place.is_damaged = true;
                }
            }
        }
        Ok(opened)
    }

    /// Groups that the frontend sees. Of others no more is read than it takes to know that, so that they take as long as those that
    /// are not there.
    pub(super) async fn followed(
        &self,
        reader: KeyReader<'_>,
        ids: BTreeSet<SiteId>,
    ) -> Result<Vec<FollowedGroup>, Refusal> {
        let ids: Vec<SiteId> = ids.into_iter().collect();
        let mut loaded = self.store.load_sites(&ids).await?;
        loaded.sites.retain(|stored| reader.sees_site(&stored.site));
        let mut seen: Vec<SiteId> = loaded.sites.into_iter().map(|stored| stored.id).collect();
        // Whose scope these are in is judged by what they serve.
        seen.extend(loaded.damaged.into_iter().map(|damaged| damaged.site));
        Ok(self.store.load_followed(&seen).await?)
    }

    /// Before the keys leave: what can't be written down doesn't happen.
    async fn write_down(
        &self,
        reader: KeyReader<'_>,
        opened: &BTreeMap<&ItemId, Read>,
    ) -> Result<(), Refusal> {
        let given = opened
            .iter()
            .filter(|(_, read)| !read.is_damaged)
            .flat_map(|(id, read)| read.slots.iter().map(move |(slot, opened)| (id, slot, opened)));
        let keys: Vec<AuditedKey> = given.map(|(id, slot, opened)| opened.audited(id, *slot)).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let count = keys.len() as u64;
        self.audit.read_keys(&reader.asker(), keys).await?;
        self.counters.key_reads.inc_by(count);
        Ok(())
    }
}

/// What could be read of an item.
pub(super) struct Read {
    pub(super) slots: BTreeMap<Slot, Opened>,
    /// There is something else of it that can't be read.
    pub(super) is_damaged: bool,
}

/// What a frontend sees of groups, by id.
pub(super) fn items_of<'a>(
    reader: KeyReader<'_>,
    groups: &'a [FollowedGroup],
) -> BTreeMap<ItemId, (&'a FollowedGroup, Item)> {
    let now = Timestamp::now();
    let of_group = |group: &'a FollowedGroup| {
        reader.items(group, now).into_iter().map(move |item| (item.id().clone(), (group, item)))
    };
    groups.iter().flat_map(of_group).collect()
}

impl Opened {
    fn new(
        site: &SiteId,
        slot: Slot,
        id: CertificateId,
        certificate: &Certificate,
        vault: &Vault,
    ) -> Result<Self, Refusal> {
        let leaf = certificate.leaf().map_err(|e| Refusal::Damaged(e.into()))?;
        Ok(Self {
            privkey: private_key(certificate, &leaf, site, slot, vault)?,
            fullchain: public_file(certificate, FileKind::Fullchain)?,
            leaf,
            id,
        })
    }

    /// Certificate with chain, and key.
    pub(super) fn texts(&self) -> Result<(&str, &str), Refusal> {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|e| Refusal::Damaged(e.into()));
        Ok((text(&self.fullchain)?, text(&self.privkey)?))
    }

    /// As it is written down.
    pub(super) fn audited(&self, id: &ItemId, slot: Slot) -> AuditedKey {
        AuditedKey {
            lineage: format!("{}.{slot}", id.group),
            certificate: self.id.clone(),
            spki_sha256: self.leaf.spki_sha256.clone(),
        }
    }

    fn files(&self) -> Result<Files<'_>, Refusal> {
        let (fullchain, privkey) = self.texts()?;
        Ok(Files { fingerprint_sha256: &self.leaf.fingerprint_sha256, fullchain, privkey })
    }
}
