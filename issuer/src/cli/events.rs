//! `issuer events`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output},
};
use jiff::Timestamp;
use shared::{
    config::{Config, Interval},
    domain::{DnsName, EventKind, SiteId},
    store::{EventCursor, EventFilter, LostEvents, Store, StoreError, StoredEvent},
};
use std::time::Duration;

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(500);
/// Events of one partition that are read at once.
const PAGE: usize = 200;
const LIMIT: usize = 50;
/// Shown at most where `--since` says how far to go back.
const MOST: usize = 100_000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Go on with what happens, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Not older than this: `30m`, `2h`, `7d`, or a time such as `2026-11-24T15:00:00Z`
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// The newest N [default: 50, and with --since all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only this kind; may be given more than once
    #[arg(long = "kind", value_name = "KIND", long_help = kinds_help())]
    kinds: Vec<EventKind>,
    /// Only what concerns this name, or the site with this id
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
}

impl Arguments {
    /// Whether Ctrl-C is how it is meant to end.
    pub(super) fn follows(&self) -> bool {
        self.follow
    }
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let since = arguments.since.as_deref().map(|text| parse_since(text, Timestamp::now())).transpose()?;
    let context = Context::open(config, *output).await?;
    let store = &context.store;
    let mut filter = EventFilter { kinds: arguments.kinds.clone(), since, ..EventFilter::default() };
    if let Some(text) = &arguments.site {
        of_site(text, store, &mut filter).await?;
    }
    let default = if since.is_some() { MOST } else { LIMIT };
    let limit = arguments.limit.unwrap_or(default);
    let now = store.events_now().await.map_err(|e| of_store(&e))?;
    let latest = store.latest_events(limit, &filter).await.map_err(|e| of_store(&e))?;
    // What came in between is left to following, which begins at `now`.
    let latest = latest.iter().filter(|stored| !arguments.follow || now.is_past(stored.id));
    let mut latest = latest.peekable();
    let may_be_mistyped = latest.peek().is_none() && !arguments.follow && filter.kinds.is_empty();
    if let (Some(name), None, true) = (&filter.name, since, may_be_mistyped)
        && store.load_pointer(name).await.is_ok_and(|pointer| pointer.owner().is_none())
    {
        let message =
            format!("{}: there is no site of this name, and no event mentions it", name.to_unicode());
        return Err(Failed::new(Exit::NotFound, "not-found", message));
    }
    if !show(latest, output) || !arguments.follow {
        return Ok(Exit::Done);
    }
    follow(store, now, &filter, output).await
}

/// Goes on until nobody reads any more, or Ctrl-C.
async fn follow(
    store: &Store,
    mut cursor: EventCursor,
    filter: &EventFilter,
    output: &Output,
) -> Result<Exit, Failed> {
    let mut is_away = false;
    loop {
        match store.events_after(&cursor, PAGE).await {
            Ok(page) => {
                if is_away {
                    output.note("the store answers again");
                    is_away = false;
                }
                page.lost.iter().for_each(|lost| output.note(&describe(lost)));
                cursor = page.cursor;
                if !show(page.events.iter().filter(|stored| filter.wants(&stored.event)), output) {
                    return Ok(Exit::Done);
                }
                if page.more {
                    continue;
                }
            }
            Err(error @ (StoreError::Unavailable(_) | StoreError::Timeout(..) | StoreError::Embedded(_))) => {
                if !is_away {
                    output.note(&format!("{}: waiting for it", shared::error::chain(&error)));
                    is_away = true;
                }
            }
            Err(error) => return Err(of_store(&error)),
        }
        if shared::printing::has_reader_gone() {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `false` once nobody reads any more.
fn show<'a>(events: impl Iterator<Item = &'a StoredEvent>, output: &Output) -> bool {
    for stored in events {
        if !output.line(stored, || text(stored)) {
            return false;
        }
    }
    true
}

fn text(stored: &StoredEvent) -> String {
    let event = &stored.event;
    let names = match &event.names[..] {
        [] => event.ca.clone().unwrap_or_else(|| "-".to_owned()),
        [only] => only.to_unicode(),
        [first, rest @ ..] => format!("{} (+{})", first.to_unicode(), rest.len()),
    };
    let at = shared::text::moment(event.at);
    let mut text =
        format!("{at}  {:<8}  {:<15}  {names}  {}", event.severity, event.kind, one_line(&event.what));
    if let Some(remedy) = &event.remedy {
        text.push_str(&format!("\n    what to do: {}", one_line(remedy)));
    }
    text
}

/// What a CA wrote may hold anything; a line stays one, and a terminal is told nothing.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn describe(lost: &LostEvents) -> String {
    format!(
        "1+ events of partition {} between {} and {} were lost to trimming before they could be shown",
        lost.partition, lost.after, lost.before
    )
}

/// A site that never had a certificate has no name that leads to it: then whatever mentions the name is shown.
async fn of_site(text: &str, store: &Store, filter: &mut EventFilter) -> Result<(), Failed> {
    if let Some(id) = SiteId::parse(text) {
        filter.site = Some(id);
        return Ok(());
    }
    let name = DnsName::parse_identifier(text).map_err(|e| Failed::because(Exit::Usage, "usage", &e))?;
    filter.site = store.site_of(&name).await.map_err(|e| of_store(&e))?;
    filter.name = Some(name);
    Ok(())
}

fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp, Failed> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let ago = Interval::parse(text).ok().and_then(|interval| now.checked_sub(interval.length()).ok());
    ago.ok_or_else(|| {
        let message =
            format!("--since {text:?}: expected 30m, 2h, 7d or a time such as 2026-11-24T15:00:00Z");
        Failed::new(Exit::Usage, "usage", message)
    })
}

fn kinds_help() -> String {
    let kinds: Vec<String> =
        EventKind::ALL.iter().map(|kind| format!("  {kind:<15} {}", kind.meaning())).collect();
    format!("Only this kind; may be given more than once:\n{}", kinds.join("\n"))
}
