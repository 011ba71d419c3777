//! `issuer config check`

use super::output::{Exit, Failed, Output, table};
use crate::{ca::Ca, suffixes};
use jiff::Timestamp;
use serde_json::json;
use shared::config::{Config, DEFAULT_PATH};
use std::path::Path;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Name every mistake with its line, and print the effective values
    Check {
        /// Show where each value comes from
        #[arg(long)]
        origin: bool,
    },
}

pub(super) fn run(command: &Command, path: Option<&Path>, output: &Output) -> Result<Exit, Failed> {
    let Command::Check { origin } = command;
    let of_config = |e: shared::config::ConfigError| Failed::because(Exit::Usage, "configuration", &e);
    let text = Config::text_of(path).map_err(of_config)?;
    let config = Config::load(path).map_err(of_config)?;
    for name in config.ca.keys() {
        Ca::of(&config, Some(name)).map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
    }
    if let Some(warning) = suffixes::warning(&config, Timestamp::now()) {
        output.note(&format!("warning: {warning}"));
    }
    let values = config.origins(&text);
    let document: Vec<_> = values
        .iter()
        .map(|value| json!({ "key": value.key, "value": value.value, "origin": value.origin.to_string() }))
        .collect();
    output.result(
        &json!({ "file": path.unwrap_or_else(|| Path::new(DEFAULT_PATH)), "values": document }),
        || {
            if *origin {
                table(
                    &["KEY", "VALUE", "FROM"],
                    values.iter().map(|v| vec![v.key.clone(), v.value.clone(), v.origin.to_string()]),
                )
            } else {
                values.iter().map(|v| format!("{} = {}", v.key, v.value)).collect::<Vec<_>>().join("\n")
            }
        },
    );
    Ok(Exit::Done)
}
