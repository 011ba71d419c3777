//! HSTS is lowered when a certificate begins to fail, and goes on from there once it has recovered: what is written for that.

use jiff::Timestamp;
use shared::{
    domain::{Event, EventKind},
    store::{Field, Store, StoreError, StoredSite},
};

/// Fields of a group's record; `None` deletes.
type Fields = Vec<(Field, Option<String>)>;

/// What is written when an attempt has failed, and told where that lowers it. Nothing, when it was lowered before.
pub(crate) fn lowered(
    stored: &StoredSite,
    ends: Option<Timestamp>,
    now: Timestamp,
) -> (Fields, Option<Event>) {
    let nothing = (Fields::new(), None);
    let Some(hsts) = stored.site.hsts.filter(|hsts| hsts.is_on() && stored.hsts_held.is_none()) else {
        return nothing;
    };
    let standing = stored.hsts_standing(ends);
    let Some(held) = hsts.lowered(standing, now) else { return nothing };
    let what = format!(
        "{}: HSTS is lowered to {held} s for as long as its certificate can't be renewed: browsers that insist on HTTPS let \
         nobody past an expired one",
        stored.site.names.to_unicode()
    );
    let event = Event::new(EventKind::HstsLowered, now, what)
        .for_site(&stored.id)
        .names(stored.site.names.iter())
        .tags(&stored.site.tags)
        .with("max_age_seconds", held);
    (vec![(Field::HstsHeld, Some(held.to_string()))], Some(event))
}

/// What is written when nothing fails any more.
pub(crate) fn recovered(stored: &StoredSite, now: Timestamp) -> Fields {
    let from = |from: Timestamp| (Field::HstsFrom, Some(from.as_second().to_string()));
    let mut fields: Fields = stored.hsts_held.map(|_| (Field::HstsHeld, None)).into_iter().collect();
    if let Some(hsts) = stored.site.hsts.filter(|hsts| hsts.is_on()) {
        match stored.hsts_lowered() {
            Some(held) => fields.push(from(hsts.resumed(held, now))),
            // It was switched on for what failed, and begins now.
            None if stored.is_failing() => fields.push(from(now)),
            None => {}
        }
    }
    fields
}

/// What is written with a first certificate.
pub(super) fn begun(stored: &StoredSite, now: Timestamp) -> Option<(Field, String)> {
    let begins = stored.serving.current.is_empty() && stored.site.hsts.is_some_and(|hsts| hsts.is_on());
    begins.then(|| (Field::HstsFrom, now.as_second().to_string()))
}

/// When the first of the certificates that are served ends.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn ends(store: &Store, stored: &StoredSite) -> Result<Option<Timestamp>, StoreError> {
    let mut first: Option<Timestamp> = None;
    for id in stored.serving.current.values() {
        let certificate = match store.load_certificate(&stored.id, id).await {
            Ok(Some(certificate)) => certificate,
            Ok(None) | Err(StoreError::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        let Ok(leaf) = certificate.leaf() else { continue };
        first = Some(first.map_or(leaf.not_after, |first| first.min(leaf.not_after)));
    }
    Ok(first)
}
