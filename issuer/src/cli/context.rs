//! What most commands begin with: the configuration, the log, the store, the vault.

use super::output::{Exit, Failed, Output};
use crate::ca::{Ca, Unconfigured, may_lack_sections, unconfigured};
use shared::{
    config::Config,
    domain::DnsName,
    store::{Role, Store, StoreError, VaultError, open_vault, open_vault_to_read},
    telemetry,
    vault::Vault,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long sites are looked at for the CAs that they name.
pub(super) const LONGEST_COUNT: Duration = Duration::from_secs(3);

/// An open store, and the configuration it was opened with.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) store: Store,
    /// What is to be said of the store.
    pub(super) warnings: Vec<String>,
    /// Where it was opened already.
    vault: Option<Arc<Vault>>,
}

impl Context {
    /// Opens the store for a command that only reads, and asks whether it can be trusted. One that takes no writes at present
    /// is read all the same, and it is said.
    pub(super) async fn open(config: Config, output: Output) -> Result<Self, Failed> {
        let store = Store::open(&config.store, Role::Issuer).await.map_err(|e| of_store(&e))?;
        let health = store.check(config.store.confirm_replicas).await.map_err(|e| of_store(&e))?;
        for warning in &health.warnings {
            output.note(&format!("warning: {warning}"));
        }
        Ok(Self { config, store, warnings: health.warnings, vault: None })
    }

    /// Opens the store for a command that changes something: it must take writes, and be the one that this node's keyring
    /// belongs to. Another fleet's is left as it is.
    pub(super) async fn open_to_change(config: Config, output: Output) -> Result<Self, Failed> {
        let mut context = Self::open(config, output).await?;
        context.begin_to_change(output).await?;
        Ok(context)
    }

    /// What was opened to look is changed now, as after [`Context::open_to_change`].
    pub(super) async fn begin_to_change(&mut self, output: Output) -> Result<(), Failed> {
        self.vault = Some(self.vault(output).await?);
        self.store.prepare_for_writing().await.map_err(|e| of_store(&e))
    }

    /// One or the other.
    pub(super) async fn open_for(changes: bool, config: Config, output: Output) -> Result<Self, Failed> {
        if changes { Self::open_to_change(config, output).await } else { Self::open(config, output).await }
    }

    /// [`Context::open`] with the keyring, which verifies records that grant something. Where nothing is sealed there is none to
    /// verify: who only looks makes no keyring.
    pub(super) async fn open_with_vault(config: Config, output: Output) -> Result<Self, Failed> {
        let mut context = Self::open(config, output).await?;
        let opened = open_vault_to_read(&context.store, &context.config.store).await;
        context.vault = opened.map_err(|error| of_vault(&error))?;
        Ok(context)
    }

    /// [`Context::open_to_change`], or [`Context::open_with_vault`].
    pub(super) async fn open_verified_for(
        changes: bool,
        config: Config,
        output: Output,
    ) -> Result<Self, Failed> {
        if changes {
            Self::open_to_change(config, output).await
        } else {
            Self::open_with_vault(config, output).await
        }
    }

    /// The keys that private keys are sealed with.
    pub(super) async fn vault(&self, output: Output) -> Result<Arc<Vault>, Failed> {
        if let Some(vault) = &self.vault {
            return Ok(Arc::clone(vault));
        }
        let (vault, made) =
            open_vault(&self.store, &self.config.store).await.map_err(|error| of_vault(&error))?;
        Self::tell_of_new_ring(made, output);
        Ok(vault)
    }

    pub(super) fn tell_of_new_ring(made: Option<PathBuf>, output: Output) {
        if let Some(path) = made {
            output.note(&format!(
                "IMPORTANT: a key-encryption key was made: {}\n           Back this file up, apart from the store. Without it no stored private key can be opened.",
                path.display()
            ));
        }
    }

    /// Says which CAs sites name that the configuration lacks, where there may be some.
    pub(super) async fn tell_of_unconfigured(&self, output: Output) -> Result<Vec<Unconfigured>, Failed> {
        let found = match may_lack_sections(&self.store, &self.config).await {
            Ok(true) => unconfigured(&self.store, &self.config, LONGEST_COUNT).await,
            Ok(false) => return Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let found = found.map_err(|e| of_store(&e))?;
        for lacking in &found {
            output.note(&format!("warning: {lacking}"));
        }
        Ok(found)
    }

    /// The CA that a stored site or certificate names.
    pub(super) fn ca_of_site(&self, name: &str) -> Result<Ca, Failed> {
        Ca::of_site(&self.config, name).map_err(|e| Failed::because(Exit::Usage, "configuration", &e))
    }

    pub(super) fn ca(&self, name: Option<&str>) -> Result<Ca, Failed> {
        Ca::of(&self.config, name).map_err(|e| Failed::because(Exit::Usage, "configuration", &e))
    }
}

/// Hostnames that were typed, each of which must be one.
pub(super) fn parse_names(texts: &[String]) -> Result<Vec<DnsName>, Failed> {
    let parse = |text: &String| {
        DnsName::parse_identifier(text).map_err(|e| Failed::because(Exit::Usage, "names", &e))
    };
    texts.iter().map(parse).collect()
}

/// The same for the daemon, whose log is what it has to say.
pub(super) fn load_daemon_config(path: Option<&Path>) -> Result<Config, Failed> {
    load_with_filter(path, None)
}

/// The configuration, with logging begun as it says. People who watch see what matters; the log is for files and pipes.
pub(super) fn load_config(path: Option<&Path>) -> Result<Config, Failed> {
    load_with_filter(path, Some("warn"))
}

/// `quiet` is the filter where the configuration names none.
fn load_with_filter(path: Option<&Path>, quiet: Option<&str>) -> Result<Config, Failed> {
    let config = Config::load(path).map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
    let default = shared::config::Telemetry::default().log;
    let filter = quiet.filter(|_| config.telemetry.log == default).unwrap_or(&config.telemetry.log);
    let filter = format!("{},{filter}", serving::LOG_FILTER);
    telemetry::begin_logging(&config.telemetry, Some(&filter))
        .map_err(|e| Failed::new(Exit::Usage, "configuration", format!("telemetry.log: {e}")))?;
    Ok(config)
}

pub(super) fn of_store(error: &StoreError) -> Failed {
    let exit = match error {
        StoreError::Unsuitable(_)
        | StoreError::LacksRight(_)
        | StoreError::Url(_)
        | StoreError::Credentials(_)
        | StoreError::NewerSchema { .. }
        | StoreError::Embedded(shared::store::EmbeddedError::PathTooLong(_)) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failed::because(exit, "store", error)
}

pub(super) fn of_vault(error: &VaultError) -> Failed {
    match error {
        VaultError::Store(error) => of_store(error),
        VaultError::Keyring(_, advice) => Failed::new(Exit::Usage, "keyring", advice),
        VaultError::WrongRing { .. } => Failed::because(Exit::Usage, "keyring", error),
        VaultError::Seal(_) => Failed::because(Exit::Failed, "keyring", error),
    }
}
