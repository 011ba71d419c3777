//! `issuer pause` and `issuer resume`: brakes on issuance or publication, for everything, a CA or a tag.

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, damage_to_text, table},
};
use jiff::Timestamp;
use serde_json::json;
use shared::{
    config::Config,
    domain::{Brake, BrakeScope, Braked, Event, EventKind, parse_tag},
    store::Listing,
    text::{MOST_OF_REMARK, is_remark},
};

fn parse_remark(text: &str) -> Result<String, String> {
    if is_remark(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("use one line of {MOST_OF_REMARK} characters at most, and no control characters"))
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    which: Which,
    /// Why, for whoever looks at the status
    #[arg(long, default_value = "", value_parser = parse_remark)]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Resume {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// issuance: nothing new is ordered. publication: what is issued is kept back, and what was served is served on
    #[arg(value_enum)]
    what: What,
    /// Only sites of this CA
    #[arg(long, value_name = "NAME")]
    ca: Option<String>,
    /// Only sites with this tag
    #[arg(long, value_name = "TAG", conflicts_with = "ca", value_parser = parse_tag)]
    tag: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    Issuance,
    Publication,
}

impl Which {
    fn parts(&self) -> (Braked, BrakeScope) {
        let what = match self.what {
            What::Issuance => Braked::Issuance,
            What::Publication => Braked::Publication,
        };
        let scope = match (&self.ca, &self.tag) {
            (Some(ca), _) => BrakeScope::Ca(ca.clone()),
            (None, Some(tag)) => BrakeScope::Tag(tag.clone()),
            (None, None) => BrakeScope::All,
        };
        (what, scope)
    }
}

pub(super) async fn pause(arguments: &Pause, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open_to_change(config, *output).await?;
    let (what, scope) = arguments.which.parts();
    if let BrakeScope::Ca(ca) = &scope {
        // One with a misspelt name would stop nothing.
        context.ca(Some(ca))?;
    }
    let brake = Brake { what, scope, since: Timestamp::now(), reason: arguments.reason.clone() };
    context.store.set_brake(&brake).await.map_err(|e| of_store(&e))?;
    let event = Event::new(EventKind::BrakeOn, brake.since, brake.to_string());
    context.store.append_event(&event).await.map_err(|e| of_store(&e))?;
    show(&context, output).await
}

pub(super) async fn resume(arguments: &Resume, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open_to_change(config, *output).await?;
    let (what, scope) = arguments.which.parts();
    let released = context.store.release_brake(what, &scope).await.map_err(|e| of_store(&e))?;
    if !released {
        let on = context.store.list_brakes().await.map_err(|e| of_store(&e))?.found;
        let on: Vec<String> =
            on.iter().map(|brake| format!("{} for {}", brake.what, brake.scope.in_words())).collect();
        let stopped = if on.is_empty() { "nothing".to_owned() } else { on.join(", ") };
        let message = format!("{what} is not stopped for {}; stopped: {stopped}", scope.in_words());
        return Err(Failed::new(Exit::NotFound, "not-found", message));
    }
    let said = format!("{what} goes on for {}", scope.in_words());
    let event = Event::new(EventKind::BrakeOff, Timestamp::now(), said);
    context.store.append_event(&event).await.map_err(|e| of_store(&e))?;
    show(&context, output).await
}

async fn show(context: &Context, output: &Output) -> Result<Exit, Failed> {
    let Listing { found: brakes, damaged } = context.store.list_brakes().await.map_err(|e| of_store(&e))?;
    output.result(&json!({ "brakes": brakes, "damaged": damaged }), || {
        if brakes.is_empty() && damaged.is_empty() {
            return "nothing is stopped".to_owned();
        }
        let row = |brake: &Brake| {
            let since = brake.since.strftime("%F %H:%M UTC").to_string();
            vec![brake.what.to_string(), brake.scope.in_words(), since, brake.reason.clone()]
        };
        table(&["STOPPED", "FOR", "SINCE", "REASON"], brakes.iter().map(row)) + &damage_to_text(&damaged)
    });
    Ok(Exit::Done)
}
