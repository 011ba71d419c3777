//! Which sites there are, partition by partition.

use super::{Listing, LoadedSites, Store, StoreError, keys};
use crate::domain::{Partition, SiteId};
use futures_util::future::try_join_all;
use redis::cmd;

/// Partitions whose ids are listed at once.
const PARTITIONS_AT_ONCE: usize = 16;

impl Store {
    /// Sites in the order of their ids, beginning after `after`, with a certificate or without.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_sites(&self, after: Option<&SiteId>, limit: usize) -> Result<LoadedSites, StoreError> {
        let mut after = after.cloned();
        let mut found = LoadedSites::default();
        while found.len() < limit {
            let Listing { found: ids, damaged: unlisted } =
                self.list_readable_ids(after.as_ref(), limit - found.len()).await?;
            found.unlisted = unlisted;
            let Some(last) = ids.last() else { break };
            after = Some(last.clone());
            // An id without a record is one that is being deleted: there may be more behind it.
            let LoadedSites { sites, damaged, .. } = self.load_sites(&ids).await?;
            found.sites.extend(sites);
            found.damaged.extend(damaged);
        }
        Ok(found)
    }

    /// The ids of sites in their order, beginning after `after`; fewer than `limit` at the end alone.
    ///
    /// # Errors
    /// [`StoreError`], also where a list of them can't be read.
    pub async fn list_site_ids(
        &self,
        after: Option<&SiteId>,
        limit: usize,
    ) -> Result<Vec<SiteId>, StoreError> {
        self.list_readable_ids(after, limit).await?.whole()
    }

    /// The same, without what can't be read.
    pub(super) async fn list_readable_ids(
        &self,
        after: Option<&SiteId>,
        limit: usize,
    ) -> Result<Listing<SiteId>, StoreError> {
        let first = after.map(SiteId::partition);
        let partitions: Vec<Partition> =
            Partition::all().skip_while(|partition| first.is_some_and(|first| *partition < first)).collect();
        let mut ids = Listing::default();
        // Some at once: where the store is far away, one after the other would take as many times as long.
        for some in partitions.chunks(PARTITIONS_AT_ONCE) {
            let wanted = limit.saturating_sub(ids.found.len());
            if wanted == 0 {
                break;
            }
            let asked = some.iter().map(async |partition| {
                let from = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
                let mut range = cmd("ZRANGEBYLEX");
                range.arg(keys::sites(*partition)).arg(from).arg("+").arg("LIMIT").arg(0).arg(wanted);
                self.read_members(&range).await
            });
            for Listing { found, damaged } in try_join_all(asked).await? {
                // What is no site's id is no site.
                ids.found.extend(found.iter().filter_map(|id| SiteId::parse(id)));
                // A member that is no text is none, either.
                ids.damaged.extend(damaged.into_iter().filter(|damage| !damage.key.contains(' ')));
            }
        }
        ids.found.truncate(limit);
        Ok(ids)
    }
}
