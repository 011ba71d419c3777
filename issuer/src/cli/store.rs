//! `issuer store status|stop`

use super::{
    context::of_store,
    output::{Exit, Failed, Output},
};
use serde_json::json;
use shared::config::Config;
use shared::store::{Embedded, Role, Store};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// What the store is, and what it could lose
    Status,
    /// Stop the embedded store; nothing is lost
    Stop,
}

pub(super) async fn run(command: &Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    match command {
        Command::Status => {
            let store = Store::open(&config.store, Role::Issuer).await.map_err(|e| of_store(&e))?;
            let health = store.check(config.store.confirm_replicas).await.map_err(|e| of_store(&e))?;
            let mut document = json!(health);
            document["embedded"] = json!(config.store.url.is_none());
            output.result(&document, || {
                let kind = if config.store.url.is_none() { "embedded" } else { "by URL" };
                let mut text = format!(
                    "{kind}, Redis {}, {} MiB used, append-only file {}, fsync {}, {} replicas",
                    health.redis_version,
                    health.used_memory_bytes >> 20,
                    if health.append_only { "on" } else { "off" },
                    health.append_fsync.as_deref().unwrap_or("unknown"),
                    health.replicas
                );
                if !health.takes_writes {
                    text.push_str(", TAKES NO WRITES");
                }
                for warning in &health.warnings {
                    text.push_str(&format!("\nwarning: {warning}"));
                }
                text
            });
        }
        Command::Stop => {
            if config.store.url.is_some() {
                return Err(Failed::new(
                    Exit::Usage,
                    "usage",
                    "store.url names a Redis of your own: Signpost does not stop it",
                ));
            }
            let embedded = Embedded::at(&config.store).map_err(|e| of_store(&e.into()))?;
            let ran = embedded.stop().await.map_err(|e| of_store(&e))?;
            output.result(&json!({ "stopped": ran }), || {
                if ran { "stopped" } else { "it was not running" }.to_owned()
            });
        }
    }
    Ok(Exit::Done)
}
