//! The listener for monitoring: `/metrics`, `/healthz`, `/readyz`. On an address of its own, loopback by default.

use crate::{Bounds, Entrance, Traffic, of_app, serve};
use actix_web::{App, HttpResponse, http::header, web};
use prometheus_client::{metrics::info::Info, registry::Registry};
use shared::telemetry::{Metrics, render};
use std::{io, net::TcpListener, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Says why the program is not ready, in a few words.
pub type NotReady = &'static str;

/// What the listener shows.
pub struct Health {
    metrics: Metrics,
    readiness: Box<dyn Fn() -> Result<(), NotReady> + Send + Sync>,
}

impl Health {
    /// `readiness` is asked for each request; gauges that are only known when asked are set in it.
    pub fn new(
        registry: Registry,
        readiness: impl Fn() -> Result<(), NotReady> + Send + Sync + 'static,
    ) -> Self {
        Self { metrics: Arc::new(registry), readiness: Box::new(readiness) }
    }
}

/// The registry of a program, with what is known at build time.
pub fn new_registry(program: &'static str, role: &'static str) -> Registry {
    let mut registry = Registry::with_prefix("signpost");
    let labels = vec![("program", program), ("role", role), ("version", shared::VERSION)];
    registry.register("build", "The program that is running", Info::new(labels));
    registry
}

/// Connections at once: whoever looks is the operator's, and needs one.
const CONNECTIONS: usize = 256;

/// Shows the page until `stop`.
///
/// # Errors
/// The listener can't be used.
pub async fn show(listener: TcpListener, health: Health, stop: CancellationToken) -> io::Result<()> {
    let health = web::Data::new(health);
    let entrance = Entrance {
        name: "monitoring",
        sockets: vec![vec![listener]],
        bounds: Bounds {
            connections: CONNECTIONS,
            answer: Duration::from_secs(10),
            drain: Duration::from_secs(1),
            ..Bounds::usual()
        },
        tls: None,
        refusal: None,
        traffic: Traffic::uncounted(),
    };
    let app = move || {
        of_app(
            App::new()
                .app_data(health.clone())
                .route("/metrics", web::get().to(metrics))
                .route("/healthz", web::get().to(alive))
                .route("/readyz", web::get().to(ready)),
        )
    };
    serve(entrance, app, stop).await
}

async fn metrics(health: web::Data<Health>) -> HttpResponse {
    // Sets the gauges; whether it is ready is not the question here.
    let _ = (health.readiness)();
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8"))
        .body(render(&health.metrics))
}

async fn alive() -> HttpResponse {
    HttpResponse::Ok().body("alive\n")
}

async fn ready(health: web::Data<Health>) -> HttpResponse {
    match (health.readiness)() {
        Ok(()) => HttpResponse::Ok().body("ready\n"),
        Err(why) => HttpResponse::ServiceUnavailable().body(format!("{why}\n")),
    }
}
