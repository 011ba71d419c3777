//! What a wish changes of a site: what is different, what is ordered because of it, and what is written.

use super::{
    registry::{Registry, SiteError},
    wish::{SiteWish, WishError, Wisher},
};
use crate::ca::Terms;
use jiff::{SignedDuration, Timestamp};
use shared::{
    domain::{
        Class, DnsName, Event, EventKind, Groups, HSTS_REMOVED, HSTS_WARNINGS, KeyType, NameSet, Origin,
        Place, Site, SiteId, plan_groups,
    },
    store::{Failures, NamePointer, SiteChange, Tenant, WantedSite},
};
use std::collections::BTreeMap;

/// A site that one person added goes before the thousands of a file.
const SOON: SignedDuration = SignedDuration::from_mins(10);
const IN_BULK: SignedDuration = SignedDuration::from_hours(6);

/// What a wish changes.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: Kind,
    pub id: SiteId,
    pub site: Site,
    /// What is different, in words.
    pub differences: Vec<String>,
    /// What whoever wished for it should know.
    pub warnings: Vec<String>,
    /// Names whose certificate is ordered because of it.
    pub reissued: Vec<DnsName>,
    /// How many certificates are ordered for each of its groups because of it.
    pub(super) ordered: BTreeMap<u16, usize>,
    pub(super) write: Option<SiteChange>,
    /// Names that the site gets, each with whom it belonged to.
    pub(super) gained: Vec<(DnsName, NamePointer)>,
    pub(super) lost: Vec<DnsName>,
    /// As it is, where nobody has wished for it yet.
    pub(super) unwished: Option<WantedSite>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Added,
    Changed,
    Unchanged,
    Removed,
}

/// The site that a wish is about.
pub(super) struct Target {
    pub(super) id: SiteId,
    /// As it is; `None`: it is new.
    pub(super) before: Option<WantedSite>,
}

impl Target {
    /// One that is there.
    pub(super) fn known(before: WantedSite) -> Self {
        Self { id: before.id.clone(), before: Some(before) }
    }

    /// A new one of these names. `own` is what has its id, where something does: a site that has moved on to other names
    /// keeps it.
    pub(super) fn new(names: &NameSet, own: Option<&WantedSite>) -> Self {
        let id = if own.is_some() { SiteId::of_again(names) } else { SiteId::of(names) };
        Self { id, before: None }
    }
}

impl Change {
    /// A site that `issuer issue` has made, and that somebody wants now as it is: it stays, whatever becomes of its first order.
    pub(super) fn keep_for_good(&mut self) {
        let Some(before) = self.unwished.take() else { return };
        let groups = before.groups.clone();
        let now = Timestamp::now();
        let place = Place { class: Class::New, moment: now, deadline: now, urgent_from: None, renewal: None };
        self.write = Some(SiteChange {
            id: self.id.clone(),
            before: Some(before),
            site: self.site.clone(),
            groups,
            retired: place,
            place,
            touched: Vec::new(),
            force: None,
            remembered: Failures::new(),
            events: Vec::new(),
        });
    }
}

impl Registry {
    /// Compares a wish with what is there. Asks nothing of the store.
    pub(super) fn change(
        &self,
        wish: &SiteWish,
        target: Target,
        names: &NameSet,
        pointers: Vec<NamePointer>,
        tenant: Option<&Tenant>,
        wisher: &Wisher,
    ) -> Result<Change, SiteError> {
        let Target { id, before } = target;
        let now = Timestamp::now();
        let known = before.as_ref().map(|before| before.site.clone());
        let known = known.as_ref();
        let site = wish.to_site(known, &self.config, &self.suffixes(), tenant, wisher, now)?;
        let terms = Terms::of(&self.config, Some(&site.ca)).map_err(WishError::from)?;
        let room = terms.room(site.profile.as_deref());
        let known_groups = before.as_ref().map(|before| before.groups.clone()).unwrap_or_default();
        let groups = plan_groups(&known_groups, &site.names, site.san, room);
        let differences = known.map(|known| differences(known, &site)).unwrap_or_default();
        let kind = match known {
            None => Kind::Added,
            Some(_) if differences.is_empty() && groups == known_groups => Kind::Unchanged,
            Some(_) => Kind::Changed,
        };
        let ordered = ordered(known, &site, &known_groups, &groups);
        let reissued = ordered.keys().flat_map(|number| groups[number].iter().cloned()).collect();
        let touched = match known {
            Some(known) if is_looked_at(known, &site) => groups.keys().copied().collect(),
            _ => ordered.keys().copied().collect(),
        };
        let owns = |pointer: &NamePointer| pointer.owner().as_ref() == Some(&id);
        let gained = names.iter().cloned().zip(pointers).filter(|(_, pointer)| !owns(pointer)).collect();
        let lost = known.map(|known| {
            known.names.iter().filter(|name| !site.names.contains(name)).cloned().collect::<Vec<_>>()
        });
        let event = match kind {
            Kind::Added => {
                Some(Event::new(EventKind::SiteAdded, now, format!("{} is wanted", site.names.to_unicode())))
            }
            Kind::Changed => {
                let was_paused = known.is_some_and(|known| known.paused.is_some());
                let (kind, word) = match (was_paused, site.paused.is_some()) {
                    (false, true) => (EventKind::SitePaused, "paused"),
                    (true, false) => (EventKind::SiteResumed, "resumed"),
                    _ => (EventKind::SiteChanged, "changed"),
                };
                let what = format!("{}: {word}: {}", site.names.to_unicode(), differences.join(", "));
                Some(Event::new(kind, now, what))
            }
            _ => None,
        };
        let events = event.map(|event| told_of(event, &id, &site)).into_iter().collect();
        let renewed = known.is_some_and(|known| is_of_another_kind(known, &site));
        let unwished = before.as_ref().filter(|before| !before.was_wished_for()).cloned();
        let write = (kind != Kind::Unchanged).then(|| SiteChange {
            id: id.clone(),
            before,
            site: site.clone(),
            groups,
            place: place(wisher, known.is_none(), now),
            touched,
            retired: self.retired(now),
            force: renewed.then_some(now),
            remembered: Failures::new(),
            events,
        });
        let (warnings, lost) = (warnings(known, &site), lost.unwrap_or_default());
        Ok(Change { kind, id, site, differences, warnings, reissued, ordered, write, gained, lost, unwished })
    }

    pub(super) fn removal(&self, wanted: WantedSite) -> Change {
        let now = Timestamp::now();
        let what = format!("{} is no longer wanted", wanted.site.names.to_unicode());
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
                force: None,
                remembered: Failures::new(),
                events: vec![event],
            }),
            id,
            warnings: removed_with(&site),
            site,
            differences: Vec::new(),
            reissued: Vec::new(),
            ordered: BTreeMap::new(),
            gained: Vec::new(),
            unwished: None,
        }
    }

    fn retired(&self, now: Timestamp) -> Place {
        let grace = SignedDuration::try_from(self.config.issuer.grace()).unwrap_or(SignedDuration::MAX);
        let moment = now.saturating_add(grace).unwrap_or(Timestamp::MAX);
        Place { class: Class::Check, moment, deadline: moment, urgent_from: None, renewal: None }
    }
}

/// Whether certificates of before are none of what is wanted now: of another CA, account or profile.
pub(super) fn is_of_another_kind(known: &Site, site: &Site) -> bool {
    (&known.ca, &known.account, &known.profile) != (&site.ca, &site.account, &site.profile)
}

/// How many certificates are ordered for each group that something is ordered for: a name came, or certificates of another
/// kind are wanted.
fn ordered(known: Option<&Site>, site: &Site, before: &Groups, groups: &Groups) -> BTreeMap<u16, usize> {
    let all = known.is_none_or(|known| is_of_another_kind(known, site));
    let is_new = |kind: &&KeyType| known.is_none_or(|known| !known.key_types.contains(kind));
    let new_kinds = site.key_types.iter().filter(is_new).count();
    let gains = |number: &u16, names: &NameSet| {
        before.get(number).is_none_or(|old| names.iter().any(|name| !old.contains(name)))
    };
    let of_group = |(number, names): (&u16, &NameSet)| {
        let count = if all || gains(number, names) { site.key_types.len() } else { new_kinds };
        (count > 0).then_some((*number, count))
    };
    groups.iter().filter_map(of_group).collect()
}

/// Whether every group is looked at, though nothing may be ordered: it goes on after a pause, or has a key too many.
fn is_looked_at(known: &Site, site: &Site) -> bool {
    (known.paused.is_some() && site.paused.is_none())
        || known.key_types.iter().any(|kind| !site.key_types.contains(kind))
}

fn place(wisher: &Wisher, is_new: bool, now: Timestamp) -> Place {
    let (class, within) = match wisher.origin {
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

fn warnings(before: Option<&Site>, after: &Site) -> Vec<String> {
    let goal = |site: &Site| site.hsts.map_or(0, |hsts| hsts.max_age_seconds);
    if goal(after) > before.map_or(0, goal) { HSTS_WARNINGS.map(str::to_owned).to_vec() } else { Vec::new() }
}

fn removed_with(site: &Site) -> Vec<String> {
    if site.hsts.is_some_and(|hsts| hsts.is_on()) { vec![HSTS_REMOVED.to_owned()] } else { Vec::new() }
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
    compare("source", source(before), source(after));
    found
}

fn source(site: &Site) -> String {
    site.file_source().unwrap_or("none").to_owned()
}
