//! `issuer audit`: who was given which private keys, and whether what is written of it is whole.

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, table},
};
use crate::audit::{self, Coverage, InquiryError};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use shared::{
    config::Config,
    domain::{AuditAction, AuditCheck, AuditLine, AuditedKey, CertificateId, FrontendName},
    store::StoreError,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Faults that are shown.
const FAULTS: usize = 100;

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("question").multiple(false)))]
pub(super) struct Arguments {
    /// Which frontends were given this key: SHA-256 of the public key or of a certificate, hex
    #[arg(long, value_name = "FINGERPRINT", group = "question", value_parser = parse_fingerprint)]
    key: Option<String>,
    /// Which keys this frontend was given
    #[arg(long, value_name = "NAME", group = "question")]
    frontend: Option<FrontendName>,
    /// Whether all that was written is there, and unchanged
    #[arg(long, group = "question")]
    verify: bool,
}

/// How often, when and from where somebody was given a key.
#[derive(Debug, Serialize)]
struct Reads {
    first: Timestamp,
    last: Timestamp,
    times: u64,
    from: BTreeSet<String>,
}

/// Every key that a frontend was given, as far as the audit goes.
pub(super) struct Given {
    keys: BTreeMap<AuditedKey, Reads>,
    pub(super) coverage: Coverage,
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let context = Context::open_with_vault(config, *output).await?;
    if let Some(fingerprint) = &arguments.key {
        of_key(fingerprint, &context, output).await
    } else if let Some(frontend) = &arguments.frontend {
        of_frontend(frontend, &context, output).await
    } else if arguments.verify {
        verify(&context, output).await
    } else {
        all(&context, output).await
    }
}

/// Every line as it was written, oldest first.
async fn all(context: &Context, output: &Output) -> Result<Exit, Failed> {
    let (mut is_read, mut unreadable) = (true, 0);
    let coverage = read(context, |text| match serde_json::from_str::<AuditLine>(text) {
        Ok(line) => is_read = is_read && output.line(&line, || describe(&line)),
        Err(_) => unreadable += 1,
    })
    .await?;
    tell_unreadable(unreadable, *output);
    warn(coverage, *output);
    Ok(Exit::Done)
}

async fn of_key(fingerprint: &str, context: &Context, output: &Output) -> Result<Exit, Failed> {
    // What a certificate is known by is the first half of its fingerprint.
    let id = CertificateId::from_stored(fingerprint[..32].to_owned());
    let is_it = |key: &AuditedKey| key.spki_sha256 == fingerprint || key.certificate == id;
    let mut frontends: BTreeMap<String, Reads> = BTreeMap::new();
    let mut lineages: BTreeSet<String> = BTreeSet::new();
    let coverage = read_keys(context, &fingerprint[..32], *output, |line| {
        let found: Vec<_> = line.entry.keys.iter().filter(|key| is_it(key)).collect();
        if !found.is_empty() {
            lineages.extend(found.iter().map(|key| key.lineage.clone()));
            Reads::add(&mut frontends, line.entry.who.clone(), &line);
        }
    })
    .await?;
    let document = json!({
        "key": fingerprint,
        "lineages": lineages,
        "frontends": frontends.iter().map(|(name, reads)| {
            let mut shown = json!(reads);
            shown["name"] = json!(name);
            shown
        }).collect::<Vec<_>>(),
        "complete_since": coverage.complete_since,
    });
    output.result(&document, || {
        if frontends.is_empty() {
            return "no frontend was given this key".to_owned();
        }
        let rows = frontends.iter().map(|(name, reads)| [vec![name.clone()], reads.cells()].concat());
        format!(
            "{}: given to\n{}",
            lineages.iter().cloned().collect::<Vec<_>>().join(", "),
            table(&["FRONTEND", "TIMES", "FIRST", "LAST", "FROM"], rows)
        )
    });
    warn(coverage, *output);
    Ok(Exit::Done)
}

async fn of_frontend(name: &FrontendName, context: &Context, output: &Output) -> Result<Exit, Failed> {
    let given = given_to(name, context, *output).await?;
    let is_known = match context.store.load_frontend(name).await {
        Err(StoreError::Unverified { .. } | StoreError::Corrupt { .. }) => true,
        known => known.map_err(|e| of_store(&e))?.is_some(),
    };
    if given.keys.is_empty() && !is_known {
        return Err(Failed::new(Exit::NotFound, "not-found", format!("there is no frontend {name}")));
    }
    let document = json!({
        "frontend": name,
        "keys": given.keys.iter().map(|(key, reads)| {
            let mut shown = json!(reads);
            shown["lineage"] = json!(key.lineage);
            shown["certificate"] = json!(key.certificate);
            shown["spki_sha256"] = json!(key.spki_sha256);
            shown
        }).collect::<Vec<_>>(),
        "complete_since": given.coverage.complete_since,
    });
    output.result(&document, || {
        if given.keys.is_empty() {
            return format!("{name} was given no key");
        }
        let rows = given
            .keys
            .iter()
            .map(|(key, reads)| [vec![key.lineage.clone(), key.spki_sha256.clone()], reads.cells()].concat());
        table(&["LINEAGE", "KEY", "TIMES", "FIRST", "LAST", "FROM"], rows)
    });
    warn(given.coverage, *output);
    Ok(Exit::Done)
}

async fn verify(context: &Context, output: &Output) -> Result<Exit, Failed> {
    let mut check = AuditCheck::default();
    let mut faults = Vec::new();
    let mut count = 0;
    let coverage = read(context, |text| {
        if let Err(fault) = check.take(text) {
            count += 1;
            if faults.len() < FAULTS {
                faults.push(fault.to_string());
            }
        }
    })
    .await?;
    let unfinished: Vec<String> = check.finish().map(|fault| fault.to_string()).collect();
    count += unfinished.len();
    faults.extend(unfinished);
    // Where nothing is missing, no chain begins in its middle.
    if coverage.complete_since.is_none() {
        count += check.begun_late.len();
        faults.extend(
            check.begun_late.iter().map(|chain| format!("chain {chain}: its first lines are missing")),
        );
    }
    let document = json!({
        "lines": check.lines,
        "chains": check.chains(),
        "faults": faults,
        "fault_count": count,
        "complete_since": coverage.complete_since,
    });
    output.result(&document, || {
        let mut text = format!("{} lines in {} chains", check.lines, check.chains());
        match count {
            0 => text.push_str(": all there and unchanged"),
            _ => text.push_str(&format!(", {count} faults:\n{}", faults.join("\n"))),
        }
        text
    });
    warn(coverage, *output);
    Ok(if count == 0 { Exit::Done } else { Exit::Failed })
}

/// Every key that a frontend of this name was given.
pub(super) async fn given_to(
    name: &FrontendName,
    context: &Context,
    output: Output,
) -> Result<Given, Failed> {
    let mut keys: BTreeMap<AuditedKey, Reads> = BTreeMap::new();
    let coverage = read_keys(context, &format!("{:?}", name.as_str()), output, |line| {
        if line.entry.who == name.as_str() {
            for key in &line.entry.keys {
                Reads::add(&mut keys, key.clone(), &line);
            }
        }
    })
    .await?;
    Ok(Given { keys, coverage })
}

impl Given {
    pub(super) fn keys(&self) -> impl Iterator<Item = &AuditedKey> {
        self.keys.keys()
    }
}

impl Reads {
    fn add<K: Ord>(all: &mut BTreeMap<K, Self>, key: K, line: &AuditLine) {
        let reads = all.entry(key).or_insert_with(|| Self {
            first: line.at,
            last: line.at,
            times: 0,
            from: BTreeSet::new(),
        });
        reads.first = reads.first.min(line.at);
        reads.last = reads.last.max(line.at);
        reads.times += 1;
        reads.from.insert(line.entry.from.clone());
    }

    fn cells(&self) -> Vec<String> {
        let from: Vec<&str> = self.from.iter().map(String::as_str).collect();
        let time = |at: Timestamp| at.strftime("%F %H:%M UTC").to_string();
        vec![self.times.to_string(), time(self.first), time(self.last), from.join(" ")]
    }
}

/// Lines in which keys were given out and which hold `part`, each once. What can't be read is told of and left out.
async fn read_keys(
    context: &Context,
    part: &str,
    output: Output,
    mut each: impl FnMut(AuditLine),
) -> Result<Coverage, Failed> {
    let mut known: HashSet<(String, u64)> = HashSet::new();
    let mut unreadable = 0;
    let coverage = read(context, |text| {
        if !text.contains(part) {
            return;
        }
        match serde_json::from_str::<AuditLine>(text) {
            Ok(line) => {
                let is_new = known.insert((line.chain.clone(), line.seq));
                if is_new && line.entry.action == AuditAction::ReadKey {
                    each(line);
                }
            }
            Err(_) => unreadable += 1,
        }
    })
    .await?;
    tell_unreadable(unreadable, output);
    Ok(coverage)
}

async fn read(context: &Context, each: impl FnMut(&str)) -> Result<Coverage, Failed> {
    audit::read(&context.store, &audit::directory(&context.config), each).await.map_err(|error| match error {
        InquiryError::Store(error) => of_store(&error),
        error @ InquiryError::Disk { .. } => Failed::because(Exit::Failed, "audit", &error),
    })
}

fn warn(coverage: Coverage, output: Output) {
    if let Some(since) = coverage.complete_since {
        output.note(&format!(
            "what was before {since} may be missing here: ask on the node of another issuer, too"
        ));
    }
}

fn tell_unreadable(lines: usize, output: Output) {
    if lines > 0 {
        output.note(&format!("{lines} lines can't be read: see `issuer audit --verify`"));
    }
}

fn describe(line: &AuditLine) -> String {
    let entry = &line.entry;
    let what = match (&entry.keys[..], &entry.what) {
        ([], what) => what.clone().unwrap_or_default(),
        ([only], _) => format!("{} {}", only.lineage, only.spki_sha256),
        (many, _) => format!("{} keys", many.len()),
    };
    let action = match entry.action {
        AuditAction::ReadKey => "read-key",
        AuditAction::Enrol => "enrol",
        AuditAction::Denied => "denied",
    };
    let who = if entry.who.is_empty() { "-" } else { &entry.who };
    format!("{}  {action:8}  {who}  {}  {what}", line.at.strftime("%F %H:%M UTC"), entry.from)
}

/// As it is printed elsewhere: with or without colons, upper or lower case.
fn parse_fingerprint(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex && digits.len() == 64 {
        Ok(digits)
    } else {
        Err("expected a SHA-256: 64 hex digits".to_owned())
    }
}
