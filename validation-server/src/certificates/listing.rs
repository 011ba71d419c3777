//! A page of everything in a frontend's scope.

use super::{item::Item, reader::Reader, refusal::Refusal, route::ItemId};
use jiff::Timestamp;
use serde::Serialize;
use shared::store::Store;

/// Groups that are read from the store at once.
const GROUPS_AT_ONCE: usize = 200;

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
        reader: &Reader,
        after: Option<ItemId>,
        limit: usize,
    ) -> Result<Self, Refusal> {
        let now = Timestamp::now();
        let mut found: Vec<Item> = Vec::new();
        // The page before may have ended between the items of one group.
        if let Some(after) = &after {
            for group in store.load_followed(std::slice::from_ref(&after.group)).await? {
                found.extend(reader.items(&group, now));
            }
            found.retain(|item| item.id() > after);
        }
        let mut cursor = after.map(|after| after.group);
        // One more than wanted says that there is a next page.
        while found.len() <= limit {
            let ids = store.list_site_ids(cursor.as_ref(), GROUPS_AT_ONCE).await?;
            let Some(last) = ids.last() else { break };
            cursor = Some(last.clone());
            for group in store.load_followed(&ids).await? {
                found.extend(reader.items(&group, now));
            }
        }
        let next = (found.len() > limit).then(|| found[limit - 1].id().clone());
        found.truncate(limit);
        Ok(Self { items: found, next })
    }
}
