//! `issuer key rotate [--to ID] [--wait]`

use super::super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output},
};
use crate::rotation::{Rotation, RotationError};
use serde_json::json;
use shared::config::Config;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The key to seal with from now on [default: the newest of this node's ring]
    #[arg(long, value_name = "ID")]
    to: Option<String>,
    /// Wait for nodes that lack the key, in place of ending with exit code 3
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: Output) -> Result<Exit, Failed> {
    let context = Context::open_to_change(config, output).await?;
    let vault = context.vault(output).await?;
    let begun = Instant::now();
    let tell = |text: &str| output.note(text);
    let rotation = Rotation { store: &context.store, vault: &vault, wait: arguments.wait, tell: &tell };
    let file = &context.config.store.key_encryption_key_file;
    let rotated = rotation.run(arguments.to.as_deref()).await.map_err(|error| match error {
        RotationError::Lacking { ref nodes, .. } => {
            let message = format!(
                "{error}. Copy {} there (it is read again within seconds, nothing is restarted), then run this again, or with --wait. A node that has ended is forgotten within 15 s",
                file.display()
            );
            Failed::new(Exit::Waiting, "nodes", message).with_details(json!({ "nodes": nodes }))
        }
        error => of_rotation(&error),
    })?;
    // Its own old keys, if it is the only key of the ring: nothing to retire.
    let ring = vault.ring();
    let retire: Vec<&str> = ring.ids().into_iter().filter(|id| *id != rotated.to).collect();
    let mut document = json!(rotated);
    document["elapsed_ms"] = json!(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    document["may_be_retired"] = json!(retire);
    output.result(&document, || {
        let mut text = format!(
            "everything is sealed with {}: {} records were sealed anew, {} looked at once more",
            rotated.to, rotated.rewrapped, rotated.verified
        );
        for id in &retire {
            text.push_str(&format!(
                "\n{id} is needed for nothing that is stored now. Keep it with the backups that were made before; on every node: issuer key retire {id}"
            ));
        }
        text
    });
    Ok(Exit::Done)
}

pub(super) fn of_rotation(error: &RotationError) -> Failed {
    match error {
        RotationError::Store(error) => of_store(error),
        RotationError::NothingNewer { .. } | RotationError::NotInRing(_) | RotationError::UnderWay(_) => {
            Failed::because(Exit::Usage, "keyring", error)
        }
        _ => Failed::because(Exit::Failed, "rotation", error),
    }
}
