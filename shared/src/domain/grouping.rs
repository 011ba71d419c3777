//! Which names of a site share a certificate.

use super::{DnsName, NameSet, SanPolicy};
use std::collections::{BTreeMap, BTreeSet};

/// The groups of a site by their numbers.
pub type Groups = BTreeMap<u16, NameSet>;

/// What one certificate takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// How many names, at least 1.
    pub names: usize,
    /// How many bytes all of them have together; one name is taken however long it is.
    pub bytes: usize,
}

/// A group that names come to.
#[derive(Default)]
struct Filling {
    names: BTreeSet<DnsName>,
    bytes: usize,
}

impl Filling {
    /// Whether there is room for a name: a wildcard and what it covers have certificates of their own, since CAs refuse both in
    /// one order.
    fn takes(&self, name: &DnsName, room: Room) -> bool {
        if self.names.is_empty() {
            return true;
        }
        self.names.len() < room.names.max(1)
            && self.bytes + name.as_str().len() <= room.bytes
            && name.covering_wildcard().is_none_or(|wildcard| !self.names.contains(&wildcard))
            && !(name.is_wildcard()
                && self.names.iter().any(|other| other.covering_wildcard().as_ref() == Some(name)))
    }

    fn take(&mut self, name: DnsName) {
        self.bytes += name.as_str().len();
        self.names.insert(name);
    }
}

/// Distributes names over groups. A name stays where it is; a group changes only where a name comes to it, and names come
/// only to groups that keep one of theirs: a certificate is not reissued for its neighbour's sake, and each new
/// certificate of a group shares a name with the one before it. Groups that lose every name are not in the answer.
pub fn plan_groups(known: &Groups, wanted: &NameSet, policy: SanPolicy, room: Room) -> Groups {
    let room = match policy {
        SanPolicy::Single => Room { names: 1, ..room },
        SanPolicy::Grouped => room,
    };
    let mut placed: BTreeMap<u16, Filling> = BTreeMap::new();
    let mut homeless: BTreeSet<DnsName> = wanted.iter().cloned().collect();
    for (number, names) in known {
        // A profile that takes fewer names than before lets the last ones of each group go.
        let mut kept = Filling::default();
        for name in names.iter() {
            if homeless.contains(name) && kept.takes(name, room) {
                homeless.remove(name);
                kept.take(name.clone());
            }
        }
        if !kept.names.is_empty() {
            placed.insert(*number, kept);
        }
    }
    let mut free = (0..=u16::MAX).filter(|number| !known.contains_key(number));
    for name in homeless {
        match placed.values_mut().find(|group| group.takes(&name, room)) {
            Some(group) => group.take(name),
            // A number that was used before is not used again while its certificate is parked.
            None => {
                let Some(number) = free.next() else { break };
                let mut group = Filling::default();
                group.take(name);
                placed.insert(number, group);
            }
        }
    }
    let groups = placed.into_iter();
    groups.filter_map(|(number, group)| Some((number, NameSet::new(group.names).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(numbers: &[u32]) -> NameSet {
        NameSet::new(numbers.iter().map(|n| DnsName::parse(&format!("n{n}.example.com")).unwrap())).unwrap()
    }

    fn room(names: usize) -> Room {
        Room { names, bytes: usize::MAX }
    }

    fn of_texts(texts: &[&str]) -> NameSet {
        NameSet::new(texts.iter().map(|text| DnsName::parse_identifier(text).unwrap())).unwrap()
    }

    fn groups(of: &[(u16, &[u32])]) -> Groups {
        of.iter().map(|(number, list)| (*number, names(list))).collect()
    }

    #[test]
    fn a_certificate_is_not_reissued_for_its_neighbours_sake() {
        let grouped =
            |known: &Groups, wanted: &[u32]| plan_groups(known, &names(wanted), SanPolicy::Grouped, room(3));
        let first = grouped(&Groups::new(), &[1, 2, 3, 4, 5]);
        assert_eq!(first, groups(&[(0, &[1, 2, 3]), (1, &[4, 5])]));
        // One that goes changes its own group only, one that comes fills it.
        assert_eq!(grouped(&first, &[1, 3, 4, 5]), groups(&[(0, &[1, 3]), (1, &[4, 5])]));
        assert_eq!(grouped(&first, &[1, 3, 4, 5, 6]), groups(&[(0, &[1, 3, 6]), (1, &[4, 5])]));
        // A group whose names have all gone is gone: its successor would share no name with it.
        assert_eq!(grouped(&first, &[4, 5, 7, 8]), groups(&[(1, &[4, 5, 7]), (2, &[8])]));
        let single = plan_groups(&first, &names(&[1, 2, 4]), SanPolicy::Single, room(3));
        assert_eq!(single, groups(&[(0, &[1]), (1, &[4]), (2, &[2])]));
    }

    #[test]
    fn a_wildcard_and_what_it_covers_are_never_in_one_certificate() {
        let plan = |known: &Groups, wanted: &[&str]| {
            plan_groups(known, &of_texts(wanted), SanPolicy::Grouped, room(100))
        };
        let all = ["*.example.com", "a.b.example.com", "example.com", "shop.example.com", "www.example.com"];
        let first = plan(&Groups::new(), &all);
        let expected: Groups = [
            (0, of_texts(&["*.example.com", "a.b.example.com", "example.com"])),
            (1, of_texts(&["shop.example.com", "www.example.com"])),
        ]
        .into();
        assert_eq!(first, expected);
        assert_eq!(plan(&first, &all), first);
        // Groups of an earlier release are taken apart; a wildcard that comes leaves what is there alone.
        let mixed: Groups = [(0, of_texts(&["*.example.com", "www.example.com"]))].into();
        let apart = plan(&mixed, &["*.example.com", "www.example.com"]);
        assert_eq!(apart[&0], of_texts(&["*.example.com"]));
        let known: Groups = [(0, of_texts(&["example.com", "www.example.com"]))].into();
        let with_wildcard = plan(&known, &["*.example.com", "example.com", "www.example.com"]);
        assert_eq!((&with_wildcard[&0], &with_wildcard[&1]), (&known[&0], &of_texts(&["*.example.com"])));
    }

    #[test]
    fn all_names_together_are_not_longer_than_the_ca_takes() {
        let names = of_texts(&["aaaa.example.com", "bbbb.example.com", "cccc.example.com"]);
        let plan =
            |bytes| plan_groups(&Groups::new(), &names, SanPolicy::Grouped, Room { names: 100, bytes });
        assert_eq!((plan(48).len(), plan(47).len(), plan(31).len(), plan(1).len()), (1, 2, 3, 3));
    }

    proptest! {
        #[test]
        fn every_name_has_one_group_and_stays_there(
            first in proptest::collection::btree_set(0u32..40, 1..40),
            second in proptest::collection::btree_set(0u32..40, 1..40),
            most in 1usize..12,
        ) {
            let first: Vec<u32> = first.into_iter().collect();
            let second: Vec<u32> = second.into_iter().collect();
            let before = plan_groups(&Groups::new(), &names(&first), SanPolicy::Grouped, room(most));
            let after = plan_groups(&before, &names(&second), SanPolicy::Grouped, room(most));
            let all: Vec<DnsName> = after.values().flat_map(|group| group.iter().cloned()).collect();
            prop_assert_eq!(all.len(), second.len());
            prop_assert_eq!(NameSet::new(all).unwrap(), names(&second));
            for (number, group) in &after {
                prop_assert!(group.as_slice().len() <= most);
                if let Some(old) = before.get(number) {
                    prop_assert!(group.iter().any(|name| old.contains(name)), "the exemption needs an old name");
                }
                for name in group.iter() {
                    let home = before.iter().find(|(_, old)| old.contains(name)).map(|(number, _)| *number);
                    prop_assert!(home.is_none_or(|home| home == *number), "a name moved");
                }
            }
        }
    }
}
