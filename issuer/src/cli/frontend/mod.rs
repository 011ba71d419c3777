//! `issuer frontend ...`: who may pull certificates, and which.

mod rekey;

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, damage_to_text, table},
    settings::parse_tag_or_none,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::{
    config::Config,
    digest::{hex, sha256_hex},
    domain::{Frontend, FrontendName, Right, Scope, ScopePattern, parse_tag},
    store::{ListedFrontend, Listing, StoreError},
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
    /// One frontend: what it sees, and who it is
    Show { name: FrontendName },
    /// Change what it sees: what is not named stays
    Set(Set),
    /// Take back its access: effective with its next request
    Revoke {
        name: FrontendName,
        /// Renew, with new keys, every certificate whose key it was ever given; safe to repeat
        #[arg(long)]
        rekey: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    name: FrontendName,
    /// What it sees: a hostname, `*.example.com` for everything below, `*` for everything
    #[arg(long = "scope", value_name = "PATTERN", required_unless_present = "tags", num_args = 1..)]
    scope: Vec<ScopePattern>,
    /// Sites with this tag are in its scope too
    #[arg(long = "tag", value_name = "TAG", value_parser = parse_tag)]
    tags: Vec<String>,
    /// A client certificate in place of a bearer token
    #[arg(long, requires = "out", conflicts_with_all = ["enrol", "expires_hours"])]
    mtls: bool,
    /// The token is good for one client certificate, which the agent then asks for, and for nothing else
    #[arg(long)]
    enrol: bool,
    /// The token ends after so many hours; with --enrol 24, otherwise never
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=876_000))]
    expires_hours: Option<u32>,
    /// Certificates only, no private keys
    #[arg(long)]
    certs_only: bool,
    /// It may tell of names that visitors came with and that no site has, where they match its patterns
    #[arg(long)]
    sight: bool,
    /// Write token or client certificate, and the CA to trust, into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace a frontend of this name: its old token or certificate ends
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
pub(super) struct Set {
    name: FrontendName,
    /// What it sees, in the place of all that was named before; an empty one: nothing by name
    #[arg(long = "scope", value_name = "PATTERN", num_args = 0.., group = "change", value_parser = parse_pattern_or_none)]
    scope: Option<Vec<PatternOrNone>>,
    /// Sites with these tags, in the place of the tags before; an empty one: none
    #[arg(long = "tag", value_name = "TAG", num_args = 0.., group = "change", value_parser = parse_tag_or_none)]
    tags: Option<Vec<String>>,
    /// Whether it is given certificates only, no private keys
    #[arg(long, value_name = "true|false", group = "change")]
    certs_only: Option<bool>,
    /// Whether it may tell of names that visitors came with
    #[arg(long, value_name = "true|false", group = "change")]
    sight: Option<bool>,
}

/// A pattern, or the empty text that stands for none.
#[derive(Clone, Debug)]
struct PatternOrNone(Option<ScopePattern>);

fn parse_pattern_or_none(text: &str) -> Result<PatternOrNone, String> {
    let pattern = (!text.is_empty()).then(|| text.parse::<ScopePattern>()).transpose();
    pattern.map(PatternOrNone).map_err(|e| e.to_string())
}

/// How long a token that only enrols is good, hours.
const ENROL_HOURS: u32 = 24;

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context =
        Context::open_verified_for(!matches!(command, Command::List | Command::Show { .. }), config, *output)
            .await?;
    match command {
        Command::Add(wanted) => add(wanted, &context, output).await,
        Command::List => {
            let Listing { found: listed, damaged } =
                context.store.list_frontend_records().await.map_err(|e| of_store(&e))?;
            let shown: Vec<Value> = listed.iter().map(describe_listed).collect();
            output.result(&json!({ "frontends": shown, "damaged": damaged }), || {
                let rows = listed.iter().map(|listed| {
                    let name = listed.name.to_string();
                    match &listed.frontend {
                        Ok(frontend) => vec![
                            name,
                            state(frontend).to_owned(),
                            kind(frontend).to_owned(),
                            scope_text(&frontend.scope),
                        ],
                        Err(error) => {
                            vec![name, error.record_state().to_owned(), "-".into(), "nothing".into()]
                        }
                    }
                });
                table(&["NAME", "STATE", "BY", "SCOPE"], rows) + &damage_to_text(&damaged)
            });
            Ok(Exit::Done)
        }
        Command::Show { name } => {
            let frontend = load(&context, &name).await?;
            output.result(&describe(&frontend), || format!("{name}: {}", scope_text(&frontend.scope)));
            Ok(Exit::Done)
        }
        Command::Set(wanted) => set(&wanted, &context, output).await,
        Command::Revoke { name, rekey } => {
            let revoke = |frontend: &mut Frontend| {
                frontend.revoked.get_or_insert_with(Timestamp::now);
                true
            };
            let frontend = change(&context, &name, revoke).await?;
            let mut document = describe(&frontend);
            let mut text =
                format!("{name} is revoked: its next request is refused. It keeps what it has pulled.");
            if rekey {
                let rekeyed = rekey::rekey(&frontend, &context, *output).await?;
                text.push_str(&format!("\n{rekeyed}"));
                document["rekey"] = json!(rekeyed);
            }
            output.result(&document, || text);
            Ok(Exit::Done)
        }
    }
}

async fn add(wanted: Add, context: &Context, output: &Output) -> Result<Exit, Failed> {
    let exists = match context.store.load_frontend(&wanted.name).await {
        // What grants nothing can't be shown, and is there.
        Err(StoreError::Unverified { .. } | StoreError::Corrupt { .. }) => true,
        known => known.map_err(|e| of_store(&e))?.is_some(),
    };
    if exists && !wanted.replace {
        return Err(exists_already(&wanted.name));
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
    if wanted.sight {
        rights.insert(Right::Sight);
    }
    let scope = Scope { names: wanted.scope, tags: wanted.tags };
    let now = Timestamp::now();
    let mut frontend = Frontend::new(wanted.name.clone(), scope, rights, now);
    frontend.token_sha256 = token.as_ref().map(|token| sha256_hex(token.as_bytes()));
    frontend.token_enrols_only = wanted.enrol;
    let hours = wanted.expires_hours.or_else(|| wanted.enrol.then_some(ENROL_HOURS));
    frontend.token_expires = hours.map(|hours| now + SignedDuration::from_hours(hours.into()));
    frontend.spki_sha256 = pair.as_ref().map(|pair| pair.spki_sha256.clone());
    // Written out first: an identity that nobody could keep must not be made. They take their places once they are good, so
    // that of two who add one name at once the one who is refused replaces nothing.
    let drafts = match &wanted.out {
        Some(directory) => {
            draft_files(directory, &ca_pem, token.as_ref().map(|token| token.as_str()), pair.as_ref())
                .map_err(|e| of_files(directory, &e))?
        }
        None => Vec::new(),
    };
    let stored = if wanted.replace {
        context.store.write_frontend(&frontend).await
    } else {
        context.store.add_frontend(&frontend).await
    };
    stored.map_err(|error| match error {
        StoreError::Conflict => exists_already(&wanted.name),
        other => of_store(&other),
    })?;
    let mut files = BTreeMap::new();
    for (what, path, draft) in drafts {
        if let Err(error) = draft.persist(&path) {
            take_back(context, &wanted.name).await?;
            return Err(of_files(&path, &error.error));
        }
        files.insert(what, path);
    }
    let mut document = describe(&frontend);
    document["ca_certificate_pem"] = json!(ca_pem);
    document["files"] = json!(files);
    if let Some(token) = &token {
        document["token"] = json!(token.as_str());
    }
    let text = || {
        let mut text = format!("{} may pull {}", frontend.name, scope_text(&frontend.scope));
        if let Some(token) = token.as_ref().filter(|_| files.is_empty()) {
            text.push_str(&format!(
                "\nIts token, shown this once: {}\nThe CA it must trust:\n{ca_pem}",
                token.as_str()
            ));
        }
        if frontend.token_enrols_only {
            text.push_str("\nThe token is good for one enrolment (agent.enrolment_token_file)");
        }
        if let Some(expires) = frontend.token_expires {
            text.push_str(&format!("\nIt ends {expires}"));
        }
        for (what, file) in &files {
            text.push_str(&format!("\n{what}: {}", file.display()));
        }
        text
    };
    if !files.is_empty() {
        output.result(&document, text);
    } else if let Err(error) = output.result_shown_once(&document, text) {
        // Nobody has seen its token, and nobody ever will.
        take_back(context, &wanted.name).await?;
        let message = format!(
            "the token can't be written to standard output: {error}. {} was revoked again: run this again with --replace",
            wanted.name
        );
        return Err(Failed::new(Exit::Failed, "output", message));
    }
    Ok(Exit::Done)
}

async fn take_back(context: &Context, name: &FrontendName) -> Result<(), Failed> {
    let revoke = |frontend: &mut Frontend| {
        frontend.revoked.get_or_insert_with(Timestamp::now);
        true
    };
    change(context, name, revoke).await.map(drop)
}

fn exists_already(name: &FrontendName) -> Failed {
    let message = format!("there is a frontend {name} already: --replace ends its old access");
    Failed::new(Exit::Failed, "exists", message)
}

fn of_files(path: &Path, error: &std::io::Error) -> Failed {
    Failed::new(Exit::Failed, "files", format!("{} can't be written: {error}", path.display()))
}

async fn set(wanted: &Set, context: &Context, output: &Output) -> Result<Exit, Failed> {
    let frontend = load(context, &wanted.name).await?;
    let named =
        |patterns: &Vec<PatternOrNone>| patterns.iter().filter_map(|one| one.0.clone()).collect::<Vec<_>>();
    let scope = wanted.scope.as_ref().map(named);
    let tagged = |tags: &Vec<String>| tags.iter().filter(|tag| !tag.is_empty()).cloned().collect::<Vec<_>>();
    let tags = wanted.tags.as_ref().map(tagged);
    let no_scope = scope.as_ref().unwrap_or(&frontend.scope.names).is_empty()
        && tags.as_ref().unwrap_or(&frontend.scope.tags).is_empty();
    if no_scope {
        let message = format!("{} would see nothing: to take back its access, revoke it", wanted.name);
        return Err(Failed::new(Exit::Usage, "no-scope", message));
    }
    let set = |frontend: &mut Frontend| {
        if let Some(names) = &scope {
            frontend.scope.names.clone_from(names);
        }
        if let Some(tags) = &tags {
            frontend.scope.tags.clone_from(tags);
        }
        for (right, may) in
            [(Right::ReadKey, wanted.certs_only.map(|only| !only)), (Right::Sight, wanted.sight)]
        {
            match may {
                Some(true) => drop(frontend.rights.insert(right)),
                Some(false) => drop(frontend.rights.remove(&right)),
                None => {}
            }
        }
        true
    };
    let frontend = change(context, &wanted.name, set).await?;
    output.result(&describe(&frontend), || {
        format!("{} may pull {}", frontend.name, scope_text(&frontend.scope))
    });
    Ok(Exit::Done)
}

async fn change(
    context: &Context,
    name: &FrontendName,
    change: impl Fn(&mut Frontend) -> bool,
) -> Result<Frontend, Failed> {
    let changed = context.store.change_frontend(name, change).await.map_err(|e| of_store(&e))?;
    changed.ok_or_else(|| not_found(name))
}

async fn load(context: &Context, name: &FrontendName) -> Result<Frontend, Failed> {
    let found = context.store.load_frontend(name).await.map_err(|e| of_store(&e))?;
    found.ok_or_else(|| not_found(name))
}

fn not_found(name: &FrontendName) -> Failed {
    Failed::new(Exit::NotFound, "not-found", format!("there is no frontend {name}"))
}

/// A file that is written out and has not taken its place.
type Draft = (&'static str, PathBuf, tempfile::NamedTempFile);

fn draft_files(
    directory: &Path,
    ca_pem: &str,
    token: Option<&str>,
    pair: Option<&KeyPair>,
) -> std::io::Result<Vec<Draft>> {
    std::fs::create_dir_all(directory)?;
    let mut files = Vec::new();
    let mut write = |what: &'static str, file: &str, mode: u32, content: &[u8]| -> std::io::Result<()> {
        let path = directory.join(file);
        let mut draft = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(mode))
            .tempfile_in(directory)?;
        draft.write_all(content)?;
        draft.as_file().sync_all()?;
        files.push((what, path, draft));
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

fn describe_listed(listed: &ListedFrontend) -> Value {
    match &listed.frontend {
        Ok(frontend) => describe(frontend),
        Err(error) => json!({
            "name": listed.name,
            "state": error.record_state(),
            "reason": shared::error::chain(error),
        }),
    }
}

fn describe(frontend: &Frontend) -> Value {
    json!({
        "name": frontend.name,
        "scope": frontend.scope,
        "rights": frontend.rights,
        "by": if frontend.spki_sha256.is_some() { "certificate" } else { "token" },
        "state": state(frontend),
        "token_expires": frontend.token_expires,
        "created": frontend.created,
        "revoked": frontend.revoked,
    })
}

fn state(frontend: &Frontend) -> &'static str {
    let has_ended = |expires: Timestamp| Timestamp::now() >= expires;
    if frontend.revoked.is_some() {
        "revoked"
    } else if frontend.token_expires.is_some_and(has_ended) {
        "token-ended"
    } else if frontend.token_enrols_only && frontend.spki_sha256.is_none() {
        "not-enrolled"
    } else {
        "active"
    }
}

fn kind(frontend: &Frontend) -> &'static str {
    match (&frontend.spki_sha256, &frontend.enrolled_token_sha256) {
        (Some(_), Some(_)) => "enrolled",
        (Some(_), None) => "certificate",
        (None, _) => "token",
    }
}

fn scope_text(scope: &Scope) -> String {
    let names = scope.names.iter().map(ToString::to_string);
    names.chain(scope.tags.iter().map(|tag| format!("tag {tag}"))).collect::<Vec<_>>().join(", ")
}
