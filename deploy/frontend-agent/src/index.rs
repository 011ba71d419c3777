//! What is live, in memory: as little of each item as a pass needs, because there may be half a million.

use crate::{https::Https, removal, wire::ItemId};
use jiff::Timestamp;
use shared::{digest::unhex, domain::Slot};
use std::{collections::BTreeMap, sync::Arc};

/// Every item on disk, by id.
pub(crate) type Index = BTreeMap<ItemId, Live>;

/// An item that is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    /// As the centre calls it.
    pub(crate) version: Box<str>,
    /// The directory that is live now.
    pub(crate) directory: Box<str>,
    pub(crate) names: Box<[Arc<str>]>,
    pub(crate) slots: Box<[(Slot, LiveSlot)]>,
    pub(crate) https: Https,
    /// Since when the server no longer has it for this frontend: it is out of service.
    pub(crate) removed: Option<Timestamp>,
    /// False when a file is missing, cut off, or readable by others than the configuration says.
    pub(crate) intact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveSlot {
    /// SHA-256 of the certificate.
    pub(crate) fingerprint: [u8; 32],
    /// Unix time, seconds.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

impl Live {
    /// Whether its names lead to it.
    pub(crate) fn is_in_service(&self) -> bool {
        self.removed.is_none()
    }

    pub(crate) fn slot(&self, slot: Slot) -> Option<&LiveSlot> {
        self.slots.iter().find(|(own, _)| *own == slot).map(|(_, live)| live)
    }

    /// Whether it went out of service a while ago.
    pub(crate) fn was_removed_lately(&self, now: Timestamp) -> bool {
        self.removed.is_some_and(|since| removal::is_lately(since, now))
    }

    /// When the last of its certificates ends, Unix time, seconds.
    pub(crate) fn ends(&self) -> i64 {
        self.slots.iter().map(|(_, slot)| slot.not_after).max().unwrap_or(0)
    }

    /// Since when the youngest of its certificates is valid.
    pub(crate) fn youngest(&self) -> i64 {
        self.slots.iter().map(|(_, slot)| slot.not_before).max().unwrap_or(0)
    }
}

impl LiveSlot {
    /// `None` for what is no SHA-256.
    pub(crate) fn new(fingerprint_sha256: &str, not_before: Timestamp, not_after: Timestamp) -> Option<Self> {
        Some(Self {
            fingerprint: unhex(fingerprint_sha256)?.try_into().ok()?,
            not_before: not_before.as_second(),
            not_after: not_after.as_second(),
        })
    }
}

/// Which item answers for a name. Where two claim one, the one whose certificate is younger does: the older one is named in
/// `clash`.
pub(crate) fn names_in_service(
    index: &Index,
    mut clash: impl FnMut(&str, &ItemId, &ItemId),
) -> BTreeMap<Arc<str>, ItemId> {
    let mut names: BTreeMap<Arc<str>, ItemId> = BTreeMap::new();
    for (id, live) in index.iter().filter(|(_, live)| live.is_in_service()) {
        for name in &live.names {
            let Some(other) = names.get(name) else {
                names.insert(name.clone(), id.clone());
                continue;
            };
            let is_younger = index.get(other).is_none_or(|other| other.youngest() < live.youngest());
            let (younger, older) =
                if is_younger { (id.clone(), other.clone()) } else { (other.clone(), id.clone()) };
            clash(name, &older, &younger);
            names.insert(name.clone(), younger);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(names: &[&str], not_before: i64) -> Live {
        Live {
            version: "v".into(),
            directory: "1".into(),
            names: names.iter().map(|name| (*name).into()).collect(),
            slots: [(Slot::Ecdsa, LiveSlot { fingerprint: [0; 32], not_before, not_after: 9 })].into(),
            https: Https::default(),
            removed: None,
            intact: true,
        }
    }

    #[test]
    fn of_two_that_claim_a_name_the_younger_has_it() {
        let id = |text: &str| ItemId::parse(text).unwrap();
        let gone = Live { removed: Some(Timestamp::UNIX_EPOCH), ..live(&["b.example"], 7) };
        let index: Index = [
            (id("01"), live(&["a.example", "b.example"], 5)),
            (id("02"), live(&["b.example"], 3)),
            (id("03"), live(&["a.example"], 6)),
            (id("04"), gone),
        ]
        .into();
        let mut clashes = Vec::new();
        let names = names_in_service(&index, |name, older, younger| {
            clashes.push(format!("{name} {older} {younger}"))
        });
        assert_eq!(names["a.example"], id("03"));
        assert_eq!(names["b.example"], id("01"));
        assert_eq!(clashes, ["b.example 02 01", "a.example 01 03"]);
    }
}
