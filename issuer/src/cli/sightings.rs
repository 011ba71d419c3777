//! `issuer sightings`: names that visitors came with, as far as they are no sites.

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, damage_to_text, table},
};
use serde_json::json;
use shared::{
    config::Config,
    store::{DeniedSighting, Listing},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How many of those that were denied are shown
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let is_on = config.sightings.allow_url.is_some();
    let context = Context::open(config, *output).await?;
    let (waiting, denied) = context.store.list_sightings(arguments.limit).await.map_err(|e| of_store(&e))?;
    let Listing { found: denied, damaged } = denied;
    if !is_on {
        output.note("sightings.allow_url is not set: nobody decides about names that visitors come with");
    }
    output.result(&json!({ "waiting": waiting, "denied": denied, "damaged": damaged }), || {
        let row = |denied: &DeniedSighting| {
            let until = denied.until.strftime("%F %H:%M UTC").to_string();
            vec![denied.name.clone(), until, denied.count.to_string(), denied.reason.clone()]
        };
        let rows = table(&["DENIED", "UNTIL", "TIMES", "WHY"], denied.iter().map(row));
        format!("{waiting} wait to be decided about\n\n{rows}{}", damage_to_text(&damaged))
    });
    Ok(Exit::Done)
}
