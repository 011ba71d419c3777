//! `issuer tenant list|show|set|remove`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, damage_to_text, table},
    settings::Switch,
    site::of_site,
};
use crate::sites::Registry;
use jiff::Timestamp;
use serde_json::json;
use shared::{
    config::Config,
    store::{Listing, Tenant},
};
use std::sync::Arc;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Every tenant
    List,
    /// What a tenant's new sites get
    Show { name: String },
    /// What the tenant's new sites get where nothing else is said; makes the tenant where there is none
    Set {
        name: String,
        /// Redirect plain HTTP to HTTPS: on for new tenants, off for those that were there before
        #[arg(long, value_enum)]
        redirect: Option<Switch>,
        /// An ACME account of its own, which `issuer account create` has made; empty: none
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
    },
    /// Forget a tenant that no site names
    Remove {
        /// As its sites named it
        name: String,
    },
}

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context =
        Context::open_for(matches!(command, Command::Set { .. } | Command::Remove { .. }), config, *output)
            .await?;
    let store = &context.store;
    let registry = Registry::new(store.clone(), Arc::new(context.config.clone()));
    let tenants = match command {
        Command::List => {
            let Listing { found, damaged } = store.list_tenants().await.map_err(|e| of_store(&e))?;
            output.result(&json!({ "tenants": found, "damaged": damaged }), || {
                to_text(&found) + &damage_to_text(&damaged)
            });
            return Ok(Exit::Done);
        }
        Command::Show { name } => {
            let found = store.load_tenant(&name).await.map_err(|e| of_store(&e))?;
            found.map(|stored| stored.tenant).ok_or_else(|| missing(&name))?
        }
        Command::Remove { name } => {
            let found = store.load_tenant(&name).await.map_err(|e| of_store(&e))?;
            let found = found.ok_or_else(|| missing(&name))?;
            let sites = registry.count_of_tenant(&name).await.map_err(|e| of_store(&e))?;
            if sites > 0 {
                let message = format!(
                    "{sites} sites name the tenant {name:?}: `issuer site list --tenant {name}` shows them, and `issuer site set NAME --tenant ''` takes one out"
                );
                return Err(
                    Failed::new(Exit::Failed, "conflict", message).with_details(json!({ "sites": sites }))
                );
            }
            store.remove_tenant(&found).await.map_err(|e| of_store(&e))?;
            output.result(&json!({ "removed": found.tenant }), || format!("removed: {name}"));
            return Ok(Exit::Done);
        }
        Command::Set { name, redirect, account } => {
            let before = store.load_tenant(&name).await.map_err(|e| of_store(&e))?;
            let mut tenant = before.as_ref().map_or_else(
                || Tenant {
                    v: Tenant::VERSION,
                    name,
                    redirect: true,
                    account: None,
                    created: Timestamp::now(),
                },
                |stored| stored.tenant.clone(),
            );
            if let Some(redirect) = redirect {
                tenant.redirect = redirect.is_on();
            }
            tenant.account = account.or(tenant.account).filter(|account| !account.is_empty());
            registry.check_tenant(&tenant).await.map_err(|e| of_site(&e))?;
            store.write_tenant(before.as_ref(), &tenant).await.map_err(|e| of_store(&e))?;
            tenant
        }
    };
    output.result(&json!(tenants), || to_text(std::slice::from_ref(&tenants)));
    Ok(Exit::Done)
}

pub(super) fn missing(name: &str) -> Failed {
    Failed::new(Exit::NotFound, "not-found", format!("there is no tenant {name:?}"))
}

fn to_text(tenants: &[Tenant]) -> String {
    let row = |tenant: &Tenant| {
        vec![
            tenant.name.clone(),
            if tenant.redirect { "on" } else { "off" }.to_owned(),
            tenant.account.clone().unwrap_or_default(),
        ]
    };
    table(&["TENANT", "REDIRECT OF NEW SITES", "ACCOUNT"], tenants.iter().map(row))
}
