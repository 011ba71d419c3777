//! HTTPS for frontends.

use super::{Certificates, api, identity};
use crate::run::DRAIN;
use actix_web::{
    App, HttpServer,
    web::{self, Data},
};
use std::{io, net::TcpListener, time::Duration};
use tokio_util::sync::CancellationToken;

/// How long a client may take to send the head of its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stay open between two requests: an agent asks once a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Open connections of one worker.
const CONNECTIONS: usize = 10_000;

/// Serves on all listeners until `stop`, then finishes what is open.
///
/// # Errors
/// A listener can't be used.
pub(crate) async fn serve(
    listeners: Vec<TcpListener>,
    workers: usize,
    role: Certificates,
    stop: CancellationToken,
) -> io::Result<()> {
    let tls = role.tls.clone();
    let role = Data::new(role);
    let mut server =
        HttpServer::new(move || App::new().app_data(role.clone()).default_service(web::to(api::answer)))
            // Has no effect on listeners that are added before it.
            .on_connect(identity::on_connect)
            .workers(workers)
            .client_request_timeout(REQUEST_TIMEOUT)
            .tls_handshake_timeout(HANDSHAKE_TIMEOUT)
            .keep_alive(KEEP_ALIVE)
            .max_connections(CONNECTIONS)
            .disable_signals()
            .shutdown_timeout(DRAIN.as_secs())
            .shutdown_signal(stop.cancelled_owned());
    for listener in listeners {
        server = server.listen_openssl(listener, tls.front().map_err(io::Error::other)?)?;
    }
    server.run().await
}
