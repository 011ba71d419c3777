//! Which CAs the sites name.

use super::{Store, StoreError, keys};
use crate::domain::{Partition, SiteId};
use redis::{Pipeline, cmd};
use serde::Deserialize;
use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};
use tokio::time::Instant;

/// Sites whose CA is asked for at once.
const AT_ONCE: usize = 2_000;

/// How many sites name each CA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SitesByCa {
    pub sites: BTreeMap<String, u64>,
    /// Whether all sites were looked at in the time that there was.
    pub complete: bool,
}

/// As much of a record as it takes.
#[derive(Deserialize)]
struct OfCa {
    ca: String,
}

impl Store {
    /// Counts the sites of each CA, for so long at most. A record that can't be read counts as none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_sites_by_ca(&self, longest: Duration) -> Result<SitesByCa, StoreError> {
        let until = Instant::now() + longest;
        let mut found = SitesByCa::default();
        let visited = self.visit_cas(
            |_, ca| *found.sites.entry(ca).or_default() += 1,
            || {
                if Instant::now() < until { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            },
        );
        found.complete = visited.await?.is_continue();
        Ok(found)
    }

    /// The sites that name a CA.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_sites_of_ca(&self, wanted: &str) -> Result<Vec<SiteId>, StoreError> {
        let mut found = Vec::new();
        let of_site = |id: SiteId, ca: String| {
            if ca == wanted {
                found.push(id);
            }
        };
        self.visit_cas(of_site, || ControlFlow::Continue(())).await.map(|_| found)
    }

    async fn visit_cas(
        &self,
        mut of_site: impl FnMut(SiteId, String),
        goes_on: impl Fn() -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        for partition in Partition::all() {
            let mut from = "-".to_owned();
            loop {
                if goes_on().is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                let mut range = cmd("ZRANGEBYLEX");
                range.arg(keys::sites(partition)).arg(from).arg("+").arg("LIMIT").arg(0).arg(AT_ONCE);
                let listed: Vec<String> = self.link.query(&range).await?;
                let Some(last) = listed.last() else { break };
                from = format!("({last}");
                // The first group stands for its site.
                let ids = listed.iter().filter_map(|id| SiteId::parse(id));
                let ids: Vec<SiteId> = ids.filter(|id| *id == id.site()).collect();
                if ids.is_empty() {
                    continue;
                }
                let mut specs = Pipeline::new();
                for id in &ids {
                    specs.cmd("HGET").arg(keys::site(id)).arg("spec");
                }
                let specs: Vec<Option<String>> = self.link.pipe(&specs).await?;
                for (id, spec) in ids.into_iter().zip(specs) {
                    if let Some(OfCa { ca }) = spec.and_then(|spec| serde_json::from_str(&spec).ok()) {
                        of_site(id, ca);
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
