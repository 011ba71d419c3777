//! A page of everything in a frontend's scope.

use super::{item::Item, refusal::Refusal};
use jiff::Timestamp;
use serde::Serialize;
use shared::{
    domain::{Frontend, SiteId},
    store::Store,
};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Sites that are read from the store at once, and certificates that are asked for at the same time.
const SITES_AT_ONCE: usize = 500;
const CERTIFICATES_AT_ONCE: usize = 64;

#[derive(Debug, Serialize)]
pub(crate) struct Page {
    items: Vec<Item>,
    /// What to ask for next; null on the last page.
    next: Option<SiteId>,
}

impl Page {
    /// Items after `after` in the order of their ids, until there are `limit` of them or the store has no more. Nothing
    /// out of scope leaves a trace in it, not even in `next`.
    ///
    /// # Errors
    /// [`Refusal::Store`]: a page is complete, or none.
    pub(crate) async fn load(
        store: &Store,
        frontend: &Frontend,
        after: Option<SiteId>,
        limit: usize,
    ) -> Result<Self, Refusal> {
        let now = Timestamp::now();
        let frontend = Arc::new(frontend.clone());
        let mut found: Vec<(SiteId, Item)> = Vec::new();
        let mut cursor = after;
        'pages: loop {
            let sites = store.list_sites(cursor.as_ref(), SITES_AT_ONCE).await?;
            let Some(last) = sites.last() else { break };
            cursor = Some(last.id.clone());
            let mut sites = sites.into_iter();
            loop {
                let mut loading = JoinSet::new();
                for stored in sites.by_ref().take(CERTIFICATES_AT_ONCE) {
                    let (store, frontend) = (store.clone(), Arc::clone(&frontend));
                    loading.spawn(async move {
                        Ok::<_, Refusal>(
                            Item::load(&store, &frontend, &stored, now).await?.map(|item| (stored.id, item)),
                        )
                    });
                }
                if loading.is_empty() {
                    break;
                }
                let before = found.len();
                while let Some(loaded) = loading.join_next().await {
                    found.extend(loaded.map_err(|e| Refusal::Damaged(e.into()))??);
                }
                found[before..].sort_by(|(one, _), (other, _)| one.cmp(other));
                // One more than wanted says that there is a next page.
                if found.len() > limit {
                    break 'pages;
                }
            }
        }
        let next = (found.len() > limit).then(|| found[limit - 1].0.clone());
        let items = found.into_iter().take(limit).map(|(_, item)| item).collect();
        Ok(Self { items, next })
    }
}
