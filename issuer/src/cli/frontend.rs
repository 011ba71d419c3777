//! `issuer frontend ...`: who may pull certificates, and which.

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, table},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::{
    config::Config,
    digest::{hex, sha256_hex},
    domain::{Frontend, FrontendName, Right, Scope, ScopePattern},
    tls::{InternalCa, KeyPair},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Let a frontend pull: prints its bearer token once, or makes a client certificate
    Add(Add),
    /// Every frontend
    List,
    Show {
        name: FrontendName,
    },
    /// Take back its access: effective with its next request
    Revoke {
        name: FrontendName,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    name: FrontendName,
    /// What it sees: a hostname, `*.example.com` for everything below, `*` for everything
    #[arg(long = "scope", value_name = "PATTERN", required_unless_present = "tags", num_args = 1..)]
    scope: Vec<ScopePattern>,
    /// Sites with this tag are in its scope too
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A client certificate in place of a bearer token
    #[arg(long, requires = "out")]
    mtls: bool,
    /// Certificates only, no private keys
    #[arg(long)]
    certs_only: bool,
    /// Write token or client certificate, and the CA to trust, into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace a frontend of this name: its old token or certificate ends
    #[arg(long)]
    replace: bool,
}

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open(config, *output).await?;
    match command {
        Command::Add(wanted) => add(wanted, &context, output).await,
        Command::List => {
            let frontends = context.store.list_frontends().await.map_err(|e| of_store(&e))?;
            let shown: Vec<Value> = frontends.iter().map(describe).collect();
            output.result(&json!({ "frontends": shown }), || {
                let rows = frontends.iter().map(|frontend| {
                    let state = if frontend.revoked.is_some() { "revoked" } else { "active" };
                    let kind = if frontend.spki_sha256.is_some() { "certificate" } else { "token" };
                    vec![
                        frontend.name.to_string(),
                        state.to_owned(),
                        kind.to_owned(),
                        scope_text(&frontend.scope),
                    ]
                });
                table(&["NAME", "STATE", "BY", "SCOPE"], rows)
            });
            Ok(Exit::Done)
        }
        Command::Show { name } => {
            let frontend = load(&context, &name).await?;
            output.result(&describe(&frontend), || format!("{name}: {}", scope_text(&frontend.scope)));
            Ok(Exit::Done)
        }
        Command::Revoke { name } => {
            let mut frontend = load(&context, &name).await?;
            frontend.revoked.get_or_insert_with(Timestamp::now);
            context.store.write_frontend(&frontend).await.map_err(|e| of_store(&e))?;
            output.result(&describe(&frontend), || {
                format!("{name} is revoked: its next request is refused. It keeps what it has pulled.")
            });
            Ok(Exit::Done)
        }
    }
}

async fn add(wanted: Add, context: &Context, output: &Output) -> Result<Exit, Failed> {
    let exists = context.store.load_frontend(&wanted.name).await.map_err(|e| of_store(&e))?;
    if exists.is_some() && !wanted.replace {
        let message = format!("there is a frontend {} already: --replace ends its old access", wanted.name);
        return Err(Failed::new(Exit::Failed, "exists", message));
    }
    let vault = context.vault(*output).await?;
    let ca = InternalCa::of(&context.store, &vault)
        .await
        .map_err(|e| Failed::because(Exit::Failed, "internal-ca", &e))?;
    let of_ca = |e: shared::tls::AuthorityError| Failed::because(Exit::Failed, "internal-ca", &e);
    let ca_pem = ca.certificate_pem().map_err(of_ca)?;
    let pair = if wanted.mtls { Some(ca.issue_client(&wanted.name).map_err(of_ca)?) } else { None };
    let token = if wanted.mtls { None } else { Some(new_token()?) };
    let mut rights = BTreeSet::from([Right::ReadCert]);
    if !wanted.certs_only {
        rights.insert(Right::ReadKey);
    }
    let frontend = Frontend {
        v: Frontend::VERSION,
        name: wanted.name.clone(),
        scope: Scope { names: wanted.scope, tags: wanted.tags },
        rights,
        created: Timestamp::now(),
        revoked: None,
        token_sha256: token.as_ref().map(|token| sha256_hex(token.as_bytes())),
        spki_sha256: pair.as_ref().map(|pair| pair.spki_sha256.clone()),
    };
    // The files first: an identity that nobody could keep must not be made.
    let files = match &wanted.out {
        Some(directory) => {
            write_files(directory, &ca_pem, token.as_ref().map(|token| token.as_str()), pair.as_ref())
                .map_err(|e| {
                    Failed::new(
                        Exit::Failed,
                        "files",
                        format!("{} can't be written: {e}", directory.display()),
                    )
                })?
        }
        None => BTreeMap::new(),
    };
    context.store.write_frontend(&frontend).await.map_err(|e| of_store(&e))?;
    let mut document = describe(&frontend);
    document["ca_certificate_pem"] = json!(ca_pem);
    document["files"] = json!(files);
    if let Some(token) = &token {
        document["token"] = json!(token.as_str());
    }
    output.result(&document, || {
        let mut text = format!("{} may pull {}", frontend.name, scope_text(&frontend.scope));
        if let Some(token) = token.as_ref().filter(|_| files.is_empty()) {
            text.push_str(&format!(
                "\nIts token, shown this once: {}\nThe CA it must trust:\n{ca_pem}",
                token.as_str()
            ));
        }
        for (what, file) in &files {
            text.push_str(&format!("\n{what}: {}", file.display()));
        }
        text
    });
    Ok(Exit::Done)
}

async fn load(context: &Context, name: &FrontendName) -> Result<Frontend, Failed> {
    let found = context.store.load_frontend(name).await.map_err(|e| of_store(&e))?;
    found.ok_or_else(|| Failed::new(Exit::NotFound, "not-found", format!("there is no frontend {name}")))
}

fn write_files(
    directory: &Path,
    ca_pem: &str,
    token: Option<&str>,
    pair: Option<&KeyPair>,
) -> std::io::Result<BTreeMap<&'static str, PathBuf>> {
    std::fs::create_dir_all(directory)?;
    let mut files = BTreeMap::new();
    let mut write = |what: &'static str, file: &str, mode: u32, content: &[u8]| -> std::io::Result<()> {
        let path = directory.join(file);
        let mut draft = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(mode))
            .tempfile_in(directory)?;
        draft.write_all(content)?;
        draft.as_file().sync_all()?;
        draft.persist(&path).map_err(|e| e.error)?;
        files.insert(what, path);
        Ok(())
    };
    write("ca", "ca.pem", 0o644, ca_pem.as_bytes())?;
    if let Some(token) = token {
        write("token", "token", 0o600, token.as_bytes())?;
    }
    if let Some(pair) = pair {
        write("key", "client-key.pem", 0o600, &pair.key_pem)?;
        write("certificate", "client.pem", 0o644, pair.certificate_pem.as_bytes())?;
    }
    Ok(files)
}

/// A secret that nobody guesses, for a frontend or a user of the API.
pub(super) fn new_token() -> Result<Zeroizing<String>, Failed> {
    let mut bytes = Zeroizing::new([0; 32]);
    openssl::rand::rand_bytes(&mut *bytes).map_err(|e| Failed::because(Exit::Failed, "bug", &e))?;
    Ok(Zeroizing::new(format!("sp_{}", *Zeroizing::new(hex(&*bytes)))))
}

fn describe(frontend: &Frontend) -> Value {
    json!({
        "name": frontend.name,
        "scope": frontend.scope,
        "rights": frontend.rights,
        "by": if frontend.spki_sha256.is_some() { "certificate" } else { "token" },
        "created": frontend.created,
        "revoked": frontend.revoked,
    })
}

fn scope_text(scope: &Scope) -> String {
    let names = scope.names.iter().map(ToString::to_string);
    names.chain(scope.tags.iter().map(|tag| format!("tag {tag}"))).collect::<Vec<_>>().join(", ")
}
