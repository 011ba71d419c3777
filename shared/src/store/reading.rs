//! Reading what stands together: a record, or a member of one, that can't be read is named, and the rest is answered.

use super::{Store, StoreError, link::key_of};
use redis::{Cmd, FromRedisValue, Value, cmd};
use serde::Serialize;

/// Questions that are asked at once.
const AT_ONCE: usize = 500;

/// What can't be read where others are read with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The key in the store, and, behind a blank, the member of it.
    pub key: String,
    pub what: String,
}

/// What was read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    pub found: Vec<T>,
    /// What can't be read of it.
    pub damaged: Vec<Damage>,
}

impl Damage {
    /// A record that could not be read.
    pub fn of(key: impl Into<String>, error: &StoreError) -> Self {
        Self { key: key.into(), what: crate::error::chain(error) }
    }

    /// A member of a record.
    pub(super) fn of_member(key: &str, member: &str, what: impl ToString) -> Self {
        Self { key: format!("{key} {member}"), what: what.to_string() }
    }
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { found: Vec::new(), damaged: Vec::new() }
    }
}

impl<T> Listing<T> {
    /// The same of what was found; what can't be made of one is damage of it.
    pub(super) fn and_then<U>(self, mut make: impl FnMut(T) -> Result<U, Damage>) -> Listing<U> {
        let mut made = Listing { found: Vec::with_capacity(self.found.len()), damaged: self.damaged };
        for one in self.found {
            match make(one) {
                Ok(one) => made.found.push(one),
                Err(damage) => made.damaged.push(damage),
            }
        }
        made
    }

    /// Adds a record as it was read.
    ///
    /// # Errors
    /// What is about the store, and not about this record.
    pub(super) fn add(&mut self, key: &str, read: Result<T, StoreError>) -> Result<(), StoreError> {
        match read {
            Ok(record) => self.found.push(record),
            Err(error) if error.is_of_the_record() => self.damaged.push(Damage::of(key, &error)),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What was found, where all of it can be read.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub(super) fn whole(self) -> Result<Vec<T>, StoreError> {
        match self.damaged.into_iter().next() {
            Some(damage) => Err(StoreError::corrupt(damage.key, damage.what)),
            None => Ok(self.found),
        }
    }
}

impl Store {
    /// The fields of a hash.
    pub(super) async fn read_hash(&self, key: &str) -> Result<Listing<(String, String)>, StoreError> {
        let fields: Vec<(Vec<u8>, Vec<u8>)> = match self.link.query(cmd("HGETALL").arg(key)).await {
            Err(error @ StoreError::Corrupt { .. }) => {
                return Ok(Listing { found: Vec::new(), damaged: vec![Damage::of(key, &error)] });
            }
            fields => fields?,
        };
        let read = |(field, value): (Vec<u8>, Vec<u8>)| {
            let name = String::from_utf8_lossy(&field).into_owned();
            let value = String::from_utf8(value).map_err(|e| Damage::of_member(key, &name, e))?;
            Ok((name, value))
        };
        Ok(Listing { found: fields, damaged: Vec::new() }.and_then(read))
    }

    /// The members of a set, or of a part of one, as `command` asks for them.
    pub(super) async fn read_members(&self, command: &Cmd) -> Result<Listing<String>, StoreError> {
        let key = key_of(command);
        let members: Vec<Vec<u8>> = match self.link.query(command).await {
            Err(error @ StoreError::Corrupt { .. }) => {
                return Ok(Listing { found: Vec::new(), damaged: vec![Damage::of(key, &error)] });
            }
            members => members?,
        };
        let read = |member: Vec<u8>| {
            String::from_utf8(member).map_err(|e| {
                let why = e.utf8_error();
                Damage::of_member(&key, &String::from_utf8_lossy(e.as_bytes()), why)
            })
        };
        Ok(Listing { found: members, damaged: Vec::new() }.and_then(read))
    }

    /// The answers to many questions that only read, in their order. A record that can't be read is an error of that one.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub(super) async fn read_each<T: FromRedisValue>(
        &self,
        questions: &[Cmd],
    ) -> Result<Vec<Result<T, StoreError>>, StoreError> {
        let mut answers = Vec::with_capacity(questions.len());
        for some in questions.chunks(AT_ONCE) {
            let mut pipeline = redis::Pipeline::new();
            for question in some {
                pipeline.add_command(question.clone());
            }
            match self.link.pipe::<Vec<Value>>(&pipeline).await {
                Ok(values) => answers.extend(some.iter().zip(values).map(|(question, value)| {
                    redis::from_redis_value(value).map_err(|e| StoreError::corrupt(key_of(question), e))
                })),
                // A key of another kind fails the whole pipeline: which one it is, is found one by one.
                Err(error) if error.is_of_its_keys() => {
                    for question in some {
                        answers.push(match self.link.query(question).await {
                            Err(error) if !error.is_of_its_keys() => return Err(error),
                            Err(error @ StoreError::Corrupt { .. }) => Err(error),
                            Err(error) => Err(StoreError::corrupt(key_of(question), error)),
                            Ok(answer) => Ok(answer),
                        });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// The text records with these keys, in their order; one that is not there is `None`.
    pub(super) async fn read_texts(
        &self,
        keys: &[String],
    ) -> Result<Vec<Result<Option<String>, StoreError>>, StoreError> {
        let questions: Vec<Cmd> = keys.iter().map(|key| cmd("GET").arg(key).clone()).collect();
        self.read_each(&questions).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_a_record_is_named_and_what_is_about_the_store_is_an_error() {
        let mut listing = Listing::default();
        listing.add("sp:one", Ok(1)).unwrap();
        listing.add("sp:two", Err(StoreError::corrupt("sp:two", "garbage"))).unwrap();
        listing.add("sp:three", Err(StoreError::NewerSchema { found: 9, known: 1 })).unwrap();
        assert!(listing.add("sp:four", Err(StoreError::NoKeyring)).is_err());
        assert_eq!(listing.found, [1]);
        let keys: Vec<&str> = listing.damaged.iter().map(|damage| damage.key.as_str()).collect();
        assert_eq!(keys, ["sp:two", "sp:three"]);
        assert!(listing.damaged[0].what.contains("garbage"), "{:?}", listing.damaged);
        assert!(matches!(listing.clone().whole(), Err(StoreError::Corrupt { key, .. }) if key == "sp:two"));
        let made = listing.and_then(|n| if n == 2 { Ok(n) } else { Err(Damage::of_member("k", "m", "odd")) });
        assert!(made.found.is_empty() && made.damaged.len() == 3, "{made:?}");
    }
}
