//! `issuer plan FILE` and `issuer apply FILE`

use super::{
    context::Context,
    output::{Exit, Failed, Output, table},
    texts::read_text,
};
use crate::{
    ca::CaError,
    limits::Wait,
    sites::{
        Applied, Plan, PlanError, Planned, Registry, SiteFile, WishFile, apply_file, is_word, plan_file,
    },
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::{DEFAULT_SOURCE, DnsName},
};
use std::{path::PathBuf, sync::Arc, time::Duration};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Every site that is wanted of the source: TOML with a table for each site, or NDJSON with a site on each line; - is
    /// standard input
    file: PathBuf,
    /// Only sites that files of this source have added are changed or removed: several files live side by side
    #[arg(long, value_name = "NAME", default_value = DEFAULT_SOURCE)]
    source: String,
    /// Changes and mistakes that are listed at most; all are counted
    #[arg(long, default_value_t = 100, conflicts_with = "all")]
    limit: usize,
    /// List all of them
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    #[command(flatten)]
    arguments: Arguments,
    /// Remove up to so many sites that the file lacks, where they are more than a tenth of the source's or the file holds none
    #[arg(long, value_name = "NUMBER")]
    remove: Option<usize>,
}

pub(super) async fn plan(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let file = arguments.read(*output).await?;
    let context = Context::open(config, *output).await?;
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let bar = progress(&file, output);
    let planned = plan_file(&registry, &file, |done| bar.inc(done as u64)).await;
    bar.finish_and_clear();
    let planned = planned.map_err(|e| of_plan(&e))?;
    let exit = tell(&planned, "would be ", output);
    if let Some(number) = planned.plan.needs_remove.filter(|number| *number > 0) {
        output.note(&format!("note: `issuer apply` removes them with --remove {number} alone"));
    }
    Ok(exit)
}

pub(super) async fn apply(arguments: &Apply, config: Config, output: &Output) -> Result<Exit, Failed> {
    let Apply { arguments, remove } = arguments;
    if config.ca.is_empty() {
        let message = shared::error::chain(&CaError::NoneConfigured);
        return Err(Failed::new(Exit::Usage, "configuration", message));
    }
    let file = arguments.read(*output).await?;
    let context = Context::open_to_change(config, *output).await?;
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let bar = progress(&file, output);
    let applied = apply_file(&registry, &file, *remove, |done| bar.inc(done as u64)).await;
    bar.finish_and_clear();
    Ok(tell(&applied.map_err(|e| of_plan(&e))?, "", output))
}

impl Arguments {
    /// Once, to its end: a pipe can't be read again.
    async fn read(&self, output: Output) -> Result<SiteFile, Failed> {
        if !is_word(&self.source) {
            let message = format!(
                "{:?} can't be a source: use 1 to 63 characters of a-z, A-Z, 0-9, -, _ and .",
                self.source
            );
            return Err(Failed::new(Exit::Usage, "usage", message));
        }
        let file = read_text(&self.file, output).await?;
        let listed = if self.all { usize::MAX } else { self.limit };
        Ok(SiteFile { file, source: self.source.clone(), listed })
    }
}

fn tell(applied: &Applied, would: &str, output: &Output) -> Exit {
    let failed: Vec<Value> = applied
        .failed
        .iter()
        .map(|(names, error)| json!({ "names": names, "message": shared::error::chain(error) }))
        .collect();
    let mut document = json!(applied.plan);
    document["failed"] = json!(failed);
    output.result(&document, || to_text(&applied.plan, would));
    applied.plan.warnings.iter().for_each(|warning| output.note(&format!("note: {warning}")));
    for (names, error) in &applied.failed {
        output.note(&format!("{}: {}", names.to_unicode(), shared::error::chain(error)));
    }
    if failed.is_empty() { Exit::Done } else { Exit::Failed }
}

/// Counted beforehand, which costs a moment, where somebody watches.
fn progress(file: &SiteFile, output: &Output) -> ProgressBar {
    if !output.has_watcher() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(WishFile::of(&file.file).count() as u64);
    let style = "{bar:30} {pos} of {len} sites, {per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn of_plan(error: &PlanError) -> Failed {
    match error {
        PlanError::File(_) => Failed::because(Exit::Usage, "file", error),
        PlanError::Mistakes { shown, more } => Failed::because(Exit::Usage, "file", error)
            .with_details(json!({ "mistakes": shown, "more": more })),
        PlanError::TooManyRemovals { removed, known, source_name, .. } => {
            Failed::because(Exit::Usage, "removals", error)
                .with_details(json!({ "removed": removed, "known": known, "source": source_name }))
        }
        PlanError::Store(source) => super::context::of_store(source),
    }
}

fn to_text(plan: &Plan, would: &str) -> String {
    let row = |planned: &Planned| {
        let names = planned.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
        let mut what = planned.differences.join("\n");
        if let Some(waits) = &planned.waits_for {
            what.push_str(&format!("\nwaits: {waits}"));
        }
        let reissued = if planned.reissued.is_empty() { "" } else { "yes" };
        let kind = format!("{:?}", planned.kind).to_lowercase();
        vec![kind, names, what.trim().to_owned(), reissued.to_owned()]
    };
    let mut text = String::new();
    if !plan.changes.is_empty() {
        text = table(&["CHANGE", "NAMES", "WHAT", "ORDERED"], plan.changes.iter().map(row));
        text.push_str("\n\n");
    }
    if plan.omitted > 0 {
        text.push_str(&format!("... and {} more changes\n\n", plan.omitted));
    }
    // The daemon orders, not this command.
    let ordered = if would.is_empty() { "to be " } else { would };
    text.push_str(&format!(
        "{} sites {would}added, {} changed, {} removed, {} unchanged; {} certificates {ordered}ordered, {} of the changes wait",
        plan.added, plan.changed, plan.removed, plan.unchanged, plan.orders, plan.waiting
    ));
    if let Some(longest) = plan.limits.first() {
        text.push_str(&format!(
            "\nThe limits of {} make it take {}, until {}:\n",
            longest.ca,
            in_words(longest.seconds),
            longest.until.strftime("%F %H:%M UTC")
        ));
        let row = |wait: &Wait| {
            vec![
                wait.limit.clone(),
                wait.of.clone(),
                wait.orders.to_string(),
                in_words(wait.seconds),
                wait.ca.clone(),
            ]
        };
        text.push_str(&table(&["LIMIT", "OF", "ORDERS", "TAKES", "CA"], plan.limits.iter().map(row)));
    }
    text
}

fn in_words(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} seconds"),
        120..=7199 => format!("{} minutes", seconds.div_ceil(60)),
        7200..=172_799 => format!("{:.1} hours", seconds as f64 / 3600.0),
        _ => format!("{:.1} days", seconds as f64 / 86_400.0),
    }
}
