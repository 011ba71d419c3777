//! What is tried again. A CA or a store that stumbles for a moment does not fail an order; one that is gone does not hold
//! a worker for long: the order stays where it is, and the next run goes on.

use crate::acme::RequestError;
use shared::{
    error::{Fault, Retry},
    store::StoreError,
};
use std::time::Duration;

/// Pauses between the tries of one request to the CA, where it names none.
const CA_PAUSES_MS: [u64; 4] = [500, 1_500, 4_000, 10_000];
/// The longest wish of a CA that is waited for here; a longer one is for the schedule.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Pauses between the tries of one write to the store: it recovers, or is replaced, within about half a minute.
const STORE_PAUSES_MS: [u64; 8] = [50, 200, 500, 1_000, 2_000, 5_000, 10_000, 10_000];

/// The pauses between the tries of one request to the CA.
pub(super) struct Pauses(std::array::IntoIter<u64, 4>);

impl Pauses {
    pub(super) fn begin() -> Self {
        Self(CA_PAUSES_MS.into_iter())
    }

    /// Waits where asking again can help soon.
    ///
    /// # Errors
    /// The error itself, where it can't.
    pub(super) async fn before_asking_again(&mut self, error: RequestError) -> Result<(), RequestError> {
        let Some(pause) = self.0.next().map(Duration::from_millis) else { return Err(error) };
        let pause = match error.retry() {
            // A limit is not ours to test again.
            _ if error.is_limit() => return Err(error),
            // Nor is what only the customer can put right.
            _ if error.fault() == Fault::Customer => return Err(error),
            Retry::Never => return Err(error),
            Retry::After(wish) if wish > LONGEST_WAIT => return Err(error),
            Retry::After(wish) => wish.max(pause),
            Retry::Backoff => pause,
        };
        tracing::warn!(
            error = shared::error::chain(&error),
            pause_ms = pause.as_millis(),
            "asking the CA again"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// [`ask`], but not again where an error says already that it will not help.
pub(super) async fn ask_unless<T, F>(
    request: impl Fn() -> F,
    is_final: impl Fn(&RequestError) -> bool,
) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let mut pauses = Pauses::begin();
    loop {
        match request().await {
            Ok(answer) => return Ok(answer),
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => pauses.before_asking_again(error).await?,
        }
    }
}

/// Asks the CA, and again where that can help soon. For what may be asked twice.
pub(super) async fn ask<T, F>(request: impl Fn() -> F) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    ask_unless(request, |_| false).await
}

/// Pauses between the tries of what is 404 although it was made a moment ago: one server of the CA has it, and another
/// not yet.
const YOUNG_PAUSES_MS: [u64; 4] = [300, 700, 1_500, 3_000];

/// Whether what is asked for was made a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Young,
    Old,
}

impl Age {
    pub(super) async fn ask<T, F>(self, request: impl Fn() -> F) -> Result<T, RequestError>
    where
        F: Future<Output = Result<T, RequestError>>,
    {
        match self {
            Self::Young => ask_for_young(request).await,
            Self::Old => ask(request).await,
        }
    }
}

/// [`ask`] for an object that the CA has made a moment ago.
pub(super) async fn ask_for_young<T, F>(request: impl Fn() -> F) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let mut pauses = YOUNG_PAUSES_MS.into_iter();
    loop {
        match ask(&request).await {
            Err(error) if error.is_gone() => match pauses.next() {
                Some(pause) => tokio::time::sleep(Duration::from_millis(pause)).await,
                None => return Err(error),
            },
            answer => return answer,
        }
    }
}

/// Writes to the store, and again where it was not reachable. Every write is safe to repeat.
pub(crate) async fn write<T, F>(write: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pauses = STORE_PAUSES_MS.into_iter().map(Duration::from_millis);
    loop {
        let error = match write().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // A replica that is away for longer than a hiccup is away.
        let away =
            matches!(error, StoreError::Unconfirmed { .. }) && pauses.len() < STORE_PAUSES_MS.len() / 2;
        match (error.retry(), pauses.next()) {
            (Retry::Backoff, Some(pause)) if !away => {
                tracing::warn!(error = shared::error::chain(&error), "writing to the store again");
                tokio::time::sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the handbook has it: about half a minute for a store that is away, and a moment for a replica that is.
    #[tokio::test]
    async fn a_store_is_waited_for_half_a_minute() {
        let waited: u64 = STORE_PAUSES_MS.iter().sum();
        assert!((25_000..35_000).contains(&waited), "{waited} ms");
        let for_a_replica: u64 = STORE_PAUSES_MS.iter().take(STORE_PAUSES_MS.len() / 2 + 1).sum();
        assert!(for_a_replica < 5_000, "{for_a_replica} ms");
        // What trying again does not help is not tried again.
        let tries = std::cell::Cell::new(0);
        let refused = write(|| {
            tries.set(tries.get() + 1);
            std::future::ready(Err::<(), _>(StoreError::Fenced))
        });
        assert!(matches!(refused.await, Err(StoreError::Fenced)));
        assert_eq!(tries.get(), 1);
        // What passes is waited for.
        tries.set(0);
        let passing = write(|| {
            tries.set(tries.get() + 1);
            let is_back = tries.get() > 2;
            std::future::ready(if is_back {
                Ok(())
            } else {
                Err(StoreError::Timeout(Duration::ZERO, String::new()))
            })
        });
        assert!(passing.await.is_ok() && tries.get() == 3);
    }
}
