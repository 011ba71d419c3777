//! What the node that tells the operator keeps: that it is the one, how far each receiver was told, and of which sites a
//! receiver knows that they fail. Everything of it shares the tag `{notify}`.

use super::{Store, StoreError, keys, scripts};
use crate::domain::SiteId;
use redis::cmd;
use std::time::Duration;

/// A change to what a receiver knows of a site; `None` forgets it.
pub type ToldChange = (SiteId, Option<String>);

impl Store {
    /// Asks to be the one node that notifies. `false` while another is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn acquire_notify_lead(&self, token: &str, length: Duration) -> Result<bool, StoreError> {
        let mut set = cmd("SET");
        set.arg(keys::NOTIFY_LEADER).arg(token).arg("NX").arg("PX").arg(length.as_millis().to_string());
        let answer: Option<String> = self.link.query(&set).await?;
        // An answer that was lost: the key is ours all the same.
        match answer {
            Some(_) => Ok(true),
            None => {
                let holder: Option<String> = self.link.query(cmd("GET").arg(keys::NOTIFY_LEADER)).await?;
                Ok(holder.as_deref() == Some(token))
            }
        }
    }

    /// # Errors
    /// [`StoreError::Fenced`] when another node notifies by now.
    pub async fn renew_notify_lead(&self, token: &str, length: Duration) -> Result<(), StoreError> {
        let length = length.as_millis().to_string();
        let keys = [keys::NOTIFY_LEADER.to_owned()];
        self.link.script(&scripts::RENEW_NOTIFY_LEAD, &keys, &[token.as_bytes(), length.as_bytes()]).await
    }

    /// Lets another node notify at once. One that was lost already is left alone.
    ///
    /// # Errors
    /// [`StoreError`]; it then ends by itself.
    pub async fn release_notify_lead(&self, token: &str) -> Result<(), StoreError> {
        let keys = [keys::NOTIFY_LEADER.to_owned()];
        self.link.script(&scripts::RELEASE_NOTIFY_LEAD, &keys, &[token.as_bytes()]).await
    }

    /// How far a receiver has been told, as it was committed.
    ///
    /// # Errors
    /// [`StoreError`]; a receiver that is new is `None`.
    pub async fn load_notify_state(&self, receiver: &str) -> Result<Option<String>, StoreError> {
        self.link.query(cmd("HGET").arg(keys::NOTIFY_STATE).arg(receiver)).await
    }

    /// Writes how far a receiver has been told and what it now knows, both at once.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when another node notifies by now: nothing was written.
    pub async fn commit_notify_state(
        &self,
        token: &str,
        receiver: &str,
        state: &str,
        told: &[ToldChange],
    ) -> Result<(), StoreError> {
        let keys = [keys::NOTIFY_LEADER.to_owned(), keys::NOTIFY_STATE.to_owned(), keys::told(receiver)];
        let mut arguments = vec![token.as_bytes(), receiver.as_bytes(), state.as_bytes()];
        for (site, record) in told {
            arguments.push(site.as_str().as_bytes());
            arguments.push(record.as_deref().unwrap_or_default().as_bytes());
        }
        self.link.script(&scripts::COMMIT_NOTIFY_STATE, &keys, &arguments).await
    }

    /// What a receiver knows of these sites, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_told(
        &self,
        receiver: &str,
        sites: &[SiteId],
    ) -> Result<Vec<Option<String>>, StoreError> {
        if sites.is_empty() {
            return Ok(Vec::new());
        }
        let mut ask = cmd("HMGET");
        ask.arg(keys::told(receiver));
        for site in sites {
            ask.arg(site.as_str());
        }
        self.link.query(&ask).await
    }

    /// How many sites a receiver knows to be failing, and some of what it knows: at most `sample` of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sample_told(&self, receiver: &str, sample: usize) -> Result<(u64, Vec<String>), StoreError> {
        let key = keys::told(receiver);
        let count: u64 = self.link.query(cmd("HLEN").arg(&key)).await?;
        let mut ask = cmd("HRANDFIELD");
        ask.arg(&key).arg(sample);
        let fields: Vec<String> = self.link.query(&ask).await?;
        let sites: Vec<SiteId> = fields.iter().filter_map(|field| SiteId::parse(field)).collect();
        let records = self.load_told(receiver, &sites).await?;
        Ok((count, records.into_iter().flatten().collect()))
    }
}
