//! Places in the streams of events: of one event, and of a reader who goes through all partitions.

use crate::domain::{PARTITIONS, Partition};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Names an event: `p12-1732460400000-0`. Ids of one partition grow; between partitions they are in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventId {
    milliseconds: i64,
    sequence: u64,
    partition: Partition,
}

/// How far a reader has come in each partition. As text: the ids, with commas in between, empty where nothing was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventCursor(Vec<EventId>);

/// The text is no place in the streams.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no place in the event streams: {0:?}")]
pub struct InvalidPlace(String);

impl EventId {
    /// An id as the store has it: `1732460400000-0`.
    pub(super) fn parse(partition: Partition, text: &str) -> Option<Self> {
        let (milliseconds, sequence) = text.split_once('-')?;
        Some(Self { milliseconds: milliseconds.parse().ok()?, sequence: sequence.parse().ok()?, partition })
    }

    pub fn partition(self) -> Partition {
        self.partition
    }

    /// When the store appended it, in milliseconds since 1970.
    pub(super) fn milliseconds(self) -> i64 {
        self.milliseconds
    }

    /// When the store appended it.
    pub fn time(self) -> Timestamp {
        Timestamp::from_millisecond(self.milliseconds).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn beginning(partition: Partition) -> Self {
        Self { milliseconds: 0, sequence: 0, partition }
    }

    fn stream_id(self) -> String {
        format!("{}-{}", self.milliseconds, self.sequence)
    }
}

impl EventCursor {
    /// Everything up to this event of its partition was read. Never goes back.
    pub fn advance_to(&mut self, id: EventId) {
        let place = &mut self.0[id.partition.number()];
        *place = (*place).max(id);
    }

    /// Whether the event was read.
    pub fn is_past(&self, id: EventId) -> bool {
        id <= self.0[id.partition.number()]
    }

    pub(super) fn id(&self, partition: Partition) -> EventId {
        self.0[partition.number()]
    }

    pub(super) fn stream_id(&self, partition: Partition) -> String {
        self.id(partition).stream_id()
    }

    pub(super) fn is_at_the_beginning(&self, partition: Partition) -> bool {
        self.id(partition) == EventId::beginning(partition)
    }
}

impl Default for EventCursor {
    /// Before everything.
    fn default() -> Self {
        Self(Partition::all().map(EventId::beginning).collect())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition, self.stream_id())
    }
}

impl FromStr for EventId {
    type Err = InvalidPlace;
    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let found = text.split_once('-').and_then(|(partition, id)| {
            Self::parse(Partition::all().find(|known| known.to_string() == partition)?, id)
        });
        found.ok_or_else(|| InvalidPlace(text.to_owned()))
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, id) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match (id.milliseconds, id.sequence) {
                (0, 0) => f.write_str(comma)?,
                (milliseconds, 0) => write!(f, "{comma}{milliseconds}")?,
                (milliseconds, sequence) => write!(f, "{comma}{milliseconds}-{sequence}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for EventCursor {
    type Err = InvalidPlace;
    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let invalid = || InvalidPlace(text.to_owned());
        let parts: Vec<&str> = text.split(',').collect();
        if parts.len() != usize::from(PARTITIONS) {
            return Err(invalid());
        }
        let ids = Partition::all().zip(parts).map(|(partition, part)| match part {
            "" => Some(EventId::beginning(partition)),
            whole if !whole.contains('-') => EventId::parse(partition, &format!("{whole}-0")),
            whole => EventId::parse(partition, whole),
        });
        Ok(Self(ids.collect::<Option<Vec<_>>>().ok_or_else(invalid)?))
    }
}

macro_rules! textual {
    ($($place:ty),*) => {
        $(impl TryFrom<String> for $place {
            type Error = InvalidPlace;
            fn try_from(text: String) -> Result<Self, InvalidPlace> {
                text.parse()
            }
        }
        impl From<$place> for String {
            fn from(place: $place) -> Self {
                place.to_string()
            }
        })*
    };
}
textual!(EventId, EventCursor);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_from_its_text_and_never_goes_back() {
        let mut cursor = EventCursor::default();
        assert_eq!(cursor.to_string(), ",".repeat(63));
        let id: EventId = "p07-1732460400000-3".parse().unwrap();
        let earlier: EventId = "p07-1732460400000-2".parse().unwrap();
        let elsewhere: EventId = "p63-1732460400000-0".parse().unwrap();
        cursor.advance_to(id);
        cursor.advance_to(earlier);
        cursor.advance_to(elsewhere);
        assert!(cursor.is_past(id) && cursor.is_past(earlier));
        assert!(!cursor.is_past("p08-1732460400000-0".parse().unwrap()));
        assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
        assert_eq!(
            cursor.to_string(),
            format!("{}1732460400000-3{}1732460400000", ",".repeat(7), ",".repeat(56))
        );
        for wrong in ["", "1,2", &"x,".repeat(63)] {
            assert!(wrong.parse::<EventCursor>().is_err(), "{wrong}");
        }
        for wrong in ["p64-1-1", "7-1-1", "p07", "p07-x-1"] {
            assert!(wrong.parse::<EventId>().is_err(), "{wrong}");
        }
    }
}
