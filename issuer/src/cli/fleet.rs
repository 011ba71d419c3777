//! `issuer status --fleet`: the frontends.

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, table},
};
use crate::fleet::{Convergence, FrontendStanding, Standing};
use jiff::Timestamp;
use serde_json::json;
use shared::{
    config::Config,
    domain::{DnsName, for_people},
};

/// Groups that are named.
const SHOWN: usize = 50;

pub(super) async fn run(config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open_with_vault(config, *output).await?;
    let now = Timestamp::now();
    let silent = context.config.frontends.silence();
    let fleet = Convergence::load(&context.store, now, silent).await.map_err(|e| of_store(&e))?;
    output.result(&json!(fleet), || to_text(&fleet, now));
    Ok(Exit::Done)
}

fn to_text(fleet: &Convergence, now: Timestamp) -> String {
    if fleet.frontends.is_empty() {
        return "there are no frontends: see `issuer frontend add --help`".to_owned();
    }
    let rows = fleet.frontends.iter().map(|frontend| {
        let at_least = if frontend.behind_more { "+" } else { "" };
        vec![
            frontend.name.clone(),
            word(frontend.standing).to_owned(),
            frontend.reported.map_or_else(|| "never".to_owned(), |at| format!("{} s ago", age(at, now))),
            frontend.items.to_string(),
            format!("{}{at_least}", frontend.behind),
            frontend.problem_count.to_string(),
            if frontend.probes { "yes" } else { "no" }.to_owned(),
        ]
    });
    let mut text =
        table(&["FRONTEND", "STANDING", "REPORTED", "ITEMS", "BEHIND", "PROBLEMS", "LOOKS ITSELF"], rows);
    for frontend in &fleet.frontends {
        text.push_str(&problems(frontend));
    }
    if !fleet.waiting.is_empty() {
        text.push_str("\n\nNot everywhere yet:");
        for group in fleet.waiting.iter().take(SHOWN) {
            let name = group.names.first().map_or_else(|| group.site.to_string(), DnsName::to_unicode);
            let since = group.since.map_or_else(String::new, |at| format!(", issued {} s ago", age(at, now)));
            text.push_str(&format!("\n  {name}{since}: {}", group.frontends.join(" ")));
        }
        if fleet.waiting.len() > SHOWN {
            text.push_str(&format!("\n  and {} more (--json)", fleet.waiting.len() - SHOWN));
        }
    }
    let live = fleet.live_after_seconds;
    if live.count > 0 {
        text.push_str(&format!(
            "\n\nFrom issuance until it was seen to be served, s: half within {}, 95 % within {}, 99 % within {}, all within {} ({} certificates)",
            live.p50, live.p95, live.p99, live.max, live.count
        ));
    }
    text
}

fn problems(frontend: &FrontendStanding) -> String {
    let mut text = String::new();
    for problem in &frontend.problems {
        let name = problem.names.first().map_or_else(|| "-".to_owned(), |name| for_people(&[name]));
        let serves = problem.serves.as_deref().map_or_else(String::new, |print| {
            let known = if frontend.unknown_certificates.iter().any(|unknown| unknown == print) {
                "a certificate that the store does not know"
            } else {
                "another certificate of it"
            };
            format!(" It serves {known}: {print}")
        });
        text.push_str(&format!(
            "\n{}: {name}: {} since {}.{serves}",
            frontend.name, problem.reason, problem.since
        ));
    }
    text
}

fn age(at: Timestamp, now: Timestamp) -> i64 {
    now.duration_since(at).as_secs().max(0)
}

const fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Converged => "converged",
        Standing::Behind => "behind",
        Standing::Problems => "problems",
        Standing::Silent => "SILENT",
        Standing::Unknown => "does not report",
    }
}
