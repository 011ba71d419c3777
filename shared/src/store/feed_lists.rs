//! The lists that the feed stands in. One that can't be read holds nobody: that every group of it may have changed is what is
//! said then, by the numbers in the groups' own records. It is put right by giving those groups new numbers, so that also those who
//! have gone on behind it hear of all that it said.

use super::{Damage, Store, StoreError, keys, scripts};
use crate::domain::{Partition, SiteId};
use redis::{Cmd, cmd};
use std::{collections::BTreeSet, ops::RangeInclusive};

/// Chunks that are read at once.
const CHUNKS_AT_ONCE: usize = 8;
/// Groups that get a new number in one script, and that are listed in one step.
const GROUPS_AT_ONCE: usize = 200;
/// As `schedule.lua` has it.
const CHANGES_IN_A_CHUNK: u64 = 100;
/// How often changes may come in between.
const MOST_TRIES: usize = 5;

/// Entries as they stand there.
type Entries = Vec<(Vec<u8>, u64)>;

/// What can't be read of a partition's feed.
#[derive(Clone, Debug, Default)]
pub struct FeedDamage {
    pub found: Vec<Damage>,
    /// Whether the list of chunks is what it should be.
    lacks_index: bool,
    /// What is no entry of a chunk.
    chunks: Vec<(u64, Vec<Vec<u8>>)>,
}

impl Store {
    /// Groups of a partition whose last change is after `after` and not after `end`, in the order of their changes. Not more than
    /// `limit` of them, but for those that have the same number as the last one because nobody knows theirs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_changed(
        &self,
        partition: Partition,
        after: u64,
        end: u64,
        limit: usize,
    ) -> Result<Vec<(u64, SiteId)>, StoreError> {
        let mut found: Vec<(u64, SiteId)> = Vec::new();
        let mut from = after.saturating_add(1);
        while found.len() < limit && from <= end {
            let (first, most) = (from / CHANGES_IN_A_CHUNK, end / CHANGES_IN_A_CHUNK);
            let chunks = match self.load_chunks(partition, first, CHUNKS_AT_ONCE).await {
                Ok(chunks) => chunks,
                Err(error) if error.is_of_the_record() => {
                    tracing::warn!(
                        error = crate::error::chain(&error),
                        "everything behind it may have changed"
                    );
                    found.extend(self.load_numbered(partition, from..=end).await?);
                    break;
                }
                Err(error) => return Err(error),
            };
            let chunks: Vec<u64> = chunks.into_iter().filter(|chunk| *chunk <= most).collect();
            let Some(last) = chunks.last().copied() else { break };
            for (chunk, entries) in chunks.iter().zip(self.load_entries(partition, &chunks).await?) {
                match entries {
                    Ok(entries) => {
                        found.extend(entries.into_iter().filter(|(number, _)| (from..=end).contains(number)));
                    }
                    Err(error) => {
                        tracing::warn!(
                            error = crate::error::chain(&error),
                            "everything in it may have changed"
                        );
                        let (low, high) = (from.max(chunk * CHANGES_IN_A_CHUNK), end.min(last_of(*chunk)));
                        found.extend(self.load_numbered(partition, low..=high).await?);
                    }
                }
            }
            from = last_of(last).saturating_add(1);
        }
        found.sort();
        let number = limit.checked_sub(1).and_then(|last| found.get(last)).map(|(number, _)| *number);
        if let Some(number) = number {
            found.truncate(found.partition_point(|(other, _)| *other <= number));
        }
        Ok(found)
    }

    /// The first chunks that there are, from that one on.
    async fn load_chunks(
        &self,
        partition: Partition,
        first: u64,
        most: usize,
    ) -> Result<Vec<u64>, StoreError> {
        let key = keys::feed(partition);
        let mut ask = cmd("ZRANGEBYSCORE");
        ask.arg(&key).arg(first).arg("+inf").arg("WITHSCORES").arg("LIMIT").arg(0).arg(most);
        let members: Entries = self.link.query(&ask).await?;
        let number = |(member, score): &(Vec<u8>, u64)| {
            let number = std::str::from_utf8(member).ok()?.parse::<u64>().ok()?;
            (number == *score).then_some(number)
        };
        let chunks: Option<Vec<u64>> = members.iter().map(number).collect();
        // It may be what is left of one that changes stand in.
        chunks.ok_or_else(|| StoreError::corrupt(key, "a member of it is no number of a chunk"))
    }

    /// What stands in each of some chunks. One with something in it that is no entry of it can't be read.
    async fn load_entries(
        &self,
        partition: Partition,
        chunks: &[u64],
    ) -> Result<Vec<Result<Vec<(u64, SiteId)>, StoreError>>, StoreError> {
        let read =
            self.read_chunks(partition, chunks).await?.into_iter().zip(chunks).map(|(entries, chunk)| {
                let entries = entries?;
                let read: Vec<(u64, SiteId)> =
                    entries.iter().filter_map(|entry| entry_of(*chunk, entry)).collect();
                let key = || keys::feed_chunk(partition, *chunk);
                match read.len() == entries.len() && !read.is_empty() {
                    true => Ok(read),
                    false if read.is_empty() => {
                        Err(StoreError::corrupt(key(), "nothing of what stood there is left"))
                    }
                    false => Err(StoreError::corrupt(key(), "a member of it is no change")),
                }
            });
        Ok(read.collect())
    }

    async fn read_chunks(
        &self,
        partition: Partition,
        chunks: &[u64],
    ) -> Result<Vec<Result<Entries, StoreError>>, StoreError> {
        let ask = |chunk: &u64| {
            let key = keys::feed_chunk(partition, *chunk);
            cmd("ZRANGEBYSCORE").arg(key).arg("-inf").arg("+inf").arg("WITHSCORES").clone()
        };
        self.read_each(&chunks.iter().map(ask).collect::<Vec<Cmd>>()).await
    }

    /// Those groups that are wanted whose own record says that their last change is one of these. Where it does not say, it may be
    /// the last of them.
    async fn load_numbered(
        &self,
        partition: Partition,
        numbers: RangeInclusive<u64>,
    ) -> Result<Vec<(u64, SiteId)>, StoreError> {
        let mut found = Vec::new();
        let mut from = "-".to_owned();
        loop {
            let mut range = cmd("ZRANGEBYLEX");
            range.arg(keys::sites(partition)).arg(&from).arg("+").arg("LIMIT").arg(0).arg(GROUPS_AT_ONCE);
            let ids: Vec<Vec<u8>> = self.link.query(&range).await?;
            let Some(last) = ids.last() else { return Ok(found) };
            from = format!("({}", String::from_utf8_lossy(last));
            let ids: Vec<SiteId> =
                ids.iter().filter_map(|id| SiteId::parse(std::str::from_utf8(id).ok()?)).collect();
            found.extend(self.numbers_of(&ids).await?.into_iter().zip(ids).filter_map(|(number, id)| {
                let number = number.unwrap_or(Some(*numbers.end()));
                number.filter(|number| numbers.contains(number)).map(|number| (number, id))
            }));
        }
    }

    /// The numbers of the last changes of groups: nothing where no frontend was ever told of one, an error where it can't be read.
    async fn numbers_of(&self, ids: &[SiteId]) -> Result<Vec<Result<Option<u64>, ()>>, StoreError> {
        let questions: Vec<Cmd> =
            ids.iter().map(|id| cmd("HGET").arg(keys::site(id)).arg("seq").clone()).collect();
        let numbers: Vec<Result<Option<Vec<u8>>, StoreError>> = self.read_each(&questions).await?;
        let read = |number: Result<Option<Vec<u8>>, StoreError>| match number.map_err(drop)? {
            Some(text) => {
                std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).ok_or(()).map(Some)
            }
            None => Ok(None),
        };
        Ok(numbers.into_iter().map(read).collect())
    }

    /// Looks for what can't be read of the feed of a partition.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn damage_of_feed(&self, partition: Partition) -> Result<FeedDamage, StoreError> {
        let mut damage = FeedDamage::default();
        let mut from = 0;
        loop {
            let chunks = match self.load_chunks(partition, from, GROUPS_AT_ONCE).await {
                Err(error) if error.is_of_the_record() => {
                    damage.lacks_index = true;
                    damage.found.push(Damage::of(keys::feed(partition), &error));
                    return Ok(damage);
                }
                chunks => chunks?,
            };
            let Some(last) = chunks.last().copied() else { return Ok(damage) };
            for (chunk, entries) in chunks.iter().zip(self.load_entries(partition, &chunks).await?) {
                let Err(error) = entries else { continue };
                if let Some(bad) = self.bad_entries(partition, *chunk).await? {
                    damage.found.push(Damage::of(keys::feed_chunk(partition, *chunk), &error));
                    damage.chunks.push((*chunk, bad));
                }
            }
            from = last.saturating_add(1);
        }
    }

    /// What is no entry of a chunk that can't be read; nothing where the chunk was given up meanwhile.
    async fn bad_entries(
        &self,
        partition: Partition,
        chunk: u64,
    ) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
        let is_there: Option<f64> =
            self.link.query(cmd("ZSCORE").arg(keys::feed(partition)).arg(chunk)).await?;
        if is_there.is_none() || matches!(self.load_entries(partition, &[chunk]).await?.pop(), Some(Ok(_))) {
            return Ok(None);
        }
        let mut ask = cmd("ZRANGE");
        ask.arg(keys::feed_chunk(partition, chunk)).arg(0).arg(-1).arg("WITHSCORES");
        let entries: Vec<(Vec<u8>, f64)> = match self.link.query(&ask).await {
            Err(error) if error.is_of_the_record() => return Ok(Some(Vec::new())),
            entries => entries?,
        };
        let is_bad = |(member, score): &(Vec<u8>, f64)| {
            score.fract() != 0.0
                || *score < 0.0
                || entry_of(chunk, &(member.clone(), *score as u64)).is_none()
        };
        Ok(Some(entries.into_iter().filter(is_bad).map(|(member, _)| member).collect()))
    }

    /// Puts right what can't be read of the feed of a partition: all that it may have said is said again.
    ///
    /// # Errors
    /// [`StoreError`]; it is as it was then, or in part put right.
    pub async fn mend_feed(&self, partition: Partition, damage: &FeedDamage) -> Result<(), StoreError> {
        if damage.lacks_index {
            self.restore_index(partition).await?;
        }
        if damage.chunks.is_empty() {
            return Ok(());
        }
        let mut ids: BTreeSet<SiteId> = BTreeSet::new();
        for key in [keys::sites(partition), keys::retired(partition), keys::gone(partition)] {
            let members: Vec<Vec<u8>> = self.link.query(cmd("ZRANGE").arg(key).arg(0).arg(-1)).await?;
            ids.extend(members.iter().filter_map(|id| SiteId::parse(std::str::from_utf8(id).ok()?)));
        }
        let ids: Vec<SiteId> = ids.into_iter().collect();
        let is_in_one = |number: u64| {
            damage
                .chunks
                .iter()
                .any(|(chunk, _)| (chunk * CHANGES_IN_A_CHUNK..=last_of(*chunk)).contains(&number))
        };
        let numbers = self.numbers_of(&ids).await?;
        let may_have_been_said = |number: &Result<Option<u64>, ()>| {
            number.is_err() || number.is_ok_and(|number| number.is_some_and(is_in_one))
        };
        let said: Vec<&SiteId> = ids
            .iter()
            .zip(&numbers)
            .filter(|(_, number)| may_have_been_said(number))
            .map(|(id, _)| id)
            .collect();
        for some in said.chunks(GROUPS_AT_ONCE) {
            let arguments: Vec<&[u8]> = some.iter().map(|id| id.as_str().as_bytes()).collect();
            let groups = some.iter().map(|id| keys::site(id));
            let touched = std::iter::once(keys::feed(partition)).chain(groups).collect();
            self.confirmed_whole_script::<i64>(&scripts::SAY_AGAIN, touched, &arguments).await?;
        }
        for (chunk, bad) in &damage.chunks {
            let touched = [keys::feed(partition), keys::feed_chunk(partition, *chunk)];
            let chunk = chunk.to_string();
            let arguments: Vec<&[u8]> =
                std::iter::once(chunk.as_bytes()).chain(bad.iter().map(Vec::as_slice)).collect();
            self.link.script::<i64>(&scripts::CLEAR_CHUNK, &touched, &arguments).await?;
        }
        Ok(())
    }

    /// Makes the list of chunks that of those that there are.
    async fn restore_index(&self, partition: Partition) -> Result<(), StoreError> {
        let state = keys::feed_state(partition);
        for _ in 0..MOST_TRIES {
            let last: Option<u64> = self.link.query(cmd("HGET").arg(&state).arg("seq")).await?;
            let most = last.unwrap_or(0) / CHANGES_IN_A_CHUNK;
            let questions: Vec<Cmd> = (0..=most)
                .map(|chunk| cmd("EXISTS").arg(keys::feed_chunk(partition, chunk)).clone())
                .collect();
            let mut arguments = vec![most.to_string()];
            for (chunk, there) in (0..=most).zip(self.read_each::<bool>(&questions).await?) {
                if there? {
                    arguments.push(chunk.to_string());
                }
            }
            let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
            let touched = [keys::feed(partition), state.clone()];
            // There may be one more by now.
            if self.link.script::<i64>(&scripts::RESTORE_FEED, &touched, &arguments).await? == 1 {
                return Ok(());
            }
        }
        Err(StoreError::Conflict)
    }
}

impl FeedDamage {
    pub fn is_none(&self) -> bool {
        self.found.is_empty()
    }
}

/// The last number that stands in a chunk.
const fn last_of(chunk: u64) -> u64 {
    chunk.saturating_mul(CHANGES_IN_A_CHUNK).saturating_add(CHANGES_IN_A_CHUNK - 1)
}

/// A change, where it is one of that chunk.
fn entry_of(chunk: u64, (id, number): &(Vec<u8>, u64)) -> Option<(u64, SiteId)> {
    let id = SiteId::parse(std::str::from_utf8(id).ok()?)?;
    (number / CHANGES_IN_A_CHUNK == chunk).then_some((*number, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_its_place_is_no_change() {
        let entry =
            |id: &str, number| entry_of(2, &(id.as_bytes().to_vec(), number)).map(|(number, _)| number);
        const ID: &str = "0123456789abcdef0123";
        assert_eq!((last_of(2), last_of(u64::MAX)), (299, u64::MAX));
        for (id, number, is_one) in
            [(ID, 200, true), (ID, 299, true), (ID, 300, false), (ID, 199, false), ("rubbish", 250, false)]
        {
            assert_eq!(entry(id, number), is_one.then_some(number), "{id} {number}");
        }
    }
}
