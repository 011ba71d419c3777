//! What frontends say of themselves.

use super::{Certificates, reader::Reader, refusal::Refusal, route::ItemId};
use jiff::Timestamp;
use shared::{
    domain::{FrontendReport, ServedItem, SiteId, StoredReport},
    store::FollowedCertificate,
};
use std::collections::BTreeMap;

/// The largest report, bytes.
pub(crate) const BODY_BYTES: usize = 512 * 1024;

impl Certificates {
    /// Keeps a report, with what the centre knows of it besides.
    ///
    /// # Errors
    /// [`Refusal::Mistaken`] for what is no report.
    pub(crate) async fn note_report(&self, reader: &Reader, body: &[u8]) -> Result<(), Refusal> {
        let report: FrontendReport =
            serde_json::from_slice(body).map_err(|e| Refusal::Mistaken(format!("no status report: {e}")))?;
        let mut report = report.bounded();
        self.note_lateness(reader, &mut report.served).await?;
        let report = StoredReport { v: StoredReport::VERSION, at: Timestamp::now(), report };
        Ok(self.store.write_report(reader.name(), &report).await?)
    }

    /// How long after its issuance each certificate was live.
    async fn note_lateness(&self, reader: &Reader, served: &mut [ServedItem]) -> Result<(), Refusal> {
        let groups: Vec<SiteId> =
            served.iter().filter_map(|item| Some(ItemId::parse(&item.id)?.group)).collect();
        let mut issued: BTreeMap<String, Timestamp> = BTreeMap::new();
        for group in self.store.load_followed(&groups).await? {
            if reader.sees(&group) {
                issued.extend(group.certificates.values().filter_map(|certificate| match certificate {
                    FollowedCertificate::There { leaf, issued, .. } => {
                        Some((leaf.fingerprint_sha256.clone(), *issued))
                    }
                    FollowedCertificate::Damaged(_) => None,
                }));
            }
        }
        for item in served {
            let issued = issued.get(&item.fingerprint_sha256.to_ascii_lowercase());
            item.after_seconds = issued.map(|issued| item.since.duration_since(*issued).as_secs().max(0));
        }
        Ok(())
    }
}
