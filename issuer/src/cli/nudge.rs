//! `issuer retry` and `issuer renew`: an operator wants something now.

use super::{
    context::{Context, of_store},
    issue,
    output::{Exit, Failed, Output},
    site::{find, of_site},
};
use crate::{
    issuance::{Urge, paused as why_paused},
    sites::Registry,
    waiting::Obstacles,
};
use jiff::Timestamp;
use serde_json::json;
use shared::{
    config::Config,
    domain::{Failure, NameSet, SiteId},
    error::Fault,
    store::StoredSite,
};
use std::{collections::BTreeSet, sync::Arc};

/// Sites that are read at once.
const PAGE: usize = 500;

#[derive(Debug, clap::Args)]
pub(super) struct Retry {
    /// Hostnames, or ids, of the sites that are tried again now, however long they would wait after what failed
    #[arg(required_unless_present_any = ["all", "ca"], value_name = "NAME, or --all, or --ca CA")]
    names: Vec<String>,
    /// Everything that fails or is parked
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// With another order in the place of one that is open; a certificate that the CA has issued for it is fetched first. With
    /// --ca, of everything that waits because of the CA
    #[arg(long, conflicts_with = "all")]
    new_order: bool,
    /// Everything of this CA that waits because of the CA itself; pauses that it has asked for end
    #[arg(long, value_name = "NAME", conflicts_with_all = ["names", "all"])]
    ca: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Renew {
    /// Hostnames whose certificates are renewed now where they are due
    #[arg(required_unless_present = "all", value_name = "NAME, or --all")]
    names: Vec<String>,
    /// Every site, by the daemon
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Whatever their age
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    from: issue::From,
}

/// The daemon does it: within a second where one runs.
pub(super) async fn retry(arguments: &Retry, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open_to_change(config, *output).await?;
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let mut groups: Vec<SiteId> = Vec::new();
    if let Some(name) = &arguments.ca {
        let ca = context.ca(Some(name.as_str()))?.name;
        let lifted = context.store.end_pauses(&ca).await.map_err(|e| of_store(&e))?;
        let waits =
            |stored: &StoredSite, failure: &Failure| stored.site.ca == ca && failure.fault == Fault::Ca;
        let (groups, paused) =
            without_paused(&context, those_that_fail_or_wait(&context, waits).await?).await?;
        let asked = if arguments.new_order {
            order_all_anew(&registry, &groups).await?
        } else {
            nudge_all(&registry, &groups, None).await?
        };
        let document = json!({ "ca": ca, "pauses_ended": lifted, "retried": asked, "paused": paused.len() });
        output.result(&document, || {
            format!("{lifted} pauses of {ca} have ended; {asked} sites are tried again now, by the daemon")
        });
        tell_of_paused(paused.len(), *output);
        tell_of_obstacles(&context, *output).await?;
        return Ok(Exit::Done);
    }
    let mut refused = Vec::new();
    if arguments.all {
        for parked in [false, true] {
            let troubled = context.store.list_troubled(parked, usize::MAX / 2).await;
            groups.extend(troubled.map_err(|e| of_store(&e))?);
        }
        groups.sort();
        groups.dedup();
    } else {
        for text in &arguments.names {
            let wanted = find(&registry, text).await?;
            match wanted.site.paused {
                Some(since) => refused.push((wanted.site.names, since)),
                None => groups.extend(wanted.groups.keys().map(|number| wanted.id.group(*number))),
            }
        }
    }
    let (groups, paused) = without_paused(&context, groups).await?;
    let asked = if arguments.new_order {
        order_all_anew(&registry, &groups).await?
    } else {
        nudge_all(&registry, &groups, None).await?
    };
    let names: Vec<&NameSet> = refused.iter().map(|(names, _)| names).collect();
    let document = json!({ "retried": asked, "paused": paused.len() + names.len(), "refused": names });
    output.result(&document, || {
        format!(
            "{asked} sites are tried again now, by the daemon: see `issuer status`, `issuer events --follow`"
        )
    });
    for (names, since) in &refused {
        output.note(&format!("{}: nothing is ordered: {}", names.to_unicode(), why_paused(names, *since)));
    }
    tell_of_paused(paused.len(), *output);
    if asked > 0 {
        tell_of_obstacles(&context, *output).await?;
    }
    Ok(if refused.is_empty() { Exit::Done } else { Exit::Waiting })
}

/// Named sites in the foreground, all of them by the daemon.
pub(super) async fn renew(arguments: Renew, config: Config, output: &Output) -> Result<Exit, Failed> {
    if !arguments.all {
        let urge = if arguments.force { Urge::Since(Timestamp::now()) } else { Urge::Due };
        return issue::run(
            issue::Arguments::for_renewal(arguments.names, arguments.from),
            urge,
            config,
            output,
        )
        .await;
    }
    if arguments.from.says_something() {
        let message = "--all renews every site from where it is: --ca, --account and --profile are for sites that are named";
        return Err(Failed::new(Exit::Usage, "usage", message));
    }
    let context = Context::open_to_change(config, *output).await?;
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let mut after: Option<SiteId> = None;
    let force = arguments.force.then(Timestamp::now);
    let (mut asked, mut paused) = (0, 0);
    loop {
        let page = context.store.list_sites(after.as_ref(), PAGE).await.map_err(|e| of_store(&e))?;
        let Some(last) = page.last_id() else { break };
        after = Some(last.clone());
        for damaged in &page.damaged {
            tracing::warn!(site = %damaged.site, what = damaged.what, "left alone: its record can't be read");
        }
        let (left, taken): (Vec<StoredSite>, _) =
            page.sites.into_iter().partition(|stored| stored.site.paused.is_some());
        paused += left.len();
        let groups: Vec<SiteId> = taken.into_iter().map(|stored| stored.id).collect();
        asked += nudge_all(&registry, &groups, force).await?;
    }
    let word = if arguments.force { "are renewed" } else { "are looked at, and renewed where they are due" };
    let document = json!({ "asked": asked, "paused": paused });
    output.result(&document, || format!("{asked} certificates {word}, by the daemon"));
    tell_of_paused(paused, *output);
    tell_of_obstacles(&context, *output).await?;
    Ok(Exit::Done)
}

/// What is asked for, and those that an operator has paused: nothing is ordered for them.
async fn without_paused(
    context: &Context,
    groups: Vec<SiteId>,
) -> Result<(Vec<SiteId>, BTreeSet<SiteId>), Failed> {
    let mut paused = BTreeSet::new();
    for ids in groups.chunks(PAGE) {
        let sites = context.store.load_sites(ids).await.map_err(|e| of_store(&e))?.sites;
        let of = sites.into_iter().filter(|stored| stored.site.paused.is_some());
        paused.extend(of.map(|stored| stored.id));
    }
    Ok((groups.into_iter().filter(|id| !paused.contains(id)).collect(), paused))
}

fn tell_of_paused(count: usize, output: Output) {
    if count > 0 {
        output.note(&format!("{count} are paused and left alone: `issuer site resume NAME` lets one go on"));
    }
}

/// Why the daemon does none of it for now, where that is known.
async fn tell_of_obstacles(context: &Context, output: Output) -> Result<(), Failed> {
    let obstacles = Obstacles::load(&context.store, &context.config).await.map_err(|e| of_store(&e))?;
    if let Some(why) = obstacles.of_all() {
        output.note(&format!("note: {why}"));
    }
    Ok(())
}

/// Tries again, by the daemons, whatever fails for a reason like this.
pub(super) async fn nudge_because(
    context: &Context,
    registry: &Registry,
    is_meant: impl Fn(&StoredSite, &Failure) -> bool,
) -> Result<usize, Failed> {
    let (groups, _) = without_paused(context, those_that_fail(context, is_meant).await?).await?;
    nudge_all(registry, &groups, None).await
}

async fn those_that_fail(
    context: &Context,
    is_meant: impl Fn(&StoredSite, &Failure) -> bool,
) -> Result<Vec<SiteId>, Failed> {
    let troubled = context.store.list_troubled(false, usize::MAX / 2).await.map_err(|e| of_store(&e))?;
    because(context, &troubled, is_meant).await
}

async fn because(
    context: &Context,
    groups: &[SiteId],
    is_meant: impl Fn(&StoredSite, &Failure) -> bool,
) -> Result<Vec<SiteId>, Failed> {
    let mut found = Vec::new();
    for ids in groups.chunks(PAGE) {
        let stored = context.store.load_sites(ids).await.map_err(|e| of_store(&e))?.sites;
        let meant =
            |stored: &&StoredSite| stored.failure.as_ref().is_some_and(|failure| is_meant(stored, failure));
        found.extend(stored.iter().filter(meant).map(|stored| stored.id.clone()));
    }
    Ok(found)
}

/// With those that wait for a limit or a pause. Where not all of these are in their list yet, every site is looked at.
async fn those_that_fail_or_wait(
    context: &Context,
    is_meant: impl Fn(&StoredSite, &Failure) -> bool,
) -> Result<Vec<SiteId>, Failed> {
    let mut found = Vec::new();
    if context.store.is_waiting_known().await.map_err(|e| of_store(&e))? {
        found = those_that_fail(context, &is_meant).await?;
        let waiting = context.store.list_waiting().await.map_err(|e| of_store(&e))?;
        found.extend(because(context, &waiting, &is_meant).await?);
        found.sort();
        found.dedup();
        return Ok(found);
    }
    let mut after = None::<SiteId>;
    loop {
        let page = context.store.list_sites(after.as_ref(), PAGE).await.map_err(|e| of_store(&e))?;
        let Some(last) = page.last_id() else { return Ok(found) };
        after = Some(last.clone());
        let meant =
            |stored: &&StoredSite| stored.failure.as_ref().is_some_and(|failure| is_meant(stored, failure));
        found.extend(page.sites.iter().filter(meant).map(|stored| stored.id.clone()));
    }
}

async fn order_all_anew(registry: &Registry, groups: &[SiteId]) -> Result<usize, Failed> {
    let mut asked = 0;
    for id in groups {
        asked += usize::from(registry.order_anew(id).await.map_err(|e| of_site(&e))?);
    }
    Ok(asked)
}

pub(super) async fn nudge_all(
    registry: &Registry,
    groups: &[SiteId],
    force: Option<Timestamp>,
) -> Result<usize, Failed> {
    let mut asked = 0;
    for chunk in groups.chunks(32) {
        let mut asking = tokio::task::JoinSet::new();
        for id in chunk {
            let (registry, id) = (registry.clone(), id.clone());
            asking.spawn(async move { registry.nudge_group(&id, force).await });
        }
        while let Some(answer) = asking.join_next().await {
            let answer = answer.map_err(|e| Failed::because(Exit::Failed, "bug", &e))?;
            asked += usize::from(answer.map_err(|e| of_site(&e))?);
        }
    }
    Ok(asked)
}
