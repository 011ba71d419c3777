//! `issuer token ...`: who may use the operators' API.

use super::{
    context::{Context, of_store},
    frontend::new_token,
    output::{Exit, Failed, Output, table},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::{
    config::Config,
    digest::sha256_hex,
    domain::{ApiRole, ApiToken, TokenName},
    store::{StoreError, TokenChange},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a token: it is printed once, and kept nowhere
    Add(Add),
    /// Every token, with when it was last used
    List,
    /// Take a token back: effective with its next request
    Revoke { name: TokenName },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    name: TokenName,
    /// read: look; write: also sites, retry and renew; admin: also brakes, tenants and the list of tokens
    #[arg(long)]
    role: ApiRole,
    /// End the token that has this name
    #[arg(long)]
    replace: bool,
}

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open(config, *output).await?;
    match command {
        Command::Add(wanted) => add(wanted, &context, output).await,
        Command::List => list(&context, output).await,
        Command::Revoke { name } => revoke(&name, &context, output).await,
    }
}

async fn add(wanted: Add, context: &Context, output: &Output) -> Result<Exit, Failed> {
    let secret = new_token()?;
    let token = ApiToken {
        v: ApiToken::VERSION,
        name: wanted.name,
        role: wanted.role,
        created: Timestamp::now(),
        revoked: None,
    };
    let change = if wanted.replace { TokenChange::Replace } else { TokenChange::Add };
    context.store.put_api_token(&sha256_hex(secret.as_bytes()), &token, change).await.map_err(|error| {
        match error {
            StoreError::Conflict => {
                let message = format!("there is a token {} already: --replace ends it", token.name);
                Failed::new(Exit::Failed, "exists", message)
            }
            other => of_store(&other),
        }
    })?;
    let mut document = describe(&token, None);
    document["token"] = json!(secret.as_str());
    output.result(&document, || {
        format!("{} may {}\nIts token, shown this once: {}", token.name, token.role, secret.as_str())
    });
    Ok(Exit::Done)
}

async fn list(context: &Context, output: &Output) -> Result<Exit, Failed> {
    let tokens = context.store.list_api_tokens().await.map_err(|e| of_store(&e))?;
    let shown: Vec<Value> = tokens.iter().map(|(_, token, last_used)| describe(token, *last_used)).collect();
    output.result(&json!({ "tokens": shown }), || {
        let rows = tokens.iter().map(|(_, token, last_used)| {
            let state = if token.revoked.is_some() { "revoked" } else { "active" };
            let used = last_used.map_or_else(|| "never".to_owned(), |at| at.to_string());
            vec![token.name.to_string(), token.role.to_string(), state.to_owned(), used]
        });
        table(&["NAME", "ROLE", "STATE", "LAST USED"], rows)
    });
    Ok(Exit::Done)
}

async fn revoke(name: &TokenName, context: &Context, output: &Output) -> Result<Exit, Failed> {
    let tokens = context.store.list_api_tokens().await.map_err(|e| of_store(&e))?;
    let found = tokens.into_iter().find(|(_, token, _)| token.name == *name);
    let (sha256, mut token, last_used) =
        found.ok_or_else(|| Failed::new(Exit::NotFound, "not-found", format!("there is no token {name}")))?;
    token.revoked.get_or_insert_with(Timestamp::now);
    let written = context.store.put_api_token(&sha256, &token, TokenChange::Change).await;
    written.map_err(|e| of_store(&e))?;
    output
        .result(&describe(&token, last_used), || format!("{name} is revoked: its next request is refused."));
    Ok(Exit::Done)
}

fn describe(token: &ApiToken, last_used: Option<Timestamp>) -> Value {
    json!({
        "name": token.name,
        "role": token.role,
        "created": token.created,
        "last_used": last_used,
        "revoked": token.revoked,
    })
}
