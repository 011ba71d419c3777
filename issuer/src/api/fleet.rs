//! `/fleet`: what the frontends serve.

use super::{
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Read},
    refusal::Refusal,
};
use crate::fleet::Convergence;
use jiff::Timestamp;

pub(super) async fn show(_: Authorized<Read>, asked: Asked) -> Result<Answer, Refusal> {
    let silent = asked.api.config.frontends.silence();
    Ok(Answer::ok(&Convergence::load(&asked.api.store, Timestamp::now(), silent).await?))
}
