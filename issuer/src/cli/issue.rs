//! `issuer issue NAME...`

use super::{
    context::Context,
    output::{Exit, Failed, Output, table},
    watch::Watch,
};
use crate::{
    ca::Ca,
    issuance::{Issuance, Issue, Outcome, SetupError, Urge, Verdict, Wanted},
    suffixes,
};
use serde_json::{Value, json};
use shared::config::Config;
use shared::domain::{ChallengeType, DnsName, Failure, KeyType, NameError, NameSet, PublicSuffixes, Slot};
use std::{sync::Arc, time::Instant};
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

pub(super) async fn run(
    arguments: Arguments,
    urge: Urge,
    config: Config,
    output: &Output,
) -> Result<Exit, Failed> {
    let began = Instant::now();
    let ca = Ca::of(&config, arguments.ca.as_deref())
        .map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
    // Before anything is opened, stored or asked.
    // A wildcard is taken where something could prove it.
    let by_record = !config.dns.is_empty() || ca.section.dns_persist.is_some();
    let otherwise = if by_record { ChallengeType::Auto } else { ChallengeType::Http01 };
    let challenge = arguments.challenge.unwrap_or(otherwise);
    let name_sets = name_sets(&arguments, &ca, &suffixes::current(&config), challenge)?;
    let key_types = key_types(&arguments)?;
    let context = Context::open(config, *output).await?;
    let vault = context.vault(*output).await?;
    let slots = arguments.slots.unwrap_or(context.config.issuer.slots).max(1);
    let issuance =
        Issuance::open(context.store.clone(), vault, ca, &context.config).await.map_err(|e| of_setup(&e))?;
    let issuance = Arc::new(issuance);
    issuance.sweep_proofs().await;
    let watch = Watch::over(name_sets.len(), *output);
    let places = Arc::new(Semaphore::new(slots));
    let mut running = JoinSet::new();
    for (place, names) in name_sets.into_iter().enumerate() {
        let wanted = Wanted {
            names,
            key_types: key_types.clone(),
            default_key_types: context.config.issuer.key_types.clone(),
            tags: arguments.tags.clone(),
            challenge: arguments.challenge,
            urge,
        };
        let (issuance, places, progress) =
            (Arc::clone(&issuance), Arc::clone(&places), watch.progress().clone());
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
    let document = json!({
        "ca": issuance.ca().name,
        "account": &*issuance.account_url(),
        "results": issues.iter().map(to_json).collect::<Vec<_>>(),
        "requests": issuance.requests(),
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
    }
    Ok(exit(&issues))
}

/// All names are checked before any is ordered, and every one that can't be is named.
fn name_sets(
    arguments: &Arguments,
    ca: &Ca,
    suffixes: &PublicSuffixes,
    challenge: ChallengeType,
) -> Result<Vec<NameSet>, Failed> {
    let mut names = Vec::new();
    let mut refused: Vec<(&str, NameError)> = Vec::new();
    for text in &arguments.names {
        let profile = ca.section.profile.as_deref();
        let check = |name: &DnsName| ca.limits.check_name(suffixes, name, ca.public, profile, challenge);
        let checked = DnsName::parse_identifier(text).and_then(|name| check(&name).map(|()| name));
        match checked {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(error) => refused.push((text, error)),
        }
    }
    if !refused.is_empty() {
        let list: Vec<Value> = refused
            .iter()
            .map(|(name, error)| json!({ "name": name, "rule": error.rule(), "message": error.to_string() }))
            .collect();
        let lines: Vec<String> =
            refused.iter().map(|(_, error)| format!("{error} (rule: {})", error.rule())).collect();
        let message = format!("nothing was ordered, because of these names:\n  {}", lines.join("\n  "));
        return Err(Failed::new(Exit::Usage, "names", message).with_details(json!({ "names": list })));
    }
    if !arguments.san {
        return Ok(names.into_iter().map(NameSet::one).collect());
    }
    let most = ca.names_per_certificate(ca.section.profile.as_deref());
    if names.len() > most {
        let message =
            format!("{} names are too many for one certificate: {} takes {}", names.len(), ca.title, most);
        return Err(Failed::new(Exit::Usage, "names", message));
    }
    NameSet::new(names).map(|set| vec![set]).map_err(|e| Failed::because(Exit::Usage, "names", &e))
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
