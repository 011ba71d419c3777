//! `issuer limits [NAME...]`

use super::{
    context::{Context, of_store, parse_names},
    output::{Exit, Failed, Output, table},
    site::of_site,
};
use crate::{
    ca::Terms,
    issuance::DEFAULT_ACCOUNT,
    limits::{Gauge, Outlook, Overview, outlook, overview},
    sites::{Registry, SiteError},
    suffixes,
};
use jiff::Timestamp;
use serde_json::json;
use shared::{
    config::Config,
    domain::{DnsName, NameSet},
};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What one order of these hostnames would meet; none: what is near its edge
    names: Vec<String>,
    /// Only this CA; with hostnames, another one than theirs
    #[arg(long, value_name = "NAME")]
    ca: Option<String>,
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let names = parse_names(&arguments.names)?;
    let context = Context::open(config, *output).await?;
    if let Some(warning) = suffixes::warning(&context.config, Timestamp::now()) {
        output.note(&format!("warning: {warning}"));
    }
    if names.is_empty() {
        show_tight(arguments, &context, output).await
    } else {
        show_of(arguments, names, &context, output).await
    }
}

async fn show_tight(arguments: &Arguments, context: &Context, output: &Output) -> Result<Exit, Failed> {
    let wanted: Vec<&str> = match &arguments.ca {
        Some(name) => vec![name],
        None => context.config.ca.keys().map(String::as_str).collect(),
    };
    if wanted.is_empty() {
        terms(&context.config, None)?;
    }
    let mut shown = Vec::new();
    for name in wanted {
        let terms = terms(&context.config, Some(name))?;
        shown.push(overview(&context.store, &terms).await.map_err(|e| of_store(&e))?);
    }
    output.result(&json!({ "cas": shown }), || {
        shown.iter().map(overview_to_text).collect::<Vec<_>>().join("\n\n")
    });
    Ok(Exit::Done)
}

async fn show_of(
    arguments: &Arguments,
    names: Vec<DnsName>,
    context: &Context,
    output: &Output,
) -> Result<Exit, Failed> {
    // A name that is wanted already has a CA and an account.
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let known = match registry.find(&names[0]).await {
        Ok(wanted) => Some((wanted.site.ca, wanted.site.account)),
        Err(SiteError::NotFound(_)) => None,
        Err(error) => return Err(of_site(&error)),
    };
    let (ca, account) = match (&arguments.ca, known) {
        (None, Some((ca, account))) => (Some(ca), account),
        (Some(ca), Some((of, account))) if *ca == of => (Some(of), account),
        (ca, _) => (ca.clone(), DEFAULT_ACCOUNT.to_owned()),
    };
    let terms = terms(&context.config, ca.as_deref())?;
    let names = NameSet::new(names).map_err(|e| Failed::because(Exit::Usage, "names", &e))?;
    let suffixes = suffixes::current(&context.config);
    let shown =
        outlook(&context.store, &terms, &suffixes, &account, names).await.map_err(|e| of_store(&e))?;
    output.result(&shown, || outlook_to_text(&shown, &terms.title));
    Ok(Exit::Done)
}

fn terms(config: &Config, name: Option<&str>) -> Result<Terms, Failed> {
    Terms::of(config, name).map_err(|e| Failed::because(Exit::Usage, "configuration", &e))
}

fn overview_to_text(shown: &Overview) -> String {
    let mut text = format!("{} ({})", shown.title, shown.ca);
    for pause in &shown.pauses {
        let time = |moment: Timestamp| moment.strftime("%F %H:%M UTC").to_string();
        text.push_str(&format!(
            "\nPAUSED: since {} it wants no requests of the kind {:?}, until {}; the next one finds out at {} whether it takes them; \
             `issuer retry --ca {}` asks at once\n",
            time(pause.since),
            pause.endpoint,
            time(pause.until),
            time(pause.next_try),
            shown.ca
        ));
    }
    if shown.limits.is_empty() {
        return text + ": no limits are known of it; ca." + &shown.ca + ".limits_file can name some";
    }
    match shown.since {
        Some(since) => text.push_str(&format!(": counted since {}\n", since.strftime("%F %H:%M UTC"))),
        None => text.push_str(": nothing was ordered yet\n"),
    }
    text.push_str(&gauges_to_text(&shown.buckets));
    let waiting: u64 = shown.buckets.iter().map(|gauge| gauge.waiting).sum();
    if waiting > 0 {
        text.push_str(&format!(
            "\nabout {waiting} orders wait; each is placed by itself when its turn comes"
        ));
    }
    if shown.buckets.iter().any(|gauge| gauge.others_until.is_some()) {
        text.push_str(
            "\n*: the CA has counted more than this fleet has ordered: somebody else orders here as well",
        );
    }
    text
}

fn outlook_to_text(shown: &Outlook, title: &str) -> String {
    let names = shown.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
    if shown.buckets.is_empty() {
        return format!("{title}: no limits are known that hold for {names}");
    }
    let when = |next: Option<Timestamp>| {
        next.map_or_else(|| "now".to_owned(), |next| format!("at {}", next.strftime("%F %H:%M UTC")))
    };
    format!(
        "{names}, from {title} with the account {}\n{}\n\nA new order may be placed {}; one of exactly the same names as before {}; a renewal within the CA's window {}",
        shown.account,
        gauges_to_text(&shown.buckets),
        when(shown.next_new),
        when(shown.next_same_set),
        when(shown.next_ari),
    )
}

fn gauges_to_text(buckets: &[Gauge]) -> String {
    let rows = buckets.iter().map(|gauge| {
        let moment = |moment: Option<Timestamp>, none: &str| {
            moment.map_or_else(|| none.to_owned(), |moment| moment.strftime("%F %H:%M UTC").to_string())
        };
        vec![
            gauge.limit.clone(),
            format!("{}{}", gauge.of, if gauge.others_until.is_some() { " *" } else { "" }),
            format!("{} of {}", gauge.left, gauge.burst),
            moment(gauge.next, "now"),
            moment(gauge.full, "now"),
            if gauge.waiting > 0 {
                format!("{} until {}", gauge.waiting, moment(gauge.waiting_until, ""))
            } else {
                String::new()
            },
        ]
    });
    table(&["LIMIT", "OF", "LEFT", "NEXT (UTC)", "FULL AGAIN", "WAITING"], rows)
}
