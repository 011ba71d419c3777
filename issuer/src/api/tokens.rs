//! `/tokens`: who may use this API. They are made and revoked on the command line.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Admin, Authorized},
    refusal::Refusal,
};
use serde_json::{Value, json};

pub(super) async fn list(_: Authorized<Admin>, asked: Asked) -> Result<Answer, Refusal> {
    let tokens = asked.api.store.list_api_tokens().await?;
    let shown: Vec<Value> = tokens
        .iter()
        .map(|(_, token, last_used)| {
            json!({
                "name": token.name,
                "role": token.role,
                "created": token.created,
                "last_used": last_used,
                "revoked": token.revoked,
            })
        })
        .collect();
    Ok(Answer::ok(&json!({ "tokens": shown })))
}
