//! What `issuer status` says of troubles: those that are no site's own, and when it goes on.

use super::{
    context::{Context, of_store},
    output::Failed,
};
use serde_json::{Value, json};
use shared::{domain::Failure, error::Fault};
use std::collections::BTreeMap;

/// Failures that are looked at to say what is in trouble; those since the longest.
const FAILURES_READ: usize = 1_000;

/// What makes sites fail that is none of their own: the CA, the store, this installation.
pub(super) async fn load(context: &Context) -> Result<Vec<Value>, Failed> {
    let store = &context.store;
    let ids = store.list_troubled(false, FAILURES_READ).await.map_err(|e| of_store(&e))?;
    let mut found: BTreeMap<(&'static str, String), (u64, Option<Failure>)> = BTreeMap::new();
    for ids in ids.chunks(500) {
        for stored in store.load_sites(ids).await.map_err(|e| of_store(&e))?.sites {
            let Some(failure) = stored.failure else { continue };
            let about = match failure.fault {
                Fault::Ca => ("ca", stored.site.ca.clone()),
                Fault::Store => ("store", "store".to_owned()),
                Fault::Operator => ("operator", "this installation".to_owned()),
                Fault::Customer | Fault::Bug => continue,
            };
            let (sites, last) = found.entry(about).or_default();
            *sites += 1;
            if last.as_ref().is_none_or(|last| last.at < failure.at) {
                *last = Some(failure);
            }
        }
    }
    let shown = found.into_iter().map(|((fault, what), (sites, last))| {
        json!({ "fault": fault, "what": what, "sites": sites, "last": last })
    });
    Ok(shown.collect())
}

/// A line for each.
pub(super) fn to_text(troubles: &Value) -> String {
    let mut text = String::new();
    for trouble in troubles.as_array().into_iter().flatten() {
        let last = &trouble["last"];
        text.push_str(&format!(
            "IN TROUBLE: {}: {} sites fail because of it, the last at {}: {}\n",
            trouble["what"].as_str().unwrap_or_default(),
            trouble["sites"],
            last["at"].as_str().unwrap_or_default(),
            last["what"].as_str().unwrap_or_default(),
        ));
    }
    text
}

/// When a site is looked at again, where that is known.
pub(super) fn next_attempt(site: &Value) -> String {
    match site["failure"]["next"].as_str().or_else(|| site["next"].as_str()) {
        Some(next) if site["paused"].is_null() => format!(", tried again at {next}"),
        Some(_) => ", not tried again while it is paused".to_owned(),
        None => String::new(),
    }
}
