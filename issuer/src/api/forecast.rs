//! `/forecast`: what the next 90 days bring.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read},
    refusal::{Code, Refusal},
};
use crate::{
    outlook::{OutlookError, WhatIf, forecast},
    sites::WishError,
};

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let what_if: WhatIf = asked.query()?;
    let api = &asked.api;
    let health = api.store.check(api.config.store.confirm_replicas).await?;
    Ok(Answer::ok(&forecast(&api.store, &api.config, &what_if, health.used_memory_bytes).await?))
}

impl From<OutlookError> for Refusal {
    fn from(error: OutlookError) -> Self {
        match error {
            OutlookError::Store(error) => error.into(),
            OutlookError::Ca(error) => WishError::from(error).into(),
            OutlookError::Profile { .. } | OutlookError::NoLifetime(_) | OutlookError::Number(..) => {
                Self::new(Code::BadRequest, error.to_string())
            }
        }
    }
}
