//! The daemon's page for monitoring: `/metrics`, `/healthz`, `/readyz` on an address of its own.

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use serving::monitoring::{Health, show};
use shared::store::Store;
use std::{future::Future, io, net::TcpListener};
use tokio_util::sync::CancellationToken;

/// The registry of the daemon: whatever counts registers with it before [`serve`] takes it.
pub fn new_registry() -> Registry {
    serving::monitoring::new_registry("issuer", "run")
}

/// Shows the page until `end`, while the store is waited for: alive, not ready. It fails where the listener can't be used.
pub fn serve_waiting(
    listener: TcpListener,
    end: CancellationToken,
) -> impl Future<Output = io::Result<()>> + Send {
    let mut registry = new_registry();
    registry.register("store_up", "Whether the store answered the last command", Gauge::<i64>::default());
    show(listener, Health::new(registry, || Err("the store can't be reached: it is waited for")), end)
}

/// Shows the page until `end`. From `stop` on the daemon is not ready: it finishes what it has begun. It fails where the
/// listener can't be used.
pub fn serve(
    listener: TcpListener,
    mut registry: Registry,
    store: Store,
    stop: CancellationToken,
    end: CancellationToken,
) -> impl Future<Output = io::Result<()>> + Send {
    let store_up = Gauge::<i64>::default();
    registry.register("store_up", "Whether the store answered the last command", store_up.clone());
    let readiness = move || {
        let obstacle = store.obstacle();
        store_up.set(i64::from(obstacle.is_none()));
        match (stop.is_cancelled(), obstacle) {
            (true, _) => Err("ending"),
            (false, Some(obstacle)) => Err(obstacle.to_words()),
            (false, None) => Ok(()),
        }
    };
    show(listener, Health::new(registry, readiness), end)
}
