//! `issuer issue NAME...`

mod names;
mod whom;

use super::{
    context::Context,
    output::{Exit, Failed, Output, table},
    watch::Watch,
};
use crate::{
    ca::Ca,
    issuance::{Issuance, Issue, Outcome, SetupError, Urge, Verdict, Wanted},
    sites::{Registry, Whose},
};
use names::{Refused, check_set, name_sets, no_ca_takes, parse_all, refusal, refused};
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::{ChallengeType, DnsName, Failure, KeyType, Slot},
    store::Store,
};
use std::{collections::BTreeMap, sync::Arc, time::Instant};
use tokio::{sync::Semaphore, task::JoinSet};
pub(super) use whom::From;
use whom::{Said, look_for, of_whom};

/// What is said of a certificate that was there.
const FROM_STORE: &str = "valid, from the store";

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
    #[command(flatten)]
    from: From,
    /// Tags that frontends' scopes can name
    #[arg(long = "tag", value_name = "TAG", value_parser = shared::domain::parse_tag)]
    tags: Vec<String>,
    /// How the names are proved: http-01, dns-01, or auto; wildcards always by dns-01
    #[arg(long, value_parser = super::settings::parse_challenge)]
    challenge: Option<ChallengeType>,
    /// Orders worked on at once [default: issuer.slots]
    #[arg(long, value_parser = super::site::at_least_one)]
    slots: Option<usize>,
}

impl Arguments {
    /// What `issuer renew NAME...` asks for.
    pub(super) fn for_renewal(names: Vec<String>, from: From) -> Self {
        Self {
            names,
            from,
            san: false,
            key_types: Vec::new(),
            dual: false,
            tags: Vec::new(),
            challenge: None,
            slots: None,
        }
    }
}

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
    arguments.from.check(&config)?;
    let is_renewal = urge != Urge::Lack;
    let ca = Ca::of(&config, arguments.from.ca.as_deref());
    // Nobody can be asked, whosever the names are.
    if config.ca.is_empty() {
        ca.as_ref().map_err(|e| Failed::because(Exit::Usage, "configuration", e))?;
    }
    let refused = match &ca {
        Ok(ca) if !is_renewal => refused(&names, ca, &arguments, &config),
        _ => Vec::new(),
    };
    // A site that is there may be of another CA or profile, with rules of its own.
    let is_said = arguments.from.ca.is_some();
    let never: Refused =
        refused.iter().filter(|(text, _)| is_said || no_ca_takes(text, &config)).cloned().collect();
    if !wrong.is_empty() || !never.is_empty() {
        return Err(refusal(&[wrong, if never.is_empty() { Refused::new() } else { refused }].concat()));
    }
    let name_sets = name_sets(names.into_iter().map(|(_, name)| name).collect(), arguments.san)?;
    // What is refused leaves nothing behind.
    let mut context = Context::open(config, *output).await?;
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let asked = look_for(&context.store, name_sets, is_renewal).await?;
    let mut not_taken = Refused::new();
    for (names, whose) in &asked {
        if let Whose::Nobody(_) = whose {
            let ca = ca.as_ref().map_err(|e| Failed::because(Exit::Usage, "configuration", e))?;
            let is_of_set =
                |text: &str| DnsName::parse_identifier(text).is_ok_and(|name| names.contains(&name));
            let known = not_taken.len();
            not_taken.extend(refused.iter().filter(|(text, _)| is_of_set(text)).cloned());
            if not_taken.len() == known {
                check_set(names, ca, arguments.from.profile())?;
            }
        }
    }
    if !not_taken.is_empty() {
        return Err(refusal(&not_taken));
    }
    context.begin_to_change(*output).await?;
    let vault = context.vault(*output).await?;
    let slots = arguments.slots.unwrap_or(context.config.issuer.slots).max(1);
    let watch = Watch::over(asked.len(), *output);
    let places = Arc::new(Semaphore::new(slots));
    let said = Said {
        from: &arguments.from,
        key_types: &key_types,
        tags: &arguments.tags,
        challenge: arguments.challenge,
    };
    let of = of_whom(&registry, &asked, ca.ok().as_ref(), &said, output).await?;
    let mut opened: BTreeMap<(String, String), Arc<Issuance>> = BTreeMap::new();
    let mut running = JoinSet::new();
    for (place, (names, _)) in asked.into_iter().enumerate() {
        let whom = &of[place];
        let issuance = match opened.get(&whom.key()) {
            Some(issuance) => Arc::clone(issuance),
            None => {
                let ca = Ca::of_site(&context.config, &whom.ca)
                    .map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
                let (store, vault) = (context.store.clone(), Arc::clone(&vault));
                let issuance = Issuance::open_as(&whom.account, store, vault, ca, &context.config).await;
                let issuance = Arc::new(issuance.map_err(|e| of_setup(&e))?);
                issuance.sweep_proofs().await;
                opened.insert(whom.key(), Arc::clone(&issuance));
                issuance
            }
        };
        let wanted = Wanted {
            names,
            key_types: key_types.clone(),
            default_key_types: context.config.issuer.key_types.clone(),
            tags: arguments.tags.clone(),
            challenge: arguments.challenge,
            profile: arguments.from.profile().map(str::to_owned),
            // What it serves is of another kind than is wanted now.
            urge: if whom.is_new && urge == Urge::Lack { Urge::Due } else { urge },
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
    let first = of.first().and_then(|whom| opened.get(&whom.key()));
    let results = issues.iter().zip(&of).map(|(issue, whom)| {
        let mut result = to_json(issue);
        result["ca"] = json!(whom.ca);
        result["account"] = json!(whom.account);
        result["differences"] = json!(whom.differences);
        result
    });
    let document = json!({
        "ca": first.map(|issuance| &issuance.ca().name),
        "account": first.map(|issuance| issuance.account_url().to_string()),
        "results": results.collect::<Vec<_>>(),
        "requests": opened.values().map(|issuance| issuance.requests()).sum::<u64>(),
        "elapsed_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    output.result(&document, || to_text(&issues));
    for issue in &issues {
        if let Outcome::Failed(Verdict { what, remedy, .. })
        | Outcome::Waiting(Failure { what, remedy, .. }) = &issue.outcome
        {
            output.note(&format!("{}\n  what to do: {remedy}", issue.names.of_them(what)));
        } else if let Outcome::Stopped(reason) = &issue.outcome {
            output.note(&format!("{}: {reason}", issue.names.to_unicode()));
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
        Ok(true) => output.note(&format!("{}: no site was added", issue.names.to_unicode())),
        // Somebody wants it in the meantime.
        Ok(false) => {}
        Err(error) => {
            let why = shared::error::chain(&error);
            let names = issue.names.to_unicode();
            output.note(&format!("{names}: its site is still there, remove it by hand: {why}"));
        }
    }
}

fn ca_of(config: &Config, name: Option<&str>) -> Result<Ca, Failed> {
    Ca::of(config, name).map_err(|e| Failed::because(Exit::Usage, "configuration", &e))
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
    let ordered: Vec<Slot> = match &issue.outcome {
        Outcome::Issued(all) => all.iter().filter(|one| one.ordered).map(|one| one.slot).collect(),
        _ => Vec::new(),
    };
    let mut document = json!({
        "names": issue.names,
        "names_unicode": issue.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>(),
        "site": issue.site,
        "status": status,
        "certificates": certificates,
        "ordered": ordered,
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
        let names = issue.names.to_unicode();
        let (status, published) = match &issue.outcome {
            Outcome::Issued(published) => ("issued", published.as_slice()),
            Outcome::AlreadyValid(published) => (FROM_STORE, published.as_slice()),
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
                    // Of two key types one may have been there.
                    if one.ordered { status } else { FROM_STORE }.to_owned(),
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
