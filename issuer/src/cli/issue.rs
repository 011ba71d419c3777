//! `issuer issue NAME...`

use super::{
    context::Context,
    output::{Exit, Failed, Output, table},
    site::of_site,
    watch::Watch,
};
use crate::{
    ca::Ca,
    issuance::{DEFAULT_ACCOUNT, Issuance, Issue, Outcome, SetupError, Urge, Verdict, Wanted},
    sites::{Registry, SiteWish, Whose, whose},
    suffixes,
};
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::{ChallengeType, DnsName, Failure, KeyType, NameError, NameSet, Slot},
    store::Store,
};
use std::{collections::BTreeMap, sync::Arc, time::Instant};
use tokio::{sync::Semaphore, task::JoinSet};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Hostnames, in Unicode or A-labels: one certificate each
    #[arg(required = true)]
    names: Vec<String>,
    /// One certificate for all the names
    #[arg(long)]
    san: bool,
    /// ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096; one of each family makes a dual certificate
    #[arg(long = "key-type", value_name = "TYPE")]
    key_types: Vec<KeyType>,
    /// An ECDSA and an RSA certificate: --key-type ecdsa-p256 --key-type rsa-2048
    #[arg(long, conflicts_with = "key_types")]
    dual: bool,
    /// Which CA, where several are configured
    #[arg(long, value_name = "NAME")]
    ca: Option<String>,
    /// Tags that frontends' scopes can name
    #[arg(long = "tag", value_name = "TAG", value_parser = shared::domain::parse_tag)]
    tags: Vec<String>,
    /// How the names are proved: http-01, dns-01, or auto; wildcards always by dns-01
    #[arg(long, value_parser = super::site::parse_challenge)]
    challenge: Option<ChallengeType>,
    /// Orders worked on at once [default: issuer.slots]
    #[arg(long)]
    slots: Option<usize>,
}

impl Arguments {
    /// What `issuer renew NAME...` asks for.
    pub(super) fn for_renewal(names: Vec<String>) -> Self {
        Self {
            names,
            san: false,
            key_types: Vec::new(),
            dual: false,
            ca: None,
            tags: Vec::new(),
            challenge: None,
            slots: None,
        }
    }
}

/// Names as they were typed, each with the rule that it breaks.
type Refused = Vec<(String, NameError)>;

pub(super) async fn run(
    arguments: Arguments,
    urge: Urge,
    config: Config,
    output: &Output,
) -> Result<Exit, Failed> {
    let began = Instant::now();
    // Before anything is opened, stored or asked.
    let (names, wrong) = parse_all(&arguments.names);
    let key_types = key_types(&arguments)?;
    let is_renewal = urge != Urge::Lack;
    let ca = if is_renewal { None } else { Some(ca_of(&config, arguments.ca.as_deref())?) };
    let refused = ca.as_ref().map_or_else(Vec::new, |ca| refused(&names, ca, &arguments, &config));
    // A site that is there may be of another CA, with rules of its own.
    let may_be_of_another = arguments.ca.is_none() && config.ca.len() > 1;
    if !wrong.is_empty() || (!refused.is_empty() && !may_be_of_another) {
        return Err(refusal(&[wrong, refused].concat()));
    }
    let name_sets = name_sets(names.into_iter().map(|(_, name)| name).collect(), arguments.san)?;
    let context = Context::open_to_change(config, *output).await?;
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let asked = look_for(&context.store, name_sets, is_renewal).await?;
    for (names, whose) in &asked {
        if let (Whose::Nobody(_), Some(ca)) = (whose, &ca) {
            let is_of_set =
                |text: &str| DnsName::parse_identifier(text).is_ok_and(|name| names.contains(&name));
            let of_set: Refused = refused.iter().filter(|(text, _)| is_of_set(text)).cloned().collect();
            if !of_set.is_empty() {
                return Err(refusal(&of_set));
            }
            check_set(names, ca)?;
        }
    }
    let vault = context.vault(*output).await?;
    let slots = arguments.slots.unwrap_or(context.config.issuer.slots).max(1);
    let watch = Watch::over(asked.len(), *output);
    let places = Arc::new(Semaphore::new(slots));
    let mut opened: BTreeMap<(String, String), Arc<Issuance>> = BTreeMap::new();
    let mut running = JoinSet::new();
    for (place, (names, whose)) in asked.into_iter().enumerate() {
        let of = of_whom(&registry, &whose, ca.as_ref(), arguments.ca.is_some()).await?;
        let issuance = match opened.get(&of) {
            Some(issuance) => Arc::clone(issuance),
            None => {
                let ca = ca_of(&context.config, Some(&of.0))?;
                let (store, vault) = (context.store.clone(), Arc::clone(&vault));
                let issuance = Issuance::open_as(&of.1, store, vault, ca, &context.config).await;
                let issuance = Arc::new(issuance.map_err(|e| of_setup(&e))?);
                issuance.sweep_proofs().await;
                opened.insert(of, Arc::clone(&issuance));
                issuance
            }
        };
        let wanted = Wanted {
            names,
            key_types: key_types.clone(),
            default_key_types: context.config.issuer.key_types.clone(),
            tags: arguments.tags.clone(),
            challenge: arguments.challenge,
            urge,
        };
        let (places, progress) = (Arc::clone(&places), watch.progress().clone());
        running.spawn(async move {
            let _place = places.acquire_owned().await;
            (place, issuance.issue(&wanted, &progress).await)
        });
    }
    let mut issues = Vec::new();
    while let Some(done) = running.join_next().await {
        let (place, issue) = done.map_err(|e| Failed::because(Exit::Failed, "bug", &e))?;
        watch.site_done(&issue.names.to_string());
        issues.push((place, issue));
    }
    watch.end();
    issues.sort_by_key(|(place, _)| *place);
    let issues: Vec<Issue> = issues.into_iter().map(|(_, issue)| issue).collect();
    let first = opened.values().next();
    let document = json!({
        "ca": first.map(|issuance| &issuance.ca().name),
        "account": first.map(|issuance| issuance.account_url().to_string()),
        "results": issues.iter().map(to_json).collect::<Vec<_>>(),
        "requests": opened.values().map(|issuance| issuance.requests()).sum::<u64>(),
        "elapsed_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    output.result(&document, || to_text(&issues));
    for issue in &issues {
        if let Outcome::Failed(Verdict { what, remedy, .. })
        | Outcome::Waiting(Failure { what, remedy, .. }) = &issue.outcome
        {
            // What the CA says of a name begins with it.
            let named = issue.names.iter().any(|name| what.starts_with(&name.to_unicode()));
            let of = if named { String::new() } else { format!("{}: ", issue.names) };
            output.note(&format!("{of}{what}\n  what to do: {remedy}"));
        } else if let Outcome::Stopped(reason) = &issue.outcome {
            output.note(&format!("{}: {reason}", issue.names));
        }
        forget_what_failed(&context.store, &registry, issue, output).await;
    }
    Ok(exit(&issues))
}

/// A site that was made for an order that failed is not wanted: the daemon would go on with what a person has seen fail.
async fn forget_what_failed(store: &Store, registry: &Registry, issue: &Issue, output: &Output) {
    if !issue.is_new || !matches!(issue.outcome, Outcome::Failed(_)) {
        return;
    }
    let has_something = match store.load_site(&issue.site).await {
        Ok(Some(stored)) => !stored.serving.newest().is_empty(),
        Ok(None) => return,
        Err(_) => false,
    };
    if has_something {
        return;
    }
    match registry.forget(&issue.site).await {
        Ok(()) => output.note(&format!("{}: no site was added", issue.names)),
        Err(error) => {
            let why = shared::error::chain(&error);
            output.note(&format!("{}: its site is still there, remove it by hand: {why}", issue.names));
        }
    }
}

fn ca_of(config: &Config, name: Option<&str>) -> Result<Ca, Failed> {
    Ca::of(config, name).map_err(|e| Failed::because(Exit::Usage, "configuration", &e))
}

/// Whom each set of names belongs to. Nothing is done where one of them can't be had.
async fn look_for(
    store: &Store,
    name_sets: Vec<NameSet>,
    is_renewal: bool,
) -> Result<Vec<(NameSet, Whose)>, Failed> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for names in name_sets {
        let (whose, _) = whose(store, &names).await.map_err(|e| of_site(&e))?;
        if is_renewal && matches!(whose, Whose::Nobody(_)) {
            missing.extend(names.iter().map(DnsName::to_unicode));
        }
        found.push((names, whose));
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let message = format!(
        "{}: there is no site of this name, so nothing was renewed (`issuer issue` or `issuer site add` makes one)",
        missing.join(", ")
    );
    Err(Failed::new(Exit::NotFound, "not-found", message).with_details(json!({ "names": missing })))
}

/// The CA and the account that names are ordered from: their site's. Another CA that is named is wanted from now on.
async fn of_whom(
    registry: &Registry,
    whose: &Whose,
    ca: Option<&Ca>,
    is_named: bool,
) -> Result<(String, String), Failed> {
    match (whose, ca) {
        (Whose::Group(_, wanted), Some(ca)) if is_named && ca.name != wanted.site.ca => {
            let names: Vec<String> = wanted.site.names.iter().map(ToString::to_string).collect();
            let wish = SiteWish { ca: Some(ca.name.clone()), ..SiteWish::for_names(&names) };
            let changed = registry.set((**wanted).clone(), &wish).await.map_err(|e| of_site(&e))?;
            Ok((changed.site.ca, changed.site.account))
        }
        (Whose::Group(_, wanted), _) => Ok((wanted.site.ca.clone(), wanted.site.account.clone())),
        (Whose::Nobody(_), Some(ca)) => Ok((ca.name.clone(), DEFAULT_ACCOUNT.to_owned())),
        (Whose::Nobody(_), None) => Err(Failed::new(Exit::NotFound, "not-found", "there is no such site")),
    }
}

/// Names as they were typed, each once; and what is none.
fn parse_all(texts: &[String]) -> (Vec<(&str, DnsName)>, Refused) {
    let (mut names, mut wrong) = (Vec::<(&str, DnsName)>::new(), Refused::new());
    for text in texts {
        match DnsName::parse_identifier(text) {
            Ok(name) if names.iter().any(|(_, known)| *known == name) => {}
            Ok(name) => names.push((text, name)),
            Err(error) => wrong.push((text.clone(), error)),
        }
    }
    (names, wrong)
}

/// Names that the CA would refuse.
fn refused(names: &[(&str, DnsName)], ca: &Ca, arguments: &Arguments, config: &Config) -> Refused {
    let suffixes = suffixes::current(config);
    // A wildcard is taken where something could prove it.
    let by_record = !config.dns.is_empty() || ca.section.dns_persist.is_some();
    let otherwise = if by_record { ChallengeType::Auto } else { ChallengeType::Http01 };
    let challenge = arguments.challenge.unwrap_or(otherwise);
    let profile = ca.section.profile.as_deref();
    let check = |name: &DnsName| ca.limits.check_name(&suffixes, name, ca.public, profile, challenge);
    names.iter().filter_map(|(text, name)| Some(((*text).to_owned(), check(name).err()?))).collect()
}

fn refusal(refused: &[(String, NameError)]) -> Failed {
    let list: Vec<Value> = refused
        .iter()
        .map(|(name, error)| json!({ "name": name, "rule": error.rule(), "message": error.to_string() }))
        .collect();
    let lines: Vec<String> =
        refused.iter().map(|(_, error)| format!("{error} (rule: {})", error.rule())).collect();
    let message = format!("nothing was ordered, because of these names:\n  {}", lines.join("\n  "));
    Failed::new(Exit::Usage, "names", message).with_details(json!({ "names": list }))
}

fn name_sets(names: Vec<DnsName>, san: bool) -> Result<Vec<NameSet>, Failed> {
    if !san {
        return Ok(names.into_iter().map(NameSet::one).collect());
    }
    NameSet::new(names).map(|set| vec![set]).map_err(|e| Failed::because(Exit::Usage, "names", &e))
}

/// Whether the CA takes these names in one certificate.
fn check_set(names: &NameSet, ca: &Ca) -> Result<(), Failed> {
    let count = names.as_slice().len();
    let room = ca.room(ca.section.profile.as_deref());
    if count > room.names {
        let message =
            format!("{count} names are too many for one certificate: {} takes {}", ca.title, room.names);
        return Err(Failed::new(Exit::Usage, "names", message));
    }
    let bytes: usize = names.iter().map(|name| name.as_str().len()).sum();
    if count > 1 && bytes > room.bytes {
        let message = format!(
            "the names have {bytes} bytes together, too many for one certificate: {} takes {}",
            ca.title, room.bytes
        );
        return Err(Failed::new(Exit::Usage, "names", message));
    }
    if let Some((name, wildcard)) = names.covered_by_own_wildcard() {
        let message = format!(
            "{} is covered by {}, and a CA refuses both in one order: leave it out, or order it by itself",
            name.to_unicode(),
            wildcard.to_unicode()
        );
        return Err(Failed::new(Exit::Usage, "names", message));
    }
    Ok(())
}

fn key_types(arguments: &Arguments) -> Result<Vec<KeyType>, Failed> {
    if arguments.dual {
        return Ok(vec![KeyType::EcdsaP256, KeyType::Rsa2048]);
    }
    for slot in Slot::ALL {
        let of_slot: Vec<&KeyType> = arguments.key_types.iter().filter(|kind| kind.slot() == slot).collect();
        if of_slot.len() > 1 {
            return Err(Failed::new(
                Exit::Usage,
                "usage",
                format!("a site has one {slot} certificate: name one --key-type of that family"),
            ));
        }
    }
    Ok(arguments.key_types.clone())
}

fn exit(issues: &[Issue]) -> Exit {
    let any = |wanted: fn(&Outcome) -> bool| issues.iter().any(|issue| wanted(&issue.outcome));
    if any(|outcome| matches!(outcome, Outcome::Failed(_))) {
        Exit::Failed
    } else if any(|outcome| matches!(outcome, Outcome::Waiting(_) | Outcome::Stopped(_))) {
        Exit::Waiting
    } else {
        Exit::Done
    }
}

fn to_json(issue: &Issue) -> Value {
    let (status, certificates, failure) = match &issue.outcome {
        Outcome::Issued(published) => ("issued", json!(published), Value::Null),
        Outcome::AlreadyValid(published) => ("valid", json!(published), Value::Null),
        Outcome::Failed(verdict) => {
            ("failed", json!([]), json!(verdict.to_failure(None, jiff::Timestamp::now())))
        }
        Outcome::Waiting(failure) => ("waiting", json!([]), json!(failure)),
        Outcome::Stopped(_) => ("stopped", json!([]), Value::Null),
    };
    let mut document = json!({
        "names": issue.names,
        "names_unicode": issue.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>(),
        "site": issue.site,
        "status": status,
        "certificates": certificates,
        "requests": issue.requests,
        "steps": issue.steps,
    });
    if !failure.is_null() {
        document["failure"] = failure;
    }
    if let Outcome::Stopped(reason) = &issue.outcome {
        document["reason"] = json!(reason);
    }
    document
}

fn to_text(issues: &[Issue]) -> String {
    let rows = issues.iter().flat_map(|issue| {
        let names = issue.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
        let (status, published) = match &issue.outcome {
            Outcome::Issued(published) => ("issued", published.as_slice()),
            Outcome::AlreadyValid(published) => ("valid, from the store", published.as_slice()),
            Outcome::Failed(_) => ("failed", &[][..]),
            Outcome::Waiting(_) => ("waiting", &[][..]),
            Outcome::Stopped(_) => ("stopped", &[][..]),
        };
        if published.is_empty() {
            return vec![vec![names, status.to_owned(), String::new(), String::new(), String::new()]];
        }
        published
            .iter()
            .map(|one| {
                let until = one.leaf.not_after.strftime("%Y-%m-%d %H:%M UTC").to_string();
                vec![
                    names.clone(),
                    status.to_owned(),
                    one.key_type.to_string(),
                    until,
                    one.leaf.serial.clone(),
                ]
            })
            .collect()
    });
    table(&["NAMES", "STATUS", "KEY", "VALID UNTIL", "SERIAL"], rows)
}

fn of_setup(error: &SetupError) -> Failed {
    let exit = match error {
        SetupError::Account(error) => super::account::exit_of(error),
        SetupError::Client(_) | SetupError::Resolver(_) | SetupError::Dns(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failed::because(exit, "setup", error)
}
