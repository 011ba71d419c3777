//! A CA's directory: fetched by one program for all within the hour, and what is different told to the operator. A CA that has
//! none for a while goes on being used by the one that is known.

use super::{
    SetupError,
    patience::{ask, ask_unless},
};
use crate::{
    acme::{Client, Directory, Meta, RequestError},
    ca::Ca,
};
use jiff::Timestamp;
use shared::{
    domain::{Event, EventKind, Leaf, Slot},
    store::{Store, StoreError},
};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long a directory is used before it is fetched again.
const KEPT: Duration = Duration::from_secs(3600);

/// The directory that another program has fetched within the hour: only if it is from the same address.
pub(super) async fn kept_directory(store: &Store, ca: &Ca) -> Result<Option<Directory>, StoreError> {
    let kept = store.load_directory(&ca.name).await?;
    Ok(kept.as_deref().and_then(|text| parse(text, &ca.directory)))
}

/// Fetches the directory where the client doesn't know it, or has used it for long.
///
/// # Errors
/// [`SetupError`]; never where one is known.
pub(super) async fn know_directory(store: &Store, ca: &Ca, client: &Client) -> Result<(), SetupError> {
    match client.directory_age() {
        Some(age) if age < KEPT => return Ok(()),
        Some(_) => {
            // The others go on with the one that is known.
            let Some(_turn) = client.try_refresh() else { return Ok(()) };
            if let Some(kept) = kept_directory(store, ca).await? {
                client.use_directory(kept);
                return Ok(());
            }
            match ask(|| client.fetch_directory()).await {
                Ok(fetched) => {
                    keep(store, ca, &fetched).await?;
                    client.use_directory(fetched);
                }
                Err(error) => {
                    let error = shared::error::chain(&error);
                    tracing::warn!(error, ca = ca.name, "its directory can't be had: the one before is used");
                    client.keep_directory();
                }
            }
        }
        None => {
            let failed =
                |source| SetupError::Directory { name: ca.name.clone(), url: ca.directory.clone(), source };
            let fetched =
                ask_unless(|| client.directory(), RequestError::is_of_the_settings).await.map_err(failed)?;
            keep(store, ca, &fetched).await?;
        }
    }
    Ok(())
}

/// Tells the operator where the CA's chains end, when that is somewhere else. Nothing depends on it.
pub(super) async fn learn_chain_top(store: &Store, ca: &Ca, slot: Slot, top: &str) {
    static KNOWN: Mutex<BTreeSet<(String, Slot, String)>> = Mutex::new(BTreeSet::new());
    let known = (ca.name.clone(), slot, top.to_owned());
    if !KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(known) {
        return;
    }
    let learnt = async {
        if store.learn_chain_top(&ca.name, slot, top).await? {
            let what = format!("{} issues certificates whose chain ends at {top}", ca.title);
            let event = Event::new(EventKind::CaChanged, Timestamp::now(), what)
                .ca(&ca.name)
                .remedy("see whether old devices know it; ca.NAME.preferred_chain asks for another")
                .with("chain_ends_at", top);
            store.append_event(&event).await?;
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = learnt.await {
        tracing::debug!(error = shared::error::chain(&error), ca = ca.name, "its chain is not compared");
    }
}

/// Tells the operator, once a day, that a certificate came without the chain above it. It is served as it is.
pub(super) async fn tell_of_lone_leaf(store: &Store, ca: &Ca) {
    let told = async {
        if store.is_news_of_ca(&ca.name, "lone-leaf").await? {
            let what = format!("{} sends certificates without a chain", ca.title);
            let event = Event::new(EventKind::CaChanged, Timestamp::now(), what).ca(&ca.name).remedy(
                "where its root does not issue them itself, clients refuse them: ask the CA for its chain",
            );
            store.append_event(&event).await?;
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = told.await {
        tracing::debug!(error = shared::error::chain(&error), ca = ca.name, "the operator could not be told");
    }
}

/// The profiles that a CA was seen to have: those of its directory as last fetched, where it was. Empty where it describes none.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn seen_profiles(
    store: &Store,
    ca: &str,
    directory_url: &str,
) -> Result<Option<Vec<String>>, StoreError> {
    let fresh = store.load_directory(ca).await?;
    let seen = match fresh.as_deref().and_then(|text| parse(text, directory_url)) {
        Some(fresh) => Some(fresh),
        None => store.load_known_directory(ca).await?.as_deref().and_then(|text| parse(text, directory_url)),
    };
    Ok(seen.map(|directory| directory.meta.profiles.into_keys().collect()))
}

/// The CA gives certificates much of whose life is over: people are told once, and not of each.
pub(super) async fn tell_of_short_life(store: &Store, ca: &Ca, leaf: &Leaf) {
    let told = async {
        if store.is_news_of_ca(&ca.name, "short-life").await? {
            let what = format!(
                "{} gives certificates much of whose life is over: {} is valid from {} until {}",
                ca.title,
                leaf.names.first().map_or("one", String::as_str),
                leaf.not_before,
                leaf.not_after
            );
            let event = Event::new(EventKind::CaChanged, Timestamp::now(), what).ca(&ca.name).remedy(
                "it is renewed when most of what is left is over, and no sooner: ask the CA for whole lifetimes, or renew the subscription there",
            );
            store.append_event(&event).await?;
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = told.await {
        tracing::debug!(error = shared::error::chain(&error), ca = ca.name, "the operator could not be told");
    }
}

/// For other programs; and tells what is different from the one that was known before.
async fn keep(store: &Store, ca: &Ca, fetched: &Directory) -> Result<(), StoreError> {
    let record = serde_json::json!({ "url": ca.directory, "directory": fetched }).to_string();
    store.store_directory(&ca.name, &record, KEPT).await?;
    let before = store.load_known_directory(&ca.name).await?;
    if before.as_deref() == Some(&record) {
        return Ok(());
    }
    // Another address is another CA's, or the operator's wish.
    if let Some(before) = before.as_deref().and_then(|text| parse(text, &ca.directory)) {
        let changes = changes(&before, fetched);
        if !changes.is_empty() {
            let what = format!("{} has changed its directory: {}", ca.title, changes.join("; "));
            let event = Event::new(EventKind::CaChanged, Timestamp::now(), what)
                .ca(&ca.name)
                .remedy("see whether it concerns you; orders go on")
                .with("changes", changes);
            // Told before it is known: killed in between, it is told again.
            store.append_event(&event).await?;
        }
    }
    store.store_known_directory(&ca.name, &record).await
}

/// What is different, in words.
fn changes(before: &Directory, now: &Directory) -> Vec<String> {
    let (meta_before, meta) = (&before.meta, &now.meta);
    let terms = (&meta_before.terms_of_service, &meta.terms_of_service);
    let some = |url: &String| Some(url.clone());
    let mut compared = vec![
        ("the address of the terms of service".to_owned(), terms.0.clone(), terms.1.clone()),
        ("newNonce".to_owned(), some(&before.new_nonce), some(&now.new_nonce)),
        ("newAccount".to_owned(), some(&before.new_account), some(&now.new_account)),
        ("newOrder".to_owned(), some(&before.new_order), some(&now.new_order)),
        ("revokeCert".to_owned(), before.revoke_cert.clone(), now.revoke_cert.clone()),
        ("keyChange".to_owned(), before.key_change.clone(), now.key_change.clone()),
        ("renewalInfo".to_owned(), before.renewal_info.clone(), now.renewal_info.clone()),
        (
            "what CAA records must name".to_owned(),
            Some(meta_before.caa_identities.join(", ")),
            Some(meta.caa_identities.join(", ")),
        ),
        (
            "whether an external account binding is required".to_owned(),
            Some(meta_before.external_account_required.to_string()),
            Some(meta.external_account_required.to_string()),
        ),
    ];
    let profiles: BTreeSet<&String> = meta_before.profiles.keys().chain(meta.profiles.keys()).collect();
    compared.extend(profiles.into_iter().map(|name| {
        let of = |meta: &Meta| meta.profiles.get(name).cloned();
        (format!("the profile {name:?}"), of(meta_before), of(meta))
    }));
    compared
        .into_iter()
        .filter_map(|(what, before, now)| match (before, now) {
            (None, Some(now)) => Some(format!("{what} is new: {now}")),
            (Some(before), None) => Some(format!("{what} is gone; it was: {before}")),
            (Some(before), Some(now)) if before != now => {
                Some(format!("{what} is now: {now}; it was: {before}"))
            }
            _ => None,
        })
        .collect()
}

fn parse(text: &str, url: &str) -> Option<Directory> {
    let mut record: serde_json::Value = serde_json::from_str(text).ok()?;
    if record.get("url")?.as_str() != Some(url) {
        return None;
    }
    serde_json::from_value(record.get_mut("directory")?.take()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_ca_changes_is_named() {
        let directory = |meta: &str| -> Directory {
            let text = format!(
                r#"{{"newNonce":"https://a/n","newAccount":"https://a/a","newOrder":"https://a/o","meta":{meta}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let before =
            directory(r#"{"termsOfService":"https://a/1","profiles":{"classic":"90 days","old":"x"}}"#);
        let now = directory(r#"{"termsOfService":"https://a/2","profiles":{"classic":"64 days","new":"y"}}"#);
        assert_eq!(
            changes(&before, &now),
            [
                "the address of the terms of service is now: https://a/2; it was: https://a/1",
                r#"the profile "classic" is now: 64 days; it was: 90 days"#,
                r#"the profile "new" is new: y"#,
                r#"the profile "old" is gone; it was: x"#,
            ]
        );
        assert!(changes(&before, &before).is_empty());
    }
}
