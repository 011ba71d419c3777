//! `/brakes`: an operator stops issuance or publication, and lets it go on.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Admin, Authorized, Read},
    refusal::{Code, Refusal},
};
use crate::{ca::Ca, sites::WishError};
use actix_web::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use shared::{
    domain::{Brake, BrakeScope, Braked, Event, EventKind},
    store::Listing,
    text::is_remark,
};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    #[serde(default)]
    reason: String,
}

pub(super) async fn list(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let Listing { found: mut brakes, damaged } = asked.api.store.list_brakes().await?;
    brakes.sort_by(|one, other| (one.what, &one.scope).cmp(&(other.what, &other.scope)));
    Ok(Answer::ok(&json!({ "brakes": brakes, "damaged": damaged })))
}

pub(super) async fn set(who: Authorized<Admin>, asked: Asked) -> Result<Answer, Refusal> {
    let (what, scope) = place(&asked)?;
    let wish: Wish = asked.json_or_default()?;
    if !is_remark(&wish.reason) {
        let message = "reason: one line of 500 characters at most, and no control characters";
        return Err(Refusal::new(Code::BadRequest, message));
    }
    if let BrakeScope::Ca(ca) = &scope {
        // One with a misspelt name would stop nothing.
        Ca::of(&asked.api.config, Some(ca)).map_err(|e| Refusal::from(WishError::from(e)))?;
    }
    let store = &asked.api.store;
    let before = find(&asked, what, &scope).await?;
    asked.check_match(before.as_ref())?;
    let since = before.as_ref().map_or_else(Timestamp::now, |before| before.since);
    let brake = Brake { what, scope, since, reason: wish.reason };
    store.set_brake(&brake).await?;
    let status = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    if before.is_none() {
        let event = Event::new(EventKind::BrakeOn, since, brake.to_string());
        store.append_event(&by(event, &who, &brake)).await?;
    }
    Ok(Answer::new(status, &brake).tagged(&brake))
}

pub(super) async fn release(who: Authorized<Admin>, asked: Asked) -> Result<Answer, Refusal> {
    let (what, scope) = place(&asked)?;
    let missing =
        || Refusal::new(Code::NoSuchBrake, format!("{what} for {} is not stopped", scope.in_words()));
    let brake = find(&asked, what, &scope).await?.ok_or_else(missing)?;
    asked.check_match(Some(&brake))?;
    if !asked.api.store.release_brake(what, &scope).await? {
        return Err(missing());
    }
    let told = format!("{what} for {} goes on", scope.in_words());
    let event = Event::new(EventKind::BrakeOff, Timestamp::now(), told);
    asked.api.store.append_event(&by(event, &who, &brake)).await?;
    Ok(Answer::ok(&brake))
}

fn place(asked: &Asked) -> Result<(Braked, BrakeScope), Refusal> {
    let what = match asked.part("what").as_str() {
        "issuance" => Braked::Issuance,
        "publication" => Braked::Publication,
        other => {
            let message = format!("{other:?} can't be stopped: issuance or publication can");
            return Err(Refusal::new(Code::NoSuchBrake, message));
        }
    };
    let scope = asked.part("scope").parse().map_err(|e: String| Refusal::new(Code::NoSuchBrake, e))?;
    Ok((what, scope))
}

async fn find(asked: &Asked, what: Braked, scope: &BrakeScope) -> Result<Option<Brake>, Refusal> {
    let brakes = asked.api.store.load_brakes().await?;
    Ok(brakes.into_iter().find(|brake| brake.what == what && brake.scope == *scope))
}

fn by(mut event: Event, who: &Authorized<Admin>, brake: &Brake) -> Event {
    event.data.insert("brake".to_owned(), json!(brake));
    event.data.insert("token".to_owned(), json!(who.name));
    match &brake.scope {
        BrakeScope::Ca(ca) => event.ca(ca),
        BrakeScope::Tag(tag) => event.tags(std::slice::from_ref(tag)),
        BrakeScope::All => event,
    }
}
