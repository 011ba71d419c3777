//! `/tenants`: customers, and what their new sites get where nothing else is said.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Admin, Authorized, Read},
    refusal::{Code, Refusal},
};
use crate::sites::SiteError;
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
    let found = found.ok_or_else(|| missing(&name))?;
    let shown = describe(&found.tenant);
    Ok(Answer::ok(&shown).tagged(&shown))
}

pub(super) async fn put(_: Authorized<Admin>, asked: Asked) -> Result<Answer, Refusal> {
    let name = asked.part("tenant");
    let wish: Wish = asked.json()?;
    let before = asked.api.store.load_tenant(&name).await?;
    asked.check_match(before.as_ref().map(|before| describe(&before.tenant)).as_ref())?;
    let created = before.as_ref().map_or_else(Timestamp::now, |before| before.tenant.created);
    let tenant = Tenant { v: Tenant::VERSION, name, redirect: wish.redirect, account: wish.account, created };
    asked.api.registry.check_tenant(&tenant).await.map_err(|error| match error {
        SiteError::Wish(wrong) => Refusal::new(Code::InvalidTenant, wrong.to_string()),
        other => other.into(),
    })?;
    asked.api.store.write_tenant(before.as_ref(), &tenant).await?;
    let status = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let shown = describe(&tenant);
    Ok(Answer::new(status, &shown).tagged(&shown))
}

pub(super) async fn remove(_: Authorized<Admin>, asked: Asked) -> Result<Answer, Refusal> {
    let (api, name) = (&asked.api, asked.part("tenant"));
    let found = api.store.load_tenant(&name).await?;
    asked.check_match(found.as_ref().map(|found| describe(&found.tenant)).as_ref())?;
    let found = found.ok_or_else(|| missing(&name))?;
    let sites = api.registry.count_of_tenant(&name).await?;
    if sites > 0 {
        let message = format!("{sites} sites name the tenant {name:?}: nothing was removed");
        return Err(Refusal::new(Code::TenantInUse, message).with_details(json!({ "sites": sites })));
    }
    api.store.remove_tenant(&found).await?;
    Ok(Answer::ok(&describe(&found.tenant)))
}

fn missing(name: &str) -> Refusal {
    Refusal::new(Code::NoSuchTenant, format!("{name:?}: there is no tenant of this name"))
}

fn describe(tenant: &Tenant) -> Value {
    json!({
        "name": tenant.name,
        "redirect": tenant.redirect,
        "account": tenant.account,
        "created": tenant.created,
    })
}
