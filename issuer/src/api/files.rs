//! `/plan` and `/apply`: every site that is wanted, in one file, as `issuer plan` and `issuer apply` take it.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read, Write},
    refusal::{Code, Refusal},
    uploads::Upload,
};
use crate::{
    lists::TextFile,
    sites::{Applied, PlanError, SiteFile, apply_file, is_word, plan_file},
};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{domain::DEFAULT_SOURCE, error::chain};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToPlan {
    /// Changes and mistakes that are listed at most; all are counted.
    #[serde(default = "most_shown")]
    limit: usize,
    /// Whose sites the file is the whole truth of.
    #[serde(default = "default_source")]
    source: String,
}

/// No `flatten`: it would take numbers for texts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToApply {
    #[serde(default = "most_shown")]
    limit: usize,
    #[serde(default = "default_source")]
    source: String,
    /// So many sites may be removed, where that must be said.
    remove: Option<usize>,
}

const fn most_shown() -> usize {
    100
}

fn default_source() -> String {
    DEFAULT_SOURCE.to_owned()
}

pub(super) async fn plan(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let ToPlan { limit, source } = asked.query()?;
    let (api, file) = asked.into_file()?;
    let (registry, sites) = (api.registry.clone(), site_file(&file, source, limit)?);
    // Long, and not for a thread that answers others.
    let planned = api.work(async move {
        let planned = plan_file(&registry, &sites, |_| {}).await;
        drop(file);
        planned
    });
    Ok(answer(&planned.await??))
}

/// Goes on when the client goes away: the whole file, or as much of it as the store takes.
pub(super) async fn apply(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    let ToApply { limit, source, remove } = asked.query()?;
    let (api, file) = asked.into_file()?;
    let (registry, sites) = (api.registry.clone(), site_file(&file, source, limit)?);
    let applied = api.work(async move {
        let applied = apply_file(&registry, &sites, remove, |_| {}).await;
        drop(file);
        applied
    });
    Ok(answer(&applied.await??))
}

fn site_file(file: &Upload, source: String, listed: usize) -> Result<SiteFile, Refusal> {
    if !is_word(&source) {
        let message = "source: 1 to 63 characters of a-z, A-Z, 0-9, -, _ and .";
        return Err(Refusal::new(Code::BadRequest, message));
    }
    Ok(SiteFile { file: TextFile::of(file.open()?), source, listed })
}

fn answer(applied: &Applied) -> Answer {
    let failed: Vec<Value> = applied
        .failed
        .iter()
        .map(|(names, error)| json!({ "names": names, "message": chain(error) }))
        .collect();
    let mut document = json!(applied.plan);
    document["failed"] = json!(failed);
    Answer::ok(&document)
}

impl From<PlanError> for Refusal {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Store(error) => error.into(),
            PlanError::TooManyRemovals { removed, known, ref source_name, .. } => {
                let details = json!({ "removed": removed, "known": known, "source": source_name });
                Self::new(Code::TooManyRemovals, error.to_string()).with_details(details)
            }
            PlanError::Mistakes { shown, more } => {
                let message = format!("nothing was changed: {} lines are wrong", shown.len() + more);
                Self::new(Code::InvalidFile, message).with_details(json!({ "mistakes": shown, "more": more }))
            }
            PlanError::File(error) => Self::new(Code::InvalidFile, chain(&error)),
        }
    }
}
