//! Caddy's files: which names redirect plain HTTP, what they announce (HSTS), and what is spoken. The certificates are another
//! matter: Caddy asks the agent for them, see `local`.
//!
//! Names stand in host matchers, which Caddy sorts and searches, one for each value of the header.

use super::{
    Applied, Names, Server, ServerError, View,
    reloader::{Reloader, Wanted},
    tls,
};
use shared::config::AgentCaddy;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What Caddy reads where there is nothing to say: an empty file would be a warning.
const NOTHING: &str = "# none\n";

/// Caddy, with its files in `caddy/`.
pub(crate) struct Caddy(Reloader);

impl Caddy {
    pub(crate) fn new(settings: AgentCaddy) -> Self {
        let AgentCaddy { test, reload, min_reload_seconds } = settings;
        Self(Reloader::new("caddy", test, reload, min_reload_seconds))
    }
}

impl Server for Caddy {
    fn name(&self) -> &'static str {
        self.0.server
    }

    fn differs(&self, view: &View<'_>) -> bool {
        self.0.differs(view.directory, &render(view))
    }

    fn test(&mut self, view: &View<'_>) -> Result<(), ServerError> {
        self.0.test(view.directory, &render(view), |_| Ok(()))
    }

    fn holds(&self, view: &View<'_>) -> Names {
        let text = self.0.read(view.directory, "redirect.conf") + &self.0.read(view.directory, "hsts.conf");
        let hosts: BTreeSet<&str> =
            text.lines().filter_map(|line| line.trim_start().strip_prefix("host ")).collect();
        let shown: BTreeSet<&str> = view.redirected().chain(view.hsts().map(|(name, _)| name)).collect();
        let is_held = |name: &str| !shown.contains(name) || hosts.contains(name);
        let held = view.names.iter().filter(|(name, _)| is_held(name));
        held.map(|(name, id)| (Arc::clone(name), id.clone())).collect()
    }

    fn refuses_the_present(&self) -> bool {
        self.0.refuses_the_present()
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        self.0.apply(view.directory, &render(view), view.owed, |_| Ok(()))
    }
}

fn render(view: &View<'_>) -> [Wanted; 3] {
    let redirected: Vec<&str> = view.redirected().collect();
    let redirect = match redirected.is_empty() {
        true => NOTHING.to_owned(),
        false => {
            matcher("signpost_redirect", &redirected) + "redir @signpost_redirect https://{host}{uri} 301\n"
        }
    };
    let mut by_value: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in view.hsts() {
        by_value.entry(value).or_default().push(name);
    }
    let mut hsts = String::new();
    for (number, (value, names)) in by_value.iter().enumerate() {
        let name = format!("signpost_hsts_{number}");
        hsts += &matcher(&name, names);
        hsts += &format!("header @{name} Strict-Transport-Security \"{value}\"\n");
    }
    if hsts.is_empty() {
        NOTHING.clone_into(&mut hsts);
    }
    let policy = view.tls.map_or_else(|| NOTHING.to_owned(), tls::of_caddy);
    [
        Wanted { file: "redirect.conf", content: redirect, empty: NOTHING },
        Wanted { file: "hsts.conf", content: hsts, empty: NOTHING },
        Wanted { file: "tls.conf", content: policy, empty: NOTHING },
    ]
}

fn matcher(name: &str, hosts: &[&str]) -> String {
    let lines: String = hosts.iter().map(|host| format!("\thost {host}\n")).collect();
    format!("@{name} {{\n{lines}}}\n")
}
