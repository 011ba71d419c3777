//! Waiting for something to become true, with a limit instead of a fixed sleep.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long a server may take to come up. Generous: the machine may be compiling at the same time.
pub const START_LIMIT: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(5);

/// Asks `probe` again and again until it answers with a value; fails with `what` once `limit` has passed.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return Ok(value);
        }
        if started.elapsed() >= limit {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`until`] for a condition without a value.
pub async fn until_true<F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    until(what, limit, || {
        let asked = probe();
        async move { asked.await.then_some(()) }
    })
    .await
}
