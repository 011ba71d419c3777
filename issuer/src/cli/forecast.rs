//! `issuer forecast`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, table},
};
use crate::outlook::{OutlookError, Told, WhatIf, forecast};
use shared::{config::Config, domain::Plot};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// As if all were ordered from this CA
    #[arg(long, value_name = "NAME")]
    ca: Option<String>,
    /// As if all had this profile of the CA
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// As if certificates lived that long
    #[arg(long, value_name = "HOURS")]
    lifetime_hours: Option<f64>,
    /// As if there were so many certificates
    #[arg(long, value_name = "COUNT")]
    sites: Option<u64>,
    /// As if so many came new on each day
    #[arg(long, value_name = "COUNT")]
    new_per_day: Option<f64>,
    /// Characters of a line of the picture
    #[arg(long, default_value_t = 80)]
    width: usize,
    /// Draw with ASCII alone
    #[arg(long)]
    ascii: bool,
}

pub(super) async fn run(arguments: Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open(config, *output).await?;
    let confirm = context.config.store.confirm_replicas;
    let health = context.store.check(confirm).await.map_err(|e| of_store(&e))?;
    let plot = Plot { width: arguments.width.min(400), height: 10, ascii: arguments.ascii };
    let what_if = WhatIf {
        ca: arguments.ca,
        profile: arguments.profile,
        lifetime_hours: arguments.lifetime_hours,
        sites: arguments.sites,
        new_per_day: arguments.new_per_day,
    };
    let told = forecast(&context.store, &context.config, &what_if, health.used_memory_bytes).await;
    let told = told.map_err(|error| match &error {
        OutlookError::Store(error) => of_store(error),
        OutlookError::Ca(error) => Failed::because(Exit::Usage, "configuration", error),
        _ => Failed::because(Exit::Usage, "usage", &error),
    })?;
    output.result(&told, || to_text(&told, plot));
    Ok(Exit::Done)
}

fn to_text(told: &Told, plot: Plot) -> String {
    let lifetime = match told.lifetime_hours {
        hours if hours >= 240.0 => format!("{:.0} days", hours / 24.0),
        hours => format!("{hours:.0} hours"),
    };
    let profile = told.profile.as_ref().map(|name| format!(", profile {name}")).unwrap_or_default();
    let each = if told.certificates_per_site > 1.0 {
        format!(" x {} key types", told.certificates_per_site)
    } else {
        String::new()
    };
    let mut text = format!(
        "{} certificates{each}, {lifetime} each, from {}{profile}; {} new on each day\n\nRenewals an hour, the next 90 days:\n{}\n",
        told.sites,
        told.ca,
        told.new_per_day,
        plot.draw(&told.renewals_per_hour, told.from)
    );
    text.push_str(&format!(
        "Orders a day: {:.0} on average, {:.0} on the busiest, {}\n",
        told.mean_orders_per_day,
        told.busiest_day.count,
        told.busiest_day.from.strftime("%F")
    ));
    text.push_str(&format!(
        "Redis: {} at the end, {} bytes for a certificate{}",
        bytes(told.memory_bytes),
        told.bytes_per_certificate,
        if told.is_measured { "" } else { ", as benchmarked" }
    ));
    if !told.limits.is_empty() {
        let rows = told.limits.iter().map(|used| {
            vec![
                used.limit.clone(),
                format!("{:.0}", used.used_per_day),
                format!("{:.0}", used.allowed_per_day),
                format!("{:.0} %", used.used * 100.0),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&table(&["LIMIT", "USED A DAY", "ALLOWED", "SHARE"], rows));
        if told.limits.iter().any(|used| used.used > 1.0) {
            text.push_str("\n\nThat is more than the CA takes: what does not fit waits, longer every day. Ask the CA for a higher limit, or spread it over several accounts or CAs.");
        }
    }
    text
}

fn bytes(count: u64) -> String {
    match count as f64 {
        count if count >= 1e9 => format!("{:.1} GB", count / 1e9),
        count => format!("{:.0} MB", count / 1e6),
    }
}
