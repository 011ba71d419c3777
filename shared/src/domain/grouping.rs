//! Which names of a site share a certificate.

use super::{DnsName, NameSet, SanPolicy};
use std::collections::{BTreeMap, BTreeSet};

/// The groups of a site by their numbers.
pub type Groups = BTreeMap<u16, NameSet>;

/// Distributes names over groups. A name stays where it is; a group changes only where a name comes to it, and names come
/// only to groups that keep one of theirs: a certificate is not reissued for its neighbour's sake, and each new
/// certificate of a group shares a name with the one before it. Groups that lose every name are not in the answer.
///
/// `most` is how many names one certificate takes, at least 1.
pub fn plan_groups(known: &Groups, wanted: &NameSet, policy: SanPolicy, most: usize) -> Groups {
    let most = match policy {
        SanPolicy::Single => 1,
        SanPolicy::Grouped => most.max(1),
    };
    let mut placed: BTreeMap<u16, BTreeSet<DnsName>> = BTreeMap::new();
    let mut homeless: BTreeSet<DnsName> = wanted.iter().cloned().collect();
    for (number, names) in known {
        // A profile that takes fewer names than before lets the last ones of each group go.
        let kept: BTreeSet<DnsName> =
            names.iter().filter(|name| homeless.contains(name)).take(most).cloned().collect();
        homeless.retain(|name| !kept.contains(name));
        if !kept.is_empty() {
            placed.insert(*number, kept);
        }
    }
    let mut homeless = homeless.into_iter();
    for names in placed.values_mut() {
        let room = most.saturating_sub(names.len());
        names.extend(homeless.by_ref().take(room));
    }
    let mut number = 0;
    loop {
        let names: BTreeSet<DnsName> = homeless.by_ref().take(most).collect();
        if names.is_empty() {
            break;
        }
        // A number that was used before is not used again while its certificate is parked.
        while placed.contains_key(&number) || known.contains_key(&number) {
            number += 1;
        }
        placed.insert(number, names);
    }
    placed.into_iter().filter_map(|(number, names)| Some((number, NameSet::new(names).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(numbers: &[u32]) -> NameSet {
        NameSet::new(numbers.iter().map(|n| DnsName::parse(&format!("n{n}.example.com")).unwrap())).unwrap()
    }

    fn groups(of: &[(u16, &[u32])]) -> Groups {
        of.iter().map(|(number, list)| (*number, names(list))).collect()
    }

    #[test]
    fn a_certificate_is_not_reissued_for_its_neighbours_sake() {
        let grouped =
            |known: &Groups, wanted: &[u32]| plan_groups(known, &names(wanted), SanPolicy::Grouped, 3);
        let first = grouped(&Groups::new(), &[1, 2, 3, 4, 5]);
        assert_eq!(first, groups(&[(0, &[1, 2, 3]), (1, &[4, 5])]));
        // One that goes changes its own group only, one that comes fills it.
        assert_eq!(grouped(&first, &[1, 3, 4, 5]), groups(&[(0, &[1, 3]), (1, &[4, 5])]));
        assert_eq!(grouped(&first, &[1, 3, 4, 5, 6]), groups(&[(0, &[1, 3, 6]), (1, &[4, 5])]));
        // A group whose names have all gone is gone: its successor would share no name with it.
        assert_eq!(grouped(&first, &[4, 5, 7, 8]), groups(&[(1, &[4, 5, 7]), (2, &[8])]));
        let single = plan_groups(&first, &names(&[1, 2, 4]), SanPolicy::Single, 3);
        assert_eq!(single, groups(&[(0, &[1]), (1, &[4]), (2, &[2])]));
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
            let before = plan_groups(&Groups::new(), &names(&first), SanPolicy::Grouped, most);
            let after = plan_groups(&before, &names(&second), SanPolicy::Grouped, most);
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
