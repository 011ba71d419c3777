//! `issuer delegation`: where customers point `_acme-challenge`, so that their names can be proved in a zone of ours.

use super::{
    context::{Context, of_store, parse_names},
    output::{Exit, Failed, Output, damage_to_text, table},
};
use crate::{
    dns::Resolver,
    dns01::{Dns01Error, Lead, Prover, own_record},
};
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::DnsName,
    store::{Damage, Delegation, Listing, Store},
};
use std::collections::{BTreeMap, BTreeSet};

/// Records that are asked for at once.
const AT_ONCE: usize = 32;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Give names a target each, and say what their owners have to create
    Add {
        #[arg(required = true)]
        names: Vec<String>,
        /// The section [dns.NAME] whose delegation_zone or account is used, where there are several
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
    },
    /// All that were given
    List,
    /// Whether their owners have created them; none named: all
    Check { names: Vec<String> },
    /// Forget them, and remove what is left at their targets
    Remove {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub(super) async fn run(command: Command, config: Config, output: &Output) -> Result<Exit, Failed> {
    let names = match &command {
        Command::Add { names, .. } | Command::Check { names } | Command::Remove { names } => {
            parse_names(names)?
        }
        Command::List => Vec::new(),
    };
    let context =
        Context::open_for(matches!(command, Command::Add { .. } | Command::Remove { .. }), config, *output)
            .await?;
    let resolver = Resolver::with_servers(&context.config.issuer.resolvers)
        .map_err(|e| Failed::because(Exit::Usage, "resolvers", &e))?;
    let prover = Prover::open(&context.config, context.store.clone(), resolver)
        .map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
    let store = &context.store;
    match command {
        Command::Add { provider, .. } => add(&names, provider.as_deref(), store, &prover, output).await,
        Command::List => {
            let Listing { found, damaged } = store.list_delegations().await.map_err(|e| of_store(&e))?;
            show(&found.into_iter().collect(), &damaged, output);
            Ok(Exit::Done)
        }
        Command::Check { .. } => check(&names, store, &prover, output).await,
        Command::Remove { .. } => remove(&names, store, &prover, output).await,
    }
}

async fn add(
    names: &[DnsName],
    provider: Option<&str>,
    store: &Store,
    prover: &Prover,
    output: &Output,
) -> Result<Exit, Failed> {
    let mut given = BTreeMap::new();
    for name in names {
        let name = bare(name);
        // What a customer was told once stays.
        let known = store.load_delegation(&name).await.map_err(|e| of_store(&e))?;
        let known = known.filter(|known| provider.is_none_or(|wanted| wanted == known.provider));
        let delegation = match known {
            Some(known) => known,
            None => {
                let (provider, target) = prover.target_of(&name, provider).ok_or_else(|| {
                    let message = format!(
                        "no [dns.NAME] section has a target for {name}: set delegation_zone, or for acme-dns add the name's account"
                    );
                    Failed::new(Exit::Usage, "configuration", message)
                })?;
                Delegation { v: Delegation::VERSION, provider, target, created: Timestamp::now() }
            }
        };
        given.insert(name, delegation);
    }
    for (name, delegation) in &given {
        store.store_delegation(name, delegation).await.map_err(|e| of_store(&e))?;
    }
    show(&given, &[], output);
    output.note("have the owners of the zones create these records; `issuer delegation check` says who has");
    Ok(Exit::Done)
}

async fn check(names: &[DnsName], store: &Store, prover: &Prover, output: &Output) -> Result<Exit, Failed> {
    let Listing { found, damaged } = store.list_delegations().await.map_err(|e| of_store(&e))?;
    let mut known: BTreeMap<DnsName, Delegation> = found.into_iter().collect();
    for damage in &damaged {
        output.note(&format!("damaged: {}: {}", damage.key, damage.what));
    }
    if !names.is_empty() {
        known = wanted(names, &known)?;
    }
    let looked: Vec<(DnsName, Delegation, Looked)> = stream::iter(known)
        .map(|(name, delegation)| async move {
            let looked = Looked::of(prover.where_proofs_lead(&name).await, &name, &delegation.target);
            (name, delegation, looked)
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let all_there = looked.iter().all(|(_, _, looked)| looked.state == "there");
    let documents: Vec<Value> = looked
        .iter()
        .map(|(name, delegation, looked)| {
            let mut document = to_json(name, delegation);
            document["state"] = json!(looked.state);
            document["leads_to"] = json!(looked.leads_to);
            document["lacking"] = json!(looked.lacking);
            document["silent"] = json!(looked.silent);
            document
        })
        .collect();
    output.result(&json!({ "delegations": documents, "damaged": damaged }), || {
        let rows = looked.iter().map(|(name, delegation, looked)| {
            let leads_to = looked.leads_to.clone().unwrap_or_default();
            let lacking = looked.lacking.join(", ");
            vec![own_record(name), delegation.target.clone(), looked.state.to_owned(), leads_to, lacking]
        });
        table(&["RECORD", "CNAME", "STATE", "LEADS TO", "LACKING AT"], rows)
    });
    let silent: BTreeSet<&String> = looked.iter().flat_map(|(_, _, looked)| &looked.silent).collect();
    for server in silent {
        output.note(&format!("{server} does not answer for its zone"));
    }
    Ok(if all_there { Exit::Done } else { Exit::Failed })
}

async fn remove(names: &[DnsName], store: &Store, prover: &Prover, output: &Output) -> Result<Exit, Failed> {
    let known = store.list_delegations().await.map_err(|e| of_store(&e))?.found.into_iter().collect();
    let known = wanted(names, &known)?;
    for (name, delegation) in &known {
        prover.clear(&delegation.target).await.map_err(|e| of_store(&e))?;
        store.forget_delegation(name).await.map_err(|e| of_store(&e))?;
    }
    show(&known, &[], output);
    Ok(Exit::Done)
}

/// Those of these names.
fn wanted(
    names: &[DnsName],
    known: &BTreeMap<DnsName, Delegation>,
) -> Result<BTreeMap<DnsName, Delegation>, Failed> {
    let of = |name: &DnsName| {
        let name = bare(name);
        let missing = || Failed::new(Exit::NotFound, "not-found", format!("{name} was given no delegation"));
        known.get(&name).cloned().map(|delegation| (name.clone(), delegation)).ok_or_else(missing)
    };
    names.iter().map(of).collect()
}

/// A wildcard is proved where its parent is.
fn bare(name: &DnsName) -> DnsName {
    let below = name.as_str().strip_prefix("*.");
    below.and_then(|below| DnsName::parse(below).ok()).unwrap_or_else(|| name.clone())
}

/// What a customer's zone says.
struct Looked {
    state: &'static str,
    /// Where it is not the target; or why that can't be told.
    leads_to: Option<String>,
    /// Nameservers that don't say so.
    lacking: Vec<String>,
    /// Nameservers that say nothing.
    silent: Vec<String>,
}

impl Looked {
    fn of(found: Result<Lead, Dns01Error>, name: &DnsName, target: &str) -> Self {
        let Lead { target: found, lacking, silent } = match found {
            Ok(lead) => lead,
            Err(error) => {
                let why = Some(shared::error::chain(&error));
                return Self { state: "unknown", leads_to: why, lacking: Vec::new(), silent: Vec::new() };
            }
        };
        let (state, leads_to) = if found == own_record(name) {
            ("missing", None)
        } else if found != target {
            ("elsewhere", Some(found))
        } else if lacking.is_empty() {
            ("there", None)
        } else {
            ("spreading", None)
        };
        Self { state, leads_to, lacking, silent }
    }
}

fn show(delegations: &BTreeMap<DnsName, Delegation>, damaged: &[Damage], output: &Output) {
    let documents: Vec<Value> = delegations.iter().map(|(name, one)| to_json(name, one)).collect();
    output.result(&json!({ "delegations": documents, "damaged": damaged }), || {
        let rows = delegations.iter().map(|(name, one)| {
            vec![
                own_record(name),
                one.target.clone(),
                one.provider.clone(),
                one.created.strftime("%F").to_string(),
            ]
        });
        table(&["RECORD", "CNAME", "WRITTEN BY", "SINCE"], rows) + &damage_to_text(damaged)
    });
}

fn to_json(name: &DnsName, delegation: &Delegation) -> Value {
    json!({
        "name": name,
        "record": own_record(name),
        "target": delegation.target,
        "provider": delegation.provider,
        "created": delegation.created,
    })
}
