//! `issuer key status`

use super::{
    super::{
        context::{Context, of_store},
        output::{Exit, Failed, Output, damage_to_text, table},
    },
    rotate::of_rotation,
};
use crate::rotation::{Census, census, percent};
use serde_json::json;
use shared::{
    config::Config,
    store::{Listing, LiveNode, Phase, RotationRecord},
    vault::Keyring,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Also count what is sealed with which key: reads every record
    #[arg(long)]
    count: bool,
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: Output) -> Result<Exit, Failed> {
    let context = Context::open(config, output).await?;
    let file = &context.config.store.key_encryption_key_file;
    // Also where the ring is the wrong one: this is how to find out.
    let (ring, mistake) = match Keyring::load(file) {
        Ok(ring) => (ring.ids().into_iter().map(str::to_owned).collect(), None),
        Err(error) => (Vec::<String>::new(), Some(shared::error::chain(&error))),
    };
    let store = &context.store;
    let decided = store.current_kek().await.map_err(|e| of_store(&e))?;
    let current = decided.clone().or_else(|| ring.first().cloned());
    let rotation = store.load_rotation().await.map_err(|e| of_store(&e))?;
    let Listing { found: nodes, damaged } = store.list_nodes().await.map_err(|e| of_store(&e))?;
    let counted = match arguments.count {
        true => Some(census(store).await.map_err(|e| of_rotation(&e))?),
        false => None,
    };
    let mut document = json!({
        "file": file,
        "keys": ring,
        "current": current,
        "decided_by": if decided.is_some() { "store" } else { "ring" },
        "rotation": rotation,
        "nodes": nodes,
        "damaged": damaged,
    });
    if let Some(mistake) = &mistake {
        document["keyring_error"] = json!(mistake);
    }
    if let Some(counted) = &counted {
        document["sealed"] = json!(counted);
    }
    output.result(&document, || {
        let mut parts = vec![mistake.unwrap_or_else(|| {
            let mark = |id: &String| match Some(id) == current.as_ref() {
                true => format!("{id} (seals)"),
                false => id.clone(),
            };
            format!("{}: {}", file.display(), ring.iter().map(mark).collect::<Vec<_>>().join(", "))
        })];
        if let Some(current) = current.as_ref().filter(|current| !ring.contains(current)) {
            parts.push(format!("warning: the fleet seals with {current}, which this ring lacks"));
        }
        parts.extend(rotation.as_ref().map(progress));
        parts.extend(counted.as_ref().map(counts));
        parts.push(of_nodes(&nodes));
        parts.join("\n") + &damage_to_text(&damaged)
    });
    Ok(Exit::Done)
}

fn progress(record: &RotationRecord) -> String {
    let place = match record.phase {
        Phase::Rewrap => format!("{} % of the sites", percent(record.cursor.as_ref())),
        Phase::Verify => "everything is looked at once more".to_owned(),
    };
    format!(
        "a rotation from {} to {} is under way since {}: {} records sealed anew, {place}. To go on: issuer key rotate",
        record.from, record.to, record.started, record.rewrapped
    )
}

fn counts(census: &Census) -> String {
    let rows = census.sealed_with.iter().map(|(id, count)| vec![id.clone(), count.to_string()]);
    let unreadable =
        (census.unreadable > 0).then(|| vec!["unreadable".into(), census.unreadable.to_string()]);
    table(&["SEALED WITH", "RECORDS"], rows.chain(unreadable))
}

fn of_nodes(nodes: &[LiveNode]) -> String {
    if nodes.is_empty() {
        return "no node that holds keys is running".into();
    }
    let rows = nodes.iter().map(|node| {
        let report = &node.report;
        let seen = node.seen.strftime("%F %H:%M UTC").to_string();
        vec![report.name.clone(), report.version.clone(), report.keys.join(" "), report.current.clone(), seen]
    });
    table(&["NODE", "VERSION", "KEYS", "SEALS WITH", "SEEN"], rows)
}
