//! One key-encryption key takes another's place, while everything runs.
//!
//! 1. Every node that lives has the new key.
//! 2. The store says that the new key seals. Who seals asks the store right before, under the lease of the site.
//! 3. Everything is sealed anew, page by page ([`Sweep`]). How far it has come is in the store.
//! 4. Every node seals with the new key; then each site is looked at once more, until there was a moment when nobody worked
//!    on it and nothing of the old key was there. Whatever is sealed later, is sealed with the new key.
//! 5. The store's canary is the new key's, so that a node with the old key alone is refused from now on.
//!
//! Each step can be repeated, so `kill -9` at any place costs no more than another run.

mod census;
mod sweep;

pub use census::{Census, census};

use crate::issuance::patience::write;
use jiff::Timestamp;
use shared::{
    domain::{Event, EventKind, PARTITIONS, SiteId},
    store::{LiveNode, Phase, RewrapError, RotationRecord, RotationWriteError, Store, StoreError},
    vault::Vault,
};
use std::time::{Duration, Instant};
use sweep::Sweep;

/// Pause between two looks at what others have yet to do.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pause between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// What is sealed without a lease (accounts) is written within this long after the store was asked for the key.
const GRACE: Duration = Duration::from_secs(2);

/// A rotation, by this process.
pub struct Rotation<'a> {
    pub store: &'a Store,
    pub vault: &'a Vault,
    /// Wait for nodes that lack the key, in place of ending.
    pub wait: bool,
    /// Told what is being done, for a person.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

/// What came of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Rotated {
    pub from: String,
    pub to: String,
    /// Records that were sealed anew, by this run and by those before it that were interrupted.
    pub rewrapped: u64,
    /// Records that were looked at in the last pass.
    pub verified: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    #[error("the store can't be read or written")]
    Store(#[from] StoreError),
    #[error("the rotation can't be written down")]
    Write(#[from] RotationWriteError),
    #[error(
        "{current} is the newest key of this ring. Make a newer one with `issuer key add`, and copy the file to every node; or name a key with --to"
    )]
    NothingNewer { current: String },
    #[error("this node's ring has no key {0}")]
    NotInRing(String),
    #[error("a rotation to {0} is under way: finish it first, with `issuer key rotate`")]
    UnderWay(String),
    #[error("the key {to} is missing on {}", names(.nodes))]
    Lacking { to: String, nodes: Vec<LiveNode> },
    #[error("{count} records could not be sealed anew: {}", .examples.join("; "))]
    Left { count: usize, examples: Vec<String> },
    #[error("a record can't be looked at")]
    Record(#[from] RewrapError),
}

impl Rotation<'_> {
    /// From wherever it stands to its end. The new key is `to`; absent: the one of the rotation that is under way, or the
    /// newest of the ring.
    ///
    /// # Errors
    /// [`RotationError`]. Nothing is lost, and the next run goes on.
    pub async fn run(&self, to: Option<&str>) -> Result<Rotated, RotationError> {
        let current = self.store.current_kek().await?;
        let to = self.choose(to).await?;
        if current.as_deref() != Some(to.as_str()) {
            self.until_every_node_has(&to).await?;
        }
        let mut record = self.begin(&to).await?;
        self.store.plant_next_canary(self.vault, &to).await?;
        write(|| self.store.replace_current_kek(current.as_deref(), &to)).await?;
        if current.as_deref() != Some(to.as_str()) {
            self.tell_all(
                &record,
                "began",
                format!("new keys are sealed with {to} from now on, and all others are sealed anew"),
            )
            .await;
        }
        self.vault.set_current(Some(to.clone()));
        let since = Instant::now();
        (self.tell)(&format!("new keys are sealed with {to} from now on"));

        let mut sweep = Sweep::new(self.store, self.vault, &to);
        sweep.fleet().await?;
        if record.phase == Phase::Rewrap {
            self.rewrap(&mut sweep, &mut record).await?;
        }
        self.until_every_node_seals_with(&to).await?;
        tokio::time::sleep(GRACE.saturating_sub(since.elapsed())).await;
        self.verify(&mut sweep, &mut record).await?;
        let verified = sweep.seen;
        self.store.end_rotation(self.vault, &to).await?;
        let what = format!("everything is sealed with {to}: {} records were sealed anew", record.rewrapped);
        self.tell_all(&record, "ended", what).await;
        Ok(Rotated { from: record.from, to, rewrapped: record.rewrapped, verified })
    }

    /// An event. One that can't be stored stops no rotation.
    async fn tell_all(&self, record: &RotationRecord, step: &str, what: String) {
        let event = Event::new(EventKind::KeyRotation, Timestamp::now(), what)
            .with("step", step)
            .with("from", record.from.as_str())
            .with("to", record.to.as_str());
        if let Err(error) = self.store.append_event(&event).await {
            tracing::warn!(error = shared::error::chain(&error), step, "the rotation could not be told");
        }
    }

    async fn choose(&self, to: Option<&str>) -> Result<String, RotationError> {
        let under_way = self.store.load_rotation().await?.map(|record| record.to);
        let to = match (under_way, to) {
            (Some(under_way), Some(to)) if under_way != to => {
                return Err(RotationError::UnderWay(under_way));
            }
            (Some(to), _) => to,
            (None, Some(to)) => to.to_owned(),
            (None, None) => self.newest()?,
        };
        if self.vault.ring().has(&to) { Ok(to) } else { Err(RotationError::NotInRing(to)) }
    }

    /// The last key of the ring, where it stands below the current one.
    fn newest(&self) -> Result<String, RotationError> {
        let (ring, current) = (self.vault.ring(), self.vault.current_id());
        let newer = ring.ids().into_iter().skip_while(|id| *id != current).skip(1);
        newer.last().map(str::to_owned).ok_or(RotationError::NothingNewer { current })
    }

    /// The record of the rotation: what an interrupted run has left, or a new one.
    async fn begin(&self, to: &str) -> Result<RotationRecord, RotationError> {
        let new = RotationRecord {
            v: RotationRecord::VERSION,
            from: self.vault.current_id(),
            to: to.to_owned(),
            phase: Phase::Rewrap,
            cursor: None,
            rewrapped: 0,
            started: Timestamp::now(),
        };
        write(|| self.store.offer_rotation(&new)).await?;
        match self.store.load_rotation().await? {
            Some(record) if record.to == to => {
                if record.started != new.started {
                    (self.tell)(&format!("going on with the rotation of {}", record.started));
                }
                Ok(record)
            }
            Some(other) => Err(RotationError::UnderWay(other.to)),
            // Another run has ended it in this moment. It is looked at once more.
            None => Ok(new),
        }
    }

    /// The first pass: everything that can be sealed anew right now.
    async fn rewrap(&self, sweep: &mut Sweep<'_>, record: &mut RotationRecord) -> Result<(), RotationError> {
        let before = record.rewrapped;
        let mut told = Instant::now();
        loop {
            let page = write(|| sweep.page(record.cursor.as_ref())).await?;
            let Some(last) = page.last().cloned() else { break };
            sweep.rewrap_sites(&page).await?;
            record.rewrapped = before + sweep.rewrapped;
            record.cursor = Some(last);
            write(|| self.store.write_rotation(record)).await?;
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let percent = percent(record.cursor.as_ref());
                (self.tell)(&format!("sealed anew: {} records, {percent} % of the sites", record.rewrapped));
            }
        }
        record.rewrapped = before + sweep.rewrapped;
        record.phase = Phase::Verify;
        record.cursor = None;
        write(|| self.store.write_rotation(record)).await?;
        (self.tell)(&format!("sealed anew: {} records; now each is looked at once more", record.rewrapped));
        Ok(())
    }

    /// The second pass, always as a whole: for each site there was a moment with no lease and nothing of the old key.
    async fn verify(&self, sweep: &mut Sweep<'_>, record: &mut RotationRecord) -> Result<(), RotationError> {
        let before = record.rewrapped.saturating_sub(sweep.rewrapped);
        let mut told = Instant::now();
        let mut cursor = None;
        loop {
            let page = write(|| sweep.page(cursor.as_ref())).await?;
            let Some(last) = page.last().cloned() else { break };
            sweep.verify_sites(&page, self.tell).await?;
            cursor = Some(last);
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                (self.tell)(&format!("looked at once more: {} % of the sites", percent(cursor.as_ref())));
            }
        }
        sweep.settle(self.tell).await?;
        sweep.verify_fleet().await?;
        record.rewrapped = before + sweep.rewrapped;
        match sweep.left.len() {
            0 => Ok(()),
            count => {
                let examples = sweep.left.iter().take(5);
                let examples = examples.map(|(key, why)| format!("{key}: {why}")).collect();
                Err(RotationError::Left { count, examples })
            }
        }
    }

    async fn until_every_node_has(&self, to: &str) -> Result<(), RotationError> {
        self.until_nodes(to, "waiting until the key is on", |node| {
            node.report.keys.iter().any(|key| key == to)
        })
        .await
    }

    /// A node hears of it within seconds, and says so.
    async fn until_every_node_seals_with(&self, to: &str) -> Result<(), RotationError> {
        self.until_nodes(to, "waiting until new keys are sealed with it on", |node| {
            node.report.current == to && node.report.keys.iter().any(|key| key == to)
        })
        .await
    }

    async fn until_nodes(
        &self,
        to: &str,
        what: &str,
        is_ready: impl Fn(&LiveNode) -> bool,
    ) -> Result<(), RotationError> {
        let mut told = String::new();
        loop {
            let mut behind = self.store.all_nodes().await?;
            behind.retain(|node| !is_ready(node));
            if behind.is_empty() {
                return Ok(());
            }
            let lacking: Vec<LiveNode> =
                behind.iter().filter(|node| !node.report.keys.iter().any(|key| key == to)).cloned().collect();
            if !lacking.is_empty() && !self.wait {
                return Err(RotationError::Lacking { to: to.to_owned(), nodes: lacking });
            }
            let text = format!("{what} {}", names(&behind));
            if told != text {
                (self.tell)(&text);
                told = text;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// How far a walk has come. Ids are digests, so that partitions are of about one size.
pub fn percent(cursor: Option<&SiteId>) -> usize {
    let passed = |cursor: &SiteId| {
        shared::domain::Partition::all().take_while(|partition| *partition < cursor.partition()).count()
    };
    cursor.map_or(0, passed) * 100 / usize::from(PARTITIONS)
}

fn names(nodes: &[LiveNode]) -> String {
    nodes.iter().map(|node| node.report.name.as_str()).collect::<Vec<_>>().join(", ")
}
