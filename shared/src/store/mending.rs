//! What must always be true of the schedule, looked at all the time: each group stands in one queue, and nothing else does.

use super::{Store, StoreError, declared::queues, keys, scripts};
use crate::domain::Partition;
use redis::cmd;
use std::{fmt, ops::Range};

/// Where a group was not as it should be; it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    pub id: String,
    pub what: Disorder,
}

/// What was wrong with a group's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disorder {
    /// It stood in no queue: nobody would ever have looked at it again.
    Lost,
    /// It stood in several.
    Twice,
    /// A queue had it, and there is no such group.
    Empty,
    /// Its place could not be read.
    Unreadable,
    /// It is wanted, and was not in the list of sites.
    Unlisted,
    /// The list of those that wait said otherwise than its record. An earlier release has none.
    Uncounted,
    /// Its record is none. Nothing was done.
    Damaged,
}

impl Disorder {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Twice => "twice",
            Self::Empty => "empty",
            Self::Unreadable => "unreadable",
            Self::Unlisted => "unlisted",
            Self::Uncounted => "uncounted",
            Self::Damaged => "damaged",
        }
    }

    fn of(word: &str) -> Option<Self> {
        let all = [
            Self::Lost,
            Self::Twice,
            Self::Empty,
            Self::Unreadable,
            Self::Unlisted,
            Self::Uncounted,
            Self::Damaged,
        ];
        all.into_iter().find(|known| known.as_str() == word)
    }
}

impl fmt::Display for Disorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "it stood in no queue",
            Self::Twice => "it stood in several queues",
            Self::Empty => "a queue had it although there is no such group",
            Self::Unreadable => "its place in the schedule could not be read",
            Self::Unlisted => "it was not in the list of sites",
            Self::Uncounted => "the list of those that wait was not as its record has it",
            Self::Damaged => "its record is of another kind",
        })
    }
}

/// A list of groups of a partition: those that are wanted, those that are no longer, or a queue.
#[derive(Clone, Debug)]
pub struct GroupList {
    key: String,
    pub length: usize,
}

impl Store {
    /// The lists of a partition in which there is something.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lists_of_groups(&self, partition: Partition) -> Result<Vec<GroupList>, StoreError> {
        let all: Vec<String> = [keys::sites(partition), keys::retired(partition), keys::waiting(partition)]
            .into_iter()
            .chain(queues(partition))
            .collect();
        let mut pipeline = redis::Pipeline::new();
        for key in &all {
            pipeline.cmd("ZCARD").arg(key);
        }
        let lengths: Vec<usize> = self.link.pipe(&pipeline).await?;
        let lists = all.into_iter().zip(lengths).map(|(key, length)| GroupList { key, length });
        Ok(lists.filter(|list| list.length > 0).collect())
    }

    /// Looks at some places of a list, and puts right what is not as it must be. Answers that, and the ids that were looked at.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn mend_schedule(
        &self,
        partition: Partition,
        list: &GroupList,
        places: Range<usize>,
    ) -> Result<(Vec<Mended>, Vec<String>), StoreError> {
        if places.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let mut range = cmd("ZRANGE");
        range.arg(&list.key).arg(places.start).arg(places.end - 1);
        let ids: Vec<String> = self.link.query(&range).await?;
        if ids.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let mut touched = queues(partition);
        touched.push(keys::sites(partition));
        touched.push(keys::retired(partition));
        touched.extend(ids.iter().map(|id| keys::site_in(partition, id)));
        touched.push(keys::waiting(partition));
        let arguments: Vec<&[u8]> = ids.iter().map(String::as_bytes).collect();
        let answer: Vec<String> = self.whole_script(&scripts::MEND_SCHEDULE, touched, &arguments).await?;
        let pairs = answer.chunks_exact(2);
        let mended =
            pairs.filter_map(|pair| Some(Mended { id: pair[0].clone(), what: Disorder::of(&pair[1])? }));
        Ok((mended.collect(), ids))
    }

    /// Whether everything that waits is in the list of those: an earlier release has left none, which is filled by and by.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_waiting_known(&self) -> Result<bool, StoreError> {
        self.link.query(cmd("EXISTS").arg(keys::WAITING_KNOWN)).await
    }

    /// Notes that every group was looked at by a program that keeps that list.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_waiting_known(&self) -> Result<(), StoreError> {
        self.link.query(cmd("SET").arg(keys::WAITING_KNOWN).arg(1)).await
    }
}
