//! Pauses that a CA has asked for, endpoint by endpoint, kept by the whole fleet. While one lasts, one request an hour finds out
//! whether it still has to.

use super::{Damage, Listing, Store, StoreError, keys, scripts};
use jiff::Timestamp;
use redis::cmd;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often it is tried whether a pause is over.
const TRY_EVERY: Duration = Duration::from_secs(3600);

/// A pause that lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaPause {
    pub endpoint: String,
    /// The address that the CA has asked, as it sees it.
    pub from: String,
    pub since: Timestamp,
    pub until: Timestamp,
    /// When one request finds out whether it still has to last.
    pub next_try: Timestamp,
}

/// What a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseTurn {
    /// There is no pause.
    Go,
    /// This request finds out whether it is over.
    Try,
    /// Until then.
    Wait(Duration),
}

/// As it is stored, by the store's clock.
#[derive(Deserialize)]
struct Record {
    since_ms: i64,
    until_ms: i64,
    try_ms: i64,
}

impl Store {
    /// Whether the CA has asked for any pause.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_pauses(&self, ca: &str) -> Result<bool, StoreError> {
        self.link.query(cmd("EXISTS").arg(keys::pauses(ca))).await
    }

    /// The turn of a request at a place (an endpoint, and where it comes from).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ask_pause(&self, ca: &str, place: &str) -> Result<PauseTurn, StoreError> {
        let every = TRY_EVERY.as_millis().to_string();
        let arguments = [b"ask".as_slice(), place.as_bytes(), every.as_bytes()];
        let wait: i64 = self.link.script(&scripts::PAUSE, &[keys::pauses(ca)], &arguments).await?;
        Ok(match wait {
            0 => PauseTurn::Go,
            ..0 => PauseTurn::Try,
            wait => PauseTurn::Wait(Duration::from_millis(wait.unsigned_abs())),
        })
    }

    /// The CA wants nothing at a place for so long. Answers whether it is news.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn begin_pause(&self, ca: &str, place: &str, length: Duration) -> Result<bool, StoreError> {
        let (every, length) = (TRY_EVERY.as_millis().to_string(), length.as_millis().to_string());
        let arguments = [b"set".as_slice(), place.as_bytes(), every.as_bytes(), length.as_bytes()];
        let new: i64 = self.link.script(&scripts::PAUSE, &[keys::pauses(ca)], &arguments).await?;
        Ok(new == 1)
    }

    /// It is over. Answers whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_pause(&self, ca: &str, place: &str) -> Result<bool, StoreError> {
        self.link.query(cmd("HDEL").arg(keys::pauses(ca)).arg(place)).await
    }

    /// Ends every pause of a CA, and answers how many there were.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_pauses(&self, ca: &str) -> Result<usize, StoreError> {
        let lasting = self.list_pauses(ca).await?.found.len();
        let _: i64 = self.link.query(cmd("DEL").arg(keys::pauses(ca))).await?;
        Ok(lasting)
    }

    /// The pauses that last.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_pauses(&self, ca: &str) -> Result<Listing<CaPause>, StoreError> {
        let key = keys::pauses(ca);
        let mut fields = self.read_hash(&key).await?;
        fields.found.sort();
        let read = |(place, text): (String, String)| {
            let damage = |e: &dyn std::fmt::Display| Damage::of_member(&key, &place, e);
            let record: Record = serde_json::from_str(&text).map_err(|e| damage(&e))?;
            let at = |ms| Timestamp::from_millisecond(ms).map_err(|e| damage(&e));
            let (endpoint, from) = place.split_once(':').unwrap_or((&place, ""));
            let until = at(record.until_ms)?;
            Ok(CaPause {
                endpoint: endpoint.to_owned(),
                from: from.to_owned(),
                since: at(record.since_ms)?,
                until,
                next_try: at(record.try_ms)?.min(until),
            })
        };
        let mut pauses = fields.and_then(read);
        let now = Timestamp::now();
        pauses.found.retain(|pause| pause.until > now);
        Ok(pauses)
    }

    /// Whether something is to be told of a CA that was not told for a day.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_news_of_ca(&self, ca: &str, what: &str) -> Result<bool, StoreError> {
        let mut set = cmd("SET");
        set.arg(keys::told_of_ca(ca, what)).arg(1).arg("NX").arg("EX").arg(86_400);
        let answer: Option<String> = self.link.query(&set).await?;
        Ok(answer.is_some())
    }
}
