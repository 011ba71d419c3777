//! `issuer tls-policy show|set`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output},
};
use serde_json::json;
use shared::{
    config::Config,
    domain::{TlsPolicy, TlsVersion},
};
use std::{fs, path::PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// What frontends speak
    Show,
    /// Have all frontends speak something else: they take it within `agent.poll_seconds`
    Set {
        /// intermediate or modern
        #[arg(value_name = "NAME", required_unless_present = "file")]
        name: Option<String>,
        /// One of your own, JSON, as `issuer --json tls-policy show` prints it
        #[arg(long, conflicts_with = "name")]
        file: Option<PathBuf>,
    },
}

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    let wanted = match command {
        Command::Show => None,
        Command::Set { name, file } => Some(wanted(name.as_deref(), file)?),
    };
    let store = Context::open_verified_for(wanted.is_some(), config, *output).await?.store;
    let policy = match wanted {
        Some(policy) => {
            store.set_tls_policy(&policy).await.map_err(|e| of_store(&e))?;
            policy
        }
        None => store.load_tls_policy().await.map_err(|e| of_store(&e))?,
    };
    output.result(&json!(policy), || to_text(&policy));
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
