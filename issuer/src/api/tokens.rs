//! `/tokens`: who may use this API. They are made and revoked on the command line.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Admin, Authorized},
    refusal::Refusal,
};
use serde_json::{Value, json};
use shared::store::Listing;

pub(super) async fn list(_: Authorized<Admin>, asked: Asked) -> Result<Answer, Refusal> {
    let Listing { found: tokens, damaged } = asked.api.store.list_api_tokens().await?;
    let shown: Vec<Value> = tokens
        .iter()
        .map(|listed| {
            let token = listed.token.as_ref().ok();
            let revoked = token.and_then(|token| token.revoked);
            let state = match &listed.token {
                Ok(_) if revoked.is_some() => "revoked",
                Ok(_) => "active",
                Err(error) => error.record_state(),
            };
            json!({
                "name": listed.name,
                "role": token.map(|token| token.role),
                "state": state,
                "created": token.map(|token| token.created),
                "last_used": listed.last_used,
                "revoked": revoked,
            })
        })
        .collect();
    Ok(Answer::ok(&json!({ "tokens": shown, "damaged": damaged })))
}
