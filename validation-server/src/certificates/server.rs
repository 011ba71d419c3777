//! HTTPS for frontends.

use super::{Certificates, api, identity, refusal};
use crate::run::DRAIN;
use actix_web::{
    App,
    web::{self, Data},
};
use serving::{Bounds, Entrance, Tls, of_app};
use shared::config;
use std::{io, net::TcpListener};
use tokio_util::sync::CancellationToken;

/// Open connections of all workers.
const CONNECTIONS: usize = 20_000;

/// Serves on all listeners (for each address, one socket for each worker) until `stop`, then finishes what is open.
///
/// # Errors
/// A listener can't be used.
pub(crate) async fn serve(
    listeners: Vec<Vec<TcpListener>>,
    section: &config::Certificates,
    role: Certificates,
    stop: CancellationToken,
) -> io::Result<()> {
    let context = role.tls.front().map_err(io::Error::other)?.build().into_context();
    let bounds = Bounds {
        connections: CONNECTIONS,
        of_one_address: Some(section.max_connections_per_address),
        unlimited_addresses: section.unlimited_addresses.clone(),
        drain: DRAIN,
        ..Bounds::usual()
    };
    let entrance = Entrance {
        name: "certificates",
        sockets: listeners,
        bounds,
        tls: Some(Tls { context, on_connect: identity::on_connect }),
        refusal: Some(refusal::of_head),
        traffic: role.traffic.clone(),
    };
    let role = Data::new(role);
    let app = move || of_app(App::new().app_data(role.clone()).default_service(web::to(api::answer)));
    serving::serve(entrance, app, stop).await
}
