//! `issuer status [NAME...]`

use super::{
    context::{Context, of_store, parse_names},
    fleet,
    output::{DAMAGED_REMEDY, Exit, Failed, Output},
    shown::to_text,
    site::of_site,
    troubles,
};
use crate::{ca::Terms, fleet::GroupStanding, issuance::seen_profiles, sites::Registry, waiting::Obstacles};
use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::{
        Certificate, CertificateId, DnsName, ExpiryStage, Leaf, RenewalPlan, Site, SiteId, Slot,
        expiry_stage, renewal_moment,
    },
    store::{Damage, DamagedSite, LoadedSites, StoreError, StoredSite, with_damage},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::OnceCell;

/// Where the store is far away, one after the other would take as many times as long.
const DESCRIBED_AT_ONCE: usize = 32;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Hostnames, or ids of sites; none: all sites
    names: Vec<String>,
    /// Begin after this site
    #[arg(long, value_name = "SITE")]
    after: Option<String>,
    /// Sites shown at most
    #[arg(long, default_value_t = 100, value_parser = super::site::at_least_one)]
    limit: usize,
    /// Only what fails or is parked
    #[arg(long)]
    troubled: bool,
    /// The frontends: what each of them serves, what not yet, and since when
    #[arg(long, conflicts_with_all = ["names", "after", "troubled"])]
    fleet: bool,
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    if arguments.fleet {
        return fleet::run(config, output).await;
    }
    let (ids, names) = ids_and_names(&arguments.names)?;
    let after = parse_after(arguments.after.as_deref())?;
    let context = Context::open(config, *output).await?;
    let store = &context.store;
    let mut next = None;
    let mut damaged: Vec<DamagedSite> = Vec::new();
    let mut sites = Vec::new();
    let mut met: Vec<Damage> = Vec::new();
    if arguments.troubled {
        let mut ids = store.list_troubled(false, arguments.limit).await.map_err(|e| of_store(&e))?;
        ids.extend(store.list_troubled(true, arguments.limit).await.map_err(|e| of_store(&e))?);
        ids.truncate(arguments.limit);
        LoadedSites { sites, damaged, .. } = store.load_sites(&ids).await.map_err(|e| of_store(&e))?;
    } else if arguments.names.is_empty() {
        let page = store.list_sites(after.as_ref(), arguments.limit).await.map_err(|e| of_store(&e))?;
        if page.len() >= arguments.limit {
            next = page.last_id().cloned();
        }
        LoadedSites { sites, damaged, unlisted: met } = page;
    }
    let registry = Registry::new(store.clone(), Arc::new(context.config.clone()));
    for id in &ids {
        let wanted = registry.find_by_id(id).await.map_err(|e| of_site(&e))?;
        let groups: Vec<SiteId> = wanted.groups.keys().map(|number| wanted.id.group(*number)).collect();
        let loaded = store.load_sites(&groups).await.map_err(|e| of_store(&e))?;
        damaged.extend(loaded.damaged);
        sites.extend(loaded.sites);
    }
    for name in &names {
        let groups = find_groups(&context, &registry, name).await?;
        damaged.extend(groups.damaged);
        for group in groups.sites {
            if !sites.iter().any(|known: &StoredSite| known.id == group.id) {
                sites.push(group);
            }
        }
    }
    // The keyring verifies the frontends' records; without it everything else is shown.
    let mut with_frontends = !arguments.names.is_empty() && !sites.is_empty();
    if with_frontends && let Err(failed) = context.vault(*output).await {
        output.note(&format!("the frontends are not shown: {}", failed.message()));
        with_frontends = false;
    }
    let known = Known::default();
    let mut shown = Vec::new();
    for some in sites.chunks(DESCRIBED_AT_ONCE) {
        let described = some.iter().map(async |site| {
            let mut described = match describe(&context, &known, site).await {
                Ok(described) => described,
                // A certificate of it: the others are shown all the same.
                Err(error @ (StoreError::Corrupt { .. } | StoreError::NewerSchema { .. })) => {
                    let what = shared::error::chain(&error);
                    let mut described = describe_damaged(&DamagedSite { site: site.id.clone(), what });
                    described["names"] = json!(site.site.names);
                    let unicode = site.site.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>();
                    described["names_unicode"] = json!(unicode);
                    described
                }
                Err(error) => return Err(error),
            };
            if with_frontends {
                described["frontends"] = json!(GroupStanding::load(store, &site.id).await?);
            }
            Ok(described)
        });
        shown.extend(try_join_all(described).await.map_err(|e: StoreError| of_store(&e))?);
    }
    shown.extend(damaged.iter().map(describe_damaged));
    let mut document = json!({ "sites": shown, "next": next });
    if arguments.names.is_empty() {
        // At once: where the store is far away, one after the other would take as many times as long.
        let pauses =
            try_join_all(context.config.ca.keys().map(async |ca| Ok((ca, store.list_pauses(ca).await?))));
        let of_store_alone = async {
            tokio::try_join!(
                store.load_of_schedule(),
                store.list_brakes(),
                pauses,
                store.list_damaged(),
                store.clock_offset(),
                Obstacles::load(store, &context.config),
                store.count_without_certificate(),
            )
            .map_err(|e: StoreError| of_store(&e))
        };
        let ((load, brakes, of_cas, damaged, clocks, obstacles, without_certificate), troubles, unconfigured) =
            tokio::try_join!(of_store_alone, troubles::load(&context), context.tell_of_unconfigured(*output))?;
        met.extend(brakes.damaged);
        let mut pauses = Vec::new();
        for (ca, of_ca) in of_cas {
            met.extend(of_ca.damaged);
            for pause in of_ca.found {
                let mut shown = json!(pause);
                shown["ca"] = json!(ca);
                pauses.push(shown);
            }
        }
        let damaged = with_damage(damaged, met);
        document["fleet"] = json!({
            "load": load,
            "has_issuer": obstacles.has_daemon(),
            "without_certificate": without_certificate,
            "troubles": troubles,
            "unconfigured_cas": unconfigured,
            "store_warnings": context.warnings,
            "brakes": brakes.found,
            "ca_pauses": pauses,
            "damaged": damaged,
            "store_clock_ahead_ms": i64::try_from(clocks.ahead.as_millis()).unwrap_or(i64::MAX),
        });
    }
    output.result(&document, || {
        let mut text = if document["fleet"].is_null() {
            String::new()
        } else {
            troubles::fleet_to_text(&document["fleet"])
        };
        text.push_str(&to_text(&shown));
        if let Some(next) = &next {
            text.push_str(&format!("\n\nmore: issuer status --after {next}"));
        }
        text
    });
    Ok(Exit::Done)
}

fn ids_and_names(texts: &[String]) -> Result<(Vec<SiteId>, Vec<DnsName>), Failed> {
    let ids = texts.iter().filter_map(|text| SiteId::parse(text)).collect();
    let rest: Vec<String> = texts.iter().filter(|text| SiteId::parse(text).is_none()).cloned().collect();
    Ok((ids, parse_names(&rest)?))
}

/// The groups that a name's site has: the one that serves the name, or is to, where it can be told.
async fn find_groups(context: &Context, registry: &Registry, name: &DnsName) -> Result<LoadedSites, Failed> {
    let wanted = match registry.find(name).await {
        Ok(wanted) => wanted,
        Err(crate::sites::SiteError::NotFound(_)) => {
            let message = format!("{}: nothing is known of this name", name.to_unicode());
            return Err(Failed::new(Exit::NotFound, "not-found", message));
        }
        Err(crate::sites::SiteError::Store(
            error @ (StoreError::Corrupt { .. } | StoreError::NewerSchema { .. }),
        )) => {
            // Which site it is, is said all the same.
            let pointer = context.store.load_pointer(name).await.map_err(|e| of_store(&e))?;
            let made = SiteId::of(&shared::domain::NameSet::one(name.clone()));
            let site = pointer.owner().or(pointer.serving).unwrap_or(made);
            let damaged = DamagedSite { site, what: shared::error::chain(&error) };
            return Ok(LoadedSites { damaged: vec![damaged], ..LoadedSites::default() });
        }
        Err(error) => return Err(of_site(&error)),
    };
    let ids: Vec<SiteId> = wanted
        .groups
        .iter()
        .filter(|(_, names)| names.contains(name))
        .map(|(number, _)| wanted.id.group(*number))
        .collect();
    context.store.load_sites(&ids).await.map_err(|e| of_store(&e))
}

pub(super) fn parse_after(text: Option<&str>) -> Result<Option<SiteId>, Failed> {
    let parse = |text: &str| {
        SiteId::parse(text)
            .ok_or_else(|| Failed::new(Exit::Usage, "usage", format!("{text:?} is no site id")))
    };
    text.map(parse).transpose()
}

/// The site that serves a name, or the one that was made for it and serves nothing yet.
pub(super) async fn find(context: &Context, name: &DnsName) -> Result<Option<StoredSite>, StoreError> {
    let id = match context.store.site_serving(name).await? {
        Some(id) => id,
        None => SiteId::of(&shared::domain::NameSet::one(name.clone())),
    };
    context.store.load_site(&id).await
}

/// A site whose record can't be read.
pub(super) fn describe_damaged(damaged: &DamagedSite) -> Value {
    json!({
        "site": damaged.site,
        "names": [],
        "names_unicode": [],
        "state": "damaged",
        "certificates": [],
        "damaged": damaged.what,
    })
}

/// What is wrong with records, and what to do about it.
pub(super) fn damaged_to_text(damaged: &[DamagedSite]) -> String {
    let one = |damaged: &DamagedSite| {
        format!("\n\n{}: damaged: {}\n  what to do: {DAMAGED_REMEDY}", damaged.site, damaged.what)
    };
    damaged.iter().map(one).collect()
}

/// What is read once for all sites, where it is needed: what is in the way of those without a certificate, and the profiles of
/// each CA.
#[derive(Default)]
pub(super) struct Known {
    obstacles: OnceCell<Obstacles>,
    profiles: OnceCell<BTreeMap<String, Option<Vec<String>>>>,
}

impl Known {
    /// What is to be said of a site's profile that its CA lacks.
    async fn lacks_profile(&self, context: &Context, site: &Site) -> Result<Option<String>, StoreError> {
        let Some(profile) = &site.profile else { return Ok(None) };
        let Ok(terms) = Terms::of(&context.config, Some(&site.ca)) else { return Ok(None) };
        let seen = self
            .profiles
            .get_or_try_init(async || {
                let mut seen = BTreeMap::new();
                for ca in context.config.ca.keys() {
                    if let Ok(terms) = Terms::of(&context.config, Some(ca)) {
                        let of_ca = seen_profiles(&context.store, ca, &terms.directory).await?;
                        seen.insert(ca.clone(), of_ca);
                    }
                }
                Ok::<_, StoreError>(seen)
            })
            .await?;
        Ok(terms.lacks_profile(profile, seen.get(&site.ca).and_then(Option::as_deref)))
    }
}

pub(super) async fn describe(
    context: &Context,
    known: &Known,
    stored: &StoredSite,
) -> Result<Value, StoreError> {
    let now = Timestamp::now();
    let mut certificates = Vec::new();
    let (mut expired, mut revoked) = (false, false);
    for (slot, id) in &stored.serving.current {
        let (certificate, leaf) = load(context, stored, id).await?;
        expired |= !leaf.is_valid_at(now);
        revoked |= stored.revoked.contains(slot);
        let mut shown = json!(leaf);
        shown["slot"] = json!(slot);
        shown["key_type"] = json!(certificate.key_type);
        shown["ca"] = json!(certificate.ca);
        shown["issued"] = json!(certificate.issued);
        shown["revoked"] = json!(stored.revoked.contains(slot));
        shown["expiry"] = json!(stage(leaf.not_before, leaf.not_after, now));
        shown["renewal"] = renewal(stored.renewals.get(*slot, id), id, certificate.life(&leaf), now);
        certificates.push(shown);
    }
    let mut kept = Vec::new();
    for (slot, id) in &stored.serving.kept {
        let (_, leaf) = load(context, stored, id).await?;
        if leaf.is_valid_at(now) {
            let names: Vec<_> = stored.cut.keys().filter(|name| leaf.covers(name)).collect();
            kept.push(
                json!({ "slot": slot, "serial": leaf.serial, "not_after": leaf.not_after, "names": names }),
            );
        }
    }
    let mut staged = json!(stored.serving.staged);
    for (slot, id) in stored.serving.staged.iter().flat_map(|staged| &staged.pointers) {
        let (_, leaf) = load(context, stored, id).await?;
        staged["certificates"][slot.as_str()] = json!({ "serial": leaf.serial, "not_after": leaf.not_after });
    }
    let mut orders = serde_json::Map::new();
    for slot in Slot::ALL {
        if let Some(open) = context.store.load_order(&stored.id, slot).await? {
            orders.insert(slot.to_string(), json!(open.order.state.as_str()));
        }
    }
    let usable = (!certificates.is_empty()).then_some(!expired && !revoked);
    let state = match state(stored, usable) {
        "valid" if revoked => "revoked",
        "valid" if expired => "expired",
        state => state,
    };
    let next_look = context.store.next_look(&stored.id).await?;
    let waits_for = match (state, &stored.failure) {
        ("pending", _) => {
            let obstacles =
                known.obstacles.get_or_try_init(|| Obstacles::load(&context.store, &context.config)).await?;
            let order = orders.values().next().and_then(Value::as_str);
            Some(obstacles.in_the_way_of(&stored.site, order, next_look, now))
        }
        ("waiting", Some(failure)) => Some(failure.what.clone()),
        _ => None,
    };
    Ok(json!({
        "site": stored.id,
        "names": stored.site.names,
        "names_unicode": stored.site.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>(),
        "key_types": stored.site.key_types,
        "ca": stored.site.ca,
        "tags": stored.site.tags,
        "state": state,
        "certificates": certificates,
        "kept": kept,
        "staged": staged,
        "order": orders,
        "failure": stored.failure,
        "left_out": stored.cut,
        "parked": stored.parked,
        "paused": stored.site.paused,
        "explanation_url": stored.explanation_url,
        "hsts_seconds": stored.hsts_seconds(now),
        "next": next_look,
        "waits_for": waits_for,
        "warnings": known.lacks_profile(context, &stored.site).await?.into_iter().collect::<Vec<_>>(),
    }))
}

/// When a certificate is renewed, and who says so: the CA (RFC 9773), or our own rule where it has said nothing.
fn renewal(
    plan: Option<&RenewalPlan>,
    id: &CertificateId,
    life: (Timestamp, Timestamp),
    now: Timestamp,
) -> Value {
    let (from, until) = life;
    match plan {
        Some(plan) => json!({
            "moment": plan.due(id, from, until, now),
            "window": plan.window,
            "by": if plan.heard.is_some() { "ca" } else { "rule" },
            "early": plan.early,
            "heard": plan.heard,
            "asked_again": plan.ask,
        }),
        None => json!({ "moment": renewal_moment(from, until, id.draw()), "by": "rule" }),
    }
}

async fn load(
    context: &Context,
    stored: &StoredSite,
    id: &CertificateId,
) -> Result<(Certificate, Leaf), StoreError> {
    let certificate = context.store.load_certificate(&stored.id, id).await?;
    let certificate = certificate.ok_or_else(|| StoreError::Corrupt {
        key: stored.id.to_string(),
        source: format!("the certificate {id} that it serves is missing").into(),
    })?;
    let leaf =
        certificate.leaf().map_err(|e| StoreError::Corrupt { key: id.to_string(), source: e.into() })?;
    Ok((certificate, leaf))
}

/// How a group stands, in one word: `paused`, `parked`, `failing`, `waiting`, `pending`, `degraded` (a name is left out of its
/// certificate) or `valid`.
fn state(stored: &StoredSite, usable: Option<bool>) -> &'static str {
    if stored.site.paused.is_some() {
        "paused"
    } else if stored.parked.is_some() {
        "parked"
    } else if let Some(failure) = &stored.failure {
        if failure.is_wait() { "waiting" } else { "failing" }
    } else if stored.serving.current.is_empty() && usable.is_none() {
        "pending"
    } else if !stored.cut.is_empty() {
        "degraded"
    } else {
        "valid"
    }
}

/// [`state`] as far as the group's record alone tells: not whether a certificate has expired.
pub(super) fn state_of_record(stored: &StoredSite) -> &'static str {
    let is_revoked = stored.serving.current.keys().any(|slot| stored.revoked.contains(slot));
    match state(stored, None) {
        "valid" if is_revoked => "revoked",
        state => state,
    }
}

fn stage(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> ExpiryStage {
    expiry_stage(not_before, not_after, now)
}
