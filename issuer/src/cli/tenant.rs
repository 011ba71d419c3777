//! `issuer tenant list|show|set`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, damage_to_text, table},
    site::Switch,
};
use jiff::Timestamp;
use serde_json::json;
use shared::{
    config::Config,
    store::{Listing, Tenant},
};

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
        /// An ACME account of its own
        #[arg(long, value_name = "NAME")]
        account: Option<String>,
    },
}

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open_for(matches!(command, Command::Set { .. }), config, *output).await?;
    let store = &context.store;
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
            found.map(|stored| stored.tenant).ok_or_else(|| {
                Failed::new(Exit::NotFound, "not-found", format!("there is no tenant {name:?}"))
            })?
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
            tenant.account = account.or(tenant.account);
            store.write_tenant(before.as_ref(), &tenant).await.map_err(|e| of_store(&e))?;
            tenant
        }
    };
    output.result(&json!(tenants), || to_text(std::slice::from_ref(&tenants)));
    Ok(Exit::Done)
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
