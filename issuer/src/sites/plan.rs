//! What a file of wishes would change, and making it so. The whole file is checked before anything is changed; interrupted
//! anywhere, the same file does what is left.

use super::{
    file::{FileError, Line, WishFile},
    registry::{Change, Kind, Registry, SiteError},
    wish::SiteWish,
};
use crate::{
    ca::Terms,
    limits::{Demand, Wait},
};
use serde::Serialize;
use shared::{
    domain::{Braked, DnsName, NameSet, Origin, SiteId, brake_of},
    store::{NamePointer, Store, StoreError, Tenant, WantedSite},
};
use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};
use tokio::task::JoinSet;

/// Sites that are read from the store at once.
const CHUNK: usize = 500;
/// Sites that are written at once.
const WRITES: usize = 32;
/// Mistakes that are named before the rest is counted.
const MISTAKES_SHOWN: usize = 20;
/// Removing more than this, and more than a tenth of what files have added, needs a word.
const FEW: usize = 10;

/// What a file changes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    pub added: usize,
    pub changed: usize,
    pub unchanged: usize,
    pub removed: usize,
    /// Certificates that are ordered because of it: one for each name set and key type.
    pub orders: usize,
    /// Changes that wait: a brake is on, or the site is paused.
    pub waiting: usize,
    /// What the CAs' limits make wait, the longest first: empty where all can be ordered at once.
    pub limits: Vec<Wait>,
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

/// How an application ended.
#[derive(Debug)]
pub struct Applied {
    pub plan: Plan,
    /// Sites that somebody else changed in the meantime, or whose names were taken: each with the reason.
    pub failed: Vec<(NameSet, SiteError)>,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("nothing was changed, because of these lines:\n  {}{}", .shown.join("\n  "), if *.more > 0 { format!("\n  and {} more", .more) } else { String::new() })]
    Mistakes { shown: Vec<String>, more: usize },
    #[error("the store can't be read or written")]
    Store(#[from] StoreError),
    #[error(
        "the file lacks {removed} of the {known} sites that files have added: nothing was changed. If they are to be removed, say --remove-many"
    )]
    TooManyRemovals { removed: usize, known: usize },
}

/// How a file is gone through.
struct Walk<'a> {
    registry: &'a Registry,
    names: &'a Names,
    plan: Plan,
    demand: Demand,
    shown: usize,
    brakes: Vec<shared::domain::Brake>,
    tenants: HashMap<String, Tenant>,
    /// Those of them that are not stored yet.
    new_tenants: HashSet<String>,
    /// Sites that a line of the file is about.
    matched: HashSet<SiteId>,
    failed: Vec<(NameSet, SiteError)>,
}

/// What `path` would change. `told` hears how many lines were gone through.
///
/// # Errors
/// [`PlanError`].
pub async fn plan_file(
    registry: &Registry,
    path: &Path,
    shown: usize,
    told: impl Fn(usize),
) -> Result<Plan, PlanError> {
    let names = check(registry, path)?;
    let mut walk = Walk::new(registry, shown, &names).await?;
    walk.lines(path, false, &told).await?;
    walk.removals(true, false).await?;
    walk.plan().await
}

/// Makes it so.
///
/// # Errors
/// [`PlanError`]. What was done until then is done; the same file does the rest.
pub async fn apply_file(
    registry: &Registry,
    path: &Path,
    shown: usize,
    remove_many: bool,
    told: impl Fn(usize),
) -> Result<Applied, PlanError> {
    let names = check(registry, path)?;
    // Whether too much would be removed is known before anything is changed.
    let mut rehearsal = Walk::new(registry, 0, &names).await?;
    rehearsal.lines(path, false, &|_| {}).await?;
    rehearsal.removals(remove_many, false).await?;
    let mut walk = Walk::new(registry, shown, &names).await?;
    walk.lines(path, true, &told).await?;
    walk.removals(remove_many, true).await?;
    let failed = std::mem::take(&mut walk.failed);
    Ok(Applied { plan: walk.plan().await?, failed })
}

/// The digest of each name in a file, and the line that it stands on.
type Names = HashMap<u64, usize>;

/// The whole file, before the store is asked: form, names, and that no name stands twice.
fn check(registry: &Registry, path: &Path) -> Result<Names, PlanError> {
    let mut shown = Vec::new();
    let mut more = 0;
    // Digests, so that a million names cost some megabytes; of two names with one digest the second is called a repetition,
    // once in ten million files of a million names.
    let mut seen = Names::new();
    let mut mistake = |text: String| {
        if shown.len() < MISTAKES_SHOWN { shown.push(text) } else { more += 1 }
    };
    for line in WishFile::open(path)? {
        let line = match line {
            Ok(line) => line,
            Err(FileError::Line { line, message }) => {
                mistake(format!("line {line}: {message}"));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match names_of(registry, &line) {
            Ok(names) => {
                for name in names.iter() {
                    if let Some(before) = seen.insert(digest(name), line.number) {
                        mistake(format!(
                            "line {}: {} stands on line {before} already",
                            line.number,
                            name.to_unicode()
                        ));
                    }
                }
            }
            Err(error) => mistake(format!("line {}: {error}", line.number)),
        }
    }
    if shown.is_empty() { Ok(seen) } else { Err(PlanError::Mistakes { shown, more }) }
}

/// Everything that can be wrong with a line by itself.
fn names_of(registry: &Registry, line: &Line) -> Result<NameSet, super::WishError> {
    let now = jiff::Timestamp::now();
    line.wish
        .to_site(None, &registry.config, &registry.suffixes(), None, Origin::File, now)
        .map(|site| site.names)
}

fn digest(name: &DnsName) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.as_str().hash(&mut hasher);
    hasher.finish()
}

impl<'a> Walk<'a> {
    async fn new(registry: &'a Registry, shown: usize, names: &'a Names) -> Result<Self, PlanError> {
        Ok(Self {
            registry,
            names,
            plan: Plan::default(),
            demand: Demand::default(),
            shown,
            brakes: registry.store.load_brakes().await?,
            tenants: HashMap::new(),
            new_tenants: HashSet::new(),
            matched: HashSet::new(),
            failed: Vec::new(),
        })
    }

    async fn lines(&mut self, path: &Path, write: bool, told: &impl Fn(usize)) -> Result<(), PlanError> {
        let mut chunk = Vec::with_capacity(CHUNK);
        for line in WishFile::open(path)? {
            chunk.push(line?);
            if chunk.len() == CHUNK {
                self.chunk(std::mem::take(&mut chunk), write).await?;
                told(CHUNK);
            }
        }
        let rest = chunk.len();
        self.chunk(chunk, write).await?;
        told(rest);
        Ok(())
    }

    async fn chunk(&mut self, lines: Vec<Line>, write: bool) -> Result<(), PlanError> {
        let mut wishes = Vec::new();
        for line in lines {
            let names = names_of(self.registry, &line).map_err(|e| PlanError::Mistakes {
                shown: vec![format!("line {}: {e}", line.number)],
                more: 0,
            })?;
            wishes.push((line.wish, names));
        }
        let store: &Store = &self.registry.store;
        let all: Vec<DnsName> = wishes.iter().flat_map(|(_, names)| names.iter().cloned()).collect();
        let mut pointers = store.load_pointers(&all).await?.into_iter();
        let mut looked = Vec::new();
        for (wish, names) in wishes {
            let of_names: Vec<NamePointer> = pointers.by_ref().take(names.as_slice().len()).collect();
            let own = SiteId::of(&names);
            // The site that has the most to do with it: that of its first name that has one, and that no line before is about.
            let owner =
                of_names.iter().filter_map(NamePointer::owner).find(|owner| !self.matched.contains(owner));
            let id = owner.unwrap_or(own);
            self.matched.insert(id.clone());
            looked.push((wish, names, of_names, id));
        }
        let ids: Vec<SiteId> = looked.iter().map(|(.., id)| id.clone()).collect();
        let known = store.load_many_wanted(&ids).await?;
        let mut changes = Vec::new();
        for ((wish, names, of_names, _), before) in looked.into_iter().zip(known) {
            // An id is made of names, so one that is there and wants none of these has moved on to others.
            let before = before.filter(|before| before.site.names.iter().any(|name| names.contains(name)));
            let tenant = self.tenant(&wish).await?;
            let change = self.registry.change(&wish, before, &names, of_names, tenant.as_ref(), Origin::File);
            match change {
                Ok(change) => {
                    if write && tenant.is_some_and(|tenant| self.new_tenants.remove(&tenant.name)) {
                        self.registry.create_tenant(&wish).await?;
                    }
                    changes.push(change);
                }
                Err(error) => self.failed.push((names, error)),
            }
        }
        for change in &changes {
            self.count(change);
        }
        if write { self.write(changes).await } else { Ok(()) }
    }

    async fn tenant(&mut self, wish: &SiteWish) -> Result<Option<Tenant>, PlanError> {
        let Some(new) = wish.new_tenant() else { return Ok(None) };
        if let Some(known) = self.tenants.get(&new.name) {
            return Ok(Some(known.clone()));
        }
        let tenant = match self.registry.store.load_tenant(&new.name).await? {
            Some(stored) => stored.tenant,
            None => {
                self.new_tenants.insert(new.name.clone());
                new
            }
        };
        self.tenants.insert(tenant.name.clone(), tenant.clone());
        Ok(Some(tenant))
    }

    async fn write(&mut self, changes: Vec<Change>) -> Result<(), PlanError> {
        let mut writing = JoinSet::new();
        for mut change in
            changes.into_iter().filter(|change| change.kind != Kind::Unchanged || !change.gained.is_empty())
        {
            // What moves to another site of the file is served by the one that had it until that has its certificate.
            change.lost.retain(|name| !self.names.contains_key(&digest(name)));
            if writing.len() >= WRITES {
                self.written(writing.join_next().await)?;
            }
            let registry = self.registry.clone();
            writing.spawn(async move {
                let names = change.site.names.clone();
                registry.take_over(change).await.map_err(|error| (names, error))
            });
        }
        while let Some(ended) = writing.join_next().await {
            self.written(Some(ended))?;
        }
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "what a task of write ends with")]
    fn written(
        &mut self,
        ended: Option<Result<Result<(), (NameSet, SiteError)>, tokio::task::JoinError>>,
    ) -> Result<(), PlanError> {
        match ended {
            Some(Ok(Err((_, SiteError::Store(error))))) => Err(error.into()),
            Some(Ok(Err((names, error)))) => {
                self.failed.push((names, error));
                Ok(())
            }
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    }

    /// What files have added and this one lacks.
    async fn removals(&mut self, remove_many: bool, write: bool) -> Result<(), PlanError> {
        let store: &Store = &self.registry.store;
        let mut after: Option<SiteId> = None;
        let (mut lacking, mut of_files) = (Vec::new(), 0);
        loop {
            let page = store.list_sites(after.as_ref(), CHUNK).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            for stored in page.iter().filter(|stored| stored.site.origin == Origin::File) {
                let site = stored.id.site();
                of_files += 1;
                if !self.matched.contains(&site) && lacking.last() != Some(&site) {
                    lacking.push(site);
                }
            }
        }
        lacking.sort();
        lacking.dedup();
        if lacking.len() > FEW.max(of_files / 10) && !remove_many {
            return Err(PlanError::TooManyRemovals { removed: lacking.len(), known: of_files });
        }
        for chunk in lacking.chunks(CHUNK) {
            let wanted = store.load_many_wanted(chunk).await?;
            let removals: Vec<Change> = wanted
                .into_iter()
                .flatten()
                .map(|wanted: WantedSite| self.registry.removal(wanted))
                .collect();
            for change in &removals {
                self.count(change);
            }
            if write {
                self.write(removals).await?;
            }
        }
        Ok(())
    }

    async fn plan(mut self) -> Result<Plan, PlanError> {
        let config = &self.registry.config;
        let terms = |ca: &str| Terms::of(config, Some(ca)).ok();
        self.plan.limits = self.demand.waits(&self.registry.store, terms).await?;
        Ok(self.plan)
    }

    /// Each of its groups whose names are new is one order that the CA counts; the other key type of the same names is exempt.
    fn demand(&mut self, change: &Change) {
        let (Some(write), site) = (&change.write, &change.site) else { return };
        let Ok(terms) = Terms::of(&self.registry.config, Some(&site.ca)) else { return };
        for names in write.touched.iter().filter_map(|number| write.groups.get(number)) {
            self.demand.add(&terms, &self.registry.suffixes(), &site.account, names);
        }
    }

    fn count(&mut self, change: &Change) {
        self.demand(change);
        match change.kind {
            Kind::Added => self.plan.added += 1,
            Kind::Changed => self.plan.changed += 1,
            Kind::Unchanged => self.plan.unchanged += 1,
            Kind::Removed => self.plan.removed += 1,
        }
        let groups = change.write.as_ref().map_or(0, |write| write.touched.len());
        self.plan.orders += groups * change.site.key_types.len();
        let brake = brake_of(&self.brakes, Braked::Issuance, &change.site).map(ToString::to_string);
        let paused = change.site.paused.map(|since| format!("the site is paused since {since}"));
        let waits_for = brake.or(paused).filter(|_| groups > 0);
        if waits_for.is_some() {
            self.plan.waiting += 1;
        }
        if change.kind == Kind::Unchanged {
            return;
        }
        if self.plan.changes.len() >= self.shown {
            self.plan.omitted += 1;
            return;
        }
        self.plan.changes.push(Planned {
            kind: change.kind,
            site: change.id.clone(),
            names: change.site.names.clone(),
            differences: change.differences.clone(),
            reissued: change.reissued.clone(),
            waits_for,
        });
    }
}
