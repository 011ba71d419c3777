//! `issuer account ...`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, table},
};
use crate::{
    acme::{AccountKey, Client},
    ca::Ca,
    issuance::{
        AccountError, DEFAULT_ACCOUNT, check_contact, client_for, create_account, import_account,
        open_account, resolve_candidate, roll_over,
    },
};
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::KeyType,
    store::{Account, AccountStatus, StoredAccount},
    vault::Vault,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make an account; safe to repeat
    Create {
        #[command(flatten)]
        which: Which,
        #[arg(long, default_value = "ecdsa-p256", value_name = "TYPE")]
        key_type: KeyType,
    },
    /// Take over an account of another client: a PEM key, or certbot's private_key.json
    Import {
        file: PathBuf,
        #[command(flatten)]
        which: Which,
    },
    /// Every account that is stored
    List,
    /// One account, as it is stored and as the CA knows it
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Give the account a new key
    Rollover {
        #[command(flatten)]
        which: Which,
        /// [default: the type of the present key]
        #[arg(long, value_name = "TYPE")]
        key_type: Option<KeyType>,
    },
    /// Tell the CA the contact of the configuration
    Update {
        #[command(flatten)]
        which: Which,
    },
    /// End the account for good
    Deactivate {
        #[command(flatten)]
        which: Which,
    },
}

/// Which account is meant.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Which CA, where several are configured
    #[arg(long, value_name = "NAME")]
    ca: Option<String>,
    #[arg(long, default_value = DEFAULT_ACCOUNT)]
    name: String,
}

/// What the verbs on one account need.
struct Desk {
    context: Context,
    vault: Arc<Vault>,
    ca: Ca,
    client: Client,
    name: String,
}

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    match command {
        Command::List => list(config, output).await,
        Command::Create { which, key_type } => {
            let ca = Ca::of(&config, which.ca.as_deref());
            let ca = ca.map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
            check_contact(&ca).map_err(|e| of_account(&e))?;
            let desk = Desk::open(which, config, *output).await?;
            let existing =
                desk.context.store.load_account(&desk.ca.name, &desk.name).await.map_err(|e| of_store(&e))?;
            let (stored, _) = match existing {
                Some(stored) if stored.account.status == AccountStatus::Deactivated => {
                    desk.renew(stored, key_type).await?
                }
                _ => open_account(
                    &desk.context.store,
                    &desk.vault,
                    &desk.ca,
                    &desk.client,
                    &desk.name,
                    key_type,
                )
                .await
                .map_err(|e| of_account(&e))?,
            };
            show(&stored.account, None, output);
            Ok(Exit::Done)
        }
        Command::Import { file, which } => {
            let desk = Desk::open(which, config, *output).await?;
            let key = read_key(&file)?;
            let stored =
                import_account(&desk.context.store, &desk.vault, &desk.ca, &desk.client, &desk.name, &key)
                    .await
                    .map_err(|e| of_account(&e))?;
            show(&stored.account, None, output);
            Ok(Exit::Done)
        }
        Command::Show { which } => {
            let desk = Desk::open(which, config, *output).await?;
            let stored = desk.stored().await?;
            if stored.account.status != AccountStatus::Valid {
                show(&stored.account, None, output);
                return Ok(Exit::Done);
            }
            let (stored, account) = desk.account().await?;
            let state = account.fetch().await.map_err(|e| Failed::because(Exit::Failed, "ca", &e))?;
            show(&stored.account, Some(json!(state)), output);
            Ok(Exit::Done)
        }
        Command::Rollover { which, key_type } => {
            let desk = Desk::open(which, config, *output).await?;
            desk.stored().await?;
            let (stored, _) = desk.account().await?;
            let stored = resolve_candidate(&desk.context.store, &desk.vault, &desk.client, stored)
                .await
                .map_err(|e| of_account(&e))?;
            let key_type = key_type.unwrap_or(stored.account.key_type);
            let stored =
                roll_over(&desk.context.store, &desk.vault, &desk.ca, &desk.client, stored, key_type)
                    .await
                    .map_err(|e| of_account(&e))?;
            show(&stored.account, None, output);
            Ok(Exit::Done)
        }
        Command::Update { which } => {
            let desk = Desk::open(which, config, *output).await?;
            desk.stored().await?;
            let (stored, account) = desk.account().await?;
            let contact = desk.ca.section.contact.clone();
            let state = account
                .update_contact(&contact)
                .await
                .map_err(|e| Failed::because(Exit::Failed, "ca", &e))?;
            let mut updated = stored.account.clone();
            updated.contact = contact;
            let stored =
                desk.context.store.write_account(Some(&stored), updated).await.map_err(|e| of_store(&e))?;
            show(&stored.account, Some(json!(state)), output);
            Ok(Exit::Done)
        }
        Command::Deactivate { which } => {
            let desk = Desk::open(which, config, *output).await?;
            desk.stored().await?;
            let (stored, account) = desk.account().await?;
            let state = account.deactivate().await.map_err(|e| Failed::because(Exit::Failed, "ca", &e))?;
            let mut ended = stored.account.clone();
            ended.status = AccountStatus::Deactivated;
            let stored =
                desk.context.store.write_account(Some(&stored), ended).await.map_err(|e| of_store(&e))?;
            show(&stored.account, Some(json!(state)), output);
            Ok(Exit::Done)
        }
    }
}

impl Desk {
    async fn open(which: Which, config: Config, output: Output) -> Result<Self, Failed> {
        let context = Context::open(config, output).await?;
        let ca = context.ca(which.ca.as_deref())?;
        let vault = context.vault(output).await?;
        let client =
            client_for(&context.store, &ca).await.map_err(|e| Failed::because(Exit::Failed, "ca", &e))?;
        Ok(Self { context, vault, ca, client, name: which.name })
    }

    async fn stored(&self) -> Result<StoredAccount, Failed> {
        let found =
            self.context.store.load_account(&self.ca.name, &self.name).await.map_err(|e| of_store(&e))?;
        found.ok_or_else(|| {
            let error = AccountError::Missing { ca: self.ca.name.clone(), name: self.name.clone() };
            Failed::because(Exit::NotFound, "not-found", &error)
        })
    }

    async fn account(&self) -> Result<(StoredAccount, crate::acme::Account), Failed> {
        open_account(&self.context.store, &self.vault, &self.ca, &self.client, &self.name, KeyType::EcdsaP256)
            .await
            .map_err(|e| of_account(&e))
    }

    /// A new account in the place of one that was deactivated.
    async fn renew(
        &self,
        old: StoredAccount,
        key_type: KeyType,
    ) -> Result<(StoredAccount, crate::acme::Account), Failed> {
        self.context.store.remove_account(&old).await.map_err(|e| of_store(&e))?;
        create_account(&self.context.store, &self.vault, &self.ca, &self.client, &self.name, key_type)
            .await
            .map_err(|e| of_account(&e))
    }
}

async fn list(config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open(config, *output).await?;
    let accounts = context.store.list_accounts().await.map_err(|e| of_store(&e))?;
    let shown: Vec<Value> = accounts.iter().map(describe).collect();
    output.result(&json!({ "accounts": shown }), || {
        let rows = accounts.iter().map(|account| {
            let url = account.url.clone().unwrap_or_default();
            let status = json!(account.status).as_str().unwrap_or_default().to_owned();
            vec![account.ca.clone(), account.name.clone(), status, account.key_type.to_string(), url]
        });
        table(&["CA", "NAME", "STATUS", "KEY", "URL"], rows)
    });
    Ok(Exit::Done)
}

fn read_key(file: &Path) -> Result<AccountKey, Failed> {
    let unusable =
        |reason: String| Failed::new(Exit::Usage, "usage", format!("{}: {reason}", file.display()));
    let text = Zeroizing::new(std::fs::read(file).map_err(|e| unusable(e.to_string()))?);
    let json = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let key = if json { AccountKey::from_jwk(&text) } else { AccountKey::from_pem(&text) };
    key.map_err(|e| unusable(shared::error::chain(&e)))
}

fn describe(account: &Account) -> Value {
    json!({
        "ca": account.ca,
        "name": account.name,
        "status": account.status,
        "url": account.url,
        "directory": account.directory,
        "key_type": account.key_type,
        "key_version": account.key_version,
        "key_spki_sha256": account.key_spki_sha256,
        "contact": account.contact,
        "terms": account.terms,
        "created": account.created,
    })
}

fn show(account: &Account, at_ca: Option<Value>, output: &Output) {
    let mut document = describe(account);
    if let Some(state) = &at_ca {
        document["at_ca"] = state.clone();
    }
    output.result(&document, || {
        let status = json!(account.status).as_str().unwrap_or_default().to_owned();
        let mut text = format!(
            "{} {}: {status}, {} (version {})\n{}",
            account.ca,
            account.name,
            account.key_type,
            account.key_version,
            account.url.as_deref().unwrap_or("not registered yet")
        );
        if let Some(state) = &at_ca {
            text.push_str(&format!("\nat the CA: {}", state["status"].as_str().unwrap_or_default()));
        }
        text
    });
}

fn of_account(error: &AccountError) -> Failed {
    Failed::because(exit_of(error), "account", error)
}

/// Who has to do something about it.
pub(super) fn exit_of(error: &AccountError) -> Exit {
    match error {
        AccountError::TermsNotAgreed { .. }
        | AccountError::BindingMissing { .. }
        | AccountError::Binding { .. }
        | AccountError::ContactMissing { .. }
        | AccountError::NoRollover(_) => Exit::Usage,
        AccountError::TooMany(_) => Exit::Waiting,
        AccountError::Missing { .. } | AccountError::UnknownToCa => Exit::NotFound,
        _ => Exit::Failed,
    }
}
