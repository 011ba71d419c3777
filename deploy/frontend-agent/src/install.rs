//! From ids to certificates that are live: fetched in bundles, verified each, and published many at a time.

use crate::{
    chains::Chains,
    client::{Client, FetchError},
    disk::Directory,
    index::{Index, Live},
    publish::{Prepared, Publication, commit, prepare},
    verify::{Expected, VerifyError, verify},
    wire::{Bundle, ItemId, Line},
};
use jiff::Timestamp;
use shared::{domain::Slot, error::chain};
use std::{
    collections::{BTreeSet, VecDeque},
    io, thread,
};
use tokio::task::JoinSet;

/// Ids of one request, and requests at the same time.
const IDS_AT_ONCE: usize = 100;
const REQUESTS_AT_ONCE: usize = 3;

/// Threads that verify at once.
const MOST_WORKERS: usize = 4;

/// Publishes what was fetched.
pub(crate) struct Installer<'a> {
    directory: &'a Directory,
    refused_issuers: &'a [String],
    chains: Chains,
}

/// What became of an id.
pub(crate) enum Installed {
    Live(Live),
    /// The centre no longer has it.
    Gone,
    /// It stays as it was; why.
    Failed(String),
}

/// Some ids, each with what the centre said.
pub(crate) type Fetched = Vec<(ItemId, Line)>;

/// Bundles that are on their way. Those that come later are asked for once the earlier ones are there.
pub(crate) struct Fetching {
    client: Client,
    waiting: VecDeque<Vec<ItemId>>,
    running: JoinSet<Result<Fetched, FetchError>>,
}

/// Why one item is not published.
#[derive(Debug, thiserror::Error)]
enum ItemError {
    #[error("the {0} certificate is refused")]
    Verify(Slot, #[source] VerifyError),
    #[error("the files can't be written")]
    Disk(#[from] io::Error),
}

impl<'a> Installer<'a> {
    pub(crate) fn new(directory: &'a Directory, refused_issuers: &'a [String]) -> Self {
        Self { directory, refused_issuers, chains: Chains::default() }
    }

    pub(crate) fn fetch(&self, client: &Client, ids: Vec<ItemId>) -> Fetching {
        let waiting = ids.chunks(IDS_AT_ONCE).map(<[ItemId]>::to_vec).collect();
        let mut fetching = Fetching { client: client.clone(), waiting, running: JoinSet::new() };
        for _ in 0..REQUESTS_AT_ONCE {
            fetching.ask();
        }
        fetching
    }

    /// Verifies and publishes. Each item succeeds or fails alone, but for a disk that takes nothing.
    /// `doubted`: items of which no rollback is believed.
    pub(crate) fn install(
        &self,
        fetched: Fetched,
        index: &Index,
        doubted: &BTreeSet<ItemId>,
    ) -> Vec<(ItemId, Installed)> {
        let now = Timestamp::now();
        let (mut outcomes, mut bundles, mut prepared) = (Vec::new(), Vec::new(), Vec::new());
        for (id, line) in fetched {
            match line {
                Line::Missing => outcomes.push((id, Installed::Gone)),
                Line::Failed(reason) => {
                    outcomes.push((id, Installed::Failed(format!("the centre says: {reason}"))))
                }
                Line::Unchanged => {
                    outcomes.push((id, Installed::Failed("the centre sent nothing".to_owned())))
                }
                Line::Bundle(mut bundle) => {
                    bundle.rolled_back &= !doubted.contains(&id);
                    bundles.push((id, bundle));
                }
            }
        }
        for (id, result) in self.prepare_all(bundles, index, now) {
            match result {
                Ok(version) => prepared.push(version),
                Err(error) => outcomes.push((id, Installed::Failed(chain(&error)))),
            }
        }
        let results = commit(self.directory, &prepared).unwrap_or_else(|error| {
            prepared.iter().map(|_| Err(io::Error::new(error.kind(), error.to_string()))).collect()
        });
        for (Prepared { meta, directory }, result) in prepared.into_iter().zip(results) {
            let id = meta.id.clone();
            let outcome = match result.and_then(|()| meta.into_live(&directory)) {
                Ok(live) => Installed::Live(live),
                Err(error) => Installed::Failed(chain(&ItemError::Disk(error))),
            };
            outcomes.push((id, outcome));
        }
        outcomes
    }

    /// Most of it is arithmetic: shared among the processors.
    fn prepare_all(
        &self,
        bundles: Vec<(ItemId, Bundle)>,
        index: &Index,
        now: Timestamp,
    ) -> Vec<(ItemId, Result<Prepared, ItemError>)> {
        let workers = thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
        let share = bundles.len().div_ceil(workers).max(1);
        let mut bundles = bundles.into_iter().peekable();
        thread::scope(|scope| {
            let mut running = Vec::new();
            while bundles.peek().is_some() {
                let part: Vec<_> = bundles.by_ref().take(share).collect();
                let prepare = move |(id, bundle): (ItemId, Bundle)| {
                    let prepared = self.prepare(&id, bundle, index.get(&id), now);
                    (id, prepared)
                };
                running.push(scope.spawn(move || part.into_iter().map(prepare).collect::<Vec<_>>()));
            }
            let done =
                running.into_iter().flat_map(|part| part.join().expect("a preparation does not panic"));
            done.collect()
        })
    }

    /// Verifies every pair of an item, and writes them together or not at all.
    fn prepare(
        &self,
        id: &ItemId,
        mut bundle: Bundle,
        live: Option<&Live>,
        now: Timestamp,
    ) -> Result<Prepared, ItemError> {
        let mut pairs = Vec::new();
        for (slot, files) in std::mem::take(&mut bundle.files) {
            let before = live.filter(|_| !bundle.rolled_back).and_then(|live| live.slot(slot));
            let expected = Expected {
                slot,
                fingerprint_sha256: &files.fingerprint_sha256,
                names: &bundle.names,
                live: before.filter(|slot| slot.not_after > now.as_second()),
                refused_issuers: self.refused_issuers,
                now,
            };
            let pair = verify(files.fullchain, files.privkey, &expected, &self.chains);
            pairs.push(pair.map_err(|error| ItemError::Verify(slot, error))?);
        }
        let Bundle { version, names, https, .. } = &bundle;
        let publication = Publication { id, version, names, pairs: &pairs, https };
        Ok(prepare(self.directory, &publication, now)?)
    }
}

impl Fetching {
    /// The next of them, in the order in which they come.
    pub(crate) async fn next(&mut self) -> Option<Result<Fetched, FetchError>> {
        let fetched = self.running.join_next().await?;
        self.ask();
        Some(fetched.expect("a fetch neither panics nor is it cancelled"))
    }

    fn ask(&mut self) {
        let Some(ids) = self.waiting.pop_front() else { return };
        let client = self.client.clone();
        self.running.spawn(async move {
            let lines = client.bundles(&ids).await?;
            Ok(ids.into_iter().zip(lines).collect())
        });
    }
}
