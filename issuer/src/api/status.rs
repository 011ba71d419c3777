//! `/status`: how the fleet is, at a glance.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read},
    refusal::Refusal,
};
use jiff::Timestamp;
use serde_json::json;

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let store = &asked.api.store;
    let load = store.load_of_schedule(Timestamp::now().as_millisecond()).await?;
    let brakes = store.load_brakes().await?;
    let mut shown = json!(load);
    shown["brakes"] = json!(brakes);
    shown["troubles"] = json!((asked.api.troubles)());
    shown["version"] = json!(shared::VERSION);
    Ok(Answer::ok(&shown))
}
