//! The listener: limits, the graceful end, and what is no route.

use super::{
    Api,
    answer::Answer,
    asked::Asked,
    authorized::{Authorized, Demand},
    once::{self, within},
    refusal::{Code, Refusal, of_head},
    routes,
};
use actix_web::{
    App, HttpRequest, HttpResponse, Route,
    http::Method,
    web::{self, Data, Payload},
};
use serving::{Bounds, Entrance, Traffic, of_app};
use std::{future::Future, io, net::TcpListener, time::Duration};
use tokio_util::sync::CancellationToken;

pub(super) const BASE: &str = "/api/v1";
/// How long a request may be worked on; and a file of a hundred thousand sites.
const LIMIT: Duration = Duration::from_secs(30);
const LIMIT_OF_FILE: Duration = Duration::from_secs(3600);
/// How long a client may take to send the body of its request.
const BODY_LIMIT: Duration = Duration::from_secs(15);
const BODY_LIMIT_OF_FILE: Duration = Duration::from_secs(600);
/// How long open requests may take to be answered once the program has been told to end.
const DRAIN: Duration = Duration::from_secs(10);
const CONNECTIONS: usize = 1_000;
/// The work is the store's; two threads wait for it.
pub const WORKERS: usize = 2;

/// Serves until `stop`, then finishes what is open. `sockets` are one for each of [`WORKERS`].
///
/// # Errors
/// The listener can't be used.
pub async fn serve(sockets: Vec<TcpListener>, api: Api, stop: CancellationToken) -> io::Result<()> {
    let section = &api.config.issuer;
    let bounds = Bounds {
        connections: CONNECTIONS,
        of_one_address: Some(section.max_connections_per_address),
        unlimited_addresses: section.unlimited_addresses.clone(),
        answer: BODY_LIMIT_OF_FILE + LIMIT_OF_FILE,
        drain: DRAIN,
        ..Bounds::usual()
    };
    let entrance = entrance(sockets, bounds, api.traffic.clone());
    let api = Data::new(api);
    let app = move || {
        of_app(
            App::new()
                .app_data(api.clone())
                .service(web::scope(BASE).configure(routes::configure))
                .default_service(web::to(no_such_route)),
        )
    };
    serving::serve(entrance, app, stop).await
}

/// Says until `stop` that the store is waited for: whoever asks early is not left without an answer.
///
/// # Errors
/// The listener can't be used.
pub async fn serve_nothing(sockets: Vec<TcpListener>, stop: CancellationToken) -> io::Result<()> {
    let bounds = Bounds {
        connections: CONNECTIONS,
        answer: Duration::from_secs(10),
        drain: Duration::from_secs(1),
        ..Bounds::usual()
    };
    let entrance = entrance(sockets, bounds, Traffic::uncounted());
    let app = || of_app(App::new().default_service(web::to(not_yet)));
    serving::serve(entrance, app, stop).await
}

fn entrance(sockets: Vec<TcpListener>, bounds: Bounds, traffic: Traffic) -> Entrance {
    Entrance { name: "api", sockets: vec![sockets], bounds, tls: None, refusal: Some(of_head), traffic }
}

async fn not_yet() -> HttpResponse {
    let what = "the store can't be reached since this daemon was started: it is waited for";
    Refusal::new(Code::StoreUnavailable, what).answer().response()
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
    let asked =
        within(body_limit, Asked::read(api.clone(), &who.name, route, request.clone(), payload)).await??;
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
