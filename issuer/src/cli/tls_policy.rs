//! `issuer tls-policy show|set`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output},
};
use crate::fleet::set_tls_policy;
use jiff::Timestamp;
use serde_json::json;
use shared::{
    config::Config,
    domain::{TlsPolicies, TlsPolicy, TlsVersion},
};
use std::{fs, path::PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// What frontends speak
    Show,
    /// Have frontends speak something else, the canaries (`issuer.canary_tag`) first: they take it within `agent.poll_seconds`
    Set {
        /// intermediate or modern
        #[arg(value_name = "NAME", required_unless_present = "file")]
        name: Option<String>,
        /// One of your own, JSON, as `issuer --json tls-policy show` prints it
        #[arg(long, conflicts_with = "name")]
        file: Option<PathBuf>,
        /// All frontends at once, not the canaries first
        #[arg(long)]
        all: bool,
    },
}

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    let wanted = match command {
        Command::Show => None,
        Command::Set { name, file, all } => {
            let canary = config.issuer.canary().filter(|_| !all);
            Some((wanted(name.as_deref(), file)?, canary))
        }
    };
    let store = Context::open_verified_for(wanted.is_some(), config, *output).await?.store;
    let policies = match wanted {
        Some((policy, canary)) => set_tls_policy(&store, &policy, canary, Timestamp::now()).await,
        None => store.load_tls_policies().await,
    };
    let policies = policies.map_err(|e| of_store(&e))?;
    output.result(&json!(policies), || all_to_text(&policies));
    Ok(Exit::Done)
}

fn wanted(name: Option<&str>, file: Option<PathBuf>) -> Result<TlsPolicy, Failed> {
    let Some(file) = file else {
        return TlsPolicy::shipped(name.unwrap_or_default())
            .map_err(|error| Failed::because(Exit::Usage, "usage", &error));
    };
    let text = fs::read_to_string(&file)
        .map_err(|error| Failed::new(Exit::Usage, "usage", format!("{}: {error}", file.display())))?;
    TlsPolicy::parse(&text).map_err(|error| {
        let why = shared::error::chain(&error);
        Failed::new(Exit::Usage, "usage", format!("{}: {why}", file.display()))
    })
}

fn all_to_text(policies: &TlsPolicies) -> String {
    let all = to_text(&policies.all);
    let Some(staged) = &policies.staged else { return all };
    format!(
        "{all}\n\nThe frontends with the tag {} try another one since {}; all get it {} if none of them refuses it:\n{}",
        staged.tag,
        staged.since,
        staged.until,
        to_text(&staged.policy)
    )
}

fn to_text(policy: &TlsPolicy) -> String {
    let versions = if policy.min_version == TlsVersion::Tls12 { "TLS 1.2 and 1.3" } else { "TLS 1.3" };
    let groups: Vec<&str> = policy.groups.iter().map(|group| group.openssl_name()).collect();
    format!(
        "{versions}; the {}'s choice of ciphers\nTLS 1.2: {}\nTLS 1.3: {}\ngroups: {}",
        if policy.prefer_server_ciphers { "server" } else { "client" },
        if policy.ciphers.is_empty() { "none".to_owned() } else { policy.ciphers.join(", ") },
        policy.ciphersuites.join(", "),
        groups.join(", "),
    )
}
