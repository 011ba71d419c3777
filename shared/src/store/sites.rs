//! Sites: what is wanted, what is served, what went wrong.

use super::{Lease, Store, StoreError, keys, scripts};
use crate::domain::{CertificateId, DnsName, Failure, Partition, Site, SiteId, Slot};
use redis::cmd;
use std::collections::{BTreeMap, HashMap};

/// The certificates that a site's slots point to.
pub type Pointers = BTreeMap<Slot, CertificateId>;

/// A site as it is stored.
#[derive(Clone, Debug)]
pub struct StoredSite {
    pub id: SiteId,
    pub site: Site,
    /// What is served.
    pub current: Pointers,
    /// What was served before.
    pub previous: Pointers,
    /// Slots whose current certificate was revoked.
    pub revoked: Vec<Slot>,
    pub failure: Option<Failure>,
}

impl Store {
    /// # Errors
    /// [`StoreError`]; a site that isn't there is `None`.
    pub async fn load_site(&self, id: &SiteId) -> Result<Option<StoredSite>, StoreError> {
        let fields: HashMap<String, String> = self.link.query(cmd("HGETALL").arg(keys::site(id))).await?;
        parse(id, fields)
    }

    /// The site that serves a name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn site_of(&self, name: &DnsName) -> Result<Option<SiteId>, StoreError> {
        let key = keys::name(name);
        let id: Option<String> = self.link.query(cmd("GET").arg(&key)).await?;
        id.map(|id| SiteId::parse(&id).ok_or_else(|| StoreError::corrupt(key, format!("no site id: {id:?}"))))
            .transpose()
    }

    /// Lets a site serve these names: called after its certificate was published, never before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn point_names(&self, names: &[DnsName], id: &SiteId) -> Result<(), StoreError> {
        let mut pipeline = redis::Pipeline::new();
        for name in names {
            pipeline.cmd("SET").arg(keys::name(name)).arg(id.as_str());
        }
        self.confirmed.write(pipeline).await.map(drop)
    }

    /// Sites in the order of their ids, beginning after `after`, with a certificate or without.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_sites(
        &self,
        after: Option<&SiteId>,
        limit: usize,
    ) -> Result<Vec<StoredSite>, StoreError> {
        let first = after.map(SiteId::partition);
        let mut found = Vec::new();
        for partition in
            Partition::all().skip_while(|partition| first.is_some_and(|first| *partition < first))
        {
            if found.len() >= limit {
                break;
            }
            let from = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
            let mut range = cmd("ZRANGEBYLEX");
            range.arg(keys::sites(partition)).arg(from).arg("+").arg("LIMIT").arg(0).arg(limit - found.len());
            let ids: Vec<String> = self.link.query(&range).await?;
            if ids.is_empty() {
                continue;
            }
            let ids: Vec<SiteId> = ids.iter().filter_map(|id| SiteId::parse(id)).collect();
            let mut pipeline = redis::Pipeline::new();
            for id in &ids {
                pipeline.cmd("HGETALL").arg(keys::site(id));
            }
            let records: Vec<HashMap<String, String>> = self.link.pipe(&pipeline).await?;
            for (id, fields) in ids.iter().zip(records) {
                found.extend(parse(id, fields)?);
            }
        }
        Ok(found)
    }

    /// Replaces the wanted state.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the lease was lost.
    pub async fn write_site(&self, lease: &Lease, site: &Site) -> Result<(), StoreError> {
        let spec = serde_json::to_vec(site).map_err(|e| StoreError::corrupt(keys::site(&lease.site), e))?;
        self.write_field(lease, "spec", &spec).await
    }

    /// Remembers why nothing could be issued, without touching what is served.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the lease was lost.
    pub async fn write_failure(&self, lease: &Lease, failure: &Failure) -> Result<(), StoreError> {
        let record =
            serde_json::to_vec(failure).map_err(|e| StoreError::corrupt(keys::site(&lease.site), e))?;
        self.write_field(lease, "failure", &record).await
    }

    /// Marks what a slot serves as revoked: it no longer counts as a certificate that can be used.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the lease was lost.
    pub async fn mark_revoked(&self, lease: &Lease, slot: Slot) -> Result<(), StoreError> {
        self.write_field(lease, &format!("revoked:{slot}"), b"1").await
    }

    async fn write_field(&self, lease: &Lease, field: &str, value: &[u8]) -> Result<(), StoreError> {
        let arguments = [lease.token.as_bytes(), field.as_bytes(), value];
        self.confirmed.script(&scripts::WRITE_SPEC, &[keys::site(&lease.site)], &arguments).await
    }
}

fn parse(id: &SiteId, mut fields: HashMap<String, String>) -> Result<Option<StoredSite>, StoreError> {
    let key = || keys::site(id);
    let Some(spec) = fields.remove("spec") else { return Ok(None) };
    let site: Site = serde_json::from_str(&spec).map_err(|e| StoreError::corrupt(key(), e))?;
    if site.v > Site::VERSION {
        return Err(StoreError::NewerSchema { found: site.v, known: Site::VERSION });
    }
    let failure = fields.remove("failure").map(|text| serde_json::from_str(&text)).transpose();
    let mut pointers = |kind: &str| -> Pointers {
        Slot::ALL
            .into_iter()
            .filter_map(|slot| {
                Some((slot, CertificateId::from_stored(fields.remove(&format!("{kind}:{slot}"))?)))
            })
            .collect()
    };
    let current = pointers("cert");
    let previous = pointers("prev");
    let revoked =
        Slot::ALL.into_iter().filter(|slot| fields.contains_key(&format!("revoked:{slot}"))).collect();
    Ok(Some(StoredSite {
        id: id.clone(),
        site,
        current,
        previous,
        revoked,
        failure: failure.map_err(|e| StoreError::corrupt(key(), e))?,
    }))
}
