//! Idempotency keys: the first answer is given again to whoever repeats the request.
//!
//! A request is marked before it is worked on, and its answer takes the place of the mark. Who is killed in between leaves
//! the mark, which ends by itself; what was done until then is done, and every request is safe to repeat.

use super::{
    Api,
    answer::Answer,
    asked::Asked,
    refusal::{Code, Refusal},
};
use shared::{digest::hex, error::chain, store::Repetition};
use std::{future::Future, time::Duration};

/// Has `work` done, unless the token has used the key before. A request that was cut off counts as being worked on for
/// `marked`, which is longer than one may take.
///
/// # Errors
/// 409 while the first request is being worked on, 422 where the key was used for another one, 503 when the store doesn't
/// say: then nothing is done.
pub(super) async fn answer(
    api: &Api,
    token: &str,
    key: &str,
    marked: Duration,
    asked: Asked,
    work: impl AsyncFnOnce(Asked) -> Answer,
) -> Result<Answer, Refusal> {
    let digest = asked.digest();
    let mut random = [0; 16];
    openssl::rand::rand_bytes(&mut random)
        .map_err(|_| Refusal::new(Code::StoreUnavailable, "no random number could be drawn"))?;
    let found = api.store.begin_once(token, key, &digest, &hex(&random), marked).await?;
    let mark = match found {
        Repetition::First(mark) => mark,
        Repetition::Answered(kept) => return Ok(Answer::of_kept(kept)),
        Repetition::UnderWay => {
            return Err(Refusal::new(Code::InProgress, "a request with this key is being worked on"));
        }
        Repetition::Other => {
            return Err(Refusal::new(Code::KeyReused, "this key was used for another request"));
        }
    };
    let answer = work(asked).await;
    if let Err(error) = api.store.end_mark(&mark, answer.to_keep()).await {
        // What was done is done; a repetition is refused until the mark ends, and then finds it done.
        tracing::warn!(error = chain(&error), "an answer could not be kept for its repetition");
    }
    Ok(answer)
}

/// [`answer`] needs no more than a future that ends; this is the longest that one may take.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Refusal> {
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| Refusal::new(Code::Timeout, format!("not done within {} s", limit.as_secs())))
}
