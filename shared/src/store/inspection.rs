//! Looks for what can't be read among the records that no site's own record leads to.

use super::{
    Damage, Store, StoreError,
    declared::{indexes, queues},
    keys,
};
use crate::domain::{DnsName, Order, Partition};
use redis::{Cmd, cmd};

/// What is looked at of what may be long, the oldest first.
const LOOKED_AT: usize = 1_000;

impl Store {
    /// What can't be read of the fleet's own records. `cas` are the configured CAs.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn damage_of_fleet<'a>(
        &self,
        cas: impl Iterator<Item = &'a String>,
    ) -> Result<Vec<Damage>, StoreError> {
        let mut found = self.list_accounts().await?.damaged;
        found.extend(self.list_tenants().await?.damaged);
        found.extend(self.list_brakes().await?.damaged);
        found.extend(self.list_nodes().await?.damaged);
        found.extend(self.list_delegations().await?.damaged);
        found.extend(self.load_txt_journal(LOOKED_AT).await?.damaged);
        found.extend(self.list_sightings(LOOKED_AT).await?.1.damaged);
        let frontends = self.list_frontend_records().await?;
        found.extend(frontends.damaged);
        for listed in frontends.found {
            found.extend(of_one(keys::frontend(listed.name.as_str()), listed.frontend.err()));
        }
        let tokens = self.list_api_tokens().await?;
        found.extend(tokens.damaged);
        for listed in tokens.found {
            found.extend(of_one(keys::api_token(&listed.sha256), listed.token.err()));
        }
        for ca in cas {
            found.extend(self.list_pauses(ca).await?.damaged);
            found.extend(self.list_tight_buckets(ca).await?.damaged);
        }
        let singles = [
            (keys::TLS_POLICY, self.load_tls_policy().await.err()),
            (keys::INTERNAL_CA, self.load_internal_ca().await.err()),
            (keys::ROTATION, self.load_rotation().await.err()),
        ];
        for (key, error) in singles {
            match error {
                Some(error) if !error.is_of_the_record() => return Err(error),
                error => found.extend(of_one(key.to_owned(), error)),
            }
        }
        let kinds = [
            cmd("HLEN").arg(keys::UNVERIFIED).clone(),
            cmd("HLEN").arg(keys::FRONTENDS_TROUBLED).clone(),
            cmd("STRLEN").arg(keys::FRONTENDS_CHANGED).clone(),
            cmd("HLEN").arg(keys::EPOCH).clone(),
            cmd("XLEN").arg(keys::AUDIT).clone(),
            cmd("HLEN").arg(keys::AUDIT_COPIES).clone(),
            cmd("HLEN").arg(keys::NOTIFY_STATE).clone(),
            cmd("STRLEN").arg(keys::NOTIFY_LEADER).clone(),
            cmd("STRLEN").arg(keys::WAITING_KNOWN).clone(),
        ];
        self.add_of_another_kind(&kinds, &mut found).await?;
        // A hash that is none is met by several of these.
        found.sort_by(|one, other| one.key.cmp(&other.key));
        found.dedup_by(|one, other| one.key == other.key);
        Ok(found)
    }

    /// Which lists of a partition can't be read.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn damage_of_lists(&self, partition: Partition) -> Result<Vec<Damage>, StoreError> {
        let questions: Vec<Cmd> =
            lists(partition).into_iter().map(|(ask, key)| cmd(ask).arg(key).clone()).collect();
        let mut found = Vec::new();
        self.add_of_another_kind(&questions, &mut found).await?;
        Ok(found)
    }

    /// Whether a key is that of a list of a partition.
    pub fn is_list(partition: Partition, key: &str) -> bool {
        let is_chunk = key.strip_prefix(&keys::feed(partition)).is_some_and(|rest| rest.starts_with(':'));
        is_chunk || lists(partition).iter().any(|(_, known)| known == key)
    }

    /// Whether a record can be read again that was noted when it was used. Of what is looked at all the time nothing is said here.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn is_readable(&self, key: &str) -> Result<bool, StoreError> {
        let read = async {
            if let Some(name) = key.strip_prefix("sp:name:") {
                let name = DnsName::try_from(name.to_owned()).map_err(|e| StoreError::corrupt(key, e))?;
                return self.load_pointer(&name).await.map(|_| true);
            }
            let is_order = key.starts_with("sp:{p") && key.contains(":order:");
            if !is_order && !key.starts_with("sp:chain:") {
                return Ok(true);
            }
            let text: Option<Vec<u8>> = self.link.query(cmd("GET").arg(key)).await?;
            Ok(!is_order || text.is_none_or(|text| serde_json::from_slice::<Order>(&text).is_ok()))
        };
        match read.await {
            Err(error) if error.is_of_the_record() => Ok(false),
            read => read,
        }
    }

    async fn add_of_another_kind(
        &self,
        questions: &[Cmd],
        found: &mut Vec<Damage>,
    ) -> Result<(), StoreError> {
        for answer in self.read_each::<redis::Value>(questions).await? {
            if let Err(StoreError::Corrupt { key, source }) = answer {
                found.push(Damage { what: crate::error::chain(source.as_ref()), key });
            }
        }
        Ok(())
    }
}

/// What grants nothing because its MAC does not fit is told as that.
fn of_one(key: String, error: Option<StoreError>) -> Option<Damage> {
    let error = error.filter(|error| !matches!(error, StoreError::Unverified { .. }))?;
    Some(Damage::of(key, &error))
}

/// The lists of a partition, each with what asks for its length.
fn lists(partition: Partition) -> Vec<(&'static str, String)> {
    let sets = [keys::sites(partition), keys::feed(partition)].into_iter().chain(queues(partition));
    let mut all: Vec<(&str, String)> = sets.map(|key| ("ZCARD", key)).collect();
    let (renewals, events) = (keys::renewals(partition), keys::events(partition));
    all.extend(indexes(partition).into_iter().map(|key| {
        let ask = match key == renewals {
            true => "HLEN",
            false if key == events => "XLEN",
            false => "ZCARD",
        };
        (ask, key)
    }));
    all.push(("HLEN", keys::feed_state(partition)));
    all
}
