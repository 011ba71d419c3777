//! TXT records that prove names, noted before they are made: whoever made one may be killed before it is removed again.

use super::{Damage, Listing, Store, StoreError, keys};
use crate::domain::{SiteId, Slot, Token, Txt};
use jiff::Timestamp;
use redis::cmd;
use serde::{Deserialize, Serialize};

/// A record that was or is about to be made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JournalledTxt {
    #[serde(flatten)]
    pub txt: Txt,
    /// The order that it is for.
    pub site: SiteId,
    pub slot: Slot,
    pub token: Token,
}

impl Store {
    /// Notes records; they may be made once this has returned.
    ///
    /// # Errors
    /// [`StoreError`]: they must not be made.
    pub async fn journal_txt(&self, records: &[JournalledTxt], now: Timestamp) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::Pipeline::new();
        let add = pipeline.cmd("ZADD").arg(keys::txt_journal());
        for record in records {
            add.arg(now.as_millisecond()).arg(to_member(record)?);
        }
        self.confirmed.write(pipeline).await.map(drop)
    }

    /// Forgets records, which are removed.
    ///
    /// # Errors
    /// [`StoreError`]; they are removed once more then.
    pub async fn forget_txt(&self, records: &[JournalledTxt]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut remove = cmd("ZREM");
        remove.arg(keys::txt_journal());
        for record in records {
            remove.arg(to_member(record)?);
        }
        let _: i64 = self.link.query(&remove).await?;
        Ok(())
    }

    /// The oldest records that are noted, at most `most`, each with when it was.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn load_txt_journal(
        &self,
        most: usize,
    ) -> Result<Listing<(JournalledTxt, Timestamp)>, StoreError> {
        let key = keys::txt_journal();
        let mut range = cmd("ZRANGE");
        range.arg(&key).arg(0).arg(i64::try_from(most).unwrap_or(i64::MAX) - 1).arg("WITHSCORES");
        let members: Vec<(Vec<u8>, f64)> = match self.link.query(&range).await {
            Err(error @ StoreError::Corrupt { .. }) => {
                return Ok(Listing { found: Vec::new(), damaged: vec![Damage::of(key, &error)] });
            }
            members => members?,
        };
        let parse = |(member, score): (Vec<u8>, f64)| {
            let damage = |e| Damage::of_member(&key, &String::from_utf8_lossy(&member), e);
            let record = serde_json::from_slice(&member).map_err(damage)?;
            let at = Timestamp::from_millisecond(score as i64).unwrap_or(Timestamp::UNIX_EPOCH);
            Ok((record, at))
        };
        Ok(Listing { found: members, damaged: Vec::new() }.and_then(parse))
    }
}

fn to_member(record: &JournalledTxt) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|e| StoreError::corrupt(keys::txt_journal(), e))
}
