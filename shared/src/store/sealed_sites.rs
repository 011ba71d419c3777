//! Where the sealed keys of sites are: their certificates and open orders, many sites at a time.

use super::{
    Store, StoreError, keys, scripts,
    sealed::{Form, SealedRecord},
    serving::KINDS,
};
use crate::domain::{CertificateId, Order, OrderState, SiteId, Slot};
use redis::cmd;
use std::{collections::BTreeSet, time::Duration};

/// What a site has that may hold sealed keys, as of one moment.
#[derive(Clone, Debug)]
pub struct SealedSite {
    pub id: SiteId,
    /// Somebody works on it, for at most this much longer unless the lease is renewed. What they hold in memory may be
    /// sealed with a key that was current before.
    pub busy: Option<Duration>,
    pub records: Vec<SealedRecord>,
}

/// The script's answer for a site: remaining ms of its lease, the order of each slot, its certificates.
type Look = (u64, Vec<Vec<u8>>, Vec<String>);

impl Store {
    /// The records of these sites that may hold sealed keys. With `take_over`, leases that have run out are ended, so that
    /// a holder who slept through it writes nothing any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_sealed_sites(
        &self,
        ids: &[SiteId],
        take_over: bool,
    ) -> Result<Vec<SealedSite>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        // In a cluster a script touches one partition.
        for ids in ids.chunk_by(|one, two| one.partition() == two.partition()) {
            let sites = self.look_at(ids, take_over).await?;
            found.extend(self.with_certificates(sites).await?);
        }
        Ok(found)
    }

    /// The open orders of sites of one partition, and the names of their certificates.
    async fn look_at(
        &self,
        ids: &[SiteId],
        take_over: bool,
    ) -> Result<Vec<(SealedSite, BTreeSet<CertificateId>)>, StoreError> {
        let mut touched = Vec::new();
        for id in ids {
            touched.push(keys::site(id));
            touched.extend(Slot::ALL.into_iter().map(|slot| keys::order(id, slot)));
        }
        let per_site = (1 + Slot::ALL.len()).to_string();
        let pointers = Slot::ALL.into_iter().flat_map(|slot| KINDS.map(|kind| format!("{kind}:{slot}")));
        let arguments: Vec<String> =
            [per_site, u8::from(take_over).to_string()].into_iter().chain(pointers).collect();
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        let answers: Vec<Look> = self.confirmed.script(&scripts::SEALED_SITES, &touched, &arguments).await?;
        let mut sites = Vec::with_capacity(ids.len());
        for (id, answer) in ids.iter().zip(answers) {
            let (remaining_ms, orders, certificates) = answer;
            let mut certificates: BTreeSet<CertificateId> =
                certificates.into_iter().map(CertificateId::from_stored).collect();
            let mut records = Vec::new();
            for (slot, raw) in Slot::ALL.into_iter().zip(orders) {
                if raw.is_empty() {
                    continue;
                }
                let key = keys::order(id, slot);
                let order: Order = serde_json::from_slice(&raw).map_err(|e| StoreError::corrupt(&key, e))?;
                if let OrderState::Stored(stored) = order.state {
                    certificates.insert(stored.certificate);
                }
                records.push(SealedRecord { key, raw, form: Form::Order(id.clone()) });
            }
            let busy = (remaining_ms > 0).then(|| Duration::from_millis(remaining_ms));
            sites.push((SealedSite { id: id.clone(), busy, records }, certificates));
        }
        Ok(sites)
    }

    async fn with_certificates(
        &self,
        mut sites: Vec<(SealedSite, BTreeSet<CertificateId>)>,
    ) -> Result<Vec<SealedSite>, StoreError> {
        let mut get = cmd("MGET");
        let mut wanted = Vec::new();
        for (number, (site, certificates)) in sites.iter().enumerate() {
            for certificate in certificates {
                let key = keys::certificate(&site.id, certificate);
                get.arg(&key);
                wanted.push((number, key, certificate.clone()));
            }
        }
        if !wanted.is_empty() {
            let records: Vec<Option<Vec<u8>>> = self.link.query(&get).await?;
            for ((number, key, id), raw) in wanted.into_iter().zip(records) {
                let site = &mut sites[number].0;
                // One that is gone was replaced in this moment: what took its place was sealed later.
                let Some(raw) = raw else { continue };
                let leaf = self.leaf_of(&site.id, &key, &raw, &id).await?;
                site.records.push(SealedRecord { key, raw, form: Form::Certificate(site.id.clone(), leaf) });
            }
        }
        Ok(sites.into_iter().map(|(site, _)| site).collect())
    }
}
