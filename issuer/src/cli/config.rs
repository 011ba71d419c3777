//! `issuer config check`

use super::{
    context::{LONGEST_COUNT, of_vault},
    output::{Exit, Failed, Output, table},
};
use crate::{ca::unconfigured, setup_check, suffixes};
use jiff::Timestamp;
use serde_json::json;
use shared::{
    config::{Config, DEFAULT_PATH, Inspection},
    store::{Embedded, RingStanding, Role, Store, VaultError, compare_ring},
};
use std::{path::Path, time::Duration};

/// How long the store may take to say what it was sealed with.
const LONGEST_LOOK: Duration = Duration::from_secs(8);

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
    let mut inspection = Inspection::of(path).map_err(of_config)?;
    let text = inspection.text.clone();
    setup_check::inspect(&mut inspection);
    let config = inspection.finish().map_err(of_config)?;
    let file = path.unwrap_or_else(|| Path::new(DEFAULT_PATH));
    let is_there = file.exists();
    let mut warnings = Vec::new();
    if !is_there {
        warnings
            .push(format!("{} is not there: what is not in the environment has its default", file.display()));
    }
    warnings.extend(setup_check::warnings(&config));
    warnings.extend(suffixes::warning(&config, Timestamp::now()));
    let Look { keyring, warnings: of_store } = look_at_store(&config).await?;
    warnings.extend(of_store);
    for warning in &warnings {
        output.note(&format!("warning: {warning}"));
    }
    let values = config.origins(&text);
    let document: Vec<_> = values
        .iter()
        .map(|value| json!({ "key": value.key, "value": value.value, "origin": value.origin.to_string() }))
        .collect();
    let result = json!({
        "file": file,
        "file_exists": is_there,
        "ok": true,
        "keyring": keyring,
        "warnings": warnings,
        "values": document,
    });
    output.result(&result, || {
        let shown = if *origin {
            table(
                &["KEY", "VALUE", "FROM"],
                values.iter().map(|v| vec![v.key.clone(), v.value.clone(), v.origin.to_string()]),
            )
        } else {
            values.iter().map(|v| format!("{} = {}", v.key, v.value)).collect::<Vec<_>>().join("\n")
        };
        let what = match is_there {
            true => file.display().to_string(),
            false => format!("the defaults and the environment ({} is not there)", file.display()),
        };
        let but = match warnings.len() {
            0 => String::new(),
            1 => ", with 1 warning".to_owned(),
            more => format!(", with {more} warnings"),
        };
        format!("{shown}\n\nok: {what}, keyring: {keyring}{but}")
    });
    Ok(Exit::Done)
}

/// What the store says of a configuration.
struct Look {
    /// Whether the keyring is that of the store, in a word or a few.
    keyring: &'static str,
    warnings: Vec<String>,
}

/// A store that is away is no mistake in the configuration.
async fn look_at_store(config: &Config) -> Result<Look, Failed> {
    const NOT_ASKED: &str = "not compared with the store";
    // Looking starts nothing.
    let is_away = config.store.url.is_none()
        && !Embedded::at(&config.store).is_ok_and(|embedded| embedded.is_running());
    if is_away {
        return Ok(Look { keyring: NOT_ASKED, warnings: Vec::new() });
    }
    let look = async {
        let store = Store::open(&config.store, Role::Issuer).await?;
        let standing = compare_ring(&store, &config.store).await?;
        let lacking = unconfigured(&store, config, LONGEST_COUNT).await?;
        Ok((standing, lacking.iter().map(ToString::to_string).collect()))
    };
    let (standing, mut warnings): (_, Vec<String>) = match tokio::time::timeout(LONGEST_LOOK, look).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(VaultError::Store(error))) => {
            let warning = format!("the store can't be asked: {}", shared::error::chain(&error));
            return Ok(Look { keyring: NOT_ASKED, warnings: vec![warning] });
        }
        Ok(Err(error)) => return Err(of_vault(&error)),
        Err(_) => {
            let warning = "the store does not answer".to_owned();
            return Ok(Look { keyring: NOT_ASKED, warnings: vec![warning] });
        }
    };
    let keyring = match standing {
        RingStanding::Fits => "that of the store",
        RingStanding::NothingSealed => "the store holds nothing sealed yet",
        RingStanding::Missing => {
            let path = config.store.key_encryption_key_file.display();
            warnings.push(format!(
                "the keyring {path} is not there: copy it from a node that has it, where this one is to issue or to serve"
            ));
            "missing"
        }
    };
    Ok(Look { keyring, warnings })
}
