//! `issuer config check`

use super::{
    context::of_vault,
    output::{Exit, Failed, Output, table},
};
use crate::{ca::Ca, suffixes};
use jiff::Timestamp;
use serde_json::json;
use shared::{
    config::{Config, DEFAULT_PATH},
    store::{Embedded, RingStanding, Role, Store, VaultError, compare_ring},
};
use std::{path::Path, time::Duration};

/// How long the store may take to say what it was sealed with.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Name every mistake with its line, and print the effective values
    Check {
        /// Show where each value comes from
        #[arg(long)]
        origin: bool,
    },
}

pub(super) async fn run(command: &Command, path: Option<&Path>, output: &Output) -> Result<Exit, Failed> {
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
    let keyring = look_at_keyring(&config, *output).await?;
    let values = config.origins(&text);
    let document: Vec<_> = values
        .iter()
        .map(|value| json!({ "key": value.key, "value": value.value, "origin": value.origin.to_string() }))
        .collect();
    let file = path.unwrap_or_else(|| Path::new(DEFAULT_PATH));
    output.result(&json!({ "file": file, "ok": true, "keyring": keyring, "values": document }), || {
        let shown = if *origin {
            table(
                &["KEY", "VALUE", "FROM"],
                values.iter().map(|v| vec![v.key.clone(), v.value.clone(), v.origin.to_string()]),
            )
        } else {
            values.iter().map(|v| format!("{} = {}", v.key, v.value)).collect::<Vec<_>>().join("\n")
        };
        format!("{shown}\n\nok: {}, keyring: {keyring}", file.display())
    });
    Ok(Exit::Done)
}

/// Whether the keyring is that of the store, in a word or a few; a store that is away is no mistake in the configuration.
async fn look_at_keyring(config: &Config, output: Output) -> Result<&'static str, Failed> {
    const NOT_ASKED: &str = "not compared with the store";
    // Looking starts nothing.
    let is_away = config.store.url.is_none()
        && !Embedded::at(&config.store).is_ok_and(|embedded| embedded.is_running());
    if is_away {
        return Ok(NOT_ASKED);
    }
    let look = async {
        let store = Store::open(&config.store, Role::Issuer).await?;
        compare_ring(&store, &config.store).await
    };
    match tokio::time::timeout(LONGEST_LOOK, look).await {
        Ok(Ok(RingStanding::Fits)) => Ok("that of the store"),
        Ok(Ok(RingStanding::NothingSealed)) => Ok("the store holds nothing sealed yet"),
        Ok(Ok(RingStanding::Missing)) => {
            let path = config.store.key_encryption_key_file.display();
            output.note(&format!(
                "warning: the keyring {path} is not there: copy it from a node that has it, where this one is to issue or to serve"
            ));
            Ok("missing")
        }
        Ok(Err(VaultError::Store(error))) => {
            output.note(&format!("warning: the store can't be asked: {}", shared::error::chain(&error)));
            Ok(NOT_ASKED)
        }
        Ok(Err(error)) => Err(of_vault(&error)),
        Err(_) => {
            output.note("warning: the store does not answer");
            Ok(NOT_ASKED)
        }
    }
}
