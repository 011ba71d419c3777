//! Sites: what is wanted, what is served, what went wrong. A record is that of a group (see [`crate::domain::Site`]).

use super::{
    Damage, DamagedSite, Lease, Serving, Store, StoreError,
    declared::{indexes, queues, wait_ms},
    failures::{Failures, Restored, of_group},
    keys,
    leases::random,
    schedule, scripts,
};
use crate::domain::{
    CertificateId, DnsName, Failure, FailureClass, Groups, HstsStanding, NameSet, Parked, Place,
    RenewalPlans, Site, SiteId, Slot, announced,
};
use jiff::Timestamp;
use redis::cmd;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The certificates that a site's slots point to.
pub type Pointers = BTreeMap<Slot, CertificateId>;

/// Names that are left out of their group's certificate for a time, and why.
pub type Cut = BTreeMap<DnsName, Failure>;

/// What [`Field::Retry`](super::Field::Retry) says where another order is wanted in the place of one that is open.
pub const RETRY_WITH_NEW_ORDER: &str = "new-order";

/// A group of a site as it is stored.
#[derive(Clone, Debug)]
pub struct StoredSite {
    pub id: SiteId,
    pub site: Site,
    pub serving: Serving,
    /// Slots whose current certificate was revoked.
    pub revoked: Vec<Slot>,
    pub failure: Option<Failure>,
    pub cut: Cut,
    pub parked: Option<Parked>,
    /// Grows with every wish.
    pub revision: u64,
    /// An operator wants everything tried at once.
    pub retry: bool,
    /// And another order in the place of one that is open.
    pub new_order: bool,
    /// Certificates issued before are to be renewed.
    pub force: Option<Timestamp>,
    /// What was rolled back to is left alone until then.
    pub held: Option<Timestamp>,
    /// The stage of expiry that was told last.
    pub alert: Option<String>,
    /// When each of its certificates is renewed.
    pub renewals: RenewalPlans,
    /// Where the CA explains why it wants a certificate renewed.
    pub explanation_url: Option<String>,
    /// When it is planned to be renewed as a whole, to the hour: [`Place::renewal`].
    pub renewal: Option<Timestamp>,
    /// From when on the steps of HSTS count, where that is not when it was switched on.
    pub hsts_from: Option<Timestamp>,
    /// What HSTS was lowered to when the certificate began to fail, seconds.
    pub hsts_held: Option<u64>,
}

impl StoredSite {
    /// A group of which only what it serves is known.
    pub(super) fn of_served(id: &SiteId, site: Site, serving: Serving) -> Self {
        Self {
            id: id.clone(),
            site,
            serving,
            revoked: Vec::new(),
            failure: None,
            cut: Cut::new(),
            parked: None,
            revision: 0,
            retry: false,
            new_order: false,
            force: None,
            held: None,
            alert: None,
            renewals: RenewalPlans::default(),
            explanation_url: None,
            renewal: None,
            hsts_from: None,
            hsts_held: None,
        }
    }

    /// Whether its certificate can't be renewed at present, for another reason than that it is not its turn yet.
    pub fn is_failing(&self) -> bool {
        let waits = |failure: &Failure| matches!(failure.class, FailureClass::Limit | FailureClass::Store);
        self.parked.is_some() || self.failure.as_ref().is_some_and(|failure| !waits(failure))
    }

    /// The age that its frontends announce now, seconds; `None`: no header.
    pub fn hsts_seconds(&self, now: Timestamp) -> Option<u64> {
        let hsts = self.site.hsts.filter(|_| !self.serving.current.is_empty())?;
        announced(&hsts.plan(self.hsts_standing(None)), now)
    }

    /// How it stands as far as HSTS goes; `ends`: the certificate.
    pub fn hsts_standing(&self, ends: Option<Timestamp>) -> HstsStanding {
        HstsStanding { from: self.hsts_from, failing: self.is_failing(), held: self.hsts_lowered(), ends }
    }

    /// What HSTS was lowered to when the certificate began to fail, seconds; `None` also where it was switched on since.
    pub fn hsts_lowered(&self) -> Option<u64> {
        let failing = self.parked.as_ref().map(|parked| parked.since);
        let since = self.failure.as_ref().map(|failure| failure.since.unwrap_or(failure.at));
        let began = failing.into_iter().chain(since).min();
        let switched_on = self.site.hsts.and_then(|hsts| hsts.since);
        self.hsts_held.filter(|_| began.is_none() || switched_on <= began)
    }

    /// Whether this certificate is what a slot serves, and was revoked.
    pub fn is_revoked(&self, slot: Slot, id: &CertificateId) -> bool {
        self.revoked.contains(&slot) && self.serving.current.get(&slot) == Some(id)
    }
}

/// Groups that were read, and those that can't be.
#[derive(Clone, Debug, Default)]
pub struct LoadedSites {
    pub sites: Vec<StoredSite>,
    pub damaged: Vec<DamagedSite>,
    /// Lists of sites that can't be read: what is in them is in none.
    pub unlisted: Vec<Damage>,
}

impl LoadedSites {
    /// How many there are, readable or not.
    pub const fn len(&self) -> usize {
        self.sites.len() + self.damaged.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last one in the order of the ids.
    pub fn last_id(&self) -> Option<&SiteId> {
        let sites = self.sites.last().map(|stored| &stored.id);
        // As they are listed: by partition, and there by their text.
        sites.max(self.damaged.last().map(|damaged| &damaged.site))
    }
}

/// The wanted state of a whole site.
#[derive(Clone, Debug)]
pub struct WantedSite {
    pub id: SiteId,
    /// With all its names.
    pub site: Site,
    pub groups: Groups,
    pub(super) revision: String,
}

/// A group that is no longer wanted.
#[derive(Clone, Debug)]
pub struct Retired {
    pub names: NameSet,
    /// When its certificates are deleted; `None`: that can't be read any more.
    pub delete_at: Option<Timestamp>,
    pub revision: u64,
}

/// A change of a site's wanted state.
#[derive(Clone, Debug)]
pub struct SiteChange {
    pub id: SiteId,
    /// What was read; `None`: the site must be new.
    pub before: Option<WantedSite>,
    /// With all its names.
    pub site: Site,
    /// Every group from now on; those that the site had and that are missing here are retired.
    pub groups: Groups,
    /// When a changed or new group is looked at.
    pub place: Place,
    /// Which of the groups are looked at then; the others have nothing new to be done for.
    pub touched: Vec<u16>,
    /// When a retired group is deleted.
    pub retired: Place,
    /// What failed of names that the site gets while another one had them.
    pub remembered: Failures,
    /// Certificates of the touched groups that were issued until then are none of what is wanted now.
    pub force: Option<Timestamp>,
    /// Events, JSON.
    pub events: Vec<String>,
}

impl Store {
    /// # Errors
    /// [`StoreError`]; a site that isn't there is `None`.
    pub async fn load_site(&self, id: &SiteId) -> Result<Option<StoredSite>, StoreError> {
        let record = self.load_group_records(std::slice::from_ref(id)).await?.pop();
        record.unwrap_or_else(|| Ok(HashMap::new())).and_then(|fields| parse(id, fields))
    }

    /// Many groups at once, in the order of `ids`; those that aren't there are left out, and those that can't be read are
    /// named.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn load_sites(&self, ids: &[SiteId]) -> Result<LoadedSites, StoreError> {
        let mut found = LoadedSites::default();
        for (id, record) in ids.iter().zip(self.load_group_records(ids).await?) {
            match record.and_then(|fields| parse(id, fields)) {
                Ok(Some(stored)) => found.sites.push(stored),
                Ok(None) => {}
                Err(error) => found.damaged.push(DamagedSite::of(id, &error)),
            }
        }
        Ok(found)
    }

    /// The wanted state of the site that `id` is, or is a group of.
    ///
    /// # Errors
    /// [`StoreError`]; a site that isn't there is `None`.
    pub async fn load_wanted(&self, id: &SiteId) -> Result<Option<WantedSite>, StoreError> {
        self.load_many_wanted(std::slice::from_ref(&id.site())).await?.pop().transpose().map(Option::flatten)
    }

    /// The wanted states of many sites, in the order of `ids`. One that can't be read is an error of that one.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn load_many_wanted(
        &self,
        ids: &[SiteId],
    ) -> Result<Vec<Result<Option<WantedSite>, StoreError>>, StoreError> {
        let mut found = Vec::new();
        for (id, record) in ids.iter().zip(self.load_group_records(ids).await?) {
            found.push(match record {
                Ok(root) => match self.wanted_of(id, root).await {
                    Err(error)
                        if !matches!(error, StoreError::Corrupt { .. } | StoreError::NewerSchema { .. }) =>
                    {
                        return Err(error);
                    }
                    wanted => wanted,
                },
                Err(error) => Err(error),
            });
        }
        Ok(found)
    }

    /// The wanted state that begins with the record of the first group.
    async fn wanted_of(
        &self,
        id: &SiteId,
        root: HashMap<String, String>,
    ) -> Result<Option<WantedSite>, StoreError> {
        let mut specs: Vec<(u16, Site)> = Vec::new();
        check_wanted(id, &root)?;
        if let Some(spec) = root.get("spec") {
            specs.push((0, parse_spec(id, spec)?));
        }
        let numbers = root.get("groups").map(String::as_str).unwrap_or_default();
        for number in numbers.split(',').filter_map(|number| number.parse().ok()).filter(|n| *n != 0) {
            let group = id.group(number);
            let record = self.load_group_records(std::slice::from_ref(&group)).await?.pop().transpose()?;
            if let Some(record) = &record {
                check_wanted(&group, record)?;
            }
            if let Some(spec) = record.and_then(|mut record| record.remove("spec")) {
                specs.push((number, parse_spec(&group, &spec)?));
            }
        }
        let Some((_, first)) = specs.first() else { return Ok(None) };
        let mut site = first.clone();
        let names = specs.iter().flat_map(|(_, spec)| spec.names.iter().cloned());
        site.names = NameSet::new(names).map_err(|e| StoreError::corrupt(keys::site(id), e))?;
        let groups = specs.into_iter().map(|(number, spec)| (number, spec.names)).collect();
        let revision = root.get("wrev").cloned().unwrap_or_else(|| "0".to_owned());
        Ok(Some(WantedSite { id: id.clone(), site, groups, revision }))
    }

    /// Writes a site's wanted state: its groups, their places in the schedule and what happened, at once.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the site was changed since it was read, or is there and must be new.
    pub async fn put_site(&self, change: &SiteChange) -> Result<(), StoreError> {
        let document = to_document(change)?;
        let mut touched = queues(change.id.partition());
        touched.extend(indexes(change.id.partition()));
        touched.push(keys::sites(change.id.partition()));
        let before = change.before.iter().flat_map(|before| before.groups.keys());
        let numbers: BTreeSet<u16> = change.groups.keys().chain(before).chain([&0]).copied().collect();
        touched.extend(numbers.into_iter().map(|number| keys::site(&change.id.group(number))));
        let arguments = [document.as_bytes()];
        // What is to go may go from a full store, too.
        let script = if change.groups.is_empty() { &scripts::REMOVE_SITE } else { &scripts::PUT_SITE };
        self.confirmed_whole_script::<String>(script, touched, &arguments).await.map(drop)
    }

    /// A group that is no longer wanted and waits for its deletion.
    ///
    /// # Errors
    /// [`StoreError`]; a group that isn't retired is `None`.
    pub async fn load_retired(&self, id: &SiteId) -> Result<Option<Retired>, StoreError> {
        let key = keys::site(id);
        let mut fields = cmd("HMGET");
        fields.arg(&key).arg("retired").arg("sched").arg("rev");
        let (spec, place, revision): (Option<String>, Option<String>, Option<String>) =
            self.link.query(&fields).await?;
        let Some(spec) = spec else { return Ok(None) };
        let names = parse_spec(id, &spec)?.names;
        let mut score = cmd("ZSCORE");
        score.arg(keys::retired(id.partition())).arg(id.as_str());
        let listed: Option<f64> = match self.link.query(&score).await {
            Err(StoreError::Corrupt { .. }) => None,
            listed => listed?,
        };
        // Before there was that list, its place alone said it: `CLASS DEADLINE`.
        let of_place = || place.as_deref()?.strip_prefix("c ")?.split(' ').next()?.parse().ok();
        let seconds = listed.map(|seconds| seconds as i64).or_else(of_place);
        let delete_at = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
        let revision = revision.and_then(|revision| revision.parse().ok());
        Ok(Some(Retired { names, delete_at, revision: revision.unwrap_or(0) }))
    }

    /// Replaces the wanted state.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the lease was lost.
    pub async fn write_site(&self, lease: &Lease, site: &Site) -> Result<(), StoreError> {
        let spec = serde_json::to_vec(site).map_err(|e| StoreError::corrupt(keys::site(&lease.site), e))?;
        self.write_field(lease, "spec", &spec).await
    }

    /// Marks what a slot serves as revoked: it no longer counts as a certificate that can be used.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the lease was lost.
    pub async fn mark_revoked(&self, lease: &Lease, slot: Slot) -> Result<(), StoreError> {
        self.write_field(lease, &format!("revoked:{slot}"), b"1").await
    }

    pub(super) async fn write_field(
        &self,
        lease: &Lease,
        field: &str,
        value: &[u8],
    ) -> Result<(), StoreError> {
        let arguments = [lease.token.as_bytes(), field.as_bytes(), value];
        self.confirmed_whole_script(&scripts::WRITE_SPEC, vec![keys::site(&lease.site)], &arguments).await
    }
}

/// A group with a place in the schedule is wanted, or was: one of which neither is said has lost it, and is not one that may go.
fn check_wanted(id: &SiteId, fields: &HashMap<String, String>) -> Result<(), StoreError> {
    let is_lost =
        fields.contains_key("sched") && !fields.contains_key("spec") && !fields.contains_key("retired");
    if is_lost { Err(StoreError::corrupt(keys::site(id), "what is wanted of it is missing")) } else { Ok(()) }
}

pub(super) fn parse_spec(id: &SiteId, text: &str) -> Result<Site, StoreError> {
    let site: Site = serde_json::from_str(text).map_err(|e| StoreError::corrupt(keys::site(id), e))?;
    if site.v > Site::VERSION {
        return Err(StoreError::NewerSchema { found: site.v, known: Site::VERSION });
    }
    Ok(site)
}

pub(super) fn parse(
    id: &SiteId,
    mut fields: HashMap<String, String>,
) -> Result<Option<StoredSite>, StoreError> {
    check_wanted(id, &fields)?;
    let Some(spec) = fields.remove("spec") else { return Ok(None) };
    let site = parse_spec(id, &spec)?;
    // What can't be read of how it stands is found out anew: it must not end its renewals.
    let (failure, cut, parked) =
        (memory(id, &fields, "failure"), memory(id, &fields, "cut"), memory(id, &fields, "parked"));
    let moment = |field: &str| {
        fields.get(field).and_then(|text| text.parse().ok()).and_then(|s| Timestamp::from_second(s).ok())
    };
    Ok(Some(StoredSite {
        id: id.clone(),
        site,
        serving: Serving::parse(&fields),
        revoked: Slot::ALL
            .into_iter()
            .filter(|slot| fields.contains_key(&format!("revoked:{slot}")))
            .collect(),
        failure,
        cut: cut.unwrap_or_default(),
        parked,
        revision: fields.get("rev").and_then(|text| text.parse().ok()).unwrap_or(0),
        retry: fields.contains_key("retry"),
        new_order: fields.get("retry").is_some_and(|wish| wish == RETRY_WITH_NEW_ORDER),
        force: moment("force"),
        held: moment("held"),
        alert: fields.get("alert").cloned(),
        renewals: fields.get("renewal").map_or_else(RenewalPlans::default, |text| RenewalPlans::parse(text)),
        explanation_url: fields.get("explanation").cloned(),
        hsts_from: moment("hsts_from"),
        hsts_held: fields.get("hsts_held").and_then(|text| text.parse().ok()),
        renewal: fields.get("sched").and_then(|record| schedule::renewal_in(record)),
    }))
}

fn memory<T: serde::de::DeserializeOwned>(
    id: &SiteId,
    fields: &HashMap<String, String>,
    name: &str,
) -> Option<T> {
    let read = serde_json::from_str(fields.get(name)?);
    read.inspect_err(
        |error| tracing::warn!(site = %id, field = name, %error, "what was remembered can't be read"),
    )
    .ok()
}

/// As `put_site.lua` takes it.
fn to_document(change: &SiteChange) -> Result<String, StoreError> {
    use serde_json::{Value, json};
    let corrupt = |e: serde_json::Error| StoreError::corrupt(keys::site(&change.id), e);
    let mut groups = Vec::new();
    for (number, names) in &change.groups {
        let spec = Site { names: names.clone(), ..change.site.clone() };
        let mut group = json!({
            "id": change.id.group(*number),
            "spec": serde_json::to_string(&spec).map_err(corrupt)?,
        });
        if change.touched.contains(number) {
            group["place"] = Value::String(schedule::to_record(&change.place));
            group["wait"] = Value::String(wait_ms(change.place.moment));
            match of_group(names.iter(), &change.remembered) {
                Restored::Nothing => {}
                Restored::Group(failure) => {
                    group["failure"] = Value::String(serde_json::to_string(failure).map_err(corrupt)?);
                }
                Restored::Names(cut) => group["cut"] = json!(cut),
            }
            if let Some(until) = change.force {
                // What was issued in this very second, too.
                group["force"] = Value::String(until.as_second().saturating_add(1).to_string());
            }
        }
        groups.push(group);
    }
    let before = change.before.iter().flat_map(|before| before.groups.keys());
    let retired = before.filter(|number| !change.groups.contains_key(number)).map(|number| {
        json!({
            "id": change.id.group(*number),
            "place": schedule::to_record(&change.retired),
            "delete_at": change.retired.moment.as_second().max(0).to_string(),
            "wait": wait_ms(change.retired.moment),
        })
    });
    let numbers: Vec<String> = change.groups.keys().map(u16::to_string).collect();
    let numbers = if numbers == ["0"] { String::new() } else { numbers.join(",") };
    let document = json!({
        "site": change.id,
        "change": random(),
        "revision": change.before.as_ref().map_or("", |before| before.revision.as_str()),
        "numbers": numbers,
        "groups": groups,
        "retired": retired.collect::<Vec<_>>(),
        "events": change.events,
    });
    Ok(document.to_string())
}
