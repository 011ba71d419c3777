//! The listener: limits, the graceful end, and what is no route.

use super::{
    Api,
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Demand},
    once::{self, within},
    refusal::{Code, Refusal},
    routes,
};
use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer, Route,
    http::Method,
    web::{self, Data, Payload},
};
use std::{future::Future, io, net::TcpListener, time::Duration};
use tokio_util::sync::CancellationToken;

pub(super) const BASE: &str = "/api/v1";
/// How long a request may be worked on; and a file of a hundred thousand sites.
const LIMIT: Duration = Duration::from_secs(30);
const LIMIT_OF_FILE: Duration = Duration::from_secs(3600);
/// How long a client may take to send the head of its request, and how long its body.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
const BODY_LIMIT: Duration = Duration::from_secs(15);
const BODY_LIMIT_OF_FILE: Duration = Duration::from_secs(600);
/// How long open requests may take to be answered once the program has been told to end.
const DRAIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const CONNECTIONS: usize = 1_000;
/// The work is the store's; two threads wait for it.
const WORKERS: usize = 2;

/// Serves until `stop`, then finishes what is open.
///
/// # Errors
/// The listener can't be used.
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) -> io::Result<()> {
    let api = Data::new(api);
    // What is built here can't go to another thread, the running server can.
    let server = HttpServer::new(move || {
        App::new()
            .app_data(api.clone())
            .service(web::scope(BASE).configure(routes::configure))
            .default_service(web::to(no_such_route))
    })
    .workers(WORKERS)
    .client_request_timeout(HEAD_LIMIT)
    .keep_alive(KEEP_ALIVE)
    .max_connections(CONNECTIONS)
    .disable_signals()
    .shutdown_timeout(DRAIN.as_secs())
    .shutdown_signal(stop.cancelled_owned())
    .listen(listener)?
    .run();
    server.await
}

/// A route whose requests go to `handler`: first the token is looked at, then the body is read, then it is worked on.
pub(super) fn answering<R, F, Fut>(method: Method, handler: F) -> Route
where
    R: Demand,
    F: Fn(Authorized<R>, Asked) -> Fut + Clone + 'static,
    Fut: Future<Output = Result<Answer, Refusal>> + 'static,
{
    web::method(method).to(move |request: HttpRequest, payload: Payload, api: Data<Api>| {
        let handler = handler.clone();
        async move {
            let api = api.get_ref();
            let answer = answer(api, &request, payload, handler).await;
            let answer = answer.unwrap_or_else(|refusal| refusal.answer());
            let route = request.match_pattern().unwrap_or_default();
            api.counters.count(request.method().as_str(), &route, answer.status.as_u16());
            answer.response()
        }
    })
}

async fn answer<R, F, Fut>(
    api: &Api,
    request: &HttpRequest,
    payload: Payload,
    handler: F,
) -> Result<Answer, Refusal>
where
    R: Demand,
    F: Fn(Authorized<R>, Asked) -> Fut,
    Fut: Future<Output = Result<Answer, Refusal>>,
{
    let who = within(LIMIT, Authorized::<R>::of(request, api)).await??;
    let missing = || Refusal::new(Code::NoSuchRoute, format!("there is no {}", request.path()));
    let route = routes::find(request).ok_or_else(missing)?;
    let (limit, body_limit) = match route.described.takes_file {
        true => (LIMIT_OF_FILE, BODY_LIMIT_OF_FILE),
        false => (LIMIT, BODY_LIMIT),
    };
    let asked = within(body_limit, Asked::read(api.clone(), route, request.clone(), payload)).await??;
    let name = who.name.clone();
    let work = async |asked: Asked| match within(limit, handler(who, asked)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(refusal)) | Err(refusal) => refusal.answer(),
    };
    let answer = match asked.idempotency_key()? {
        Some(key) => once::answer(api, &name, &key, 2 * limit, asked, work).await?,
        None => work(asked).await,
    };
    if request.method() != Method::GET {
        let (method, path) = (request.method().as_str(), request.path());
        tracing::info!(token = name, method, path, status = answer.status.as_u16(), "asked through the API");
    }
    Ok(answer)
}

/// A method that the path doesn't have.
pub(super) fn other_methods(allow: String) -> Route {
    web::to(move || {
        let refusal = Refusal::of_method(allow.clone());
        async move { refusal.answer().response() }
    })
}

async fn no_such_route(request: HttpRequest) -> HttpResponse {
    Refusal::new(Code::NoSuchRoute, format!("there is no {}", request.path())).answer().response()
}
