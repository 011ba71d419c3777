//! `issuer token ...`: who may use the operators' API.

use super::{
    context::{Context, of_store},
    frontend::new_token,
    output::{Exit, Failed, Output, damage_to_text, table},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::{
    config::Config,
    digest::sha256_hex,
    domain::{ApiRole, ApiToken, TokenName},
    store::{ListedToken, Listing, StoreError, TokenChange},
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
    let context = Context::open_verified_for(!matches!(command, Command::List), config, *output).await?;
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
        generation: 0,
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
    let shown = output.result_shown_once(&document, || {
        format!("{} may {}\nIts token, shown this once: {}", token.name, token.role, secret.as_str())
    });
    // Nobody has seen it, and nobody ever will.
    if let Err(error) = shown {
        let sha256 = sha256_hex(secret.as_bytes());
        let gone = match context.store.remove_api_token(&sha256).await {
            Ok(()) => "It was taken back: nothing has it".to_owned(),
            Err(left) => {
                let left = shared::error::chain(&left);
                format!("It could not be taken back ({left}): `issuer token revoke {}` does it", token.name)
            }
        };
        let before = if wanted.replace { "; the token before has ended" } else { "" };
        let message = format!("the token can't be written to standard output: {error}. {gone}{before}");
        return Err(Failed::new(Exit::Failed, "output", message));
    }
    Ok(Exit::Done)
}

async fn list(context: &Context, output: &Output) -> Result<Exit, Failed> {
    let Listing { found: tokens, damaged } =
        context.store.list_api_tokens().await.map_err(|e| of_store(&e))?;
    let shown: Vec<Value> = tokens.iter().map(describe_listed).collect();
    output.result(&json!({ "tokens": shown, "damaged": damaged }), || {
        let rows = tokens.iter().map(|listed| {
            let used = listed.last_used.map_or_else(|| "never".to_owned(), |at| at.to_string());
            let name = listed.name.as_ref().map_or("-", |name| name.as_str()).to_owned();
            match &listed.token {
                Ok(token) => vec![name, token.role.to_string(), state(token).to_owned(), used],
                Err(error) => vec![name, "none".to_owned(), error.record_state().to_owned(), used],
            }
        });
        table(&["NAME", "ROLE", "STATE", "LAST USED"], rows) + &damage_to_text(&damaged)
    });
    Ok(Exit::Done)
}

async fn revoke(name: &TokenName, context: &Context, output: &Output) -> Result<Exit, Failed> {
    let tokens = context.store.list_api_tokens().await.map_err(|e| of_store(&e))?;
    let mut named: Vec<ListedToken> =
        tokens.found.into_iter().filter(|listed| listed.name.as_ref() == Some(name)).collect();
    // What grants nothing goes, so that nobody has to wonder about it.
    let refused: Vec<&ListedToken> = named.iter().filter(|listed| listed.token.is_err()).collect();
    for listed in &refused {
        context.store.remove_api_token(&listed.sha256).await.map_err(|e| of_store(&e))?;
    }
    let removed = !refused.is_empty();
    named.retain(|listed| listed.token.is_ok());
    let Some(ListedToken { sha256, token: Ok(mut token), last_used, .. }) = named.pop() else {
        if removed {
            let document = json!({ "name": name, "state": "removed" });
            output.result(&document, || format!("the record of {name} granted nothing, and is removed."));
            return Ok(Exit::Done);
        }
        return Err(Failed::new(Exit::NotFound, "not-found", format!("there is no token {name}")));
    };
    token.revoked.get_or_insert_with(Timestamp::now);
    let written = context.store.put_api_token(&sha256, &token, TokenChange::Change).await;
    written.map_err(|e| of_store(&e))?;
    output
        .result(&describe(&token, last_used), || format!("{name} is revoked: its next request is refused."));
    Ok(Exit::Done)
}

fn describe_listed(listed: &ListedToken) -> Value {
    match &listed.token {
        Ok(token) => describe(token, listed.last_used),
        Err(error) => json!({
            "name": listed.name,
            "sha256": listed.sha256,
            "state": error.record_state(),
            "reason": shared::error::chain(error),
        }),
    }
}

const fn state(token: &ApiToken) -> &'static str {
    if token.revoked.is_some() { "revoked" } else { "active" }
}

fn describe(token: &ApiToken, last_used: Option<Timestamp>) -> Value {
    json!({
        "name": token.name,
        "role": token.role,
        "state": state(token),
        "created": token.created,
        "last_used": last_used,
        "revoked": token.revoked,
    })
}
