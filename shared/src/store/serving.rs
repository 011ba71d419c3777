//! What the slots of a group point to, and how that changes: all slots at once, by one script.

use super::{Field, Lease, Pointers, Store, StoreError, keys, scripts};
use crate::domain::{CertificateId, Slot};
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};

/// The fields of a group's record that name certificates, each with the slot behind it.
pub(super) const KINDS: [&str; 4] = ["cert", "prev", "kept", "next"];
const STAGED: &str = "staged";

/// The certificates of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// What is served.
    pub current: Pointers,
    /// What was served before: what a rollback goes back to.
    pub previous: Pointers,
    /// What is served on, until it ends, to wanted names that the current certificate lacks.
    pub kept: Pointers,
    /// What is served to the canaries alone so far.
    pub staged: Option<Staged>,
}

/// Certificates that are published to the frontends of one tag first.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Staged {
    #[serde(rename = "certificates")]
    pub pointers: Pointers,
    /// When all frontends get them. To the millisecond.
    pub until: Timestamp,
    /// What the canaries have in their scope.
    pub tag: String,
}

impl Serving {
    /// With new certificates in some of the slots, for all frontends at once. What was revoked is nothing to go back to.
    pub fn with(&self, new: &Pointers, revoked: &[Slot]) -> Self {
        let mut next = Self { staged: None, ..self.clone() };
        for (slot, id) in new {
            if let Some(before) = next.current.insert(*slot, id.clone())
                && before != *id
            {
                if revoked.contains(slot) {
                    next.previous.remove(slot);
                } else {
                    next.previous.insert(*slot, before);
                }
            }
        }
        next
    }

    /// With new certificates for the canaries. What they have already keeps its moment.
    pub fn staging(&self, new: &Pointers, until: Timestamp, tag: &str) -> Self {
        let staged = match &self.staged {
            Some(staged) if staged.pointers == *new => staged.clone(),
            _ => Staged { pointers: new.clone(), until, tag: tag.to_owned() },
        };
        Self { staged: Some(staged), ..self.clone() }
    }

    /// With what the canaries have for all frontends.
    pub fn promoted(&self, revoked: &[Slot]) -> Self {
        match &self.staged {
            Some(staged) => self.with(&staged.pointers, revoked),
            None => self.clone(),
        }
    }

    /// The newest certificate of each slot, whoever gets it so far.
    pub fn newest(&self) -> Pointers {
        let mut newest = self.current.clone();
        newest.extend(self.staged.iter().flat_map(|staged| staged.pointers.clone()));
        newest
    }

    /// What a frontend with these tags in its scope is given.
    pub fn given_to(&self, tags: &[String]) -> Pointers {
        match &self.staged {
            Some(staged) if tags.contains(&staged.tag) => self.newest(),
            _ => self.current.clone(),
        }
    }

    fn of_kind(&self, kind: &str, slot: Slot) -> Option<&CertificateId> {
        match kind {
            "cert" => self.current.get(&slot),
            "prev" => self.previous.get(&slot),
            "kept" => self.kept.get(&slot),
            _ => self.staged.as_ref()?.pointers.get(&slot),
        }
    }

    pub(super) fn parse(fields: &HashMap<String, String>) -> Self {
        let pointers = |kind: &str| -> Pointers {
            let of_slot = |slot: Slot| Some((slot, fields.get(&format!("{kind}:{slot}"))?.clone()));
            let all = Slot::ALL.into_iter().filter_map(of_slot);
            all.map(|(slot, id)| (slot, CertificateId::from_stored(id))).collect()
        };
        // `MOMENT_MS TAG`
        let staged = fields.get(STAGED).and_then(|text| text.split_once(' ')).and_then(|(ms, tag)| {
            let until = Timestamp::from_millisecond(ms.parse().ok()?).ok()?;
            Some(Staged { pointers: pointers("next"), until, tag: tag.to_owned() })
        });
        Self { current: pointers("cert"), previous: pointers("prev"), kept: pointers("kept"), staged }
    }
}

impl Store {
    /// Serves what `serving` says from now on, all slots at once, with further fields of the record, and tells of it. Safe to
    /// repeat. Certificates that nothing refers to any more are deleted.
    ///
    /// # Errors
    /// As [`Store::begin_order`].
    pub async fn publish(
        &self,
        lease: &Lease,
        serving: &Serving,
        more: &[(Field, String)],
        events: &[String],
    ) -> Result<(), StoreError> {
        let mut fields = Vec::new();
        for slot in Slot::ALL {
            for kind in KINDS {
                let id = serving.of_kind(kind, slot).map(CertificateId::to_string).unwrap_or_default();
                fields.extend([format!("{kind}:{slot}"), id]);
            }
        }
        let staged = serving.staged.as_ref();
        let staged = staged.map(|staged| format!("{} {}", staged.until.as_millisecond(), staged.tag));
        fields.extend([STAGED.to_owned(), staged.unwrap_or_default()]);
        for (field, value) in more {
            fields.extend([field.as_str().to_owned(), value.clone()]);
        }
        let count = (fields.len() / 2).to_string();
        let served: BTreeSet<&CertificateId> = serving
            .current
            .values()
            .chain(serving.staged.iter().flat_map(|staged| staged.pointers.values()))
            .collect();
        let served_count = served.len().to_string();
        let mut arguments: Vec<&[u8]> =
            vec![lease.token.as_bytes(), served_count.as_bytes(), count.as_bytes()];
        arguments.extend(fields.iter().chain(events).map(String::as_bytes));
        let mut touched = vec![keys::site(&lease.site)];
        touched.extend(served.into_iter().map(|id| keys::certificate(&lease.site, id)));
        self.confirmed_whole_script::<i64>(&scripts::PUBLISH, touched, &arguments).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(ecdsa: &str) -> Pointers {
        [(Slot::Ecdsa, CertificateId::from_stored(ecdsa.to_owned()))].into()
    }

    #[test]
    fn what_is_staged_reaches_the_canaries_and_then_all() {
        let old = Serving::default().with(&pointers("one"), &[]);
        assert_eq!((old.current.clone(), old.previous.clone()), (pointers("one"), Pointers::new()));
        let (until, later) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let staged = old.staging(&pointers("two"), until, "canary");
        assert_eq!(staged.given_to(&["eu".to_owned()]), pointers("one"));
        assert_eq!(staged.given_to(&["canary".to_owned()]), pointers("two"));
        assert_eq!(staged.staging(&pointers("two"), later, "canary"), staged, "its moment is drawn once");
        let promoted = staged.promoted(&[]);
        assert_eq!((promoted.current.clone(), promoted.previous.clone()), (pointers("two"), pointers("one")));
        assert_eq!(promoted.staged, None);
        assert_eq!(promoted.with(&pointers("two"), &[]), promoted, "published again, nothing changes");
        let renewed = promoted.with(&pointers("three"), &[Slot::Ecdsa]);
        assert!(renewed.previous.is_empty(), "what was revoked is nothing to go back to");
    }
}
