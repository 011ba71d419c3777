//! `issuer account ...`

use super::{
    context::{Context, of_store},
    nudge::nudge_because,
    output::{Exit, Failed, Output, damage_to_text, table},
};
use crate::{
    acme::{AccountKey, Client},
    ca::Ca,
    issuance::{
        AccountError, AtCa, DEFAULT_ACCOUNT, ask_for_account, check_contact, client_for, import_account,
        open_account, replace_account, roll_over,
    },
    sites::{Registry, WishError, is_word},
};
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::{FailureClass, KeyType},
    store::{Account, AccountStatus, Listing, Role, Store, StoredAccount},
    vault::Vault,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make an account, or ask the CA whether the one that is there is valid; safe to repeat
    Create {
        #[command(flatten)]
        which: Which,
        /// Another account in the place of one that the CA no longer knows, or has revoked
        #[arg(long)]
        replace: bool,
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
        /// Without being asked
        #[arg(long)]
        yes: bool,
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
        Command::Create { which, replace, key_type } => {
            which.check_new()?;
            let ca = Ca::of(&config, which.ca.as_deref());
            let ca = ca.map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
            check_contact(&ca).map_err(|e| of_account(&e))?;
            let desk = Desk::open(which, config, *output).await?;
            let existing =
                desk.context.store.load_account(&desk.ca.name, &desk.name).await.map_err(|e| of_store(&e))?;
            let (stored, at_ca) = match existing {
                Some(stored) if stored.account.status == AccountStatus::Deactivated => {
                    (desk.replace(stored, key_type).await?, None)
                }
                Some(stored) if stored.account.status == AccountStatus::Valid => {
                    let (stored, account) = desk.account(key_type).await?;
                    match ask_for_account(&account).await.map_err(|e| of_account(&e))? {
                        AtCa::Known(state) => {
                            if replace {
                                output.note("the CA knows the account, and it is valid: it was not replaced");
                            }
                            (stored, Some(json!(state)))
                        }
                        AtCa::Lost(how) if replace => {
                            output.note(&format!("{} {how}: another one takes its place", desk.ca.title));
                            (desk.replace(stored, key_type).await?, None)
                        }
                        AtCa::Lost(how) => return Err(of_account(&desk.lost(how))),
                    }
                }
                _ => (desk.account(key_type).await?.0, None),
            };
            desk.wake_who_waits().await?;
            show(&stored.account, at_ca, output);
            desk.context.tell_of_unconfigured(*output).await?;
            Ok(Exit::Done)
        }
        Command::Import { file, which } => {
            which.check_new()?;
            let desk = Desk::open(which, config, *output).await?;
            let key = read_key(&file)?;
            let stored =
                import_account(&desk.context.store, &desk.vault, &desk.ca, &desk.client, &desk.name, &key)
                    .await
                    .map_err(|e| of_account(&e))?;
            desk.wake_who_waits().await?;
            show(&stored.account, None, output);
            Ok(Exit::Done)
        }
        Command::Show { which } => {
            let desk = Desk::open_existing(which, config, *output).await?;
            let stored = desk.stored().await?;
            if stored.account.status != AccountStatus::Valid {
                show(&stored.account, None, output);
                return Ok(Exit::Done);
            }
            let (stored, account) = desk.account(stored.account.key_type).await?;
            match ask_for_account(&account).await.map_err(|e| of_account(&e))? {
                AtCa::Known(state) => show(&stored.account, Some(json!(state)), output),
                AtCa::Lost(how) => {
                    output.note(&desk.lost(how.clone()).to_string());
                    show(&stored.account, Some(json!({ "status": "lost", "what": how })), output);
                }
            }
            Ok(Exit::Done)
        }
        Command::Rollover { which, key_type } => {
            let desk = Desk::open_existing(which, config, *output).await?;
            let stored = desk.stored().await?;
            if stored.account.status != AccountStatus::Valid {
                desk.account(stored.account.key_type).await?;
            }
            let (store, vault, client) = (&desk.context.store, &desk.vault, &desk.client);
            let rolled = roll_over(store, vault, &desk.ca, client, &desk.name, key_type).await;
            let stored = rolled.map_err(|e| of_account(&e))?;
            desk.wake_who_waits().await?;
            show(&stored.account, None, output);
            Ok(Exit::Done)
        }
        Command::Update { which } => {
            let desk = Desk::open_existing(which, config, *output).await?;
            let stored = desk.stored().await?;
            let (stored, account) = desk.account(stored.account.key_type).await?;
            let contact = desk.ca.section.contact.clone();
            let state = account
                .update_contact(&contact)
                .await
                .map_err(|e| Failed::because(Exit::Failed, "ca", &e))?;
            let mut updated = stored.account.clone();
            updated.contact = contact;
            let stored =
                desk.context.store.write_account(Some(&stored), updated).await.map_err(|e| of_store(&e))?;
            desk.wake_who_waits().await?;
            show(&stored.account, Some(json!(state)), output);
            Ok(Exit::Done)
        }
        Command::Deactivate { which, yes } => {
            let desk = Desk::open_existing(which, config, *output).await?;
            let stored = desk.stored().await?;
            let what = format!(
                "the account {:?} of {} ends for good: nothing is ordered or revoked with it any more",
                desk.name, desk.ca.title
            );
            output.confirm(&what, yes).await?;
            let (stored, account) = desk.account(stored.account.key_type).await?;
            let at_ca = match ask_for_account(&account).await.map_err(|e| of_account(&e))? {
                AtCa::Known(_) => {
                    let ended = account.deactivate().await;
                    json!(ended.map_err(|e| Failed::because(Exit::Failed, "ca", &e))?)
                }
                // It has ended there already.
                AtCa::Lost(how) => json!({ "status": "lost", "what": how }),
            };
            let mut ended = stored.account.clone();
            ended.status = AccountStatus::Deactivated;
            let stored =
                desk.context.store.write_account(Some(&stored), ended).await.map_err(|e| of_store(&e))?;
            show(&stored.account, Some(at_ca), output);
            Ok(Exit::Done)
        }
    }
}

impl Which {
    /// One of another name could not be named by a site.
    fn check_new(&self) -> Result<(), Failed> {
        if is_word(&self.name) {
            return Ok(());
        }
        Err(Failed::because(Exit::Usage, "usage", &WishError::Word(self.name.clone())))
    }
}

impl Desk {
    /// For an account that must be there. Where it isn't, nothing is made, no keyring either.
    async fn open_existing(which: Which, config: Config, output: Output) -> Result<Self, Failed> {
        let ca = Ca::of(&config, which.ca.as_deref());
        let ca = ca.map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
        let store = Store::open(&config.store, Role::Issuer).await.map_err(|e| of_store(&e))?;
        if store.load_account(&ca.name, &which.name).await.map_err(|e| of_store(&e))?.is_none() {
            let error = AccountError::Missing { ca: ca.name, name: which.name };
            return Err(Failed::because(Exit::NotFound, "not-found", &error));
        }
        Self::open(which, config, output).await
    }

    async fn open(which: Which, config: Config, output: Output) -> Result<Self, Failed> {
        let ca = Ca::of(&config, which.ca.as_deref());
        let ca = ca.map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
        let context = Context::open_to_change(config, output).await?;
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

    /// The account, made with a key of this type where there is none.
    async fn account(&self, key_type: KeyType) -> Result<(StoredAccount, crate::acme::Account), Failed> {
        open_account(&self.context.store, &self.vault, &self.ca, &self.client, &self.name, key_type)
            .await
            .map_err(|e| of_account(&e))
    }

    /// A new account in the place of one of which nothing more can be had.
    async fn replace(&self, old: StoredAccount, key_type: KeyType) -> Result<StoredAccount, Failed> {
        let (store, vault) = (&self.context.store, &self.vault);
        let replaced = replace_account(store, vault, &self.ca, &self.client, old, key_type).await;
        Ok(replaced.map_err(|e| of_account(&e))?.0)
    }

    fn lost(&self, how: String) -> AccountError {
        AccountError::Lost { ca: self.ca.name.clone(), name: self.name.clone(), how }
    }

    /// What failed because of the account is tried again at once, by the daemons.
    async fn wake_who_waits(&self) -> Result<(), Failed> {
        let registry = Registry::new(self.context.store.clone(), Arc::new(self.context.config.clone()));
        nudge_because(&self.context, &registry, |stored, failure| {
            failure.class == FailureClass::Account
                && stored.site.ca == self.ca.name
                && stored.site.account == self.name
        })
        .await?;
        Ok(())
    }
}

async fn list(config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open(config, *output).await?;
    let Listing { found: accounts, damaged } =
        context.store.list_accounts().await.map_err(|e| of_store(&e))?;
    let shown: Vec<Value> = accounts.iter().map(describe).collect();
    output.result(&json!({ "accounts": shown, "damaged": damaged }), || {
        let rows = accounts.iter().map(|account| {
            let url = account.url.clone().unwrap_or_default();
            let status = json!(account.status).as_str().unwrap_or_default().to_owned();
            vec![account.ca.clone(), account.name.clone(), status, account.key_type.to_string(), url]
        });
        table(&["CA", "NAME", "STATUS", "KEY", "URL"], rows) + &damage_to_text(&damaged)
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
        | AccountError::NodesLackKey { .. }
        | AccountError::NoRollover(_) => Exit::Usage,
        AccountError::TooMany(_)
        | AccountError::StillLooking { .. }
        | AccountError::RolloverUnderWay { .. } => Exit::Waiting,
        AccountError::Missing { .. } | AccountError::UnknownToCa => Exit::NotFound,
        _ => Exit::Failed,
    }
}
