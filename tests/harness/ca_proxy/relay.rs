//! One request on its way to Pebble and back.

use std::{
    any::Any,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use actix_tls::accept::openssl::TlsStream;
use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder, dev::Extensions, http::StatusCode, rt::net::TcpStream,
    web,
};
use serde_json::Value;

use super::{Action, Answer, Endpoint, RetryAfter, Seen, Shared, jws::Signed, ledger::Entry, renewal};

/// What a worker has: its own client, and what all share.
pub(super) struct Upstream {
    pub(super) client: reqwest::Client,
    pub(super) shared: Arc<Shared>,
}

/// The client's socket, kept so that a rule can reset it.
struct Socket(OwnedFd);

pub(super) fn keep_socket(connection: &dyn Any, data: &mut Extensions) {
    if let Some(stream) = connection.downcast_ref::<TlsStream<TcpStream>>()
        && let Ok(fd) = stream.get_ref().as_fd().try_clone_to_owned()
    {
        data.insert(Socket(fd));
    }
}

/// The CA's answer, taken out of the client library's types.
struct FromCa {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: web::Bytes,
}

pub(super) async fn relay(
    request: HttpRequest,
    body: web::Bytes,
    upstream: web::Data<Upstream>,
) -> HttpResponse {
    let shared = &upstream.shared;
    let path = request.path().to_owned();
    let endpoint = Endpoint::of_path(&path);
    let signed = Signed::parse(&body);
    let entry = shared.ledger.lock().expect("no panic while held").request(endpoint, &path, &signed);
    let seen = Seen { endpoint, path, names: entry.names.clone() };
    let actions = shared.strike(&seen);

    for action in &actions {
        match action {
            Action::Delay(time) => tokio::time::sleep(*time).await,
            Action::CallBefore(callback) => callback(&seen),
            Action::Reset => return reset(&request),
            Action::Answer(answer) => return upstream.invented(&request, answer).await,
            Action::RefuseNonce => {
                let refusal = Answer::problem(400, "badNonce", "JWS has an invalid anti-replay nonce");
                return upstream.invented(&request, &refusal).await;
            }
            Action::DropAnswer
            | Action::MalformedBody
            | Action::ReplaceBody(_)
            | Action::Rewrite(..)
            | Action::Change(_)
            | Action::WithoutHeader(_)
            | Action::CallAfter(_) => {}
        }
    }

    if let Some(answer) = shared.renewal_info(&seen) {
        return upstream.invented(&request, &answer).await;
    }
    let replacing = match shared.replaces(&seen, &signed, renewal::now()) {
        Ok(replacing) => replacing,
        Err(refusal) => return upstream.invented(&request, &refusal).await,
    };
    if let Some(refusal) = shared.refusal(&seen, &signed, &replacing) {
        return upstream.invented(&request, &refusal).await;
    }
    let answer = match upstream.ask_through_gate(&request, body, &seen, &entry, &signed).await {
        Ok(answer) => answer,
        Err(error) => {
            return HttpResponse::BadGateway().body(format!("the CA didn't answer: {error:?}"));
        }
    };
    let mut body = answer.body.clone();
    if (200..300).contains(&answer.status) {
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let location = answer.header("location");
        if let Some(document) = shared.renew(&seen, &signed, host, location, &replacing, &body) {
            body = document.to_string().into();
        }
    }
    let mut headers = answer.headers;
    for action in &actions {
        match action {
            Action::CallAfter(callback) => callback(&seen),
            Action::DropAnswer => return reset(&request),
            Action::MalformedBody => body = body.slice(..body.len() / 2),
            Action::ReplaceBody(other) => body = other.clone().into(),
            Action::Change(change) => body = change(&String::from_utf8_lossy(&body)).into(),
            Action::WithoutHeader(unwanted) => headers.retain(|(name, _)| name != unwanted),
            Action::Rewrite(from, to) => body = String::from_utf8_lossy(&body).replace(from, to).into(),
            _ => {}
        }
    }
    if let Some(date) = shared.date() {
        headers.retain(|(name, _)| name != "date");
        headers.push(("date".to_owned(), date.into_bytes()));
    }
    response(answer.status, headers).body(body)
}

impl Shared {
    /// Where its clock is another one.
    fn date(&self) -> Option<String> {
        let ahead = self.clock_ahead_seconds.load(Ordering::SeqCst);
        let apart = Duration::from_secs(ahead.unsigned_abs());
        let now = SystemTime::now();
        let date = if ahead < 0 { now - apart } else { now + apart };
        (ahead != 0).then(|| httpdate::fmt_http_date(date))
    }

    fn strike(&self, seen: &Seen) -> Vec<Action> {
        self.rules
            .lock()
            .expect("no panic while held")
            .iter_mut()
            .filter_map(|rule| rule.strike(seen))
            .collect()
    }

    /// Adds the headers that Let's Encrypt would send.
    fn polish(&self, endpoint: Endpoint, answer: &mut FromCa, body: &Value) {
        let Some(retry_after) = self.manners.retry_after else { return };
        let waits = match endpoint {
            Endpoint::Authorization => body["status"] == "pending",
            Endpoint::NewOrder | Endpoint::Order | Endpoint::Finalize => {
                body["status"] == "pending" || body["status"] == "processing"
            }
            _ => false,
        };
        if waits {
            let value = match retry_after {
                RetryAfter::Seconds(seconds) => seconds.to_string(),
                RetryAfter::Date(seconds) => {
                    httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds))
                }
            };
            answer.headers.push(("retry-after".to_owned(), value.into_bytes()));
        }
    }
}

impl Upstream {
    /// Asks Pebble, newOrder alone and everything else together, and enters the answer into the ledger.
    async fn ask_through_gate(
        &self,
        request: &HttpRequest,
        body: web::Bytes,
        seen: &Seen,
        entry: &Entry,
        signed: &Signed,
    ) -> reqwest::Result<FromCa> {
        let shared = &self.shared;
        let (_alone, _together) = if seen.endpoint == Endpoint::NewOrder {
            let alone = shared.gate.write().await;
            if shared.manners.same_open_order
                && let Some(answer) = self.open_order(signed, &seen.names)
            {
                return Ok(answer);
            }
            (Some(alone), None)
        } else {
            (None, Some(shared.gate.read().await))
        };

        let mut answer = self.ask(request, body).await?;
        let parsed: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        {
            let mut ledger = shared.ledger.lock().expect("no panic while held");
            if seen.endpoint == Endpoint::NewNonce
                && let Some(nonce) = answer.header("replay-nonce")
            {
                ledger.nonce_fetched(nonce);
            }
            ledger.answered(entry, signed, answer.status, answer.header("location"), &parsed);
        }
        shared.count(seen, signed, answer.status, &parsed);
        shared.polish(seen.endpoint, &mut answer, &parsed);
        Ok(answer)
    }

    async fn ask(&self, request: &HttpRequest, body: web::Bytes) -> reqwest::Result<FromCa> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let method = reqwest::Method::from_bytes(request.method().as_str().as_bytes())
            .expect("both libraries know the same methods");
        let mut question = self.client.request(method, format!("{}{path}", self.shared.upstream)).body(body);
        for name in ["host", "content-type", "accept", "accept-language", "user-agent"] {
            if let Some(value) = request.headers().get(name) {
                question = question.header(name, value.as_bytes());
            }
        }
        let answer = question.send().await?;
        let status = answer.status().as_u16();
        let headers = answer
            .headers()
            .iter()
            .filter(|(name, _)| {
                !matches!(name.as_str(), "connection" | "content-length" | "transfer-encoding")
            })
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        Ok(FromCa { status, headers, body: answer.bytes().await? })
    }

    /// The order that is open already. The request's own nonce is given back: Pebble hasn't seen it.
    fn open_order(&self, signed: &Signed, names: &[String]) -> Option<FromCa> {
        let (url, body) =
            self.shared.ledger.lock().expect("no panic while held").open_order(signed, names)?;
        let mut headers = vec![
            ("content-type".to_owned(), b"application/json; charset=utf-8".to_vec()),
            ("location".to_owned(), url.into_bytes()),
        ];
        if let Some(nonce) = &signed.nonce {
            headers.push(("replay-nonce".to_owned(), nonce.clone().into_bytes()));
        }
        let mut answer = FromCa { status: 201, headers, body: body.to_string().into() };
        self.shared.polish(Endpoint::NewOrder, &mut answer, &body);
        Some(answer)
    }

    /// An answer of a rule's own making.
    async fn invented(&self, request: &HttpRequest, answer: &Answer) -> HttpResponse {
        let headers =
            answer.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
        let mut builder = response(answer.status, headers);
        if answer.with_nonce {
            match self.fresh_nonce(request).await {
                Some(nonce) => builder.insert_header(("replay-nonce", nonce)),
                None => return HttpResponse::BadGateway().body("the CA gave no nonce"),
            };
        }
        builder.body(answer.body.clone())
    }

    /// Asked of Pebble by the proxy itself; counts for nobody.
    async fn fresh_nonce(&self, request: &HttpRequest) -> Option<String> {
        let host = request.headers().get("host")?.as_bytes();
        let url = format!("{}/nonce-plz", self.shared.upstream);
        let answer = self.client.head(url).header("host", host).send().await.ok()?;
        Some(answer.headers().get("replay-nonce")?.to_str().ok()?.to_owned())
    }
}

impl FromCa {
    fn header(&self, wanted: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(name, _)| name == wanted)?;
        std::str::from_utf8(value).ok()
    }
}

fn response(status: u16, headers: Vec<(String, Vec<u8>)>) -> HttpResponseBuilder {
    let mut builder = HttpResponse::build(StatusCode::from_u16(status).expect("a status of three digits"));
    for (name, value) in headers {
        builder.append_header((name, value));
    }
    builder
}

/// Resets the client's connection; what is returned reaches nobody.
fn reset(request: &HttpRequest) -> HttpResponse {
    let socket = request.conn_data::<Socket>().expect("every connection of this listener keeps its socket");
    // "Connecting" an established TCP socket to nothing makes the kernel send a reset.
    rustix::net::connect_unspec(&socket.0).expect("a TCP socket can be disconnected");
    HttpResponse::InternalServerError().finish()
}
