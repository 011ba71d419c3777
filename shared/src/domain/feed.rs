//! How far a frontend has followed the changes of certificates.

use super::{PARTITIONS, Partition};
use std::{fmt, str::FromStr};

/// A place in the feed: by partition, the number of the last change that was seen. To a frontend it is a text without a meaning,
/// `EPOCH.SCOPE.NUMBERS`: the store's epoch and what the frontend was allowed to see go along, because a number says nothing once
/// one of them is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedCursor {
    pub epoch: String,
    pub scope: String,
    at: [u64; PARTITIONS as usize],
}

/// The text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a cursor as an answer before has named it")]
pub struct InvalidCursor;

impl FeedCursor {
    /// Before the first change of all.
    pub fn new(epoch: &str, scope: &str) -> Self {
        Self { epoch: epoch.to_owned(), scope: scope.to_owned(), at: [0; PARTITIONS as usize] }
    }

    pub fn at(&self, partition: Partition) -> u64 {
        self.at[partition.number()]
    }

    pub fn advance(&mut self, partition: Partition, number: u64) {
        self.at[partition.number()] = number;
    }
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.", self.epoch, self.scope)?;
        let used = self.at.iter().rposition(|number| *number != 0).map_or(0, |last| last + 1);
        for (place, number) in self.at[..used].iter().enumerate() {
            if place > 0 {
                f.write_str("_")?;
            }
            if *number != 0 {
                write!(f, "{number:x}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for FeedCursor {
    type Err = InvalidCursor;
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let mut parts = text.split('.');
        let (Some(epoch), Some(scope), Some(numbers), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidCursor);
        };
        let is_word = |word: &str| {
            (1..=32).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        if !is_word(epoch) || !is_word(scope) || numbers.len() > 64 * 17 {
            return Err(InvalidCursor);
        }
        let mut cursor = Self::new(epoch, scope);
        for (place, number) in numbers.split('_').enumerate() {
            let slot = cursor.at.get_mut(place).ok_or(InvalidCursor)?;
            if !number.is_empty() {
                let clean = number.bytes().all(|byte| byte.is_ascii_hexdigit());
                *slot = u64::from_str_radix(number, 16).ok().filter(|_| clean).ok_or(InvalidCursor)?;
            }
        }
        Ok(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_not_seen_takes_no_room() {
        let mut cursor = FeedCursor::new("e1", "s1");
        assert_eq!(cursor.to_string(), "e1.s1.");
        let third = Partition::all().nth(2).unwrap();
        cursor.advance(third, 255);
        assert_eq!((cursor.to_string().as_str(), cursor.at(third)), ("e1.s1.__ff", 255));
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(at in proptest::array::uniform32(any::<u64>())) {
            let mut cursor = FeedCursor::new("0a1b", "ff");
            for (partition, number) in Partition::all().zip(at) {
                cursor.advance(partition, number);
            }
            prop_assert_eq!(cursor.to_string().parse::<FeedCursor>().unwrap(), cursor);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<FeedCursor>();
        }
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", ".", "..", "e.s", "e..1", "e.s.g", "e.s.+1", "e.s.1.2", "e.s. 1", "é.s.1"] {
            assert!(text.parse::<FeedCursor>().is_err(), "{text:?}");
        }
        let many = format!("e.s.{}", vec!["1"; 65].join("_"));
        assert!(many.parse::<FeedCursor>().is_err());
    }
}
