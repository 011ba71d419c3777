//! The operators' HTTP API, `/api/v1`: what control panels and scripts ask of the issuer.
//!
//! - [`serve`] listens; [`Api`] is what its handlers work with. They use the same registry as the command line.
//! - `routes` is the one table: path, method, role, handler, and what the OpenAPI document says of it.
//! - A handler takes an `Authorized<Role>`, so that what it demands is seen in its signature; the table doesn't compile
//!   with another role. It takes an `Asked`, which is the request, and gives an `Answer` or a `Refusal`.
//! - `uploads` are the files of sites that are under way, within bounds.
//! - `refusal` holds the table of error codes; `once` keeps answers for requests that are repeated.
//! - `sites`, `files`, `certificates`, `events`, `status`, `limits`, `forecast`, `brakes`, `tenants`, `tokens`: the resources.
//! - `openapi` makes the document, of which `openapi.json` is a copy that a test compares.
//!
//! Nobody is asked for a token whose owner isn't known for sure: a store that doesn't answer is 503, never 401 or 404.

mod answer;
mod asked;
mod authorized;
mod brakes;
mod certificates;
mod counters;
mod events;
mod files;
mod fleet;
mod forecast;
mod limits;
mod listing;
mod once;
mod openapi;
mod refusal;
mod routes;
mod server;
mod sites;
mod status;
mod tenants;
mod tls_policy;
mod tokens;
mod uploads;
mod view;

pub use openapi::{COMMITTED as COMMITTED_OPENAPI, document as openapi};
pub use refusal::Code;
pub use routes::{ROUTES, Route};
pub use server::{WORKERS, serve, serve_nothing};

use crate::sites::Registry;
use authorized::Uses;
use counters::Counters;
use serving::Traffic;
use shared::{config::Config, store::Store};
use std::sync::Arc;
use uploads::Uploads;

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    store: Store,
    config: Arc<Config>,
    registry: Registry,
    troubles: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    counters: Counters,
    traffic: Traffic,
    uses: Arc<Uses>,
    uploads: Uploads,
    /// The program's own: what is long is worked on there.
    runtime: tokio::runtime::Handle,
}

impl Api {
    /// Called in the runtime that long work is to be done in.
    pub fn new(store: Store, config: Arc<Config>, registry: Registry) -> Self {
        Self {
            store,
            config,
            registry,
            troubles: Arc::new(Vec::new),
            counters: Counters::default(),
            traffic: Traffic::uncounted(),
            uses: Arc::default(),
            uploads: Uploads::default(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Works beside the threads that answer, to the end, whoever still waits for it.
    async fn work<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, refusal::Refusal> {
        let done = self.runtime.spawn(work).await;
        done.map_err(|error| {
            tracing::error!(%error, "a request to the API could not be worked on");
            refusal::Refusal::new(Code::StoreUnavailable, "it could not be done")
        })
    }

    /// What `status` shows of this node's trouble with CAs and accounts: asked for each request.
    #[must_use]
    pub fn with_troubles(mut self, troubles: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.troubles = Arc::new(troubles);
        self
    }

    /// Has the API counted among the program's metrics.
    pub fn register(&mut self, registry: &mut prometheus_client::registry::Registry) {
        self.counters.register(registry);
        self.traffic = Traffic::new(registry);
    }
}
