//! `/limits`: what is left of the CAs' limits.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read},
    refusal::Refusal,
};
use crate::{ca::Terms, limits::overview, sites::WishError};
use serde_json::json;

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let api = &asked.api;
    let mut shown = Vec::new();
    for name in api.config.ca.keys() {
        let terms = Terms::of(&api.config, Some(name)).map_err(|e| Refusal::from(WishError::from(e)))?;
        shown.push(overview(&api.store, &terms).await?);
    }
    Ok(Answer::ok(&json!({ "cas": shown })))
}
