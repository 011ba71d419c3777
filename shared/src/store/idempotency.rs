//! Answers to requests with an idempotency key: first a mark that the request is being worked on, then its answer.
//!
//! Whoever is killed in between leaves the mark, which expires soon; the request can then be made again.

use super::{Store, StoreError, keys, scripts};
use crate::digest::sha256_hex;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The answer that a request got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    pub status: u16,
    pub body: String,
    /// Where what was made can be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// What is there under a key.
#[derive(Debug)]
pub enum Repetition {
    /// Nothing was: the request is the first, and marked.
    First(AnswerMark),
    /// The same request is being worked on.
    UnderWay,
    /// The same request was answered.
    Answered(KeptAnswer),
    /// The key belongs to another request.
    Other,
}

/// The mark of a request that is being worked on: to be ended by [`Store::end_mark`].
#[derive(Debug)]
pub struct AnswerMark {
    key: String,
    digest: String,
    mark: String,
}

#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    /// SHA-256 of the request.
    digest: String,
    /// While it is being worked on: names the mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<KeptAnswer>,
}

const VERSION: u32 = 1;

impl Record {
    /// What it is to the request that has just tried to set `mark`, whose name is `random`.
    fn repetition(self, mark: AnswerMark, random: &str) -> Repetition {
        match self.answer {
            _ if self.digest != mark.digest => Repetition::Other,
            Some(answer) => Repetition::Answered(answer),
            // Our own: it was set, and its answer was lost on the way.
            None if self.mark.as_deref() == Some(random) => Repetition::First(mark),
            None => Repetition::UnderWay,
        }
    }
}

impl Store {
    /// Marks a request as being worked on for at most `within`, unless `key` has been used by this token before.
    ///
    /// `digest` identifies the request, `random` the mark.
    ///
    /// # Errors
    /// [`StoreError`]. The mark may have been set: then the same request is under way until it expires.
    pub async fn begin_once(
        &self,
        token: &str,
        key: &str,
        digest: &str,
        random: &str,
        within: Duration,
    ) -> Result<Repetition, StoreError> {
        let key = keys::idempotency(token, &sha256_hex(key.as_bytes()));
        let corrupt = |e: serde_json::Error| StoreError::corrupt(&key, e);
        let record =
            Record { v: VERSION, digest: digest.to_owned(), mark: Some(random.to_owned()), answer: None };
        let mark = serde_json::to_string(&record).map_err(corrupt)?;
        let mut set = redis::Pipeline::new();
        set.cmd("SET").arg(&key).arg(&mark).arg("NX").arg("GET").arg("PX").arg(millis(within));
        let before = self.confirmed.write(set).await?;
        let before: Option<String> =
            redis::from_redis_value(before).map_err(|e| StoreError::corrupt(&key, e))?;
        let Some(before) = before else {
            return Ok(Repetition::First(AnswerMark { key, digest: digest.to_owned(), mark }));
        };
        let before: Record = serde_json::from_str(&before).map_err(corrupt)?;
        if before.v > VERSION {
            return Err(StoreError::NewerSchema { found: before.v, known: VERSION });
        }
        Ok(before.repetition(AnswerMark { key, digest: digest.to_owned(), mark }, random))
    }

    /// Keeps the answer in the place of the mark, or, without one, lets the request be made again.
    ///
    /// # Errors
    /// [`StoreError`]: the mark stays until it expires.
    pub async fn end_mark(&self, mark: &AnswerMark, answer: Option<KeptAnswer>) -> Result<(), StoreError> {
        let record = answer.map(|answer| {
            let record = Record { v: VERSION, digest: mark.digest.clone(), mark: None, answer: Some(answer) };
            serde_json::to_string(&record).map_err(|e| StoreError::corrupt(&mark.key, e))
        });
        let record = record.transpose()?.unwrap_or_default();
        let kept = KEPT.as_secs().to_string();
        let arguments = [mark.mark.as_bytes(), record.as_bytes(), kept.as_bytes()];
        let touched = [mark.key.clone()];
        self.confirmed.script::<i64>(&scripts::END_MARK, &touched, &arguments).await.map(drop)
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_request_that_it_was_first_used_for() {
        let answer = || KeptAnswer { status: 201, body: "{}".to_owned(), location: None };
        let seen = |digest: &str, mark: Option<&str>, answer: Option<KeptAnswer>| {
            let record =
                Record { v: VERSION, digest: digest.to_owned(), mark: mark.map(str::to_owned), answer };
            let ours = AnswerMark { key: "k".to_owned(), digest: "d".to_owned(), mark: "m".to_owned() };
            record.repetition(ours, "ours")
        };
        assert!(matches!(seen("d", Some("theirs"), None), Repetition::UnderWay));
        assert!(matches!(seen("d", None, None), Repetition::UnderWay));
        // The answer to our own setting was lost.
        assert!(matches!(seen("d", Some("ours"), None), Repetition::First(_)));
        assert!(matches!(seen("d", None, Some(answer())), Repetition::Answered(kept) if kept == answer()));
        // Whatever came of another request is not given out.
        for other in [seen("e", None, Some(answer())), seen("e", Some("ours"), None), seen("", None, None)] {
            assert!(matches!(other, Repetition::Other), "{other:?}");
        }
    }

    #[test]
    fn records_say_no_more_than_they_must() {
        let record = Record { v: 1, digest: "d".to_owned(), mark: Some("m".to_owned()), answer: None };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text, r#"{"v":1,"digest":"d","mark":"m"}"#);
        let read: Record = serde_json::from_str(r#"{"v":1,"digest":"d","new":7}"#).unwrap();
        assert!(read.mark.is_none() && read.answer.is_none());
    }
}
