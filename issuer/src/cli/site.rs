//! `issuer site add|set|show|list|remove|pause|resume|rollback`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, damage_to_text, table},
    settings::Settings,
    shown::to_text,
    site_move,
    site_names::{more_than_named, names_after},
    status,
    tenant::missing as missing_tenant,
};
use crate::{
    ca::Terms,
    sites::{Change, Kind, MOST_HOURS_HELD, Registry, SiteError, SiteWish, WishError},
    waiting::Obstacles,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::{DnsName, Origin, Site, SiteId, parse_tag},
    store::{Damage, DamagedSite, StoredSite, WantedSite},
    text::moment,
};
use std::sync::Arc;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Want a site: the daemon gets its certificates and keeps them renewed
    Add {
        /// Hostnames, in Unicode or A-labels
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        settings: Settings,
        /// It was served by something else before: redirects and HSTS stay off unless they are asked for
        #[arg(long)]
        imported: bool,
    },
    /// Change a site
    Set {
        /// Any of its names, or its id
        #[arg(required_unless_present = "of_ca")]
        name: Option<String>,
        #[arg(long = "add-name", value_name = "NAME")]
        add: Vec<String>,
        #[arg(long = "remove-name", value_name = "NAME")]
        remove: Vec<String>,
        /// In place of a name: every site that names this CA, to move them to the one of --ca. It need not be configured any more
        #[arg(long, value_name = "NAME", requires = "ca", conflicts_with_all = ["name", "add", "remove", "source"])]
        of_ca: Option<String>,
        /// With --of-ca: without being asked
        #[arg(long, requires = "of_ca")]
        yes: bool,
        /// Hand it over to the files of this source, whose next one must have it; empty: to nobody but people
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Everything that is known of a site
    Show {
        /// Any of its names, or its id
        name: String,
    },
    /// Sites, in the order of their ids
    List {
        #[arg(long, value_parser = parse_tag)]
        tag: Option<String>,
        #[arg(long)]
        tenant: Option<String>,
        /// Begin after this site
        #[arg(long, value_name = "SITE")]
        after: Option<String>,
        /// Sites shown at most; it is said where there are more
        #[arg(long, default_value_t = 100, value_parser = at_least_one)]
        limit: usize,
    },
    /// Want sites no longer: they are served no more, and their certificates are deleted after issuer.grace_hours
    Remove {
        /// Their names, or their ids
        #[arg(required = true)]
        names: Vec<String>,
        /// Remove a site with names that were not given, without being asked
        #[arg(long)]
        yes: bool,
    },
    /// Order nothing for sites; what is served is served on
    Pause {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Go on with paused sites
    Resume {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Serve the certificate before the present one again
    Rollback {
        name: String,
        /// How long it is left alone before it may be renewed
        #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u16).range(..=i64::from(MOST_HOURS_HELD)))]
        hold_hours: u16,
    },
}

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    if let Command::Add { settings, .. } = &command {
        // Before a store is opened, or a keyring made, for what can't be.
        let terms = Terms::of(&config, settings.ca.as_deref());
        terms.map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
    }
    let context =
        Context::open_for(!matches!(command, Command::List { .. } | Command::Show { .. }), config, *output)
            .await?;
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    match command {
        Command::Add { names, settings, imported } => {
            let wish = settings.to_wish(names, imported);
            let change = registry.add(&wish, Origin::Operator).await.map_err(|e| of_site(&e))?;
            told_of_orders(&context, output, change).await?;
        }
        Command::Set { of_ca: Some(from), yes, settings, .. } => {
            let wish = settings.to_wish(Vec::new(), false);
            return site_move::move_all(&context, &registry, &from, &wish, yes, output).await;
        }
        Command::Set { name, add, remove, source, settings, .. } => {
            let before = find(&registry, &name.unwrap_or_default()).await?;
            let names = names_after(&before, &add, &remove)?;
            let wish = SiteWish { source, ..settings.to_wish(names, false) };
            let change = registry.set(before, &wish).await.map_err(|e| of_site(&e))?;
            told_of_orders(&context, output, change).await?;
        }
        Command::Show { name } => {
            let wanted = find(&registry, &name).await?;
            return show(&context, &wanted, output).await;
        }
        Command::List { tag, tenant, after, limit } => {
            let of = |site: &Site| {
                tag.as_ref().is_none_or(|tag| site.tags.contains(tag))
                    && (tenant.is_none() || site.tenant == tenant)
            };
            let mut same = String::new();
            for (option, value) in [("--tag", &tag), ("--tenant", &tenant)] {
                same.extend(value.as_ref().map(|value| format!(" {option} {value}")));
            }
            return list(&context, of, tenant.as_deref(), &same, after.as_deref(), limit, output).await;
        }
        Command::Remove { names, yes } => {
            let sites = find_all(&registry, &names).await?;
            if let Some(more) = more_than_named(&sites, &names) {
                output.confirm(&more, yes).await?;
            }
            let mut changes = Vec::new();
            for wanted in sites {
                changes.push(registry.remove(wanted).await.map_err(|e| of_site(&e))?);
            }
            told(output, &changes, "");
        }
        Command::Pause { names } => set_paused(&registry, &names, true, output).await?,
        Command::Resume { names } => set_paused(&registry, &names, false, output).await?,
        Command::Rollback { name, hold_hours } => {
            let wanted = find(&registry, &name).await?;
            let hold = SignedDuration::from_hours(hold_hours.into());
            let back = registry.roll_back(&wanted, hold).await.map_err(|e| of_site(&e))?;
            output.result(&json!({ "rolled_back": back }), || {
                let row = |back: &crate::sites::RolledBack| {
                    vec![back.slot.to_string(), back.serial.clone(), moment(back.not_after)]
                };
                table(&["SERVED AGAIN", "SERIAL", "VALID UNTIL"], back.iter().map(row))
            });
        }
    }
    Ok(Exit::Done)
}

/// By one of its names, or by its id.
pub(super) async fn find(registry: &Registry, name: &str) -> Result<WantedSite, Failed> {
    if let Some(id) = SiteId::parse(name) {
        return registry.find_by_id(&id).await.map_err(|e| of_site(&e));
    }
    let name = DnsName::parse_identifier(name).map_err(|e| Failed::because(Exit::Usage, "names", &e))?;
    registry.find(&name).await.map_err(|e| of_site(&e))
}

/// All of them are looked for before any is changed; each site once.
async fn find_all(registry: &Registry, names: &[String]) -> Result<Vec<WantedSite>, Failed> {
    let mut found: Vec<WantedSite> = Vec::new();
    for name in names {
        let wanted = find(registry, name).await?;
        if !found.iter().any(|known| known.id == wanted.id) {
            found.push(wanted);
        }
    }
    Ok(found)
}

async fn set_paused(
    registry: &Registry,
    names: &[String],
    paused: bool,
    output: &Output,
) -> Result<(), Failed> {
    let mut changes = Vec::new();
    for wanted in find_all(registry, names).await? {
        let names = wanted.site.names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let wish = SiteWish { paused: Some(paused), ..SiteWish::for_names(&names) };
        changes.push(registry.set(wanted, &wish).await.map_err(|e| of_site(&e))?);
    }
    told(output, &changes, "");
    Ok(())
}

/// With what becomes of the certificates that are ordered because of it.
async fn told_of_orders(context: &Context, output: &Output, change: Change) -> Result<(), Failed> {
    let mut next = String::new();
    if !change.reissued.is_empty() {
        let obstacles = Obstacles::load(&context.store, &context.config).await.map_err(|e| of_store(&e))?;
        next = match obstacles.stops(&change.site, Timestamp::now()) {
            Some(why) => format!("its certificates wait: {why}"),
            None => "the daemon orders its certificates: see `issuer status`".to_owned(),
        };
    }
    told(output, &[change], &next);
    Ok(())
}

fn told(output: &Output, changes: &[Change], next: &str) {
    let document = |change: &Change| {
        json!({
            "change": change.kind,
            "site": change.id,
            "names": change.site.names,
            "differences": change.differences,
            "warnings": change.warnings,
            "reissued": change.reissued,
            "wanted": change.site,
        })
    };
    let documents: Vec<Value> = changes.iter().map(document).collect();
    for warning in changes.iter().flat_map(|change| &change.warnings) {
        output.note(&format!("note: {warning}"));
    }
    output.result(&json!({ "sites": documents }), || {
        let mut text = String::new();
        for change in changes {
            let names = change.site.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
            let kind = format!("{:?}", change.kind).to_lowercase();
            text.push_str(&format!("{kind}: {names}\n"));
            for difference in &change.differences {
                text.push_str(&format!("  {difference}\n"));
            }
            if change.kind == Kind::Changed && !change.reissued.is_empty() {
                let names = change.reissued.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
                text.push_str(&format!("  ordered: {names}\n"));
            }
        }
        text.push_str(next);
        text
    });
}

async fn show(context: &Context, wanted: &WantedSite, output: &Output) -> Result<Exit, Failed> {
    let ids: Vec<SiteId> = wanted.groups.keys().map(|number| wanted.id.group(*number)).collect();
    let groups = context.store.load_sites(&ids).await.map_err(|e| of_store(&e))?;
    let known = status::Known::default();
    let mut shown = Vec::new();
    for group in &groups.sites {
        shown.push(status::describe(context, &known, group).await.map_err(|e| of_store(&e))?);
    }
    shown.extend(groups.damaged.iter().map(status::describe_damaged));
    let document = json!({ "site": wanted.id, "wanted": wanted.site, "groups": shown });
    output.result(&document, || {
        let site = &wanted.site;
        let names = site.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
        let kinds = site.key_types.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ");
        let hsts = site.hsts.map_or_else(|| "off".to_owned(), |hsts| hsts.to_string());
        let mut told: Vec<u64> = shown.iter().filter_map(|group| group["hsts_seconds"].as_u64()).collect();
        told.sort_unstable();
        told.dedup();
        let told = match told.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => String::new(),
            told => format!(" (announced now: {told} s)"),
        };
        format!(
            "{names}\n  site {}, {} of {}, account {}, profile {}\n  keys {kinds}, {} certificates, tags {}, tenant {}\n  redirect {}, HSTS {hsts}{told}{}\n\n{}",
            wanted.id,
            site.san.as_str(),
            site.ca,
            site.account,
            site.profile.as_deref().unwrap_or("of the CA's choice"),
            wanted.groups.len() * site.key_types.len(),
            if site.tags.is_empty() { "none".to_owned() } else { site.tags.join(", ") },
            site.tenant.as_deref().unwrap_or("none"),
            if site.redirect.unwrap_or(false) { "on" } else { "off" },
            site.paused.map_or(String::new(), |since| format!(", PAUSED since {since}")),
            to_text(&shown),
        )
    });
    Ok(Exit::Done)
}

async fn list(
    context: &Context,
    of: impl Fn(&Site) -> bool,
    tenant: Option<&str>,
    filter: &str,
    after: Option<&str>,
    limit: usize,
    output: &Output,
) -> Result<Exit, Failed> {
    let mut after = status::parse_after(after)?;
    let mut found: Vec<StoredSite> = Vec::new();
    let mut next = None;
    let (mut damaged, mut unlisted): (_, Vec<Damage>) = (Vec::new(), Vec::new());
    while found.len() < limit {
        let page = context.store.list_sites(after.as_ref(), (limit * 2).clamp(100, 1000)).await;
        let page = page.map_err(|e| of_store(&e))?;
        unlisted.clone_from(&page.unlisted);
        let Some(last) = page.last_id() else { break };
        after = Some(last.clone());
        damaged.extend(page.damaged);
        for stored in page.sites.into_iter().filter(|stored| of(&stored.site)) {
            if found.len() == limit {
                next = found.last().map(|last| last.id.clone());
                break;
            }
            found.push(stored);
        }
    }
    if let (Some(tenant), true) = (tenant, found.is_empty())
        && matches!(context.store.load_tenant(tenant).await, Ok(None))
    {
        return Err(missing_tenant(tenant));
    }
    let document = |stored: &StoredSite| {
        json!({
            "site": stored.id,
            "wanted": stored.site,
            "state": status::state_of_record(stored),
            "failure": stored.failure,
            "parked": stored.parked,
        })
    };
    // Those of the pages that were read: whether they would have been listed can't be told.
    damaged.retain(|damaged| next.as_ref().is_none_or(|next| damaged.site <= *next));
    let documents: Vec<Value> = found.iter().map(document).collect();
    let all = context.store.load_of_schedule().await.map_err(|e| of_store(&e))?.groups;
    let named = damaged.iter().map(|damaged| json!(damaged)).chain(unlisted.iter().map(|list| json!(list)));
    let named: Vec<Value> = named.collect();
    output.result(&json!({ "sites": documents, "next": next, "all": all, "damaged": named }), || {
        let row = |stored: &StoredSite| {
            let names = stored.site.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
            let kinds = stored.site.key_types.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
            let state = status::state_of_record(stored).to_owned();
            vec![stored.id.to_string(), names, state, kinds, stored.site.tags.join(",")]
        };
        let of_damaged = |damaged: &DamagedSite| {
            let nothing = String::new;
            vec![damaged.site.to_string(), nothing(), "damaged".to_owned(), nothing(), nothing()]
        };
        let rows = found.iter().map(row).chain(damaged.iter().map(of_damaged));
        let mut text = table(&["SITE", "NAMES", "STATE", "KEYS", "TAGS"], rows);
        text.push_str(&status::damaged_to_text(&damaged));
        text.push_str(&damage_to_text(&unlisted));
        if let Some(next) = &next {
            text.push_str(&format!(
                "\n\n{} shown, of {all} in all; more: issuer site list{filter} --after {next} (or a larger --limit)",
                found.len()
            ));
        }
        text
    });
    Ok(Exit::Done)
}

pub(super) fn of_site(error: &SiteError) -> Failed {
    let (exit, kind) = match error {
        SiteError::Store(source) => return of_store(source),
        SiteError::Wish(wrong) if wrong.each().iter().any(|one| matches!(one, WishError::Name { .. })) => {
            let named = wrong.each().iter().filter_map(|one| match one {
                WishError::Name { name, error } => {
                    Some(json!({ "name": name, "rule": error.rule(), "message": error.to_string() }))
                }
                _ => None,
            });
            let names: Vec<Value> = named.collect();
            return Failed::because(Exit::Usage, "names", wrong).with_details(json!({ "names": names }));
        }
        SiteError::Wish(WishError::Ca(_)) => (Exit::Usage, "configuration"),
        SiteError::Wish(_) => (Exit::Usage, "usage"),
        SiteError::NotFound(_) | SiteError::NothingBefore(_) => (Exit::NotFound, "not-found"),
        SiteError::Taken { .. } | SiteError::Exists(..) => (Exit::Failed, "conflict"),
        SiteError::Changed => (Exit::Failed, "busy"),
    };
    Failed::because(exit, kind, error)
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "a number from 1".to_owned())
}
