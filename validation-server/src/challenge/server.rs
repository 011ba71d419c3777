//! HTTP for the challenge port, as few system calls and allocations as it takes: actix' protocol layer, nothing shared but
//! the answers.

use super::answers::{Answer, Answers, Decision};
use crate::run::DRAIN;
use actix_http::{Method, Request, Response, StatusCode};
use actix_service::fn_service;
use actix_web::{
    http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    web::Bytes,
};
use serving::{Bounds, Entrance, Traffic};
use shared::config;
use std::{convert::Infallible, io, net, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Open connections of all workers.
const CONNECTIONS: usize = 50_000;
/// A path with a token, and what CAs and proxies add to it.
const HEAD_BYTES: usize = 16 << 10;
/// How long a connection may stay open between two requests. The CA opens a new one for each.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The store answers sooner, or is given up.
const ANSWER: Duration = Duration::from_secs(15);

/// Answers on all listeners (for each address, one socket for each worker) until `stop`, then finishes what is open.
///
/// # Errors
/// A worker can't be started, or ended by itself.
pub(crate) async fn serve(
    listeners: Vec<Vec<net::TcpListener>>,
    section: &config::Challenge,
    answers: Arc<Answers>,
    traffic: Traffic,
    stop: CancellationToken,
) -> io::Result<()> {
    let bounds = Bounds {
        connections: CONNECTIONS,
        of_one_address: Some(section.max_connections_per_address),
        unlimited_addresses: section.unlimited_addresses.clone(),
        head_bytes: HEAD_BYTES,
        answer: ANSWER,
        idle: KEEP_ALIVE,
        drain: DRAIN,
        ..Bounds::usual()
    };
    let entrance =
        Entrance { name: "challenge", sockets: listeners, bounds, tls: None, refusal: None, traffic };
    let service = move || {
        let answers = Arc::clone(&answers);
        fn_service(move |request: Request| respond(Arc::clone(&answers), request))
    };
    serving::serve(entrance, service, stop).await
}

async fn respond(answers: Arc<Answers>, request: Request) -> Result<Response<Bytes>, Infallible> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let answer = match answers.decide(reads, request.path()) {
        Decision::Done(answer) => answer,
        // Boxed, because every connection has room for this future, and few come here.
        Decision::Ask(question) => Box::pin(answers.ask(question)).await,
    };
    Ok(response(answer))
}

/// Nothing of the request is ever in a response.
fn response(answer: Answer) -> Response<Bytes> {
    match answer {
        Answer::Known(body) | Answer::Stale(body) => {
            let mut response = Response::with_body(StatusCode::OK, body);
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Answer::Unknown | Answer::Malformed => Response::with_body(StatusCode::NOT_FOUND, Bytes::new()),
        Answer::StoreError => {
            let mut response = Response::with_body(StatusCode::SERVICE_UNAVAILABLE, Bytes::new());
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}
