//! Names that visitors came with and that a frontend has no certificate for. What is free to know is decided here; the rest is an
//! issuer's.

use super::{Certificates, reader::Reader, refusal::Refusal};
use serde::{Deserialize, Serialize};
use shared::{
    domain::{DnsName, PublicSuffixes, sightable},
    store::SightingVerdict,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

/// The largest request, bytes, and the most names in one.
pub(crate) const BODY_BYTES: usize = 32 * 1024;
const MOST_NAMES: usize = 100;

static SUFFIXES: LazyLock<PublicSuffixes> = LazyLock::new(PublicSuffixes::shipped);

/// What was seen.
#[derive(Debug, Deserialize)]
pub(crate) struct Seen {
    names: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Verdicts {
    verdicts: BTreeMap<String, SightingVerdict>,
}

impl Seen {
    /// # Errors
    /// [`Refusal::Mistaken`].
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let seen: Self = serde_json::from_slice(body)
            .map_err(|e| Refusal::Mistaken(format!("expected {{\"names\": [...]}}: {e}")))?;
        match seen.names.len() {
            1..=MOST_NAMES => Ok(seen),
            _ => Err(Refusal::Mistaken(format!("names: 1 to {MOST_NAMES}"))),
        }
    }
}

impl Certificates {
    /// A verdict for each name. Only names that a frontend would see are its to ask for, by its patterns: a name without a site
    /// has no tags.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for one that may not, [`Refusal::Store`].
    pub(crate) async fn sightings(&self, reader: &Reader, seen: &Seen) -> Result<Verdicts, Refusal> {
        let mut verdicts = BTreeMap::new();
        let mut unknown: Vec<(String, DnsName)> = Vec::new();
        for text in &seen.names {
            match sightable(text, &SUFFIXES).ok().filter(|name| reader.may_sight(name)) {
                None => drop(verdicts.insert(text.clone(), SightingVerdict::Refused)),
                Some(name) => unknown.push((text.clone(), name)),
            }
        }
        // One that a wildcard covers has its certificate.
        let of_name = |name: &DnsName| [Some(name.clone()), name.covering_wildcard()];
        let names: Vec<DnsName> = unknown.iter().flat_map(|(_, name)| of_name(name)).flatten().collect();
        let pointers = self.store.load_each_pointer(&names).await?;
        let owned: BTreeSet<DnsName> = names
            .into_iter()
            .zip(pointers)
            // Whose it is can't be read: somebody's.
            .filter(|(_, pointer)| pointer.as_ref().map_or(true, |pointer| pointer.owner().is_some()))
            .map(|(name, _)| name)
            .collect();
        let mut new: Vec<(String, DnsName)> = Vec::new();
        for (text, name) in unknown {
            if of_name(&name).iter().flatten().any(|name| owned.contains(name)) {
                verdicts.insert(text, SightingVerdict::Known);
            } else {
                new.push((text, name));
            }
        }
        let names: Vec<DnsName> = new.iter().map(|(_, name)| name.clone()).collect();
        let answers = self.store.sight(reader.frontend_name(), &names).await?;
        verdicts.extend(new.into_iter().map(|(text, _)| text).zip(answers));
        Ok(Verdicts { verdicts })
    }
}
