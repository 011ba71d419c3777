//! Turns wishes into changes of the store, one site at a time.

use super::wish::{SiteWish, WishError};
use crate::{ca::Terms, suffixes};
use jiff::{SignedDuration, Timestamp};
use shared::{
    config::Config,
    domain::{
        Class, DnsName, Event, EventKind, Groups, HSTS_REMOVED, HSTS_WARNINGS, NameSet, Origin, Place,
        PublicSuffixes, Site, SiteId, plan_groups,
    },
    store::{Field, NamePointer, SiteChange, Store, StoreError, StoredSite, Tenant, WantedSite},
};
use std::{collections::BTreeMap, sync::Arc};

/// A site that one person added goes before the thousands of a file.
const SOON: SignedDuration = SignedDuration::from_mins(10);
const IN_BULK: SignedDuration = SignedDuration::from_hours(6);

/// Reads and changes the wanted state.
#[derive(Clone)]
pub struct Registry {
    pub(super) store: Store,
    pub(super) config: Arc<Config>,
}

/// What a wish changes.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: Kind,
    pub id: SiteId,
    pub site: Site,
    /// What is different, in words.
    pub differences: Vec<String>,
    /// What whoever wished for it should know.
    pub warnings: Vec<&'static str>,
    /// Names whose certificate is ordered because of it.
    pub reissued: Vec<DnsName>,
    pub(super) write: Option<SiteChange>,
    /// Names that the site gets, each with whom it belonged to.
    pub(super) gained: Vec<(DnsName, NamePointer)>,
    pub(super) lost: Vec<DnsName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Added,
    Changed,
    Unchanged,
    Removed,
}

#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error(transparent)]
    Wish(#[from] WishError),
    #[error("the store can't be read or written")]
    Store(#[from] StoreError),
    #[error("{0}: there is no site of this name")]
    NotFound(String),
    #[error("{} belongs to the site {owner} already ({names})", .name.to_unicode())]
    Taken { name: DnsName, owner: SiteId, names: String },
    #[error("the site {0} is there already, with other settings ({1}): change it with `issuer site set`")]
    Exists(SiteId, String),
    #[error("the site was changed by somebody else in this moment: look at it, and try again")]
    Changed,
    #[error("the site {0} serves no certificate before the present one that is still valid")]
    NothingBefore(SiteId),
}

impl Registry {
    pub fn new(store: Store, config: Arc<Config>) -> Self {
        Self { store, config }
    }

    pub(super) fn suffixes(&self) -> Arc<PublicSuffixes> {
        suffixes::current(&self.config)
    }

    /// The site that a name belongs to.
    ///
    /// # Errors
    /// [`SiteError::NotFound`], or the store's.
    pub async fn find(&self, name: &DnsName) -> Result<WantedSite, SiteError> {
        let pointer = self.store.load_pointer(name).await?;
        // One that was made by a run that was killed has no pointer yet.
        let made = SiteId::of(&NameSet::one(name.clone()));
        for id in pointer.owner().into_iter().chain(pointer.serving).chain([made]) {
            if let Some(wanted) = self.store.load_wanted(&id).await?
                && wanted.site.names.contains(name)
            {
                return Ok(wanted);
            }
        }
        Err(SiteError::NotFound(name.to_unicode()))
    }

    /// Adds a site; one that is there as it is wished is left as it is.
    ///
    /// # Errors
    /// [`SiteError`]; nothing is changed.
    pub async fn add(&self, wish: &SiteWish, origin: Origin) -> Result<Change, SiteError> {
        let change = self.plan(wish, None, origin).await?;
        if change.kind == Kind::Changed {
            return Err(SiteError::Exists(change.id, change.differences.join(", ")));
        }
        self.create_tenant(wish).await?;
        self.write(change).await
    }

    /// Changes a site to what is wished.
    ///
    /// # Errors
    /// [`SiteError`]; nothing is changed.
    pub async fn set(&self, before: WantedSite, wish: &SiteWish) -> Result<Change, SiteError> {
        let origin = before.site.origin;
        let change = self.plan(wish, Some(before), origin).await?;
        self.write(change).await
    }

    /// What a wish would change.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn plan(
        &self,
        wish: &SiteWish,
        before: Option<WantedSite>,
        origin: Origin,
    ) -> Result<Change, SiteError> {
        let known_ca = before.as_ref().map(|before| before.site.ca.as_str());
        let ca = Terms::of(&self.config, wish.ca.as_deref().or(known_ca)).map_err(WishError::from)?;
        let known = before.as_ref().map(|before| &before.site);
        let names = wish.parse_names(&self.suffixes(), &ca, known)?;
        let pointers = self.store.load_pointers(names.as_slice()).await?;
        let before = match before {
            Some(before) => Some(before),
            None => self.match_names(&names, &pointers).await?,
        };
        let tenant = match wish.new_tenant() {
            Some(new) => Some(self.store.load_tenant(&new.name).await?.map_or(new, |stored| stored.tenant)),
            None => None,
        };
        let change = self.change(wish, before, &names, pointers, tenant.as_ref(), origin)?;
        for (name, pointer) in &change.gained {
            self.check_free(name, pointer, &change.id).await?;
        }
        Ok(change)
    }

    /// The site that these names belong to, all of them to one.
    async fn match_names(
        &self,
        names: &NameSet,
        pointers: &[NamePointer],
    ) -> Result<Option<WantedSite>, SiteError> {
        let mut owners: Vec<SiteId> = pointers.iter().filter_map(NamePointer::owner).collect();
        owners.push(SiteId::of(names));
        owners.sort();
        owners.dedup();
        for owner in owners {
            if let Some(wanted) = self.store.load_wanted(&owner).await?
                && wanted.site.names.iter().any(|name| names.contains(name))
            {
                if wanted.site.names == *names {
                    return Ok(Some(wanted));
                }
                let name = names.iter().find(|name| wanted.site.names.contains(name)).cloned();
                let name = name.unwrap_or_else(|| names.as_slice()[0].clone());
                return Err(SiteError::Taken { name, owner, names: wanted.site.names.to_string() });
            }
        }
        Ok(None)
    }

    /// Compares a wish with what is there. Asks nothing of the store.
    pub(super) fn change(
        &self,
        wish: &SiteWish,
        before: Option<WantedSite>,
        names: &NameSet,
        pointers: Vec<NamePointer>,
        tenant: Option<&Tenant>,
        origin: Origin,
    ) -> Result<Change, SiteError> {
        let now = Timestamp::now();
        let known = before.as_ref().map(|before| before.site.clone());
        let known = known.as_ref();
        let site = wish.to_site(known, &self.config, &self.suffixes(), tenant, origin, now)?;
        let terms = Terms::of(&self.config, Some(&site.ca)).map_err(WishError::from)?;
        let most = terms.names_per_certificate(site.profile.as_deref());
        let id = before.as_ref().map_or_else(|| SiteId::of(&site.names), |before| before.id.clone());
        let known_groups = before.as_ref().map(|before| before.groups.clone()).unwrap_or_default();
        let groups = plan_groups(&known_groups, &site.names, site.san, most);
        let differences = known.map(|known| differences(known, &site)).unwrap_or_default();
        let kind = match known {
            None => Kind::Added,
            Some(_) if differences.is_empty() && groups == known_groups => Kind::Unchanged,
            Some(_) => Kind::Changed,
        };
        let touched = touched(known, &site, &known_groups, &groups);
        let reissued = touched.iter().flat_map(|number| groups[number].iter().cloned()).collect();
        let owns = |pointer: &NamePointer| pointer.owner().as_ref() == Some(&id);
        let gained = names.iter().cloned().zip(pointers).filter(|(_, pointer)| !owns(pointer)).collect();
        let lost = known.map(|known| {
            known.names.iter().filter(|name| !site.names.contains(name)).cloned().collect::<Vec<_>>()
        });
        let event = match kind {
            Kind::Added => Some(Event::new(EventKind::SiteAdded, now, format!("{} is wanted", site.names))),
            Kind::Changed => {
                let was_paused = known.is_some_and(|known| known.paused.is_some());
                let (kind, word) = match (was_paused, site.paused.is_some()) {
                    (false, true) => (EventKind::SitePaused, "paused"),
                    (true, false) => (EventKind::SiteResumed, "resumed"),
                    _ => (EventKind::SiteChanged, "changed"),
                };
                let what = format!("{}: {word}: {}", site.names, differences.join(", "));
                Some(Event::new(kind, now, what))
            }
            _ => None,
        };
        let events = event.map(|event| told_of(event, &id, &site)).into_iter().collect();
        let write = (kind != Kind::Unchanged).then(|| SiteChange {
            id: id.clone(),
            before,
            site: site.clone(),
            groups,
            place: place(origin, known.is_none(), now),
            touched,
            retired: self.retired(now),
            events,
        });
        let (warnings, lost) = (warnings(known, &site), lost.unwrap_or_default());
        Ok(Change { kind, id, site, differences, warnings, reissued, write, gained, lost })
    }

    async fn check_free(&self, name: &DnsName, pointer: &NamePointer, id: &SiteId) -> Result<(), SiteError> {
        let Some(owner) = pointer.owner().filter(|owner| owner != id) else { return Ok(()) };
        match self.store.load_wanted(&owner).await? {
            Some(other) if other.site.names.contains(name) => {
                Err(SiteError::Taken { name: name.clone(), owner, names: other.site.names.to_string() })
            }
            // Its site has let it go, or was never written.
            _ => Ok(()),
        }
    }

    /// Writes a change: first the names are kept for the site, then it is written, then those that it lost are let go.
    /// Killed in between, the same wish does what is left.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn write(&self, change: Change) -> Result<Change, SiteError> {
        let conflict = |error: StoreError| match error {
            StoreError::Conflict => SiteError::Changed,
            other => other.into(),
        };
        for (name, pointer) in &change.gained {
            self.store.keep_name(name, pointer, &change.id).await.map_err(conflict)?;
        }
        if let Some(write) = &change.write {
            self.store.put_site(write).await.map_err(conflict)?;
        }
        self.store.release_names(&change.lost, &change.id, None).await?;
        // What visitors came with before is decided now.
        if self.config.sightings.allow_url.is_some() {
            for (name, _) in &change.gained {
                self.store.end_sighting(name).await?;
            }
        }
        Ok(change)
    }

    /// Removes a site: it is no longer served, and its certificates are deleted after the grace time. Added again before,
    /// it has them back.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn remove(&self, wanted: WantedSite) -> Result<Change, SiteError> {
        let change = self.removal(wanted);
        self.write(change).await
    }

    pub(super) fn removal(&self, wanted: WantedSite) -> Change {
        let now = Timestamp::now();
        let what = format!("{} is no longer wanted", wanted.site.names);
        let event = told_of(Event::new(EventKind::SiteRemoved, now, what), &wanted.id, &wanted.site);
        let (id, site) = (wanted.id.clone(), wanted.site.clone());
        Change {
            kind: Kind::Removed,
            lost: site.names.as_slice().to_vec(),
            write: Some(SiteChange {
                id: id.clone(),
                before: Some(wanted),
                site: site.clone(),
                groups: BTreeMap::new(),
                place: self.retired(now),
                touched: Vec::new(),
                retired: self.retired(now),
                events: vec![event],
            }),
            id,
            warnings: removed_with(&site),
            site,
            differences: Vec::new(),
            reissued: Vec::new(),
            gained: Vec::new(),
        }
    }

    /// Whether a name of this group has been given to another site, which costs one question to know.
    ///
    /// # Errors
    /// The store's.
    pub async fn may_have_lost_names(&self, group: &StoredSite) -> Result<bool, StoreError> {
        let site = group.id.site();
        let pointers = self.store.load_pointers(group.site.names.as_slice()).await?;
        Ok(pointers.iter().filter_map(NamePointer::owner).any(|owner| owner != site))
    }

    /// Lets go of the names of a site that another site has been given in the meantime: it serves them, or is about to. A
    /// site that has no other names is removed. Answers the names.
    ///
    /// # Errors
    /// The store's, or [`SiteError::Changed`].
    pub async fn give_up_lost_names(&self, id: &SiteId) -> Result<Vec<DnsName>, SiteError> {
        let Some(wanted) = self.store.load_wanted(id).await? else { return Ok(Vec::new()) };
        let names = wanted.site.names.as_slice();
        let mut lost = Vec::new();
        for (name, pointer) in names.iter().zip(self.store.load_pointers(names).await?) {
            let Some(owner) = pointer.owner().filter(|owner| *owner != wanted.id) else { continue };
            // Only one that wants it: a pointer to a site that is gone is no owner.
            let other = self.store.load_wanted(&owner).await?;
            if other.is_some_and(|other| other.site.names.contains(name)) {
                lost.push(name.clone());
            }
        }
        if lost.is_empty() {
            return Ok(lost);
        }
        let rest: Vec<String> =
            names.iter().filter(|name| !lost.contains(name)).map(ToString::to_string).collect();
        if rest.is_empty() {
            self.remove(wanted).await?;
        } else {
            self.set(wanted, &SiteWish::for_names(&rest)).await?;
        }
        Ok(lost)
    }

    /// Has every group of a site looked at now: names that are left out are tried again, and with `force` its certificates
    /// are renewed whatever their age.
    ///
    /// # Errors
    /// The store's.
    pub async fn nudge(&self, wanted: &WantedSite, force: bool) -> Result<(), SiteError> {
        for number in wanted.groups.keys() {
            self.nudge_group(&wanted.id.group(*number), force.then(Timestamp::now)).await?;
        }
        Ok(())
    }

    /// [`Registry::nudge`] of one group, whose certificates are renewed where they were issued up to `force`; `false` where it
    /// isn't there.
    ///
    /// # Errors
    /// The store's.
    pub async fn nudge_group(&self, id: &SiteId, force: Option<Timestamp>) -> Result<bool, SiteError> {
        let now = Timestamp::now();
        let place =
            Place { class: Class::Operator, moment: now, deadline: now, urgent_from: None, renewal: None };
        let mut fields = vec![(Field::Retry, "1".to_owned())];
        if let Some(until) = force {
            // What was issued in this very second, too.
            fields.push((Field::Force, until.as_second().saturating_add(1).to_string()));
        }
        Ok(self.store.nudge(id, &place, &fields).await?)
    }

    /// Stores a tenant that is named for the first time.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn create_tenant(&self, wish: &SiteWish) -> Result<(), StoreError> {
        let Some(tenant) = wish.new_tenant() else { return Ok(()) };
        if self.store.load_tenant(&tenant.name).await?.is_some() {
            return Ok(());
        }
        match self.store.write_tenant(None, &tenant).await {
            // Somebody else has in this moment.
            Ok(()) | Err(StoreError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn retired(&self, now: Timestamp) -> Place {
        let grace = SignedDuration::try_from(self.config.issuer.grace()).unwrap_or(SignedDuration::MAX);
        let moment = now.saturating_add(grace).unwrap_or(Timestamp::MAX);
        Place { class: Class::Check, moment, deadline: moment, urgent_from: None, renewal: None }
    }
}

/// Groups that something is ordered for: a name came, or another kind of key is wanted; or that go on after a pause.
fn touched(known: Option<&Site>, site: &Site, before: &Groups, groups: &Groups) -> Vec<u16> {
    let all = known.is_none_or(|known| {
        known.key_types != site.key_types || (known.paused.is_some() && site.paused.is_none())
    });
    let gains = |(number, names): (&u16, &NameSet)| {
        let old = before.get(number);
        old.is_none_or(|old| names.iter().any(|name| !old.contains(name)))
    };
    groups.iter().filter(|(number, names)| all || gains((number, names))).map(|(number, _)| *number).collect()
}

fn place(origin: Origin, is_new: bool, now: Timestamp) -> Place {
    let (class, within) = match origin {
        Origin::File => (Class::New, IN_BULK),
        _ if is_new => (Class::New, SOON),
        _ => (Class::Operator, SOON),
    };
    let deadline = now.saturating_add(within).unwrap_or(Timestamp::MAX);
    Place { class, moment: now, deadline, urgent_from: None, renewal: None }
}

fn told_of(event: Event, id: &SiteId, site: &Site) -> String {
    let event = event.for_site(id).names(site.names.iter()).ca(&site.ca).tags(&site.tags);
    serde_json::to_string(&event).expect("events are plain data")
}

fn warnings(before: Option<&Site>, after: &Site) -> Vec<&'static str> {
    let goal = |site: &Site| site.hsts.map_or(0, |hsts| hsts.max_age_seconds);
    if goal(after) > before.map_or(0, goal) { HSTS_WARNINGS.to_vec() } else { Vec::new() }
}

fn removed_with(site: &Site) -> Vec<&'static str> {
    if site.hsts.is_some_and(|hsts| hsts.is_on()) { vec![HSTS_REMOVED] } else { Vec::new() }
}

fn differences(before: &Site, after: &Site) -> Vec<String> {
    let mut found = Vec::new();
    let list =
        |names: Vec<&DnsName>| names.into_iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
    let gained: Vec<&DnsName> = after.names.iter().filter(|name| !before.names.contains(name)).collect();
    let lost: Vec<&DnsName> = before.names.iter().filter(|name| !after.names.contains(name)).collect();
    if !gained.is_empty() {
        found.push(format!("names added: {}", list(gained)));
    }
    if !lost.is_empty() {
        found.push(format!("names removed: {}", list(lost)));
    }
    let mut compare = |what: &str, one: String, other: String| {
        if one != other {
            found.push(format!("{what}: {one} -> {other}"));
        }
    };
    let kinds = |site: &Site| site.key_types.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    compare("key_types", kinds(before), kinds(after));
    if after.names.as_slice().len() > 1 {
        compare("san", before.san.as_str().to_owned(), after.san.as_str().to_owned());
    }
    compare("ca", before.ca.clone(), after.ca.clone());
    compare("account", before.account.clone(), after.account.clone());
    compare("profile", or_none(&before.profile), or_none(&after.profile));
    compare("challenge", before.challenge.as_str().to_owned(), after.challenge.as_str().to_owned());
    compare("tags", before.tags.join("+"), after.tags.join("+"));
    compare("tenant", or_none(&before.tenant), or_none(&after.tenant));
    let redirect = |site: &Site| site.redirect.is_some_and(|on| on).to_string();
    compare("redirect", redirect(before), redirect(after));
    let hsts = |site: &Site| site.hsts.map_or_else(|| "off".to_owned(), |hsts| hsts.to_string());
    compare("hsts", hsts(before), hsts(after));
    compare("paused", before.paused.is_some().to_string(), after.paused.is_some().to_string());
    let origin = |site: &Site| format!("{:?}", site.origin).to_lowercase();
    compare("origin", origin(before), origin(after));
    found
}

impl Registry {
    /// Writes a change of a file: what another site of a file still has of its names is taken over, because the file is the
    /// whole truth of both.
    pub(super) async fn take_over(&self, change: Change) -> Result<(), SiteError> {
        for (name, pointer) in &change.gained {
            let Some(owner) = pointer.owner().filter(|owner| *owner != change.id) else { continue };
            if let Some(other) = self.store.load_wanted(&owner).await?
                && other.site.names.contains(name)
                && other.site.origin != Origin::File
            {
                return Err(SiteError::Taken {
                    name: name.clone(),
                    owner,
                    names: other.site.names.to_string(),
                });
            }
        }
        self.write(change).await.map(drop)
    }
}
