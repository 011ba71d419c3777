//! `/sites`: the wanted state, and having it looked at now.

use super::{
    Api,
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read, Write},
    listing,
    refusal::{Code, Refusal},
    server::BASE,
    view,
};
use crate::{
    issuance::paused,
    sites::{Change, Kind, MOST_HOURS_HELD, SiteError, SiteWish, in_words},
    waiting::Obstacles,
};
use actix_web::http::StatusCode;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::{
    domain::{DnsName, Origin, Partition, Site, SiteId},
    store::{StoreError, WantedSite},
};
use std::collections::HashSet;
use tokio::task::JoinSet;

/// Groups that are nudged at once.
const NUDGES: usize = 32;
/// Groups that are read at once.
const PAGE: usize = 500;

pub(super) async fn list(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    Ok(Answer::ok(&listing::page(&asked.api, &asked.query()?).await?))
}

pub(super) async fn add(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    let wish: SiteWish = asked.json()?;
    let registry = &asked.api.registry;
    let only_new = |change: &Change| {
        if !asked.only_creates() || change.kind == Kind::Added {
            return Ok(());
        }
        let message = format!("the site {} is there already: nothing was written", change.id);
        let details = json!({ "site": change.id });
        Err(Refusal::new(Code::PreconditionFailed, message).with_details(details))
    };
    if asked.only_creates() {
        only_new(&registry.plan(&wish, None, &Origin::Api.into()).await?)?;
    }
    let change = registry.add(&wish, Origin::Api).await?;
    // Somebody else was faster: then it is as it is wished.
    only_new(&change)?;
    let status = if change.kind == Kind::Added { StatusCode::CREATED } else { StatusCode::OK };
    Ok(Answer::new(status, &describe(&change)).at(format!("{BASE}/sites/{}", change.id)))
}

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let wanted = find(&asked).await?;
    let (mut views, damaged) = view::load(&asked.api.store, std::slice::from_ref(&wanted.id)).await?;
    if let Some(damaged) = damaged.into_iter().next() {
        let error = StoreError::Corrupt { key: damaged.site.to_string(), source: damaged.what.into() };
        return Err(error.into());
    }
    // Removed in this moment.
    let view = views.pop();
    let view = view.ok_or_else(|| SiteError::NotFound(asked.part("site")))?;
    let obstacles = Obstacles::load(&asked.api.store, &asked.api.config).await?;
    Ok(Answer::ok(&view.describe(&obstacles)).tagged(&view::wanted(&wanted.id, &wanted.site)))
}

pub(super) async fn change(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    let patch = Patch::parse(asked.json()?)?;
    let before = find(&asked).await?;
    asked.check_match(Some(&view::wanted(&before.id, &before.site)))?;
    let wish = patch.to_wish(&before.site)?;
    set(&asked.api, before, &wish).await
}

pub(super) async fn remove(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    let wanted = find(&asked).await?;
    asked.check_match(Some(&view::wanted(&wanted.id, &wanted.site)))?;
    let names = &wanted.site.names;
    if SiteId::parse(&asked.part("site")).is_none() && names.as_slice().len() > 1 {
        let message = format!("the site {} has the names {names}: nothing was removed", wanted.id);
        let details = json!({ "site": wanted.id, "names": names });
        return Err(Refusal::new(Code::MoreNames, message).with_details(details));
    }
    Ok(Answer::ok(&describe(&asked.api.registry.remove(wanted).await?)))
}

pub(super) async fn pause(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    set_paused(&asked, true).await
}

pub(super) async fn resume(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    set_paused(&asked, false).await
}

pub(super) async fn retry(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    nudge(&asked, false).await
}

pub(super) async fn renew(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    nudge(&asked, true).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RollBack {
    #[serde(default = "a_day")]
    hold_hours: u16,
}

const fn a_day() -> u16 {
    24
}

pub(super) async fn roll_back(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    let RollBack { hold_hours } = asked.query()?;
    if hold_hours > MOST_HOURS_HELD {
        let message = format!("hold_hours: {MOST_HOURS_HELD} at most");
        return Err(Refusal::new(Code::BadRequest, message));
    }
    let wanted = find(&asked).await?;
    let hold = SignedDuration::from_hours(hold_hours.into());
    let back = asked.api.registry.roll_back(&wanted, hold).await?;
    Ok(Answer::ok(&json!({ "site": wanted.id, "rolled_back": back })))
}

pub(super) async fn retry_all(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    let api = &asked.api;
    let mut nudged = 0;
    let mut under_way: JoinSet<Result<bool, SiteError>> = JoinSet::new();
    let mut count = |done: Result<Result<bool, SiteError>, tokio::task::JoinError>| {
        let done = done.map_err(|_| Refusal::new(Code::StoreUnavailable, "not everything was tried"))?;
        nudged += u64::from(done?);
        Ok::<_, Refusal>(())
    };
    for partition in Partition::all() {
        let mut groups = api.store.list_troubled_in(partition, false).await?;
        groups.extend(api.store.list_troubled_in(partition, true).await?);
        groups.sort();
        groups.dedup();
        // What is paused is left alone.
        let mut paused = HashSet::new();
        for ids in groups.chunks(PAGE) {
            let sites = api.store.load_sites(ids).await?.sites.into_iter();
            paused.extend(sites.filter(|stored| stored.site.paused.is_some()).map(|stored| stored.id));
        }
        for group in groups.into_iter().filter(|group| !paused.contains(group)) {
            if under_way.len() >= NUDGES
                && let Some(done) = under_way.join_next().await
            {
                count(done)?;
            }
            let registry = api.registry.clone();
            under_way.spawn(async move { registry.nudge_group(&group, None).await });
        }
    }
    while let Some(done) = under_way.join_next().await {
        count(done)?;
    }
    Ok(Answer::new(StatusCode::ACCEPTED, &Nudged { site: None, groups: nudged }))
}

#[derive(Serialize)]
struct Nudged {
    site: Option<SiteId>,
    groups: u64,
}

/// What a PATCH says: any setting of a wish, and names that come and go.
struct Patch {
    settings: Map<String, Value>,
    names: NamesChange,
}

#[derive(Default, Deserialize)]
struct NamesChange {
    #[serde(default)]
    add_names: Vec<String>,
    #[serde(default)]
    remove_names: Vec<String>,
}

impl Patch {
    fn parse(mut settings: Map<String, Value>) -> Result<Self, Refusal> {
        if settings.contains_key("names") {
            let message = "names can't be replaced as a whole: use add_names and remove_names";
            return Err(Refusal::new(Code::BadRequest, message));
        }
        let mut names = Map::new();
        for key in ["add_names", "remove_names"] {
            names.extend(settings.remove(key).map(|value| (key.to_owned(), value)));
        }
        Ok(Self { settings, names: from_value(Value::Object(names))? })
    }

    /// A name that is there already is not added twice, and one that has gone already is not missed: a patch can be
    /// repeated.
    fn to_wish(&self, site: &Site) -> Result<SiteWish, Refusal> {
        // Names that are no names are refused where all are checked; here they are compared as they are meant.
        let form = |text: &String| {
            DnsName::parse_identifier(text).map_or_else(|_| text.clone(), |name| name.to_string())
        };
        let removed: Vec<String> = self.names.remove_names.iter().map(form).collect();
        let mut names: Vec<String> = site.names.iter().map(ToString::to_string).collect();
        for added in self.names.add_names.iter().map(form) {
            if !names.contains(&added) {
                names.push(added);
            }
        }
        names.retain(|name| !removed.contains(name));
        let mut wish = self.settings.clone();
        // Taken away.
        for key in ["profile", "tenant"] {
            if wish.get(key).is_some_and(Value::is_null) {
                wish.insert(key.to_owned(), json!(""));
            }
        }
        wish.insert("names".to_owned(), json!(names));
        from_value(Value::Object(wish))
    }
}

fn from_value<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    serde_json::from_value(value)
        .map_err(|e| Refusal::new(Code::BadRequest, format!("the body can't be read: {}", in_words(&e))))
}

async fn set_paused(asked: &Asked, paused: bool) -> Result<Answer, Refusal> {
    let before = find(asked).await?;
    let names: Vec<String> = before.site.names.iter().map(ToString::to_string).collect();
    let wish = SiteWish { paused: Some(paused), ..SiteWish::for_names(&names) };
    set(&asked.api, before, &wish).await
}

async fn set(api: &Api, before: WantedSite, wish: &SiteWish) -> Result<Answer, Refusal> {
    let change = api.registry.set(before, wish).await?;
    Ok(Answer::ok(&describe(&change)).tagged(&view::wanted(&change.id, &change.site)))
}

async fn nudge(asked: &Asked, force: bool) -> Result<Answer, Refusal> {
    let wanted = find(asked).await?;
    if let Some(since) = wanted.site.paused {
        let details = json!({ "site": wanted.id, "paused": since });
        return Err(Refusal::new(Code::Paused, paused(&wanted.site.names, since)).with_details(details));
    }
    asked.api.registry.nudge(&wanted, force).await?;
    let groups = u64::try_from(wanted.groups.len()).unwrap_or(u64::MAX);
    Ok(Answer::new(StatusCode::ACCEPTED, &Nudged { site: Some(wanted.id), groups }))
}

/// The site that the path means, by a name or by its id.
async fn find(asked: &Asked) -> Result<WantedSite, Refusal> {
    let text = asked.part("site");
    let missing = || SiteError::NotFound(text.clone());
    if let Some(id) = SiteId::parse(&text) {
        return Ok(asked.api.store.load_wanted(&id).await?.ok_or_else(missing)?);
    }
    let name = DnsName::parse_identifier(&text).map_err(|_| missing())?;
    Ok(asked.api.registry.find(&name).await?)
}

fn describe(change: &Change) -> Value {
    json!({
        "change": change.kind,
        "site": view::wanted(&change.id, &change.site),
        "differences": change.differences,
        "warnings": change.warnings,
        "reissued": change.reissued,
    })
}
