//! `/fleet`: what the frontends serve.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read},
    refusal::Refusal,
};
use crate::fleet::Convergence;
use jiff::{SignedDuration, Timestamp};

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let silence = asked.api.config.frontends.silence();
    let silent = SignedDuration::try_from(silence).unwrap_or(SignedDuration::MAX);
    Ok(Answer::ok(&Convergence::load(&asked.api.store, Timestamp::now(), silent).await?))
}
