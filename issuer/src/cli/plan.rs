//! `issuer plan FILE` and `issuer apply FILE`

use super::{
    context::Context,
    output::{Exit, Failed, Output, table},
};
use crate::{
    limits::Wait,
    sites::{Plan, PlanError, Planned, Registry, WishFile, apply_file, plan_file},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shared::{config::Config, domain::DnsName};
use std::{path::PathBuf, sync::Arc, time::Duration};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Every site that is wanted: TOML with a table for each site, or NDJSON with a site on each line
    file: PathBuf,
    /// Changes that are listed at most; all are counted
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Remove what the file lacks, however much that is
    #[arg(long)]
    remove_many: bool,
}

pub(super) async fn plan(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open(config, *output).await?;
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let bar = progress(arguments, output)?;
    let planned = plan_file(&registry, &arguments.file, arguments.limit, |done| bar.inc(done as u64)).await;
    bar.finish_and_clear();
    let planned = planned.map_err(|e| of_plan(&e))?;
    output.result(&planned, || to_text(&planned, "would be "));
    Ok(Exit::Done)
}

pub(super) async fn apply(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open(config, *output).await?;
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let bar = progress(arguments, output)?;
    let applied = apply_file(&registry, &arguments.file, arguments.limit, arguments.remove_many, |done| {
        bar.inc(done as u64)
    })
    .await;
    bar.finish_and_clear();
    let applied = applied.map_err(|e| of_plan(&e))?;
    let failed: Vec<Value> = applied
        .failed
        .iter()
        .map(|(names, error)| json!({ "names": names, "message": shared::error::chain(error) }))
        .collect();
    let mut document = json!(applied.plan);
    document["failed"] = json!(failed);
    output.result(&document, || to_text(&applied.plan, ""));
    for (names, error) in &applied.failed {
        output.note(&format!("{names}: {}", shared::error::chain(error)));
    }
    Ok(if failed.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Counted beforehand, which costs a moment, where somebody watches.
fn progress(arguments: &Arguments, output: &Output) -> Result<ProgressBar, Failed> {
    if !output.has_watcher() {
        return Ok(ProgressBar::hidden());
    }
    let lines =
        WishFile::open(&arguments.file).map_err(|e| Failed::because(Exit::Usage, "file", &e))?.count();
    let bar = ProgressBar::new(lines as u64);
    let style = "{bar:30} {pos} of {len} sites, {per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(250));
    Ok(bar)
}

fn of_plan(error: &PlanError) -> Failed {
    match error {
        PlanError::File(_) | PlanError::Mistakes { .. } => Failed::because(Exit::Usage, "file", error),
        PlanError::TooManyRemovals { .. } => Failed::because(Exit::Usage, "removals", error),
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
    text.push_str(&format!(
        "{} sites {would}added, {} changed, {} removed, {} unchanged; {} certificates {would}ordered, {} of the changes wait",
        plan.added, plan.changed, plan.removed, plan.unchanged, plan.orders, plan.waiting
    ));
    if let Some(longest) = plan.limits.first() {
        text.push_str(&format!(
            "\nThe limits of {} make it take {}, until {}:\n",
            longest.ca,
            in_words(longest.seconds),
            longest.until.strftime("%F %T UTC")
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
