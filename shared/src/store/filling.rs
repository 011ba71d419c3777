//! Filling a store with groups that were never ordered: for benchmarks, and for nothing else.
//!
//! Writes what a wish, an order and its publication leave behind, record by record as the scripts write it, without their
//! checks. Never into a store that a daemon works on.

use super::{Store, StoreError, certificate_record::CertificateRecord, chains::ChainId, keys, schedule};
use crate::domain::{Certificate, Place, Site, SiteId, hour_of};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

/// A group of a site as it stands between two renewals.
#[derive(Clone, Debug)]
pub struct SettledGroup {
    pub id: SiteId,
    pub site: Site,
    /// What it serves, of different slots.
    pub certificates: Vec<Certificate>,
    /// When it is looked at next.
    pub place: Place,
}

impl Store {
    /// Writes groups that serve certificates and wait for their renewal, with the names that lead to them.
    ///
    /// # Errors
    /// [`StoreError`]; a part may have been written.
    pub async fn fill(&self, groups: &[SettledGroup]) -> Result<(), StoreError> {
        let chains: BTreeSet<&str> =
            groups.iter().flat_map(|group| &group.certificates).map(|c| c.chain_pem.as_str()).collect();
        for chain in chains {
            self.store_chain(chain).await?;
        }
        let mut templates: BTreeMap<(usize, &str), Arc<[u8]>> = BTreeMap::new();
        let mut pipeline = redis::Pipeline::new();
        for SettledGroup { id, site, certificates, place } in groups {
            let spec = serde_json::to_string(site).map_err(|e| StoreError::corrupt(keys::site(id), e))?;
            // In the order in which the wish, the claim and the publication set them.
            let record = pipeline.cmd("HSET").arg(keys::site(id)).arg("spec").arg(spec).arg("rev").arg(1);
            record.arg("sched").arg(schedule::to_record(place)).arg("wrev").arg(1).arg("lease_count").arg(1);
            for certificate in certificates {
                let slot = certificate.key_type.slot();
                record.arg(format!("cert:{slot}")).arg(certificate.id().as_str());
            }
            for certificate in certificates {
                let key = keys::certificate(id, &certificate.id());
                let (partition, chain_pem) = (id.partition(), certificate.chain_pem.as_str());
                let template = match templates.entry((partition.number(), chain_pem)) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(place) => {
                        let chain = ChainId::of(chain_pem);
                        let known = self.load_template(partition, chain).await?;
                        let template = known.unwrap_or_else(|| certificate.leaf_der.as_slice().into());
                        pipeline.cmd("SET").arg(keys::template(partition, &chain.to_hex())).arg(&*template);
                        place.insert(template)
                    }
                };
                let packed = CertificateRecord::pack(certificate, template).map_err(|e| e.of(&key))?;
                pipeline.cmd("SET").arg(key).arg(packed);
            }
            pipeline.cmd("ZADD").arg(keys::sites(id.partition())).arg(0).arg(id.as_str());
            if let Some(renewal) = place.renewal {
                pipeline.cmd("HINCRBY").arg(keys::renewals(id.partition())).arg(hour_of(renewal)).arg(1);
            }
            let moment = place.moment.as_millisecond();
            pipeline.cmd("ZADD").arg(keys::due(id.partition())).arg(moment).arg(id.as_str());
            for name in site.names.iter() {
                pipeline.cmd("SET").arg(keys::name(name)).arg(id.as_str());
            }
        }
        self.confirmed.write(pipeline).await?;
        let ids: Vec<SiteId> = groups.iter().map(|group| group.id.clone()).collect();
        self.adopt_into_feed(&ids).await
    }
}
