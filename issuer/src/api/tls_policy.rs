//! `/tls-policy`: what all frontends speak, and what the canaries try.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Admin, Authorized, Read},
    refusal::{Code, Refusal},
};
use crate::fleet::set_tls_policy;
use jiff::Timestamp;
use shared::{domain::TlsPolicy, store::StoreError};

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let policies = asked.api.store.load_tls_policies().await?;
    Ok(Answer::ok(&policies).tagged(&policies))
}

pub(super) async fn set(_: Authorized<Admin>, asked: Asked) -> Result<Answer, Refusal> {
    let policy: TlsPolicy = asked.json()?;
    policy.check().map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))?;
    let api = &asked.api;
    match api.store.load_tls_policies().await {
        Ok(before) => asked.check_match(Some(&before))?,
        // What can't be read is replaced.
        Err(StoreError::Corrupt { .. } | StoreError::Unverified { .. }) => {
            asked.check_match(None::<&TlsPolicy>)?;
        }
        Err(error) => return Err(error.into()),
    }
    let policies = set_tls_policy(&api.store, &policy, api.config.issuer.canary(), Timestamp::now()).await?;
    Ok(Answer::ok(&policies).tagged(&policies))
}
