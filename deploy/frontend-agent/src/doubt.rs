//! What is done where the centre's store may have gone back: a copy was restored, or another server took its place. Then that
//! something is not listed says nothing: it may be younger than the store. What is absent and still valid is served on until
//! its removal is confirmed: by a change that says so, by a person, or because it has expired or other items have its names.

use crate::{
    index::{Live, names_in_service},
    install::Fetched,
    pass::Pass,
    removal::Withheld,
    wire::{ItemId, Line},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

/// Resyncs after which the store still is what it was: what is absent is gone.
const SAME_STORE: [&str; 2] = ["scope", "compacted"];
/// Of one item at the same time.
const MOST_HELD: usize = 9;

/// What a store that went back does not know, and what is served on all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Doubt {
    /// Why everything has to be asked for; absent: not because the centre said so.
    pub(crate) resync: Option<String>,
    /// Items that a listing lacked.
    pub(crate) unconfirmed: BTreeMap<ItemId, Unconfirmed>,
    /// Items that it has with fewer names: copies of what was served for those, by which item and version they are of.
    pub(crate) held: BTreeMap<ItemId, Held>,
    /// Items of which it said that they were rolled back: nobody knows whether they still are.
    pub(crate) rollbacks: BTreeSet<ItemId>,
    /// Items of which nobody knows yet whether what is served has to be kept beside what it says.
    pub(crate) undecided: BTreeSet<ItemId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unconfirmed {
    pub(crate) names: Vec<String>,
    pub(crate) since: Timestamp,
    /// When it expires.
    pub(crate) until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    of: ItemId,
    version: String,
    #[serde(flatten)]
    pub(crate) what: Unconfirmed,
}

impl Doubt {
    /// Whether a listing of everything may be of another store than the last change was.
    pub(crate) fn is_of_another_store(&self) -> bool {
        self.resync.as_deref().is_none_or(|why| !SAME_STORE.contains(&why))
    }

    /// Everything that is served on without the centre.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&ItemId, &Unconfirmed)> {
        self.unconfirmed.iter().chain(self.held.iter().map(|(id, held)| (id, &held.what)))
    }

    pub(crate) fn is_kept(&self, id: &ItemId) -> bool {
        self.unconfirmed.contains_key(id) || self.held.contains_key(id)
    }

    pub(crate) fn forget(&mut self, id: &ItemId) {
        self.unconfirmed.remove(id);
        self.held.remove(id);
    }

    /// For people.
    pub(crate) fn to_problem(&self) -> Option<String> {
        let (count, first) = (self.kept().count(), self.kept().next()?);
        let name = first.1.names.first().map_or("", String::as_str);
        Some(format!(
            "the centre's store went back and lacks {count} items that are served ({name}, ...): they are served on while they are valid; {}",
            Withheld::REMEDY
        ))
    }
}

impl Unconfirmed {
    fn of(live: &Live, names: Vec<String>, now: Timestamp) -> Self {
        let until = Timestamp::from_second(live.ends()).unwrap_or(Timestamp::MAX);
        Self { names, since: now, until }
    }

    pub(crate) fn to_reason(&self) -> String {
        format!(
            "the centre's store went back and does not know it; it is served on until {}. Add it again, or {}",
            self.until.strftime("%F %H:%M UTC"),
            Withheld::REMEDY
        )
    }
}

impl Pass<'_> {
    /// Notes what a listing of a store that may have gone back says less of an item than what is served. Answers whether what it
    /// says may be taken in: not where what is served can't be kept beside it.
    pub(crate) fn doubt_item(
        &mut self,
        id: &ItemId,
        version: &str,
        names: &[String],
        now: Timestamp,
    ) -> bool {
        match self.keep_beside(id, version, names, now) {
            Ok(()) => {
                self.status.doubt.undecided.remove(id);
                true
            }
            Err(error) => {
                self.status.doubt.undecided.insert(id.clone());
                self.fail(id, format!("what is served can't be kept beside what the centre has: {error}"));
                false
            }
        }
    }

    /// What was fetched, but for what must not take the place of what is served yet.
    pub(crate) fn leave_out_the_undecided(&mut self, fetched: Fetched, now: Timestamp) -> Fetched {
        let mut rest = Fetched::new();
        for (id, line) in fetched {
            let may_be_taken_in = match &line {
                Line::Bundle(bundle) if self.status.doubt.undecided.contains(&id) => {
                    self.doubt_item(&id, &bundle.version, &bundle.names, now)
                }
                _ => true,
            };
            if may_be_taken_in {
                rest.push((id, line));
            }
        }
        rest
    }

    /// # Errors
    /// From the file system, when what is served can't be kept beside what is to come.
    fn keep_beside(
        &mut self,
        of: &ItemId,
        version: &str,
        names: &[String],
        now: Timestamp,
    ) -> io::Result<()> {
        let Some(live) = self.index.get(of).filter(|live| live.is_in_service()) else { return Ok(()) };
        if *live.version == *version {
            return Ok(());
        }
        self.status.doubt.rollbacks.insert(of.clone());
        let lacks = |name: &&std::sync::Arc<str>| !names.iter().any(|other| **other == ***name);
        let names: Vec<String> = live.names.iter().filter(lacks).map(ToString::to_string).collect();
        if names.is_empty() || live.ends() <= now.as_second() || self.is_held(of, &names) {
            return Ok(());
        }
        let text = |number: usize| match number {
            1 => format!("{of}_held"),
            _ => format!("{of}_held{number}"),
        };
        let free = (1..=MOST_HELD)
            .filter_map(|number| ItemId::parse(&text(number)).ok())
            .find(|id| !self.index.contains_key(id));
        let id = free.ok_or_else(|| io::Error::other("too many versions of it are held"))?;
        let what = Unconfirmed::of(live, names, now);
        let version = live.version.to_string();
        let held = self.directory.hold(of, &id, &what.names)?;
        self.index.insert(id.clone(), held);
        self.status.doubt.held.insert(id, Held { of: of.clone(), version, what });
        Ok(())
    }

    fn is_held(&self, id: &ItemId, names: &[String]) -> bool {
        let covers = |held: &Held| held.of == *id && names.iter().all(|name| held.what.names.contains(name));
        self.status.doubt.held.values().any(covers)
    }

    /// Keeps items that a listing lacked.
    pub(crate) fn keep_absent(&mut self, absent: Vec<ItemId>, now: Timestamp) {
        for id in absent {
            let Some(live) = self.index.get(&id) else { continue };
            let names = live.names.iter().map(ToString::to_string).collect();
            let what = Unconfirmed::of(live, names, now);
            self.status.doubt.unconfirmed.entry(id).or_insert(what);
        }
    }

    /// What was kept and need not be any longer: it has expired, or younger items have all of its names.
    pub(crate) fn no_longer_kept(&self, now: Timestamp) -> BTreeSet<ItemId> {
        let doubt = &self.status.doubt;
        if doubt.kept().next().is_none() {
            return BTreeSet::new();
        }
        let names = names_in_service(&self.index, |_, _, _| {});
        let is_over = |id: &ItemId| {
            let Some(live) = self.index.get(id).filter(|live| live.is_in_service()) else { return true };
            let answers_for = |name: &std::sync::Arc<str>| match names.get(name) {
                Some(other) if other == id => true,
                // What it was made from may still be what it was.
                Some(other) => doubt.held.get(id).is_some_and(|held| {
                    held.of == *other && self.index.get(other).is_some_and(|of| *of.version == *held.version)
                }),
                None => true,
            };
            live.ends() <= now.as_second() || !live.names.iter().any(answers_for)
        };
        doubt.kept().map(|(id, _)| id.clone()).filter(is_over).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_store_that_stayed_the_same_is_believed() {
        let after = |why: Option<&str>| Doubt { resync: why.map(str::to_owned), ..Doubt::default() };
        for (why, another) in [
            (None, true),
            (Some("epoch"), true),
            (Some("unknown"), true),
            (Some("scope"), false),
            (Some("compacted"), false),
        ] {
            assert_eq!(after(why).is_of_another_store(), another, "{why:?}");
        }
    }
}
