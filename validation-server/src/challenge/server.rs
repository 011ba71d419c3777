//! HTTP for the challenge port, as few system calls and allocations as it takes: actix' protocol layer on listening
//! sockets of our own, one thread and one socket for each worker, nothing shared but the answers.

use super::answers::{Answer, Answers, Decision};
use crate::run::DRAIN;
use actix_http::{HttpService, Method, Request, Response, StatusCode};
use actix_service::{Service as _, ServiceFactory as _, fn_service};
use actix_web::{
    http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    web::Bytes,
};
use std::{convert::Infallible, io, net, rc::Rc, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore, task::LocalSet};
use tokio_util::sync::CancellationToken;

/// How long a client may take to send the head of its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stay open between two requests. The CA opens a new one for each.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Open connections of one worker; further ones wait in the kernel.
const CONNECTIONS: u32 = 25_000;
/// Pause when the system has no file or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Answers on all listeners (for each address, one socket for each worker) until `stop`, then finishes what is open.
///
/// # Errors
/// A worker can't be started, or ended by itself.
pub(crate) async fn serve(
    listeners: Vec<Vec<net::TcpListener>>,
    workers: usize,
    answers: Arc<Answers>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut of_worker: Vec<Vec<net::TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for sockets in listeners {
        of_worker.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.push(socket));
    }
    let mut running = tokio::task::JoinSet::new();
    for (number, sockets) in of_worker.into_iter().enumerate() {
        let answers = Arc::clone(&answers);
        // A token of its own: connections that register with it contend with nobody.
        let stop = stop.child_token();
        let worker = std::thread::Builder::new()
            .name(format!("challenge-{number}"))
            .spawn(move || work(sockets, answers, stop))?;
        running.spawn_blocking(move || {
            worker.join().unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}

/// One worker: a thread with a runtime of its own.
fn work(sockets: Vec<net::TcpListener>, answers: Arc<Answers>, stop: CancellationToken) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
        let accepting: Vec<_> = sockets
            .into_iter()
            .map(|socket| accept(socket, Arc::clone(&answers), Arc::clone(&places), stop.clone()))
            .map(tokio::task::spawn_local)
            .collect();
        for task in accepting {
            task.await.map_err(io::Error::other)??;
        }
        // All places are free again when the last connection has ended.
        let _ = tokio::time::timeout(DRAIN, places.acquire_many(CONNECTIONS)).await;
        Ok(())
    })
}

async fn accept(
    socket: net::TcpListener,
    answers: Arc<Answers>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::from_std(socket)?;
    let draining = stop.clone();
    let service = HttpService::build()
        .client_request_timeout(REQUEST_TIMEOUT)
        .client_disconnect_timeout(Duration::from_secs(1))
        .keep_alive(KEEP_ALIVE)
        // Not in its documentation yet, but what actix-web itself ends its connections with.
        .graceful_shutdown_signal(move || draining.clone().cancelled_owned())
        .h1(fn_service(move |request: Request| respond(Arc::clone(&answers), request)))
        .new_service(())
        .await
        .map_err(|()| io::Error::other("the HTTP service can't be made"))?;
    let service = Rc::new(service);
    let stopped = stop.cancelled();
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return Ok(()),
            accepted = async {
                let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
                (place, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (place, Ok((stream, _))) => {
                let connection = service.call((stream, None));
                tokio::task::spawn_local(async move {
                    // What a client does to its own connection is its own business.
                    let _ = connection.await;
                    drop(place);
                });
            }
            (_, Err(error)) if is_of_one_connection(&error) => {}
            (_, Err(error)) => {
                tracing::error!(%error, "no further connection can be accepted for now");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
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

/// The client was gone before it was its turn.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
