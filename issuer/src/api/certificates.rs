//! `/certificates/{name}`: what is served for a name. Never a private key.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read},
    refusal::{Code, Refusal},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::{domain::DnsName, store::StoreError};

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let text = asked.part("name");
    let name = DnsName::parse_identifier(&text).map_err(|error| {
        Refusal::new(Code::InvalidName, error.to_string())
            .with_details(json!({ "name": text, "rule": error.rule() }))
    })?;
    let store = &asked.api.store;
    let missing = || {
        Refusal::new(Code::NoSuchCertificate, format!("nothing is served for {}", name.to_unicode()))
            .with_details(json!({ "name": name }))
    };
    let group = store.site_of(&name).await?.ok_or_else(missing)?;
    let stored = store.load_site(&group).await?.ok_or_else(missing)?;
    let now = Timestamp::now();
    let mut shown: Vec<Value> = Vec::new();
    for (slot, id) in &stored.serving.current {
        let damaged = |why: String| StoreError::Corrupt { key: id.to_string(), source: why.into() };
        let certificate = store.load_certificate(&group, id).await?;
        let certificate =
            certificate.ok_or_else(|| damaged("a certificate that is served is missing".into()))?;
        let leaf = certificate.leaf().map_err(|e| damaged(e.to_string()))?;
        let mut one = json!(leaf);
        one["id"] = json!(id);
        one["slot"] = json!(slot);
        one["key_type"] = json!(certificate.key_type);
        one["ca"] = json!(certificate.ca);
        one["account"] = json!(certificate.account);
        one["issued"] = json!(certificate.issued);
        one["valid"] = json!(leaf.is_valid_at(now));
        one["revoked"] = json!(stored.revoked.contains(slot));
        shown.push(one);
    }
    if shown.is_empty() {
        return Err(missing());
    }
    Ok(Answer::ok(&json!({
        "name": name,
        "site": group.site(),
        "group": group,
        "certificates": shown,
    })))
}
