//! `/plan` and `/apply`: every site that is wanted, in one file, as `issuer plan` and `issuer apply` take it.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read, Write},
    refusal::{Code, Refusal},
};
use crate::sites::{PlanError, apply_file, plan_file};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::error::chain;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    /// Changes that are listed at most; all are counted.
    #[serde(default = "most_shown")]
    limit: usize,
    /// Remove what the file lacks, however much that is.
    #[serde(default)]
    remove_many: bool,
}

const fn most_shown() -> usize {
    100
}

pub(super) async fn plan(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let Query { limit, .. } = asked.query()?;
    let (api, file) = asked.into_file()?;
    let registry = api.registry.clone();
    // Long, and not for a thread that answers others.
    let planned = api.work(async move { plan_file(&registry, file.path(), limit, |_| {}).await }).await?;
    Ok(Answer::ok(&planned?))
}

/// Goes on when the client goes away: the whole file, or as much of it as the store takes.
pub(super) async fn apply(_: Authorized<Write>, asked: Asked) -> Result<Answer, Refusal> {
    let Query { limit, remove_many } = asked.query()?;
    let (api, file) = asked.into_file()?;
    let registry = api.registry.clone();
    let applied =
        api.work(async move { apply_file(&registry, file.path(), limit, remove_many, |_| {}).await });
    let applied = applied.await??;
    let failed: Vec<Value> = applied
        .failed
        .iter()
        .map(|(names, error)| json!({ "names": names, "message": chain(error) }))
        .collect();
    let mut document = json!(applied.plan);
    document["failed"] = json!(failed);
    Ok(Answer::ok(&document))
}

impl From<PlanError> for Refusal {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Store(error) => error.into(),
            PlanError::TooManyRemovals { removed, known } => Self::new(
                Code::TooManyRemovals,
                format!(
                    "the file lacks {removed} of the {known} sites that files have added: nothing was changed"
                ),
            )
            .with_details(json!({ "removed": removed, "known": known })),
            PlanError::Mistakes { shown, more } => {
                let message = format!("nothing was changed: {} lines are wrong", shown.len() + more);
                Self::new(Code::InvalidFile, message).with_details(json!({ "mistakes": shown, "more": more }))
            }
            PlanError::File(error) => Self::new(Code::InvalidFile, chain(&error)),
        }
    }
}
