//! `/tenants`: customers, and what their new sites get where nothing else is said.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Admin, Authorized, Read},
    refusal::{Code, Refusal},
};
use crate::sites::is_word;
use actix_web::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::store::{Listing, Tenant};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    redirect: bool,
    #[serde(default)]
    account: Option<String>,
}

pub(super) async fn list(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let Listing { found, damaged } = asked.api.store.list_tenants().await?;
    let tenants: Vec<Value> = found.iter().map(describe).collect();
    Ok(Answer::ok(&json!({ "tenants": tenants, "damaged": damaged })))
}

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let name = asked.part("tenant");
    let found = asked.api.store.load_tenant(&name).await?;
    let found = found.ok_or_else(|| {
        Refusal::new(Code::NoSuchTenant, format!("{name:?}: there is no tenant of this name"))
    })?;
    let shown = describe(&found.tenant);
    Ok(Answer::ok(&shown).tagged(&shown))
}

pub(super) async fn put(_: Authorized<Admin>, asked: Asked) -> Result<Answer, Refusal> {
    let name = asked.part("tenant");
    let wish: Wish = asked.json()?;
    if let Some(wrong) =
        [Some(&name), wish.account.as_ref()].into_iter().flatten().find(|word| !is_word(word))
    {
        return Err(Refusal::new(Code::InvalidTenant, format!("{wrong:?} can't be a tenant or an account")));
    }
    let before = asked.api.store.load_tenant(&name).await?;
    asked.check_match(before.as_ref().map(|before| describe(&before.tenant)).as_ref())?;
    let created = before.as_ref().map_or_else(Timestamp::now, |before| before.tenant.created);
    let tenant = Tenant { v: Tenant::VERSION, name, redirect: wish.redirect, account: wish.account, created };
    asked.api.store.write_tenant(before.as_ref(), &tenant).await?;
    let status = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let shown = describe(&tenant);
    Ok(Answer::new(status, &shown).tagged(&shown))
}

fn describe(tenant: &Tenant) -> Value {
    json!({
        "name": tenant.name,
        "redirect": tenant.redirect,
        "account": tenant.account,
        "created": tenant.created,
    })
}
