//! What is due and when: the place that a group has in the schedule, and how work of different kinds shares the workers.

use jiff::Timestamp;

/// Kinds of work. Within its share each is worked by deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A certificate that is about to expire.
    Urgent,
    /// An operator asked for it.
    Operator,
    /// Names that have no certificate yet.
    New,
    Renewal,
    /// What failed before.
    Retry,
    /// Nothing of the CA: parked names that are looked at, records that are deleted.
    Check,
}

/// When a group is next looked at, as what, and by when it should be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub class: Class,
    /// Not before this moment.
    pub moment: Timestamp,
    /// What is due is worked in this order.
    pub deadline: Timestamp,
    /// From then on it counts as [`Class::Urgent`].
    pub urgent_from: Option<Timestamp>,
    /// When what it serves is planned to be renewed, which may be another moment than this place's; `None` where nothing is
    /// served, or nothing will be ordered. The store keeps its hour, and how many groups have each (see
    /// [`hour_of`](super::hour_of)).
    pub renewal: Option<Timestamp>,
}

impl Class {
    pub const ALL: [Self; 6] =
        [Self::Urgent, Self::Operator, Self::New, Self::Renewal, Self::Retry, Self::Check];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Operator => "operator",
            Self::New => "new",
            Self::Renewal => "renewal",
            Self::Retry => "retry",
            Self::Check => "check",
        }
    }

    /// The letter that stands for it in the store.
    pub const fn letter(self) -> char {
        match self {
            Self::Urgent => 'u',
            Self::Operator => 'o',
            Self::New => 'n',
            Self::Renewal => 'r',
            Self::Retry => 't',
            Self::Check => 'c',
        }
    }

    pub fn of_letter(letter: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| letter.starts_with(class.letter()))
    }

    /// The part of the workers that it gets when every kind of work is waiting, in percent.
    pub const fn share(self) -> usize {
        match self {
            Self::Urgent => 30,
            Self::Operator => 15,
            Self::New => 25,
            Self::Renewal => 15,
            Self::Retry => 10,
            Self::Check => 5,
        }
    }

    /// The part of the workers that it may hold when nothing else is waiting, in percent. The rest is kept for who comes
    /// next: a name that fails slowly holds its worker for as long as the CA takes.
    pub const fn most(self) -> usize {
        match self {
            Self::Urgent | Self::Operator => 100,
            Self::New | Self::Renewal => 90,
            Self::Retry => 30,
            Self::Check => 25,
        }
    }
}

/// How many workers of each class may begin now.
///
/// `running` and the answer are in the order of [`Class::ALL`]. Each class first gets what is left of its share; what then
/// is free still goes to the classes in their order, up to the most that each may hold. A class with nothing to do leaves
/// its part unused by this answer, so ask again with what is left.
pub fn quotas(slots: usize, running: [usize; 6]) -> [usize; 6] {
    let mut free = slots.saturating_sub(running.iter().sum());
    let mut quotas = [0; 6];
    for (place, class) in Class::ALL.into_iter().enumerate() {
        let share = (slots * class.share()).div_ceil(100).max(1);
        quotas[place] = share.saturating_sub(running[place]).min(free);
        free -= quotas[place];
    }
    quotas
}

/// How many workers of each class may begin now, where no class is to be held to its share: only to the most it may hold.
pub fn leftovers(slots: usize, running: [usize; 6]) -> [usize; 6] {
    let free = slots.saturating_sub(running.iter().sum());
    let mut quotas = [0; 6];
    for (place, class) in Class::ALL.into_iter().enumerate() {
        let most = (slots * class.most()).div_ceil(100).max(1);
        quotas[place] = most.saturating_sub(running[place]).min(free);
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_read_what_they_write_and_share_everything() {
        for class in Class::ALL {
            assert_eq!(Class::of_letter(&class.letter().to_string()), Some(class));
        }
        assert_eq!(Class::ALL.iter().map(|class| class.share()).sum::<usize>(), 100);
        assert_eq!(quotas(64, [0; 6]).iter().sum::<usize>(), 64);
        // Ten thousand names that fail leave half of the workers to the others, always.
        assert_eq!(leftovers(64, [0, 0, 0, 0, 32, 0])[4], 0);
        assert!(leftovers(64, [0, 0, 0, 0, 32, 0])[2] >= 16);
        assert!(quotas(1, [0; 6]).contains(&1));
    }

    proptest! {
        #[test]
        fn never_more_than_is_free(slots in 1usize..200, running in proptest::array::uniform6(0usize..50)) {
            let free = slots.saturating_sub(running.iter().sum());
            prop_assert!(quotas(slots, running).iter().sum::<usize>() <= free);
            for (place, class) in Class::ALL.into_iter().enumerate() {
                prop_assert!(leftovers(slots, running)[place] <= free);
                let most = (slots * class.most()).div_ceil(100).max(1);
                prop_assert!(running[place] >= most || running[place] + leftovers(slots, running)[place] <= most);
            }
        }
    }
}
