//! A store is asked what it is before it is trusted. One that is down at start is waited for; one that is unsuitable ends
//! the program.

use shared::{
    error::chain,
    store::{Store, StoreError},
};
use std::{future::Future, time::Duration};

/// Pause between two attempts.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// Returns once the store was reached and found suitable.
///
/// # Errors
/// A store that can be reached and must not be used: [`StoreError::Unsuitable`], a newer layout.
pub(crate) async fn until_suitable(store: &Store, confirm_replicas: u32) -> Result<(), StoreError> {
    let health =
        until_reachable("the store can't be reached, it is tried again", || store.check(confirm_replicas))
            .await?;
    for warning in &health.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(redis = health.redis_version, "the store is there");
    Ok(())
}

/// Repeats what failed because the store is away. The first failure is logged, the following ones are not.
pub(crate) async fn until_reachable<T, F>(what: &str, attempt: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut told = false;
    loop {
        match attempt().await {
            Err(error) if !is_final(&error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(error = chain(&error), "{what}");
                }
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Whether trying again can't help. A login that is refused may be let in again.
pub(crate) fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::Unsuitable(_) | StoreError::NewerSchema { .. } | StoreError::Url(_))
}
