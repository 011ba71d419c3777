//! What was measured at one size, and the table of all sizes.

use serde::Serialize;

use crate::memory::Part;

/// What is to be reached.
const BYTES: f64 = 2048.0;
const CLAIMS_PER_SECOND: f64 = 5000.0;
const DAEMON_MIB: f64 = 100.0;
const COMMAND_MS: f64 = 500.0;

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) sites: usize,
    pub(crate) fill_seconds: f64,
    /// Redis bytes for a site with its ECDSA certificate, everything of it.
    pub(crate) bytes_each: f64,
    pub(crate) parts: Vec<Part>,
    /// From the start of `issuer run` until it has given back the first group that was due.
    pub(crate) start_seconds: f64,
    pub(crate) idle_mib: f64,
    pub(crate) busy_mib: f64,
    /// Groups that were due and needed nothing: claimed, looked at, given back, on disk.
    pub(crate) claims_per_second: f64,
    /// CPU time of a claim.
    pub(crate) issuer_cpu_us: f64,
    pub(crate) redis_cpu_us: f64,
    pub(crate) status_ms: f64,
    pub(crate) show_ms: f64,
    pub(crate) events_ms: f64,
    pub(crate) plan_seconds: f64,
    pub(crate) plan_mib: f64,
    pub(crate) apply_seconds: f64,
    pub(crate) apply_mib: f64,
}

pub(crate) fn table(rows: &[Row]) -> String {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    let mut line = |what: &str, of: &dyn Fn(&Row) -> String| {
        lines.push((what.to_owned(), rows.iter().map(of).collect()));
    };
    line("sites", &|row| row.sites.to_string());
    line("Redis bytes a site with an ECDSA certificate", &|row| format!("{:.0}", row.bytes_each));
    for place in 0..rows.first().map_or(0, |row| row.parts.len()) {
        line(&format!("  of them {}", rows[0].parts[place].kind), &|row| {
            format!("{:.0}", row.parts[place].bytes_each)
        });
    }
    line("issuer run: start to first group given back, s", &|row| format!("{:.2}", row.start_seconds));
    line("  memory idle, MiB", &|row| format!("{:.1}", row.idle_mib));
    line("  memory at work, MiB", &|row| format!("{:.1}", row.busy_mib));
    line("  groups claimed and given back, per second", &|row| format!("{:.0}", row.claims_per_second));
    line("  CPU of the daemon for each, us", &|row| format!("{:.0}", row.issuer_cpu_us));
    line("  CPU of Redis for each, us", &|row| format!("{:.0}", row.redis_cpu_us));
    line("issuer status, ms", &|row| format!("{:.0}", row.status_ms));
    line("issuer site show, ms", &|row| format!("{:.0}", row.show_ms));
    line("issuer events, ms", &|row| format!("{:.0}", row.events_ms));
    line("issuer plan of an unchanged file, s", &|row| format!("{:.1}", row.plan_seconds));
    line("  memory, MiB", &|row| format!("{:.0}", row.plan_mib));
    line("issuer apply of an unchanged file, s", &|row| format!("{:.1}", row.apply_seconds));
    line("  memory, MiB", &|row| format!("{:.0}", row.apply_mib));
    line("filling it, s", &|row| format!("{:.0}", row.fill_seconds));
    let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let cells = lines.iter().flat_map(|(_, cells)| cells).map(String::len).max().unwrap_or(0);
    lines
        .iter()
        .map(|(what, values)| {
            let values: String = values.iter().map(|value| format!("  {value:>cells$}")).collect();
            format!("{what:<width$}{values}\n")
        })
        .collect()
}

pub(crate) fn goals(rows: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    for row in rows {
        let mut goal = |reached: bool, what: String| {
            let verdict = if reached { "reached    " } else { "NOT reached" };
            lines.push(format!("{verdict}  {} sites: {what}", row.sites));
        };
        goal(row.bytes_each <= BYTES, format!("at most {BYTES} bytes a certificate: {:.0}", row.bytes_each));
        let claims = row.claims_per_second;
        goal(
            claims >= CLAIMS_PER_SECOND,
            format!("at least {CLAIMS_PER_SECOND} claims a second: {claims:.0}"),
        );
        let most = row.busy_mib.max(row.idle_mib);
        goal(most < DAEMON_MIB, format!("issuer run below {DAEMON_MIB} MiB: {most:.1}"));
        let slowest = row.status_ms.max(row.show_ms).max(row.events_ms);
        goal(
            slowest < COMMAND_MS,
            format!("status, site show and events within {COMMAND_MS} ms: {slowest:.0}"),
        );
    }
    lines
}
