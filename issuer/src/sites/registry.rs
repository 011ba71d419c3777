//! Turns wishes into changes of the store, one site at a time.

use super::{
    change::{Change, Kind, Target},
    wish::{NoAccount, SiteWish, WishError, Wisher, check_word},
};
use crate::{
    ca::Terms,
    issuance::{DEFAULT_ACCOUNT, seen_profiles},
    suffixes,
};
use jiff::Timestamp;
use shared::{
    config::Config,
    domain::{Class, DnsName, NameSet, Origin, Place, PublicSuffixes, Site, SiteId},
    store::{
        AccountStatus, Failures, Field, NamePointer, RETRY_WITH_NEW_ORDER, Store, StoreError, StoredSite,
        Tenant, WantedSite,
    },
};
use std::{sync::Arc, time::Duration};

/// A site that was removed is not brought back by visitors for so long; whoever adds it by hand has it at once.
const REMOVED_FOR: Duration = Duration::from_secs(90 * 86_400);

/// Sites that are read from the store at once.
const PAGE: usize = 500;

/// Reads and changes the wanted state.
#[derive(Clone)]
pub struct Registry {
    pub(super) store: Store,
    pub(super) config: Arc<Config>,
}

#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error(transparent)]
    Wish(#[from] WishError),
    #[error("the store can't be read or written")]
    Store(#[from] StoreError),
    #[error("{0}: there is no site of this name")]
    NotFound(String),
    #[error("{} belongs to the site {owner} already ({names}), {managed_by}", .name.to_unicode())]
    Taken { name: DnsName, owner: SiteId, names: String, managed_by: String },
    #[error("the site {0} is there already, with other settings ({1}): change it with `issuer site set`")]
    Exists(SiteId, String),
    #[error("the site was changed by somebody else in this moment: look at it, and try again")]
    Changed,
    #[error("the site {0} serves no certificate before the present one that is still valid")]
    NothingBefore(SiteId),
}

impl SiteError {
    /// `owner` has the name already.
    pub(super) fn taken(name: DnsName, owner: &WantedSite) -> Self {
        let (names, managed_by) = (owner.site.names.to_string(), owner.site.managed_by());
        Self::Taken { name, owner: owner.id.clone(), names, managed_by }
    }
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

    /// The site with this id, or with a group of this id.
    ///
    /// # Errors
    /// [`SiteError::NotFound`], and those of the store.
    pub async fn find_by_id(&self, id: &SiteId) -> Result<WantedSite, SiteError> {
        let wanted = self.store.load_wanted(&id.site()).await?;
        wanted.ok_or_else(|| SiteError::NotFound(id.to_string()))
    }

    /// Adds a site; one that is there as it is wished is left as it is.
    ///
    /// # Errors
    /// [`SiteError`]; nothing is changed.
    pub async fn add(&self, wish: &SiteWish, origin: Origin) -> Result<Change, SiteError> {
        let mut change = self.plan(wish, None, &origin.into()).await?;
        if change.kind == Kind::Changed {
            return Err(SiteError::Exists(change.id, change.differences.join(", ")));
        }
        if change.kind == Kind::Unchanged {
            change.keep_for_good();
        }
        self.create_tenant(wish).await?;
        self.write(change).await
    }

    /// Changes a site to what is wished.
    ///
    /// # Errors
    /// [`SiteError`]; nothing is changed.
    pub async fn set(&self, before: WantedSite, wish: &SiteWish) -> Result<Change, SiteError> {
        let change = self.plan(wish, Some(before), &Origin::Operator.into()).await?;
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
        wisher: &Wisher,
    ) -> Result<Change, SiteError> {
        let known = before.as_ref().map(|before| before.site.clone());
        let (names, _) = wish.check(known.as_ref(), &self.config, &self.suffixes())?;
        let pointers = self.store.load_pointers(names.as_slice()).await?;
        let target = match before {
            Some(before) => Target::known(before),
            None => self.match_names(&names, &pointers).await?,
        };
        let tenant = match wish.new_tenant() {
            Some(new) => Some(self.store.load_tenant(&new.name).await?.map_or(new, |stored| stored.tenant)),
            None => None,
        };
        let mut change = self.change(wish, target, &names, pointers, tenant.as_ref(), wisher)?;
        for (name, pointer) in &change.gained {
            self.check_free(name, pointer, &change.id).await?;
        }
        if change.kind != Kind::Unchanged {
            self.check_account(known.as_ref(), &change.site).await?;
            change.warnings.extend(self.lacks_profile(known.as_ref(), &change.site).await?);
        }
        Ok(change)
    }

    /// Whether the account that a site is wanted with from now on is there. The usual one is made when it is needed; any other is
    /// made by somebody who says so, or a misspelt name would be an account at the CA.
    ///
    /// # Errors
    /// [`WishError::NoAccount`], [`WishError::AccountEnded`], or the store's.
    pub(super) async fn check_account(&self, before: Option<&Site>, after: &Site) -> Result<(), SiteError> {
        if before.is_some_and(|before| (&before.ca, &before.account) == (&after.ca, &after.account)) {
            return Ok(());
        }
        self.check_account_of(&after.ca, &after.account).await
    }

    /// The same of an account by its name.
    ///
    /// # Errors
    /// [`WishError::NoAccount`], [`WishError::AccountEnded`], or the store's.
    pub async fn check_account_of(&self, ca: &str, account: &str) -> Result<(), SiteError> {
        match self.look_for_account(ca, account).await? {
            Some(problem) => Err(problem.of(ca, account).into()),
            None => Ok(()),
        }
    }

    /// What speaks against an account, where something does.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn look_for_account(
        &self,
        ca: &str,
        account: &str,
    ) -> Result<Option<NoAccount>, StoreError> {
        if account == DEFAULT_ACCOUNT {
            return Ok(None);
        }
        Ok(match self.store.load_account(ca, account).await? {
            None => Some(NoAccount::Missing),
            Some(stored) if stored.account.status == AccountStatus::Deactivated => Some(NoAccount::Ended),
            Some(_) => None,
        })
    }

    /// Whether a tenant can be one, with an account that is there at one of the CAs.
    ///
    /// # Errors
    /// [`WishError::Word`], [`WishError::NoAccount`], or the store's.
    pub async fn check_tenant(&self, tenant: &Tenant) -> Result<(), SiteError> {
        for word in [Some(&tenant.name), tenant.account.as_ref()].into_iter().flatten() {
            check_word(word)?;
        }
        let Some(account) = &tenant.account else { return Ok(()) };
        let mut refused = None;
        for ca in self.config.ca.keys() {
            match self.check_account_of(ca, account).await {
                Ok(()) => return Ok(()),
                Err(error @ SiteError::Wish(_)) => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// How many sites name a tenant.
    ///
    /// # Errors
    /// The store's.
    pub async fn count_of_tenant(&self, tenant: &str) -> Result<usize, StoreError> {
        let (mut after, mut count, mut before): (Option<SiteId>, usize, Option<SiteId>) = (None, 0, None);
        loop {
            let page = self.store.list_sites(after.as_ref(), PAGE).await?;
            let Some(last) = page.last_id() else { return Ok(count) };
            after = Some(last.clone());
            let own = page.sites.iter().filter(|stored| stored.site.tenant.as_deref() == Some(tenant));
            for site in own.map(|stored| stored.id.site()) {
                // The groups of a site follow each other.
                count += usize::from(before.as_ref() != Some(&site));
                before = Some(site);
            }
        }
    }

    /// What is to be said of a profile that is wished for now, and that its CA is not known to have.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn lacks_profile(
        &self,
        before: Option<&Site>,
        after: &Site,
    ) -> Result<Option<String>, SiteError> {
        let Some(profile) = &after.profile else { return Ok(None) };
        if before.is_some_and(|before| (&before.ca, &before.profile) == (&after.ca, &after.profile)) {
            return Ok(None);
        }
        let terms = Terms::of(&self.config, Some(&after.ca)).map_err(WishError::from)?;
        let seen = seen_profiles(&self.store, &terms.name, &terms.directory).await?;
        if seen.as_deref().is_some_and(<[_]>::is_empty) && terms.limits.profiles.is_empty() {
            let title = &terms.title;
            return Ok(Some(format!(
                "{title} does not say which profiles it has: it may do without {profile:?}, or refuse it"
            )));
        }
        Ok(terms.lacks_profile(profile, seen.as_deref()))
    }

    /// The site that these names belong to, all of them to one; or a new one.
    async fn match_names(&self, names: &NameSet, pointers: &[NamePointer]) -> Result<Target, SiteError> {
        let mut owners: Vec<SiteId> = pointers.iter().filter_map(NamePointer::owner).collect();
        let own_id = SiteId::of(names);
        owners.push(own_id.clone());
        owners.sort();
        owners.dedup();
        let mut own = None;
        for wanted in self.store.load_many_wanted(&owners).await? {
            let Some(wanted) = wanted? else { continue };
            match names.iter().find(|name| wanted.site.names.contains(name)) {
                Some(_) if wanted.site.names == *names => return Ok(Target::known(wanted)),
                Some(name) => return Err(SiteError::taken(name.clone(), &wanted)),
                None if wanted.id == own_id => own = Some(wanted),
                None => {}
            }
        }
        Ok(Target::new(names, own.as_ref()))
    }

    async fn check_free(&self, name: &DnsName, pointer: &NamePointer, id: &SiteId) -> Result<(), SiteError> {
        let Some(owner) = pointer.owner().filter(|owner| owner != id) else { return Ok(()) };
        match self.store.load_wanted(&owner).await? {
            Some(other) if other.site.names.contains(name) => Err(SiteError::taken(name.clone(), &other)),
            // Its site has let it go, or was never written.
            _ => Ok(()),
        }
    }

    /// Writes a change: first the names are kept for the site, then it is written, then those that it lost are let go.
    /// Killed in between, the same wish does what is left.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn write(&self, mut change: Change) -> Result<Change, SiteError> {
        let conflict = |error: StoreError| match error {
            StoreError::Conflict => SiteError::Changed,
            other => other.into(),
        };
        self.keep_failures(&mut change).await?;
        for (name, pointer) in &change.gained {
            self.store.keep_name(name, pointer, &change.id).await.map_err(conflict)?;
        }
        if let Some(write) = &change.write {
            self.store.put_site(write).await.map_err(conflict)?;
        }
        self.store.release_names(&change.lost, &change.id, None).await?;
        let restored =
            change.write.as_ref().map(|write| write.remembered.keys().cloned().collect::<Vec<_>>());
        self.store.remember_failures(&restored.unwrap_or_default(), &Failures::new()).await?;
        // What visitors came with before is decided now.
        if self.config.sightings.allow_url.is_some() {
            for (name, _) in &change.gained {
                self.store.end_sighting(name).await?;
            }
        }
        Ok(change)
    }

    /// What failed of names goes with them: remembered of those that the site loses, gone on with for those that it gets.
    async fn keep_failures(&self, change: &mut Change) -> Result<(), StoreError> {
        let Some(write) = &mut change.write else { return Ok(()) };
        if let Some(before) = write.before.as_ref().filter(|_| !change.lost.is_empty()) {
            let failures = match self.store.failures_of(before, &change.lost).await {
                // A damaged record is removed like any other.
                Err(StoreError::Corrupt { .. }) => Failures::new(),
                found => found?,
            };
            self.store.remember_failures(&change.lost, &failures).await?;
        }
        let gained: Vec<DnsName> = change.gained.iter().map(|(name, _)| name.clone()).collect();
        write.remembered = self.store.remembered_failures(&gained).await?;
        Ok(())
    }

    /// Removes a site: it is no longer served, and its certificates are deleted after the grace time. Added again before,
    /// it has them back.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn remove(&self, wanted: WantedSite) -> Result<Change, SiteError> {
        // Before it is gone: its next visitor does not bring it back. While a site has them, the names are not judged.
        if self.config.sightings.allow_url.is_some() {
            for name in wanted.site.names.as_slice().iter().filter(|name| !name.is_wildcard()) {
                self.store.deny_sighting(name, REMOVED_FOR, REMOVED_FOR, "its site was removed").await?;
            }
        }
        let change = self.removal(wanted);
        self.write(change).await
    }

    /// Forgets a site that was made to be issued at once, and has nothing to show for it: as if it were removed, and nobody is
    /// told. One that somebody has wished for since stays: `false`.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn forget(&self, id: &SiteId) -> Result<bool, SiteError> {
        let Some(wanted) = self.store.load_wanted(id).await? else { return Ok(true) };
        let is_asked_for = self.store.load_site(id).await?.is_some_and(|stored| stored.revision > 0);
        if wanted.was_wished_for() || is_asked_for {
            return Ok(false);
        }
        let mut change = self.removal(wanted);
        change.write.iter_mut().for_each(|write| write.events.clear());
        match self.write(change).await {
            Ok(_) => Ok(true),
            Err(SiteError::Changed) => Ok(false),
            Err(error) => Err(error),
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
        self.look_now(id, "1", force).await
    }

    /// Has a group looked at now, and another order placed where one is open: what the CA may have issued for it is asked for
    /// first. `false` where it isn't there.
    ///
    /// # Errors
    /// The store's.
    pub async fn order_anew(&self, id: &SiteId) -> Result<bool, SiteError> {
        self.look_now(id, RETRY_WITH_NEW_ORDER, None).await
    }

    async fn look_now(&self, id: &SiteId, retry: &str, force: Option<Timestamp>) -> Result<bool, SiteError> {
        let now = Timestamp::now();
        let place =
            Place { class: Class::Operator, moment: now, deadline: now, urgent_from: None, renewal: None };
        let mut fields = vec![(Field::Retry, retry.to_owned())];
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
}

impl Registry {
    /// Writes a change of a file of this source: what another site of it still has of the names is taken over, because the
    /// file is the whole truth of both.
    pub(super) async fn take_over(&self, change: Change, source: &str) -> Result<(), SiteError> {
        for (name, pointer) in &change.gained {
            let Some(owner) = pointer.owner().filter(|owner| *owner != change.id) else { continue };
            if let Some(other) = self.store.load_wanted(&owner).await?
                && other.site.names.contains(name)
                && other.site.file_source() != Some(source)
            {
                return Err(SiteError::taken(name.clone(), &other));
            }
        }
        self.write(change).await.map(drop)
    }
}
