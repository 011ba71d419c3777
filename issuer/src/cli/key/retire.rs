//! `issuer key retire ID [FILE]`

use super::{
    super::{
        context::{Context, of_store},
        output::{Exit, Failed, Output},
    },
    of_keyring,
    rotate::of_rotation,
};
use crate::rotation::census;
use serde_json::json;
use shared::{config::Config, vault::Keyring};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    id: String,
    /// [default: store.key_encryption_key_file]
    file: Option<PathBuf>,
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: Output) -> Result<Exit, Failed> {
    let context = Context::open_to_change(config, output).await?;
    let vault = context.vault(output).await?;
    let id = &arguments.id;
    let needed = |why: String| Err(Failed::new(Exit::Failed, "needed", format!("{id} stays: {why}")));
    if vault.current_id() == *id {
        return needed("new keys are sealed with it. Rotate first: issuer key rotate".into());
    }
    if let Some(record) = context.store.load_rotation().await.map_err(|e| of_store(&e))? {
        return needed(format!(
            "a rotation to {} is under way. Finish it first: issuer key rotate",
            record.to
        ));
    }
    let nodes = context.store.all_nodes().await.map_err(|e| of_store(&e))?;
    if let Some(node) = nodes.iter().find(|node| node.report.current == *id) {
        return needed(format!("{} still seals with it", node.report.name));
    }
    let found = census(&context.store).await.map_err(|e| of_rotation(&e))?;
    let count = found.sealed_with.get(id).copied().unwrap_or(0);
    if count > 0 {
        return needed(format!("{count} records are sealed with it. Rotate first: issuer key rotate"));
    }
    if found.unreadable > 0 {
        return needed(format!("{} records can't be read, and may need it", found.unreadable));
    }
    let file = arguments.file.as_ref().unwrap_or(&context.config.store.key_encryption_key_file);
    let ring = Keyring::remove(file, id).map_err(|e| of_keyring(&e))?;
    output.result(&json!({ "file": file, "keys": ring.ids(), "retired": id }), || {
        format!(
            "{id} was taken out of {}. Backups of the store from before the rotation still need it.",
            file.display()
        )
    });
    Ok(Exit::Done)
}
