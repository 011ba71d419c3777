//! `/status`: how the fleet is, at a glance.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read},
    refusal::Refusal,
};
use serde_json::json;
use shared::store::with_damage;

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let store = &asked.api.store;
    let load = store.load_of_schedule().await?;
    let brakes = store.list_brakes().await?;
    let damaged = with_damage(store.list_damaged().await?, brakes.damaged);
    let ahead = store.clock_offset().await?.ahead.as_millis();
    let mut shown = json!(load);
    shown["damaged"] = json!(damaged);
    shown["store_clock_ahead_ms"] = json!(i64::try_from(ahead).unwrap_or(i64::MAX));
    shown["brakes"] = json!(brakes.found);
    shown["troubles"] = json!((asked.api.troubles)());
    shown["version"] = json!(shared::VERSION);
    Ok(Answer::ok(&shown))
}
