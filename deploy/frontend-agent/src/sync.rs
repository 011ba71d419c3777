//! One pass: list, fetch what changed, verify, publish, tell nginx, and put the vanished aside.
//!
//! Nothing is withdrawn because something failed. An error, a timeout, a refusal or half a listing changes nothing on
//! disk; one bad item is reported, and the others are published.

use crate::{
    client::{Client, FetchError, FileClient, Listing},
    config::AgentConfig,
    disk::{Directory, Kept, Meta, SlotMeta},
    listing::{BadItem, Item, ItemId, Lineage},
    nginx::{Nginx, NginxError, differs},
    publish::{clear_leftovers, publish},
    removal::{Withheld, grace_is_over, judge},
    status::Status,
    verify::{Expected, VerifyError, verify},
};
use jiff::Timestamp;
use serde::Serialize;
use shared::{domain::Slot, error::chain};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Instant,
};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// Items whose files are fetched at the same time.
const IN_FLIGHT: usize = 8;

/// What a pass did.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) published: Vec<Published>,
    pub(crate) unchanged: usize,
    /// Listed without a certificate so far.
    pub(crate) waiting: usize,
    pub(crate) removed: Vec<ItemId>,
    pub(crate) deleted: Vec<ItemId>,
    pub(crate) failed: Vec<Failed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) withheld: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nginx_error: Option<String>,
    pub(crate) reloaded: bool,
    pub(crate) duration_ms: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Published {
    pub(crate) id: ItemId,
    pub(crate) names: Vec<String>,
}

/// One item that stays as it was.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub(crate) struct Failed {
    pub(crate) id: Option<ItemId>,
    pub(crate) names: Vec<String>,
    pub(crate) reason: String,
}

/// The pass ended before anything could be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error("another sync is going on")]
    Busy,
    #[error("the agent's directory can't be used")]
    Disk(#[source] io::Error),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Why one item is not published.
#[derive(Debug, thiserror::Error)]
enum ItemError {
    #[error("this frontend may not read the key")]
    NoKey,
    #[error("the {0} certificate")]
    Fetch(Slot, #[source] FetchError),
    #[error("the {0} certificate is refused")]
    Verify(Slot, #[source] VerifyError),
    #[error("the files can't be written")]
    Disk(#[from] io::Error),
}

impl Report {
    pub(crate) fn is_success(&self) -> bool {
        self.failed.is_empty() && self.withheld.is_none() && self.nginx_error.is_none()
    }

    /// Every problem of a pass that otherwise went through, on one line.
    pub(crate) fn problems(&self) -> String {
        let failed = self.failed.iter().map(|failed| {
            let id = failed.id.as_ref().map_or("?", ItemId::as_str);
            let names = failed.names.first().map(|name| format!(" ({name})")).unwrap_or_default();
            format!("{id}{names}: {}", failed.reason)
        });
        let others = [&self.withheld, &self.nginx_error].into_iter().flatten().cloned();
        failed.chain(others).collect::<Vec<_>>().join("; ")
    }
}

/// Runs one pass, and notes in `status.json` how it went.
///
/// # Errors
/// [`SyncError`] when nothing could be done. Problems of single items are in the report.
pub(crate) async fn sync(
    config: &AgentConfig,
    client: &mut Client,
    confirmed: bool,
) -> Result<Report, SyncError> {
    let directory = Directory::open(&config.store).map_err(SyncError::Disk)?;
    let _lock = directory.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => SyncError::Busy,
        _ => SyncError::Disk(error),
    })?;
    let mut status = Status::load(&directory);
    let result = pass(config, client, &directory, &mut status, confirmed).await;
    match &result {
        Ok(report) => status.note_report(report, &config.server),
        Err(error) => status.note_error(chain(error), &config.server),
    }
    status.store(&directory).map_err(SyncError::Disk)?;
    result
}

async fn pass(
    config: &AgentConfig,
    client: &mut Client,
    directory: &Directory,
    status: &mut Status,
    confirmed: bool,
) -> Result<Report, SyncError> {
    let started = Instant::now();
    clear_leftovers(directory).map_err(SyncError::Disk)?;
    let mut live = directory.scan().map_err(SyncError::Disk)?;
    let listing = client.list().await?;
    let now = Timestamp::now();
    let mut report = Report::default();
    report.failed.extend(listing.bad.iter().map(|bad| Failed {
        id: bad.id.clone(),
        names: Vec::new(),
        reason: bad.reason.clone(),
    }));

    let mut changed = Vec::new();
    for item in &listing.items {
        match live.get(&item.id) {
            _ if item.lineages.is_empty() => report.waiting += 1,
            Some(kept) if is_current(item, kept) => report.unchanged += 1,
            kept => changed.push(Wanted::of(item, kept)),
        }
    }
    for batch in changed.chunks(IN_FLIGHT) {
        for (wanted, fetched) in fetch_all(client.files(), batch).await {
            let item = wanted.item;
            match fetched.and_then(|files| install(directory, wanted, files, now)) {
                Ok(meta) => {
                    report.published.push(Published { id: item.id.clone(), names: item.names.clone() });
                    live.insert(
                        item.id.clone(),
                        Kept { version: String::new(), meta, removed: None, intact: true },
                    );
                }
                Err(error) => {
                    let (id, names) = (Some(item.id.clone()), item.names.clone());
                    report.failed.push(Failed { id, names, reason: chain(&error) });
                }
            }
        }
    }

    let vanished = judge_vanished(&listing, &live, confirmed, &mut report);
    let names = names_in_service(&live, &vanished, &mut report);
    tell_nginx(config, directory, &names, status, &mut report).map_err(SyncError::Disk)?;
    if report.nginx_error.is_none() {
        put_aside(directory, &live, &listing, &vanished, now, &mut report).map_err(SyncError::Disk)?;
    }
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// That a reload is owed is on disk before the names are, so that a crash in between loses no reload.
fn tell_nginx(
    config: &AgentConfig,
    directory: &Directory,
    names: &BTreeMap<String, ItemId>,
    status: &mut Status,
    report: &mut Report,
) -> io::Result<()> {
    let owed_before = status.reload_owed;
    if !owed_before && differs(directory, names) {
        status.reload_owed = true;
        status.store(directory)?;
    }
    let nginx = Nginx { test: &config.nginx_test, reload: &config.nginx_reload };
    match nginx.apply(directory, names, owed_before) {
        Ok(applied) => {
            report.reloaded = applied.reloaded;
            status.reload_owed = false;
        }
        Err(error) => {
            if matches!(error, NginxError::Refused { .. }) {
                status.reload_owed = owed_before;
            }
            report.nginx_error = Some(chain(&error));
        }
    }
    Ok(())
}

fn is_current(item: &Item, kept: &Kept) -> bool {
    let fingerprints =
        item.lineages.iter().map(|(slot, lineage)| (slot, lineage.fingerprint_sha256.as_str()));
    let published = kept.meta.slots.iter().map(|(slot, meta)| (slot, meta.fingerprint_sha256.as_str()));
    kept.intact && kept.removed.is_none() && kept.meta.names == item.names && fingerprints.eq(published)
}

/// An item that differs from what is on disk.
struct Wanted<'a> {
    item: &'a Item,
    live: BTreeMap<Slot, SlotMeta>,
}

/// The two files of a slot as they came.
type Files = BTreeMap<Slot, (Vec<u8>, Zeroizing<Vec<u8>>)>;

impl<'a> Wanted<'a> {
    fn of(item: &'a Item, kept: Option<&Kept>) -> Self {
        Self { item, live: kept.map(|kept| kept.meta.slots.clone()).unwrap_or_default() }
    }
}

/// Fetches the files of some items at once; each item succeeds or fails alone.
async fn fetch_all<'a, 'b>(
    client: &FileClient,
    batch: &'b [Wanted<'a>],
) -> Vec<(&'b Wanted<'a>, Result<Files, ItemError>)> {
    let mut tasks = JoinSet::new();
    for (number, wanted) in batch.iter().enumerate() {
        let client = client.clone();
        let lineages = wanted.item.lineages.clone();
        tasks.spawn(async move {
            let mut files = Files::new();
            for (slot, lineage) in &lineages {
                match fetch_pair(&client, *slot, lineage).await {
                    Ok(pair) => drop(files.insert(*slot, pair)),
                    Err(error) => return (number, Err(error)),
                }
            }
            (number, Ok(files))
        });
    }
    let mut fetched = tasks.join_all().await;
    fetched.sort_by_key(|(number, _)| *number);
    fetched.into_iter().map(|(number, files)| (&batch[number], files)).collect()
}

async fn fetch_pair(
    client: &FileClient,
    slot: Slot,
    lineage: &Lineage,
) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), ItemError> {
    let privkey = lineage.links.privkey.as_deref().ok_or(ItemError::NoKey)?;
    let failed = |error| ItemError::Fetch(slot, error);
    let fullchain = client.file(&lineage.links.fullchain).await.map_err(failed)?;
    Ok((fullchain.to_vec(), client.file(privkey).await.map_err(failed)?))
}

/// Verifies every pair of an item, and publishes them together or not at all.
fn install(
    directory: &Directory,
    wanted: &Wanted<'_>,
    files: Files,
    now: Timestamp,
) -> Result<Meta, ItemError> {
    let item = wanted.item;
    let mut pairs = Vec::new();
    for (slot, (fullchain, privkey)) in files {
        let expected = Expected {
            slot,
            fingerprint_sha256: &item.lineages[&slot].fingerprint_sha256,
            names: &item.names,
            live_not_before: wanted.live.get(&slot).map(|live| live.not_before),
            now,
        };
        pairs.push(verify(fullchain, privkey, &expected).map_err(|error| ItemError::Verify(slot, error))?);
    }
    Ok(publish(directory, &item.id, &item.names, &pairs, now)?)
}

/// The live items that a complete listing no longer has, if they may go.
fn judge_vanished(
    listing: &Listing,
    live: &BTreeMap<ItemId, Kept>,
    confirmed: bool,
    report: &mut Report,
) -> BTreeSet<ItemId> {
    let bad_ids = listing.bad.iter().filter_map(|BadItem { id, .. }| id.as_ref());
    let listed: BTreeSet<&ItemId> = listing.items.iter().map(|item| &item.id).chain(bad_ids).collect();
    let in_service = live.iter().filter(|(_, kept)| kept.removed.is_none());
    let vanished: BTreeSet<ItemId> =
        in_service.clone().map(|(id, _)| id).filter(|id| !listed.contains(id)).cloned().collect();
    let unreadable = listing.bad.iter().any(|bad| bad.id.is_none());
    match judge(vanished.len(), in_service.count(), listed.len(), unreadable, confirmed) {
        Ok(()) => vanished,
        Err(withheld) => {
            report.withheld = Some(format!("{withheld}; {}", Withheld::REMEDY));
            BTreeSet::new()
        }
    }
}

/// Which item answers for a name. Where two claim one, the younger certificate does, and the clash is reported.
fn names_in_service(
    live: &BTreeMap<ItemId, Kept>,
    vanished: &BTreeSet<ItemId>,
    report: &mut Report,
) -> BTreeMap<String, ItemId> {
    let mut in_service: Vec<&Kept> = live
        .iter()
        .filter(|(id, kept)| kept.removed.is_none() && !vanished.contains(*id))
        .map(|(_, kept)| kept)
        .collect();
    in_service.sort_by_key(|kept| kept.meta.slots.values().map(|slot| slot.not_before).max());
    let mut names: BTreeMap<String, ItemId> = BTreeMap::new();
    for kept in in_service {
        for name in &kept.meta.names {
            if let Some(older) = names.insert(name.clone(), kept.meta.id.clone()) {
                let reason =
                    format!("{name} is also a name of {}, whose certificate is younger", kept.meta.id);
                report.failed.push(Failed { id: Some(older), names: vec![name.clone()], reason });
            }
        }
    }
    names
}

/// Notes the vanished, and deletes those that vanished a day ago. Only after nginx let go of the names.
fn put_aside(
    directory: &Directory,
    live: &BTreeMap<ItemId, Kept>,
    listing: &Listing,
    vanished: &BTreeSet<ItemId>,
    now: Timestamp,
    report: &mut Report,
) -> io::Result<()> {
    for id in vanished {
        directory.mark_removed(id, now)?;
        report.removed.push(id.clone());
    }
    let listed = |id: &ItemId| {
        listing.items.iter().any(|item| item.id == *id)
            || listing.bad.iter().any(|bad| bad.id.as_ref() == Some(id))
    };
    for (id, kept) in live {
        if kept.removed.is_some_and(|since| grace_is_over(since, now)) && !listed(id) {
            directory.delete(id)?;
            report.deleted.push(id.clone());
        }
    }
    Ok(())
}
