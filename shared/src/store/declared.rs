//! Scripts that are called with every key that they touch, and that write all or nothing (`scripts/all_or_nothing.lua`).
//!
//! What a script needs may depend on what it reads. So it is first called with the keys that are known beforehand; one that needs more
//! writes nothing and answers which, and is called again with those.

use super::{Store, StoreError, keys, scripts::Script};
use crate::domain::{Class, Partition};
use jiff::Timestamp;
use redis::{FromRedisValue, Value};
use std::collections::BTreeSet;

/// How often a script may find that it needs further keys: what it reads may change in between.
const MOST_ROUNDS: usize = 6;

impl Store {
    /// Runs such a script. Its writes may be lost with a primary.
    pub(super) async fn whole_script<T: FromRedisValue>(
        &self,
        script: &Script,
        touched: Vec<String>,
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let mut rounds = Rounds::new(touched);
        while rounds.go_on()? {
            rounds.answer = Some(self.link.script::<Value>(script, &rounds.touched, arguments).await?);
        }
        rounds.end()
    }

    /// Runs such a script; what it has written is confirmed.
    pub(super) async fn confirmed_whole_script<T: FromRedisValue>(
        &self,
        script: &Script,
        touched: Vec<String>,
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let mut rounds = Rounds::new(touched);
        while rounds.go_on()? {
            rounds.answer = Some(self.confirmed.script::<Value>(script, &rounds.touched, arguments).await?);
        }
        rounds.end()
    }
}

/// A script that is called until every key that it needs is declared.
struct Rounds {
    touched: Vec<String>,
    left: usize,
    answer: Option<Value>,
}

impl Rounds {
    const fn new(touched: Vec<String>) -> Self {
        Self { touched, left: MOST_ROUNDS, answer: None }
    }

    /// Whether it is to be called once more, with what its last answer has named.
    fn go_on(&mut self) -> Result<bool, StoreError> {
        if let Some(answer) = &self.answer {
            let Some(further) = further_keys(answer) else { return Ok(false) };
            let known: BTreeSet<&String> = self.touched.iter().collect();
            let further: Vec<String> = further.into_iter().filter(|key| !known.contains(key)).collect();
            self.touched.extend(further);
        }
        self.left = self.left.checked_sub(1).ok_or(StoreError::Conflict)?;
        Ok(true)
    }

    fn end<T: FromRedisValue>(self) -> Result<T, StoreError> {
        let Self { touched, answer, .. } = self;
        let key = touched.into_iter().next().unwrap_or_default();
        T::from_redis_value(answer.unwrap_or(Value::Nil)).map_err(|e| StoreError::corrupt(key, e))
    }
}

/// The keys that a script lacks, where it says so.
fn further_keys(answer: &Value) -> Option<Vec<String>> {
    let Value::Array(words) = answer else { return None };
    let mut words = words.iter().map(|word| match word {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    });
    if words.next()? != Some("KEYS") {
        return None;
    }
    words.map(|word| word.map(str::to_owned)).collect()
}

/// The queues of a partition's schedule, as every script that moves a group declares them.
pub(super) fn queues(partition: Partition) -> Vec<String> {
    let ready = Class::ALL.into_iter().map(|class| keys::ready(partition, class));
    std::iter::once(keys::due(partition)).chain(ready).collect()
}

/// What else of a partition most of them touch.
pub(super) fn indexes(partition: Partition) -> [String; 7] {
    [
        keys::renewals(partition),
        keys::failing(partition),
        keys::parked(partition),
        keys::waiting(partition),
        keys::gone(partition),
        keys::retired(partition),
        keys::events(partition),
    ]
}

/// How long it is until a moment, ms: whatever the store's clock says. Not less than nothing.
pub(super) fn wait_ms(moment: Timestamp) -> String {
    moment.as_millisecond().saturating_sub(Timestamp::now().as_millisecond()).max(0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Value {
        Value::Array(words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect())
    }

    #[test]
    fn what_a_script_lacks_is_declared_in_the_next_call() {
        let mut rounds = Rounds::new(vec!["a".to_owned()]);
        for (answer, touched) in
            [(words(&["KEYS", "b", "a"]), vec!["a", "b"]), (words(&["KEYS", "c"]), vec!["a", "b", "c"])]
        {
            assert!(rounds.go_on().unwrap());
            rounds.answer = Some(answer);
            rounds.left += 1;
            assert!(rounds.go_on().unwrap());
            assert_eq!(rounds.touched, touched);
            rounds.answer = None;
        }
        rounds.answer = Some(Value::Int(7));
        assert!(!rounds.go_on().unwrap());
        assert_eq!(rounds.end::<i64>().unwrap(), 7);
        let mut never = Rounds::new(Vec::new());
        never.answer = Some(words(&["KEYS", "x"]));
        for _ in 0..MOST_ROUNDS {
            assert!(never.go_on().unwrap());
        }
        assert!(matches!(never.go_on(), Err(StoreError::Conflict)));
        assert_eq!(further_keys(&words(&["keys", "x"])), None);
    }

    #[test]
    fn what_has_passed_is_not_waited_for() {
        assert_eq!(wait_ms(Timestamp::UNIX_EPOCH), "0");
        let ahead: i64 = wait_ms(Timestamp::now() + std::time::Duration::from_secs(60)).parse().unwrap();
        assert!((50_000..=60_000).contains(&ahead), "{ahead}");
    }
}
