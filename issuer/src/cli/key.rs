//! `issuer key generate [FILE]`

use super::output::{Exit, Failed, Output};
use serde_json::json;
use shared::{config::Config, vault::Keyring};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a keyring of one new key, mode 0600; an existing file is never overwritten
    Generate {
        /// [default: store.key_encryption_key_file]
        file: Option<PathBuf>,
    },
}

pub(super) fn run(command: &Command, path: Option<&Path>, output: &Output) -> Result<Exit, Failed> {
    let Command::Generate { file } = command;
    let file = match file {
        Some(file) => file.clone(),
        None => {
            let config = Config::load(path).map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
            config.store.key_encryption_key_file
        }
    };
    let ring = Keyring::generate(&file).map_err(|e| Failed::because(Exit::Failed, "keyring", &e))?;
    output.result(&json!({ "file": file, "keys": ring.ids() }), || {
        format!(
            "{} was made. Back it up apart from the store, and copy it to every node that holds keys.",
            file.display()
        )
    });
    Ok(Exit::Done)
}
