//! A page of everything in a frontend's scope.

use super::{item::Item, refusal::Refusal, route::ItemId};
use jiff::Timestamp;
use serde::Serialize;
use shared::{domain::Frontend, store::Store};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Sites that are read from the store at once, and certificates that are asked for at the same time.
const SITES_AT_ONCE: usize = 500;
const CERTIFICATES_AT_ONCE: usize = 64;

#[derive(Debug, Serialize)]
pub(crate) struct Page {
    items: Vec<Item>,
    /// What to ask for next; null on the last page.
    next: Option<ItemId>,
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
        after: Option<ItemId>,
        limit: usize,
    ) -> Result<Self, Refusal> {
        let now = Timestamp::now();
        let frontend = Arc::new(frontend.clone());
        let mut found: Vec<Item> = Vec::new();
        // The page before may have ended between the items of one group.
        if let Some(after) = &after
            && let Some(stored) = store.load_site(&after.group).await?
        {
            found.extend(Item::load(store, &frontend, &stored, now).await?);
            found.retain(|item| item.id() > after);
        }
        let mut cursor = after.map(|after| after.group);
        'pages: loop {
            let sites = store.list_sites(cursor.as_ref(), SITES_AT_ONCE).await?;
            let Some(last) = sites.last() else { break };
            cursor = Some(last.id.clone());
            let mut sites = sites.into_iter();
            loop {
                let mut loading = JoinSet::new();
                for stored in sites.by_ref().take(CERTIFICATES_AT_ONCE) {
                    let (store, frontend) = (store.clone(), Arc::clone(&frontend));
                    loading.spawn(async move { Item::load(&store, &frontend, &stored, now).await });
                }
                if loading.is_empty() {
                    break;
                }
                let before = found.len();
                while let Some(loaded) = loading.join_next().await {
                    found.extend(loaded.map_err(|e| Refusal::Damaged(e.into()))??);
                }
                found[before..].sort_by(|one, other| one.id().cmp(other.id()));
                // One more than wanted says that there is a next page.
                if found.len() > limit {
                    break 'pages;
                }
            }
        }
        let next = (found.len() > limit).then(|| found[limit - 1].id().clone());
        found.truncate(limit);
        Ok(Self { items: found, next })
    }
}
