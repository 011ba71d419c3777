//! Going through a file of wishes, and through what the store has of its source.

use super::{
    change::{Change, Kind, Target},
    file::{Line, WishFile},
    mistakes::{Names, digest, names_of},
    plan::{Applied, Plan, PlanError, Planned, SiteFile},
    registry::{Registry, SiteError},
    wish::{NoAccount, SiteWish, Wisher},
};
use crate::{ca::Terms, limits::Demand};
use shared::{
    domain::{Brake, Braked, DnsName, NameSet, SiteId, brake_of},
    store::{NamePointer, Store, StoreError, Tenant, WantedSite},
};
use std::collections::{BTreeSet, HashMap, HashSet};
use tokio::task::JoinSet;

/// Sites that are read from the store at once.
const CHUNK: usize = 500;
/// Sites that are written at once.
const WRITES: usize = 32;
/// Removing more than one site in so many has to be said.
const ONE_IN: usize = 10;

/// How a file is gone through.
pub(super) struct Walk<'a> {
    registry: &'a Registry,
    file: &'a SiteFile,
    wisher: Wisher,
    names: &'a Names,
    plan: Plan,
    demand: Demand,
    brakes: Vec<Brake>,
    tenants: HashMap<String, Tenant>,
    /// Those of them that are not stored yet.
    new_tenants: HashSet<String>,
    /// Sites of the source that a line of the file is about.
    matched: HashSet<SiteId>,
    failed: Vec<(NameSet, SiteError)>,
    /// Profiles of CAs that were looked at.
    profiles: HashSet<(String, String)>,
    /// Accounts with CAs that were looked for, and what speaks against each.
    accounts: HashMap<(String, String), Option<NoAccount>>,
    /// What files of the source have added and this one lacks.
    lacking: Vec<SiteId>,
    /// Sites of the source.
    known: usize,
}

/// A line, and what the store has of its names.
struct Looked {
    wish: SiteWish,
    names: NameSet,
    pointers: Vec<NamePointer>,
}

impl<'a> Walk<'a> {
    pub(super) async fn new(
        registry: &'a Registry,
        file: &'a SiteFile,
        names: &'a Names,
    ) -> Result<Self, PlanError> {
        Ok(Self {
            registry,
            file,
            wisher: Wisher::file(&file.source),
            names,
            plan: Plan { source: file.source.clone(), ..Plan::default() },
            demand: Demand::default(),
            brakes: registry.store.load_brakes().await?,
            tenants: HashMap::new(),
            new_tenants: HashSet::new(),
            matched: HashSet::new(),
            failed: Vec::new(),
            profiles: HashSet::new(),
            accounts: HashMap::new(),
            lacking: Vec::new(),
            known: 0,
        })
    }

    pub(super) async fn lines(&mut self, write: bool, told: &impl Fn(usize)) -> Result<(), PlanError> {
        let mut chunk = Vec::with_capacity(CHUNK);
        for line in WishFile::of(&self.file.file) {
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
        let looked = self.look_at(lines).await?;
        // Whoever has one of the names, by the pointers or by an id that was made of them.
        let mut ids = BTreeSet::new();
        for line in &looked {
            ids.insert(SiteId::of(&line.names));
            for pointer in &line.pointers {
                ids.extend(pointer.owner());
                ids.extend(pointer.serving.as_ref().map(SiteId::site));
            }
        }
        let ids: Vec<SiteId> = ids.into_iter().collect();
        let loaded = self.registry.store.load_many_wanted(&ids).await?;
        let (mut known, mut damaged) = (HashMap::new(), HashMap::new());
        for (id, loaded) in ids.into_iter().zip(loaded) {
            match loaded {
                Ok(wanted) => known.extend(wanted.map(|wanted| (id, wanted))),
                Err(error) => drop(damaged.insert(id, shared::error::chain(&error))),
            }
        }
        let mut changes = Vec::new();
        for Looked { wish, names, pointers } in looked {
            // One that can't be read is not one that is not there.
            let concerned = pointers
                .iter()
                .flat_map(|pointer| [pointer.owner(), pointer.serving.as_ref().map(SiteId::site)])
                .flatten()
                .chain([SiteId::of(&names)])
                .find_map(|id| damaged.get_key_value(&id));
            if let Some((id, what)) = concerned {
                let error = StoreError::Corrupt { key: id.to_string(), source: what.clone().into() };
                // What else it names can't be changed, and is not removed either.
                for id in pointers.iter().filter_map(NamePointer::owner) {
                    self.matched.extend(known.get(&id).map(|owner| owner.id.clone()));
                }
                self.failed.push((names, error.into()));
                continue;
            }
            let target = match self.target(&names, &pointers, &known) {
                Ok(target) => target,
                Err(taken) => {
                    self.failed.push((names, taken));
                    continue;
                }
            };
            let tenant = match self.tenant(&wish).await {
                Err(PlanError::Store(
                    error @ (StoreError::Corrupt { .. } | StoreError::NewerSchema { .. }),
                )) => {
                    self.failed.push((names, error.into()));
                    continue;
                }
                tenant => tenant?,
            };
            let change = self.registry.change(&wish, target, &names, pointers, tenant.as_ref(), &self.wisher);
            let change = match change {
                Ok(change) => self.with_account(change).await,
                refused => refused,
            };
            match change {
                Err(SiteError::Store(error)) => return Err(error.into()),
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
            self.warn(change).await?;
            self.count(change);
        }
        if write { self.write(changes).await } else { Ok(()) }
    }

    async fn look_at(&self, lines: Vec<Line>) -> Result<Vec<Looked>, PlanError> {
        let mut wishes = Vec::new();
        for line in lines {
            let names = names_of(self.registry, &line).map_err(|e| PlanError::Mistakes {
                shown: vec![format!("line {}: {e}", line.number)],
                more: 0,
            })?;
            wishes.push((line.wish, names));
        }
        let all: Vec<DnsName> = wishes.iter().flat_map(|(_, names)| names.iter().cloned()).collect();
        let mut pointers = self.registry.store.load_pointers(&all).await?.into_iter();
        let looked = wishes.into_iter().map(|(wish, names)| {
            let pointers = pointers.by_ref().take(names.as_slice().len()).collect();
            Looked { wish, names, pointers }
        });
        Ok(looked.collect())
    }

    /// The site that a line is about: of the source's sites that of its first name that has one, and that no line before
    /// is about; or a new one.
    ///
    /// # Errors
    /// A name is a site's of another source, or of one that was added by hand or by the API.
    fn target(
        &mut self,
        names: &NameSet,
        pointers: &[NamePointer],
        known: &HashMap<SiteId, WantedSite>,
    ) -> Result<Target, SiteError> {
        let own_id = SiteId::of(names);
        let mut owners: Vec<&WantedSite> = Vec::new();
        let mut taken = None;
        for (name, pointer) in names.iter().zip(pointers) {
            let ids = [pointer.owner(), pointer.serving.as_ref().map(SiteId::site), Some(own_id.clone())];
            let wanting = ids.into_iter().flatten().filter_map(|id| known.get(&id));
            for owner in wanting.filter(|owner| owner.site.names.contains(name)) {
                if owner.site.file_source() == Some(&self.file.source) {
                    owners.push(owner);
                } else if taken.is_none() {
                    taken = Some(SiteError::taken(name.clone(), owner));
                }
            }
        }
        if let Some(taken) = taken {
            // What can't be changed is not removed either.
            self.matched.extend(owners.into_iter().map(|owner| owner.id.clone()));
            return Err(taken);
        }
        let target = match owners.into_iter().find(|owner| !self.matched.contains(&owner.id)) {
            Some(owner) => Target::known(owner.clone()),
            None => Target::new(names, known.get(&own_id)),
        };
        self.matched.insert(target.id.clone());
        Ok(target)
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
            let (registry, source) = (self.registry.clone(), self.file.source.clone());
            writing.spawn(async move {
                let names = change.site.names.clone();
                registry.take_over(change, &source).await.map_err(|error| (names, error))
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

    /// Looks for what files of the source have added and this one lacks.
    pub(super) async fn look_for_removals(&mut self) -> Result<(), PlanError> {
        let store: &Store = &self.registry.store;
        let mut after: Option<SiteId> = None;
        let mut before = None;
        loop {
            let page = store.list_sites(after.as_ref(), CHUNK).await?;
            let Some(last) = page.last_id() else { break };
            after = Some(last.clone());
            let own = page.sites.iter().filter(|stored| stored.site.file_source() == Some(&self.file.source));
            for site in own.map(|stored| stored.id.site()) {
                // The groups of a site follow each other.
                if before.as_ref() != Some(&site) {
                    self.known += 1;
                    self.lacking.extend((!self.matched.contains(&site)).then(|| site.clone()));
                    before = Some(site);
                }
            }
        }
        // Sites that were added a moment ago count, too: they are no reason to remove more.
        let is_much = self.lacking.len() * ONE_IN > self.known || self.names.is_empty();
        self.plan.needs_remove = is_much.then_some(self.lacking.len());
        Ok(())
    }

    /// # Errors
    /// [`PlanError::TooManyRemovals`] where more than `remove` would have to be said.
    pub(super) fn check_removals(&self, remove: Option<usize>) -> Result<(), PlanError> {
        let needed = self.plan.needs_remove;
        if needed.is_some_and(|needed| remove.is_none_or(|said| said < needed)) {
            return Err(PlanError::TooManyRemovals {
                removed: self.lacking.len(),
                known: self.known,
                source_name: self.file.source.clone(),
                empty: self.names.is_empty(),
            });
        }
        Ok(())
    }

    /// Removes what was looked for.
    pub(super) async fn removals(&mut self, write: bool) -> Result<(), PlanError> {
        for chunk in std::mem::take(&mut self.lacking).chunks(CHUNK) {
            let wanted = self.registry.store.load_many_wanted(chunk).await?;
            let removals: Vec<Change> = wanted
                .into_iter()
                .filter_map(|wanted| wanted.ok().flatten())
                .map(|wanted| self.registry.removal(wanted))
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

    pub(super) async fn end(mut self) -> Result<Applied, PlanError> {
        let config = &self.registry.config;
        let terms = |ca: &str| Terms::of(config, Some(ca)).ok();
        self.plan.limits = self.demand.waits(&self.registry.store, terms).await?;
        Ok(Applied { plan: self.plan, failed: self.failed })
    }

    /// A change whose account is there. Each is looked for once.
    async fn with_account(&mut self, change: Change) -> Result<Change, SiteError> {
        let account = (change.site.ca.clone(), change.site.account.clone());
        let before = change.write.as_ref().and_then(|write| write.before.as_ref());
        let is_new =
            before.is_none_or(|before| (&before.site.ca, &before.site.account) != (&account.0, &account.1));
        if change.kind == Kind::Unchanged || !is_new {
            return Ok(change);
        }
        let problem = match self.accounts.get(&account) {
            Some(known) => *known,
            None => {
                let found = self.registry.look_for_account(&account.0, &account.1).await?;
                self.accounts.insert(account.clone(), found);
                found
            }
        };
        match problem {
            Some(problem) => Err(problem.of(&account.0, &account.1).into()),
            None => Ok(change),
        }
    }

    /// What is to be said of a change, where nothing said it before: a file of many sites says it once.
    async fn warn(&mut self, change: &Change) -> Result<(), PlanError> {
        let before = change.write.as_ref().and_then(|write| write.before.as_ref());
        let mut warnings = change.warnings.clone();
        let kind = change.site.profile.clone().map(|profile| (change.site.ca.clone(), profile));
        if change.kind != Kind::Unchanged
            && let Some(kind) = kind
            && self.profiles.insert(kind)
        {
            match self.registry.lacks_profile(before.map(|before| &before.site), &change.site).await {
                Ok(warning) => warnings.extend(warning),
                Err(SiteError::Store(error)) => return Err(error.into()),
                // A CA that can't be used is said as such.
                Err(_) => {}
            }
        }
        for warning in warnings {
            if !self.plan.warnings.contains(&warning) {
                self.plan.warnings.push(warning);
            }
        }
        Ok(())
    }

    /// Each of its groups whose names are new is one order that the CA counts; the other key type of the same names is exempt.
    fn demand(&mut self, change: &Change) {
        let (Some(write), site) = (&change.write, &change.site) else { return };
        let Ok(terms) = Terms::of(&self.registry.config, Some(&site.ca)) else { return };
        for names in change.ordered.keys().filter_map(|number| write.groups.get(number)) {
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
        self.plan.orders += change.ordered.values().sum::<usize>();
        let brake = brake_of(&self.brakes, Braked::Issuance, &change.site).map(ToString::to_string);
        let paused = change.site.paused.map(|since| format!("the site is paused since {since}"));
        let waits_for = brake.or(paused).filter(|_| !change.ordered.is_empty());
        if waits_for.is_some() {
            self.plan.waiting += 1;
        }
        if change.kind == Kind::Unchanged {
            return;
        }
        if self.plan.changes.len() >= self.file.listed {
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
