//! `issuer key generate|add|rotate|retire|status`

mod retire;
mod rotate;
mod status;

use super::{
    context::load_config,
    output::{Exit, Failed, Output},
};
use serde_json::json;
use shared::{
    config::Config,
    vault::{Keyring, KeyringError},
};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a keyring of one new key, mode 0600; an existing file is never overwritten
    Generate {
        /// [default: store.key_encryption_key_file]
        file: Option<PathBuf>,
    },
    /// Add a new key to a keyring; nothing is sealed with it before `key rotate`
    Add {
        /// [default: store.key_encryption_key_file]
        file: Option<PathBuf>,
    },
    /// Seal everything with another key, while everything runs
    Rotate(rotate::Arguments),
    /// Take a key out of a keyring, once nothing is sealed with it
    Retire(retire::Arguments),
    /// Which keys there are, who has them, and how far a rotation has come
    Status(status::Arguments),
}

pub(super) async fn run(command: Command, path: Option<&Path>, output: &Output) -> Result<Exit, Failed> {
    match command {
        Command::Generate { file } => generate(&file_or_configured(file, path)?, *output),
        Command::Add { file } => add(&file_or_configured(file, path)?, *output),
        Command::Rotate(arguments) => rotate::run(&arguments, load_config(path)?, *output).await,
        Command::Retire(arguments) => retire::run(&arguments, load_config(path)?, *output).await,
        Command::Status(arguments) => status::run(&arguments, load_config(path)?, *output).await,
    }
}

fn generate(file: &Path, output: Output) -> Result<Exit, Failed> {
    let ring = Keyring::generate(file).map_err(|e| of_keyring(&e))?;
    output.result(&json!({ "file": file, "keys": ring.ids() }), || {
        format!(
            "{} was made. Back it up apart from the store, and copy it to every node that holds keys.",
            file.display()
        )
    });
    Ok(Exit::Done)
}

fn add(file: &Path, output: Output) -> Result<Exit, Failed> {
    let (ring, added) = Keyring::add(file).map_err(|e| of_keyring(&e))?;
    output.result(&json!({ "file": file, "keys": ring.ids(), "added": added }), || {
        format!(
            "{added} was added to {file}. Back the file up, copy it to every node that holds keys (mode 0600), then: issuer key rotate",
            file = file.display()
        )
    });
    Ok(Exit::Done)
}

fn file_or_configured(file: Option<PathBuf>, path: Option<&Path>) -> Result<PathBuf, Failed> {
    match file {
        Some(file) => Ok(file),
        None => {
            let config = Config::load(path).map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
            Ok(config.store.key_encryption_key_file)
        }
    }
}

fn of_keyring(error: &KeyringError) -> Failed {
    let exit = match error {
        KeyringError::NotThere { .. } => Exit::NotFound,
        KeyringError::Line { .. }
        | KeyringError::Twice { .. }
        | KeyringError::Exposed { .. }
        | KeyringError::Missing(_)
        | KeyringError::Only { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    Failed::because(exit, "keyring", error)
}
