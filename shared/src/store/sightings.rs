//! Names that visitors came with and that no site has, until an issuer has decided. They are hints: one that is lost comes again
//! with the next visitor.

use super::{Damage, Listing, Store, StoreError, keys, scripts};
use crate::domain::{DnsName, FrontendName};
use jiff::Timestamp;
use redis::cmd;
use std::time::Duration;

/// Names that wait at once, of one frontend and of all.
const MOST_OF_ONE: &str = "100";
const MOST_OF_ALL: &str = "10000";
/// Denials that are remembered.
const MOST_DENIED: &str = "1000000";
/// How long whoever takes a name has for it.
const TAKEN_MS: &str = "60000";
const AN_HOUR_S: u64 = 3_600;

/// A name that an issuer is to decide about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub name: DnsName,
    /// The frontend that it was seen at first.
    pub frontend: String,
}

/// What is done with a name that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SightingVerdict {
    /// An issuer decides about it.
    Accepted,
    /// It is being decided about.
    Waiting,
    /// It was decided a while ago.
    Denied,
    /// Too many wait.
    Full,
    /// A site has it.
    Known,
    /// It is not this frontend's, or no name that somebody has meant.
    Refused,
}

/// A name that was denied.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeniedSighting {
    pub name: String,
    /// When it may be asked about again.
    pub until: Timestamp,
    pub count: u32,
    pub reason: String,
}

impl Store {
    /// Has an issuer decide about names; a verdict for each.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sight(
        &self,
        frontend: &FrontendName,
        names: &[DnsName],
    ) -> Result<Vec<SightingVerdict>, StoreError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut arguments: Vec<&[u8]> =
            vec![frontend.as_str().as_bytes(), MOST_OF_ONE.as_bytes(), MOST_OF_ALL.as_bytes()];
        arguments.extend(names.iter().map(|name| name.as_str().as_bytes()));
        let words: Vec<String> = self.whole_script(&scripts::SIGHT, touched(), &arguments).await?;
        words.iter().map(|word| SightingVerdict::parse(word)).collect()
    }

    /// Takes some of the names that wait, for a minute.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim_sightings(&self, limit: usize) -> Result<Vec<Sighting>, StoreError> {
        let (keys, limit) = (touched(), limit.to_string());
        let arguments = [limit.as_bytes(), TAKEN_MS.as_bytes()];
        let found: Vec<String> =
            self.whole_script(&scripts::CLAIM_SIGHTINGS, keys[..2].to_vec(), &arguments).await?;
        let mut sightings = Vec::new();
        for pair in found.chunks_exact(2) {
            match DnsName::parse(&pair[0]) {
                Ok(name) => sightings.push(Sighting { name, frontend: pair[1].clone() }),
                Err(_) => {
                    self.end(&pair[0], Duration::from_secs(AN_HOUR_S), Duration::ZERO, "no name").await?
                }
            }
        }
        Ok(sightings)
    }

    /// A site has the name from now on, or had it already.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_sighting(&self, name: &DnsName) -> Result<(), StoreError> {
        self.end(name.as_str(), Duration::ZERO, Duration::ZERO, "").await
    }

    /// The name is not asked about for `first`, and for twice as long each time that it is denied again, up to `longest`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deny_sighting(
        &self,
        name: &DnsName,
        first: Duration,
        longest: Duration,
        reason: &str,
    ) -> Result<(), StoreError> {
        self.end(name.as_str(), first, longest.max(first), reason).await
    }

    /// It waits until then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn postpone_sighting(&self, name: &DnsName, until: Timestamp) -> Result<(), StoreError> {
        let mut ask = cmd("ZADD");
        ask.arg(keys::SIGHTINGS_WAITING).arg("XX").arg(until.as_millisecond()).arg(name.as_str());
        self.link.query::<i64>(&ask).await.map(drop)
    }

    /// Spends one of the names that may come in an hour; `false` when there is none left.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn spend_sighting(&self, of: &str, most: u64, now: Timestamp) -> Result<bool, StoreError> {
        let hour = now.as_second() / 3_600;
        let key = keys::sightings_spent(of, hour);
        let mut spend = redis::Pipeline::new();
        spend.cmd("INCR").arg(&key);
        spend.cmd("EXPIRE").arg(&key).arg(2 * AN_HOUR_S);
        let (spent, _): (u64, i64) = self.link.pipe(&spend).await?;
        if spent > most {
            self.give_back_sighting(of, now).await?;
        }
        Ok(spent <= most)
    }

    /// What was spent came to nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn give_back_sighting(&self, of: &str, now: Timestamp) -> Result<(), StoreError> {
        let key = keys::sightings_spent(of, now.as_second() / 3_600);
        self.link.query::<i64>(cmd("DECR").arg(key)).await.map(drop)
    }

    /// How many names wait, and those that were denied last, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_sightings(&self, limit: usize) -> Result<(u64, Listing<DeniedSighting>), StoreError> {
        let mut denied = Listing::default();
        let waiting = match self.link.query(cmd("ZCARD").arg(keys::SIGHTINGS_WAITING)).await {
            Err(error @ StoreError::Corrupt { .. }) => {
                denied.damaged.push(Damage::of(keys::SIGHTINGS_WAITING, &error));
                0
            }
            waiting => waiting?,
        };
        if limit == 0 {
            return Ok((waiting, denied));
        }
        let mut range = cmd("ZREVRANGE");
        range.arg(keys::SIGHTINGS_DENIED).arg(0).arg(limit.saturating_sub(1));
        let names = self.read_members(&range).await?;
        denied.damaged.extend(names.damaged);
        let (names, mut questions) = (names.found, Vec::new());
        for name in &names {
            questions.push(cmd("HGET").arg(keys::SIGHTINGS_DENIALS).arg(name).clone());
        }
        for (name, text) in names.into_iter().zip(self.read_each::<Option<String>>(&questions).await?) {
            let text = match text {
                Ok(text) => text.unwrap_or_default(),
                Err(error) => {
                    denied.damaged.push(Damage::of(keys::SIGHTINGS_DENIALS, &error));
                    continue;
                }
            };
            match DeniedSighting::parse(name.clone(), &text) {
                Some(one) => denied.found.push(one),
                None => {
                    let what = "until when it is denied can't be read";
                    denied.damaged.push(Damage::of_member(keys::SIGHTINGS_DENIALS, &name, what));
                }
            }
        }
        denied.damaged.dedup_by(|one, other| one.key == other.key);
        Ok((waiting, denied))
    }

    async fn end(
        &self,
        name: &str,
        first: Duration,
        longest: Duration,
        reason: &str,
    ) -> Result<(), StoreError> {
        let (first, longest) = (first.as_millis().to_string(), longest.as_millis().to_string());
        let arguments: Vec<&[u8]> = vec![
            name.as_bytes(),
            first.as_bytes(),
            longest.as_bytes(),
            MOST_DENIED.as_bytes(),
            reason.as_bytes(),
        ];
        self.whole_script::<i64>(&scripts::END_SIGHTING, touched(), &arguments).await.map(drop)
    }
}

impl SightingVerdict {
    fn parse(word: &str) -> Result<Self, StoreError> {
        Ok(match word {
            "accepted" => Self::Accepted,
            "waiting" => Self::Waiting,
            "denied" => Self::Denied,
            "full" => Self::Full,
            other => {
                return Err(StoreError::corrupt(keys::SIGHTINGS_WAITING, format!("a verdict {other:?}")));
            }
        })
    }
}

impl DeniedSighting {
    /// `UNTIL_MS COUNT REASON`
    fn parse(name: String, text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let until = Timestamp::from_millisecond(words.next()?.parse().ok()?).ok()?;
        Some(Self { name, until, count: words.next()?.parse().ok()?, reason: words.next()?.to_owned() })
    }
}

fn touched() -> Vec<String> {
    [
        keys::SIGHTINGS_WAITING,
        keys::SIGHTINGS_BY,
        keys::SIGHTINGS_DENIED,
        keys::SIGHTINGS_DENIALS,
        keys::SIGHTINGS_COUNTS,
    ]
    .map(str::to_owned)
    .to_vec()
}
