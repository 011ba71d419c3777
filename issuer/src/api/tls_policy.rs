//! `/tls-policy`: what all frontends speak.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Admin, Authorized, Read},
    refusal::{Code, Refusal},
};
use shared::domain::TlsPolicy;

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let policy = asked.api.store.load_tls_policy().await?;
    Ok(Answer::ok(&policy).tagged(&policy))
}

pub(super) async fn set(_: Authorized<Admin>, asked: Asked) -> Result<Answer, Refusal> {
    let policy: TlsPolicy = asked.json()?;
    policy.check().map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))?;
    asked.check_match(Some(&asked.api.store.load_tls_policy().await?))?;
    asked.api.store.set_tls_policy(&policy).await?;
    Ok(Answer::ok(&policy).tagged(&policy))
}
