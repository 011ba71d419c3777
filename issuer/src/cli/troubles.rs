//! What `issuer status` says of troubles: those that are no site's own, and when it goes on.

use super::{
    context::{Context, of_store},
    output::Failed,
};
use crate::waiting::NO_DAEMON;
use serde_json::{Value, json};
use shared::{
    domain::{Brake, Failure},
    error::Fault,
};
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
            let Some(failure) = stored.failure.filter(|failure| !failure.is_wait()) else { continue };
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
fn to_text(troubles: &Value) -> String {
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

/// The fleet's numbers, and what is in its way.
pub(super) fn fleet_to_text(fleet: &Value) -> String {
    let load = &fleet["load"];
    let ready = load["ready"].as_object().into_iter().flatten();
    let ready: Vec<String> = ready
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(class, count)| format!("{count} {class}"))
        .collect();
    let mut text = format!(
        "{} certificates wanted, {} without any, {} failing, {} parked; due now: {}\n",
        load["groups"],
        fleet["without_certificate"],
        load["failing"],
        load["parked"],
        if ready.is_empty() { "nothing".to_owned() } else { ready.join(", ") },
    );
    if load["waiting"].as_u64().is_some_and(|waiting| waiting > 0) {
        text.push_str(&format!(
            "WAITING: {} for a limit or the CA, the first until {}: `issuer limits`\n",
            load["waiting"],
            load["waiting_until"].as_str().unwrap_or_default()
        ));
    }
    if fleet["has_issuer"] == false && load["groups"].as_u64() != Some(0) {
        text.push_str(&format!("NOBODY WORKS: {NO_DAEMON}\n"));
    }
    text.push_str(&to_text(&fleet["troubles"]));
    let damaged = fleet["damaged"].as_array().map_or(0, Vec::len);
    if damaged > 0 {
        text.push_str(&format!("DAMAGED: {damaged} records in the store can't be read:\n"));
    }
    for record in fleet["damaged"].as_array().into_iter().flatten().take(10) {
        let word = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
        text.push_str(&format!("  {} since {}: {}\n", word("key"), word("since"), word("what")));
    }
    let ahead = fleet["store_clock_ahead_ms"].as_i64().unwrap_or_default();
    if ahead.unsigned_abs() >= 5_000 {
        text.push_str(&format!(
            "CLOCKS: the store's is {} s {} this machine's; it is allowed for, but see to NTP\n",
            ahead.unsigned_abs() / 1_000,
            if ahead > 0 { "ahead of" } else { "behind" }
        ));
    }
    for brake in fleet["brakes"].as_array().into_iter().flatten() {
        let word = |field: &str| brake[field].as_str().unwrap_or_default().to_owned();
        let release = serde_json::from_value::<Brake>(brake.clone()).map(|brake| brake.release());
        text.push_str(&format!(
            "STOPPED: {} for {} since {} {}: `{}` lets it go on\n",
            word("what"),
            word("scope"),
            word("since"),
            word("reason"),
            release.unwrap_or_default()
        ));
    }
    for pause in fleet["ca_pauses"].as_array().into_iter().flatten() {
        let word = |field: &str| pause[field].as_str().unwrap_or_default().to_owned();
        text.push_str(&format!(
            "PAUSED BY THE CA: {} wants no requests of the kind {} until {}: `issuer limits`, `issuer retry --ca {}`\n",
            word("ca"),
            word("endpoint"),
            word("until"),
            word("ca")
        ));
    }
    text.push('\n');
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
