//! What was measured, the tables of it, and what is to be reached.

use serde::Serialize;

const AGENT_MIB: f64 = 150.0;
const RELOAD_SECONDS: f64 = 1.0;
const NGINX_MIB: f64 = 150.0;
const HEARD_SECONDS: f64 = 1.0;

/// One frontend with so many certificates.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) sites: usize,
    pub(crate) cold_seconds: f64,
    pub(crate) cold_mib: f64,
    pub(crate) agent_mib: f64,
    pub(crate) server_mib: f64,
    pub(crate) changes: Vec<Change>,
    /// The most that the agent has had after all of them.
    pub(crate) agent_after_mib: f64,
    /// An hour without a change.
    pub(crate) idle_requests: f64,
    pub(crate) idle_kib: f64,
    pub(crate) curl_cold_seconds: f64,
    pub(crate) curl_cold_mib: f64,
    pub(crate) curl_again_seconds: f64,
    pub(crate) curl_again_mib: f64,
    pub(crate) nginx: NginxRow,
}

/// So many certificates renewed at once.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Change {
    pub(crate) count: usize,
    /// How long it took to write them into the store.
    pub(crate) written_seconds: f64,
    /// From then on until the last one was live.
    pub(crate) seconds: f64,
    pub(crate) mib: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct NginxRow {
    pub(crate) start_seconds: f64,
    pub(crate) reload_seconds: f64,
    /// Of the master or its worker, before any certificate was read.
    pub(crate) mib: f64,
    pub(crate) renewed: usize,
    pub(crate) handshakes_per_second: f64,
    pub(crate) failed_handshakes: u64,
}

/// Many frontends that wait.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Fan {
    pub(crate) count: usize,
    pub(crate) idle_cpu_percent: f64,
    pub(crate) store_cpu_percent: f64,
    pub(crate) server_mib: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) all: f64,
}

pub(crate) fn table(rows: &[Row]) -> String {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    let mut line = |what: &str, of: &dyn Fn(&Row) -> String| {
        lines.push((what.to_owned(), rows.iter().map(of).collect()));
    };
    line("certificates", &|row| row.sites.to_string());
    line("first sync, s", &|row| format!("{:.1}", row.cold_seconds));
    line("  MiB moved", &|row| format!("{:.1}", row.cold_mib));
    line("  most memory of the agent, MiB", &|row| format!("{:.0}", row.agent_mib));
    line("  most memory of the server, MiB", &|row| format!("{:.0}", row.server_mib));
    line("first pull by curl, one by one, s", &|row| format!("{:.1}", row.curl_cold_seconds));
    line("  MiB moved", &|row| format!("{:.1}", row.curl_cold_mib));
    for place in 0..rows.iter().map(|row| row.changes.len()).max().unwrap_or(0) {
        let of = |row: &Row, of: &dyn Fn(&Change) -> String| {
            row.changes.get(place).map_or_else(|| "-".to_owned(), of)
        };
        let count = rows.iter().find_map(|row| row.changes.get(place)).map_or(0, |change| change.count);
        line(&format!("{count} renewed: s until live, after the store had them"), &|row| {
            of(row, &|change| format!("{:.2}", change.seconds))
        });
        line("  s to write them", &|row| of(row, &|change| format!("{:.2}", change.written_seconds)));
        line("  MiB moved", &|row| of(row, &|change| format!("{:.2}", change.mib)));
    }
    line("  most memory of the agent after it, MiB", &|row| format!("{:.0}", row.agent_after_mib));
    line("any change by curl with ETags, s", &|row| format!("{:.1}", row.curl_again_seconds));
    line("  MiB moved", &|row| format!("{:.1}", row.curl_again_mib));
    line("an hour without a change: requests", &|row| format!("{:.0}", row.idle_requests));
    line("  KiB moved", &|row| format!("{:.0}", row.idle_kib));
    line("nginx: start, s", &|row| format!("{:.2}", row.nginx.start_seconds));
    line("  reload, s", &|row| format!("{:.2}", row.nginx.reload_seconds));
    line("  memory before its cache, MiB", &|row| format!("{:.0}", row.nginx.mib));
    line("  handshakes/s while certificates are renewed", &|row| {
        format!("{:.0}", row.nginx.handshakes_per_second)
    });
    line("  certificates renewed meanwhile", &|row| row.nginx.renewed.to_string());
    line("  failed handshakes", &|row| row.nginx.failed_handshakes.to_string());
    let width = lines.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
    let text = |(what, values): &(String, Vec<String>)| {
        let values: String = values.iter().map(|value| format!("{value:>10}")).collect();
        format!("{what:width$}{values}")
    };
    lines.iter().map(text).collect::<Vec<_>>().join("\n")
}

pub(crate) fn fan_table(fan: &Fan) -> String {
    format!(
        "{} frontends wait: {:.1} % of a processor and {:.0} MiB of the server, {:.1} % of a processor of Redis\n\
         a change: half have heard of it after {:.2} s, 99 % after {:.2} s, all after {:.2} s",
        fan.count, fan.idle_cpu_percent, fan.server_mib, fan.store_cpu_percent, fan.p50, fan.p99, fan.all
    )
}

pub(crate) fn goals(rows: &[Row], fan: &Fan) -> Vec<String> {
    let mut goals = Vec::new();
    let mut goal = |what: String, is_reached: bool, found: String| {
        goals.push(format!("{:12} {what}: {found}", if is_reached { "reached" } else { "NOT reached" }));
    };
    for row in rows {
        let sites = row.sites;
        let most = row.agent_after_mib.max(row.agent_mib);
        goal(format!("{sites}: the agent below {AGENT_MIB} MiB"), most < AGENT_MIB, format!("{most:.0}"));
        let nginx = &row.nginx;
        goal(
            format!("{sites}: nginx reloaded within {RELOAD_SECONDS} s"),
            nginx.reload_seconds < RELOAD_SECONDS,
            format!("{:.2}", nginx.reload_seconds),
        );
        goal(
            format!("{sites}: nginx below {NGINX_MIB} MiB"),
            nginx.mib < NGINX_MIB,
            format!("{:.0}", nginx.mib),
        );
        let failed = nginx.failed_handshakes;
        goal(format!("{sites}: no failed handshake"), failed == 0, failed.to_string());
    }
    goal(
        format!("{} frontends: 99 % have heard within {HEARD_SECONDS} s", fan.count),
        fan.p99 < HEARD_SECONDS,
        format!("{:.2}", fan.p99),
    );
    goals
}
