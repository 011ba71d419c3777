//! Frontends, and which of them a key or a token belongs to.

use super::{Damage, Listing, Store, StoreError, grants::next_generation, keys, scripts};
use crate::domain::{Frontend, FrontendName, StoredReport};
use jiff::Timestamp;
use redis::cmd;
use std::collections::BTreeMap;

/// After a frontend's name: the operator was told of its trouble.
const TOLD: &str = " told";

/// A frontend that somebody should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TroubledFrontend {
    pub since: Timestamp,
    /// Whether the operator was told.
    pub told: bool,
}

/// A frontend that is listed.
#[derive(Debug)]
pub struct ListedFrontend {
    pub name: FrontendName,
    /// Or why its record grants nothing: [`StoreError::Unverified`], [`StoreError::Corrupt`] or [`StoreError::NewerSchema`].
    pub frontend: Result<Frontend, StoreError>,
}

/// A record as it was read, and the text it is stored as.
struct StoredFrontend {
    frontend: Result<Frontend, StoreError>,
    raw: String,
}

impl Store {
    /// Adds a frontend, or replaces the one of its name. What identified the old one no longer does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn write_frontend(&self, frontend: &Frontend) -> Result<(), StoreError> {
        loop {
            let before = self.load_stored(&frontend.name).await?;
            match self.replace_frontend(before.as_ref(), frontend).await {
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        let name = frontend.name.as_str().as_bytes();
        self.confirmed.script(&scripts::ADD_MEMBER, &[keys::FRONTENDS.to_owned()], &[name]).await
    }

    /// Adds a frontend of a new name.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: there is one of this name, perhaps since this moment.
    pub async fn add_frontend(&self, frontend: &Frontend) -> Result<(), StoreError> {
        self.replace_frontend(None, frontend).await?;
        let name = frontend.name.as_str().as_bytes();
        self.confirmed.script(&scripts::ADD_MEMBER, &[keys::FRONTENDS.to_owned()], &[name]).await
    }

    /// Changes a frontend as it is now, whoever else does so: `change` may be run more than once. `None` where there is none,
    /// or where `change` says that it is not to be changed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn change_frontend(
        &self,
        name: &FrontendName,
        change: impl Fn(&mut Frontend) -> bool,
    ) -> Result<Option<Frontend>, StoreError> {
        loop {
            let Some(before) = self.load_stored(name).await? else { return Ok(None) };
            let StoredFrontend { frontend, raw } = before;
            let known = frontend?;
            let mut frontend = known.clone();
            if !change(&mut frontend) {
                return Ok(None);
            }
            let before = StoredFrontend { frontend: Ok(known), raw };
            match self.replace_frontend(Some(&before), &frontend).await {
                Err(StoreError::Conflict) => {}
                done => return done.map(|()| Some(frontend)),
            }
        }
    }

    async fn replace_frontend(
        &self,
        before: Option<&StoredFrontend>,
        frontend: &Frontend,
    ) -> Result<(), StoreError> {
        let key = keys::frontend(frontend.name.as_str());
        let known = before.map_or("", |stored| stored.raw.as_str());
        let before = before.and_then(|stored| stored.frontend.as_ref().ok());
        let generation = next_generation(before.map_or(0, |before| before.generation));
        let record = self.signed(&key, &Frontend { generation, ..frontend.clone() }).await?;
        // The record first: an identity without a record opens nothing.
        let arguments = [known.as_bytes(), record.as_bytes()];
        self.confirmed.script::<i64>(&scripts::REPLACE_RECORD, &[key], &arguments).await?;
        let mut pipeline = redis::Pipeline::new();
        for identity in identities(frontend) {
            pipeline.cmd("SET").arg(keys::frontend_key(identity)).arg(frontend.name.as_str()).ignore();
        }
        let old = before.iter().flat_map(|before| identities(before));
        for identity in old.filter(|id| !identities(frontend).any(|new| new == *id)) {
            pipeline.cmd("DEL").arg(keys::frontend_key(identity)).ignore();
        }
        if !pipeline.is_empty() {
            self.confirmed.write(pipeline).await?;
        }
        // Who waits for changes is looked at again once all of it is there.
        let mut tell = redis::Pipeline::new();
        tell.cmd("INCR").arg(keys::FRONTENDS_CHANGED);
        self.confirmed.write(tell).await.map(drop)
    }

    async fn load_stored(&self, name: &FrontendName) -> Result<Option<StoredFrontend>, StoreError> {
        let key = keys::frontend(name.as_str());
        let raw: Option<String> = self.link.query(cmd("GET").arg(&key)).await?;
        raw.map(|raw| {
            let frontend = match self.verified_frontend(&key, &raw) {
                Err(error @ StoreError::NoKeyring) => return Err(error),
                known => known,
            };
            Ok(StoredFrontend { frontend, raw })
        })
        .transpose()
    }

    fn verified_frontend(&self, key: &str, raw: &str) -> Result<Frontend, StoreError> {
        let frontend: Frontend = self.verified(key, raw)?;
        if frontend.v > Frontend::VERSION {
            return Err(StoreError::NewerSchema { found: frontend.v, known: Frontend::VERSION });
        }
        match self.newer_seen(key, frontend.generation, raw) {
            Some(newer) => self.verified(key, &newer),
            None => Ok(frontend),
        }
    }

    /// # Errors
    /// [`StoreError`]; one that isn't there is `None`.
    pub async fn load_frontend(&self, name: &FrontendName) -> Result<Option<Frontend>, StoreError> {
        self.load_stored(name).await?.map(|stored| stored.frontend).transpose()
    }

    /// The frontend that a token's or a public key's SHA-256 (hex) belongs to. Asked anew for each request, so that a
    /// revocation is effective with the next one.
    ///
    /// # Errors
    /// [`StoreError`]; an identity that nobody has is `None`, and so is one whose record grants nothing.
    pub async fn frontend_of(&self, sha256_hex: &str) -> Result<Option<Frontend>, StoreError> {
        let name: Option<String> = self.link.query(cmd("GET").arg(keys::frontend_key(sha256_hex))).await?;
        let Some(name) = name else { return Ok(None) };
        // Whoever can write to the store may have written anything here.
        let Ok(name) = FrontendName::try_from(name) else { return Ok(None) };
        let frontend = match self.load_frontend(&name).await {
            // Told by now.
            Err(StoreError::Unverified { .. }) => None,
            known => known?,
        };
        Ok(frontend.filter(|frontend| identities(frontend).any(|identity| identity == sha256_hex)))
    }

    /// Keeps what a frontend says of itself, in the place of what it said before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn write_report(&self, frontend: &str, report: &StoredReport) -> Result<(), StoreError> {
        let key = keys::frontend_report(frontend);
        let text = serde_json::to_string(report).map_err(|e| StoreError::corrupt(&key, e))?;
        self.link.query(cmd("SET").arg(key).arg(text)).await
    }

    /// What frontends said last, in the order of `names`; one that can't be read, or hasn't said anything, is `None`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_reports(
        &self,
        names: &[FrontendName],
    ) -> Result<Vec<Option<StoredReport>>, StoreError> {
        let keys: Vec<String> = names.iter().map(|name| keys::frontend_report(name.as_str())).collect();
        let reports = self.read_texts(&keys).await?.into_iter();
        Ok(reports.map(|text| serde_json::from_str(&text.ok()??).ok()).collect())
    }

    /// Frontends that are in trouble. Where it can't be read since when one is, it is for long.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_troubled_frontends(&self) -> Result<BTreeMap<String, TroubledFrontend>, StoreError> {
        let Listing { found, damaged } = self.read_hash(keys::FRONTENDS_TROUBLED).await?;
        if let Some(damage) = damaged.into_iter().find(|damage| damage.key == keys::FRONTENDS_TROUBLED) {
            return Err(StoreError::corrupt(damage.key, damage.what));
        }
        let fields: BTreeMap<String, String> = found.into_iter().collect();
        let names = fields.iter().filter(|(name, _)| !name.ends_with(TOLD));
        let read = |(name, since): (&String, &String)| {
            let since = since.parse().unwrap_or(Timestamp::UNIX_EPOCH);
            let told = fields.contains_key(&format!("{name}{TOLD}"));
            (name.clone(), TroubledFrontend { since, told })
        };
        Ok(names.map(read).collect())
    }

    /// One that was in trouble already keeps its moment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_troubled_frontend(&self, name: &str, since: Timestamp) -> Result<(), StoreError> {
        let note = cmd("HSETNX").arg(keys::FRONTENDS_TROUBLED).arg(name).arg(since.to_string()).to_owned();
        self.link.query::<i64>(&note).await.map(drop)
    }

    /// Notes that the operator was told.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_told_of_frontend(&self, name: &str) -> Result<(), StoreError> {
        let note = cmd("HSET").arg(keys::FRONTENDS_TROUBLED).arg(format!("{name}{TOLD}")).arg(1).to_owned();
        self.link.query::<i64>(&note).await.map(drop)
    }

    /// It is over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_troubled_frontend(&self, name: &str) -> Result<(), StoreError> {
        let forget =
            cmd("HDEL").arg(keys::FRONTENDS_TROUBLED).arg(name).arg(format!("{name}{TOLD}")).to_owned();
        self.link.query::<i64>(&forget).await.map(drop)
    }

    /// Every frontend whose record grants something.
    ///
    /// # Errors
    /// [`StoreError`], also where it can't be read which frontends there are.
    pub async fn list_frontends(&self) -> Result<Vec<Frontend>, StoreError> {
        let Listing { found, damaged } = self.list_frontend_records().await?;
        match damaged.into_iter().find(|damage| damage.key == keys::FRONTENDS) {
            Some(damage) => Err(StoreError::corrupt(damage.key, damage.what)),
            None => Ok(found.into_iter().filter_map(|listed| listed.frontend.ok()).collect()),
        }
    }

    /// Every frontend, those whose record grants nothing as well.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn list_frontend_records(&self) -> Result<Listing<ListedFrontend>, StoreError> {
        let members = self.read_members(cmd("ZRANGE").arg(keys::FRONTENDS).arg(0).arg(-1)).await?;
        let of_frontend = |member: String| {
            let damage = Damage::of_member(keys::FRONTENDS, &member, "this names no frontend");
            FrontendName::try_from(member).map_err(|_| damage)
        };
        let Listing { found: names, damaged } = members.and_then(of_frontend);
        let keys: Vec<String> = names.iter().map(|name| keys::frontend(name.as_str())).collect();
        let mut found = Vec::with_capacity(names.len());
        for ((name, key), raw) in names.into_iter().zip(&keys).zip(self.read_texts(&keys).await?) {
            let frontend = match raw {
                Ok(None) => continue,
                Ok(Some(raw)) => self.verified_frontend(key, &raw),
                Err(error) => Err(error),
            };
            match frontend {
                Err(error @ StoreError::NoKeyring) => return Err(error),
                frontend => found.push(ListedFrontend { name, frontend }),
            }
        }
        Ok(Listing { found, damaged })
    }
}

fn identities(frontend: &Frontend) -> impl Iterator<Item = &String> {
    let tokens = frontend.token_sha256.iter().chain(&frontend.enrolled_token_sha256);
    tokens.chain(&frontend.spki_sha256).chain(&frontend.next_spki_sha256)
}
