//! A page of sites. Sites are gone through in the order of their ids; those that fail or are parked have an index.

use super::{
    Api,
    refusal::{Code, Refusal},
    view::{self, State, View},
};
use crate::waiting::Obstacles;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    domain::{Partition, SiteId},
    store::{Damage, DamagedSite, StoredSite},
};

const LIMIT: usize = 100;
const MOST: usize = 1_000;
/// A page ends with the site that brings it to this many names.
const MOST_NAMES: usize = 1_000;
/// Groups that are read at once.
const CHUNK: usize = 500;
/// Groups that are looked at for one page: with a filter that few sites pass, a page may hold less than it could.
const MOST_LOOKED_AT: usize = 20_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    after: Option<String>,
    limit: Option<usize>,
    tag: Option<String>,
    tenant: Option<String>,
    state: Option<State>,
}

/// What was found so far.
struct Page<'a> {
    wanted: &'a Wanted,
    obstacles: Obstacles,
    limit: usize,
    shown: Vec<Value>,
    names: usize,
    last: Option<SiteId>,
    /// Sites whose record can't be read: whether they pass the filter can't be told.
    damaged: Vec<DamagedSite>,
    /// Lists of sites that can't be read.
    unlisted: Vec<Damage>,
}

/// # Errors
/// 400 where the page can't be, 503.
pub(super) async fn page(api: &Api, wanted: &Wanted) -> Result<Value, Refusal> {
    let limit = wanted.limit.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(Refusal::new(Code::BadRequest, format!("limit: 1 to {MOST}")));
    }
    let after = wanted.after.as_deref().map(parse_site).transpose()?;
    let obstacles = Obstacles::load(&api.store, &api.config).await?;
    let mut page = Page {
        wanted,
        obstacles,
        limit,
        shown: Vec::new(),
        names: 0,
        last: None,
        damaged: Vec::new(),
        unlisted: Vec::new(),
    };
    let more = match wanted.state {
        Some(state @ (State::Failing | State::Parked)) => {
            troubled(api, after.as_ref(), state == State::Parked, &mut page).await?
        }
        _ => all(api, after, &mut page).await?,
    };
    let next = page.last.filter(|_| more);
    let mut damaged = page.damaged;
    damaged.retain(|damaged| next.as_ref().is_none_or(|next| damaged.site <= *next));
    let lists = page.unlisted.iter().map(|list| json!(list));
    let damaged: Vec<Value> = damaged.iter().map(|damaged| json!(damaged)).chain(lists).collect();
    Ok(json!({ "sites": page.shown, "next": next, "damaged": damaged }))
}

/// Goes through everything; whether there is more behind the page.
async fn all(api: &Api, after: Option<SiteId>, page: &mut Page<'_>) -> Result<bool, Refusal> {
    let mut place = after.clone();
    let mut looked_at = 0;
    // The groups of the site that is being read: it may go on in the next chunk.
    let mut open: Vec<StoredSite> = Vec::new();
    loop {
        let groups = api.store.list_sites(place.as_ref(), CHUNK).await?;
        page.unlisted.clone_from(&groups.unlisted);
        let Some(last) = groups.last_id().cloned() else { break };
        looked_at += groups.len();
        page.damaged.extend(groups.damaged);
        for group in groups.sites {
            if after.as_ref() == Some(&group.id.site()) {
                continue;
            }
            let is_another = open.first().is_some_and(|first| first.id.site() != group.id.site());
            if is_another {
                page.take(View::of(std::mem::take(&mut open))?);
                if page.is_full() || looked_at > MOST_LOOKED_AT {
                    return Ok(true);
                }
            }
            open.push(group);
        }
        place = Some(last);
    }
    page.take(View::of(open)?);
    Ok(false)
}

/// Goes through those in an index, one partition after the other.
async fn troubled(
    api: &Api,
    after: Option<&SiteId>,
    parked: bool,
    page: &mut Page<'_>,
) -> Result<bool, Refusal> {
    let first = after.map(SiteId::partition);
    for partition in Partition::all().skip_while(|partition| first.is_some_and(|first| *partition < first)) {
        let groups = api.store.list_troubled_in(partition, parked).await?;
        let mut sites: Vec<SiteId> = groups.iter().map(SiteId::site).collect();
        sites.sort();
        sites.dedup();
        sites.retain(|id| after.is_none_or(|after| id > after));
        for ids in sites.chunks(CHUNK) {
            let (views, damaged) = view::load(&api.store, ids).await?;
            page.damaged.extend(damaged);
            for view in views {
                if page.is_full() {
                    return Ok(true);
                }
                page.take(Some(view));
            }
        }
    }
    Ok(false)
}

impl Page<'_> {
    fn take(&mut self, view: Option<View>) {
        let Some(view) = view else { return };
        self.last = Some(view.id.clone());
        let is = |wish: &Option<String>, has: &dyn Fn(&String) -> bool| wish.as_ref().is_none_or(has);
        let passes = is(&self.wanted.tag, &|tag| view.site.tags.contains(tag))
            && is(&self.wanted.tenant, &|tenant| view.site.tenant.as_ref() == Some(tenant))
            && self.wanted.state.is_none_or(|state| view.state() == state);
        if passes {
            self.names += view.site.names.as_slice().len();
            self.shown.push(view.describe(&self.obstacles));
        }
    }

    fn is_full(&self) -> bool {
        self.shown.len() >= self.limit || self.names >= MOST_NAMES
    }
}

fn parse_site(text: &str) -> Result<SiteId, Refusal> {
    let id = SiteId::parse(text).filter(|id| id.number() == 0);
    id.ok_or_else(|| Refusal::new(Code::BadRequest, format!("after: {text:?} is no id of a site")))
}
