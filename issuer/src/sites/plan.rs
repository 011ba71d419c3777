//! What a file of wishes would change, and making it so. The whole file is checked before anything is changed; interrupted
//! anywhere, the same file does what is left.

use super::{
    change::Kind,
    mistakes::check,
    registry::{Registry, SiteError},
    walk::Walk,
};
use crate::{
    limits::Wait,
    lists::{FileError, TextFile},
};
use serde::Serialize;
use shared::{
    domain::{DnsName, NameSet, SiteId},
    store::StoreError,
};

/// Mistakes that are printed before the rest is counted.
const MISTAKES_PRINTED: usize = 20;

/// A file of every site that is wanted of a source, and how it is gone through.
#[derive(Clone, Debug)]
pub struct SiteFile {
    pub file: TextFile,
    /// Sites of other sources, and those that were added by hand or by the API, are none of its business.
    pub source: String,
    /// Changes and mistakes that are listed at most; all are counted.
    pub listed: usize,
}

/// What a file changes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    pub source: String,
    pub added: usize,
    pub changed: usize,
    pub unchanged: usize,
    pub removed: usize,
    /// Whether the removals need to be said: how many they are.
    pub needs_remove: Option<usize>,
    /// Certificates that are ordered because of it: one for each name set and key type.
    pub orders: usize,
    /// Changes that wait: a brake is on, or the site is paused.
    pub waiting: usize,
    /// What the CAs' limits make wait, the longest first: empty where all can be ordered at once.
    pub limits: Vec<Wait>,
    /// What whoever wrote the file should know, each thing once.
    pub warnings: Vec<String>,
    /// The first changes; `omitted` more are not listed.
    pub changes: Vec<Planned>,
    pub omitted: usize,
}

/// One change.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    pub kind: Kind,
    pub site: SiteId,
    pub names: NameSet,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reissued: Vec<DnsName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// What came of a file, or would.
#[derive(Debug)]
pub struct Applied {
    pub plan: Plan,
    /// Sites whose names belong to somebody else, or that somebody else changed in the meantime: each with the reason.
    pub failed: Vec<(NameSet, SiteError)>,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("nothing was changed, because of these lines:\n  {}", printed(.shown, *.more))]
    Mistakes { shown: Vec<String>, more: usize },
    #[error("the store can't be read or written")]
    Store(#[from] StoreError),
    #[error(
        "{}{removed} of the {known} sites of the source {source_name:?} would be removed: nothing was changed. If that is meant, say --remove {removed}",
        if *.empty { "the file holds no site: " } else { "" }
    )]
    TooManyRemovals { removed: usize, known: usize, source_name: String, empty: bool },
}

fn printed(shown: &[String], more: usize) -> String {
    let (first, rest) = shown.split_at(shown.len().min(MISTAKES_PRINTED));
    let more = more + rest.len();
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    first.join("\n  ") + &more
}

/// What a file would change. `told` hears how many sites were gone through.
///
/// # Errors
/// [`PlanError`].
pub async fn plan_file(
    registry: &Registry,
    file: &SiteFile,
    told: impl Fn(usize),
) -> Result<Applied, PlanError> {
    let names = check(registry, file)?;
    let mut walk = Walk::new(registry, file, &names).await?;
    walk.lines(false, &told).await?;
    walk.look_for_removals().await?;
    walk.removals(false).await?;
    walk.end().await
}

/// Makes it so. `remove` is how many sites may be removed at most where that has to be said: where they are more than a tenth
/// of the source's, or the file holds no site.
///
/// # Errors
/// [`PlanError`]. What was done until then is done; the same file does the rest.
pub async fn apply_file(
    registry: &Registry,
    file: &SiteFile,
    remove: Option<usize>,
    told: impl Fn(usize),
) -> Result<Applied, PlanError> {
    let names = check(registry, file)?;
    // Whether too much would be removed is known before anything is changed.
    let mut rehearsal = Walk::new(registry, file, &names).await?;
    rehearsal.lines(false, &|_| {}).await?;
    rehearsal.look_for_removals().await?;
    rehearsal.check_removals(remove)?;
    let mut walk = Walk::new(registry, file, &names).await?;
    walk.lines(true, &told).await?;
    walk.look_for_removals().await?;
    walk.check_removals(remove)?;
    walk.removals(true).await?;
    walk.end().await
}
