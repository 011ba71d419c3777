//! What the agent answers to programs on its machine, from its own disk: Caddy at each handshake (`/caddy`, and `/ask` before
//! it orders anything itself) or for its whole configuration (`/caddy/config`), Traefik's HTTP provider (`/traefik`). The
//! centre is never asked for it.

mod caddy;

use super::{Applied, ListenError, Server, ServerError, View, is_hostname, traefik};
use crate::{config::LocalConfig, sightings::Sightings};
use actix_web::{
    App, HttpRequest, HttpResponse,
    http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE},
    web,
};
use openssl::base64::decode_block;
use serving::{Bounds, Entrance, Traffic, of_app};
use shared::config::Secret;
use std::{
    collections::BTreeMap,
    io,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Connections at once. They are this machine's own: a web server makes one for each handshake.
const CONNECTIONS: usize = 4_000;

/// Until a listener that has ended is started again.
const AGAIN: Duration = Duration::from_secs(1);

/// A listener on a loopback address.
pub(crate) struct Local {
    caddy_config: Option<PathBuf>,
    shown: Shown,
}

/// What is answered, replaced whole.
type Shown = Arc<RwLock<Arc<Answers>>>;

struct Answers {
    /// By name: the link to what is live. Nothing before it is known: that is no answer to anybody.
    names: Option<BTreeMap<Arc<str>, PathBuf>>,
    traefik: String,
    /// Or why there is none.
    caddy_config: Result<String, String>,
}

impl Local {
    /// Listens.
    ///
    /// # Errors
    /// [`ListenError`].
    pub(crate) fn start(config: &LocalConfig, sightings: &Sightings) -> Result<Self, ListenError> {
        let nothing = Err("the agent has just started".to_owned());
        let answers = Answers { names: None, traefik: String::new(), caddy_config: nothing };
        let shown = Shown::new(RwLock::new(Arc::new(answers)));
        let (data, secret) = (web::Data::new(Arc::clone(&shown)), web::Data::new(config.secret.clone()));
        let sightings = web::Data::new(sightings.clone());
        let failed = |error| ListenError(config.listen, error);
        let listener = serving::listener::bind(config.listen).map_err(|error| failed(error.into()))?;
        let app = move || {
            let app = App::new().app_data(data.clone()).app_data(secret.clone());
            of_app(app.app_data(sightings.clone()).default_service(web::to(answer)))
        };
        let run = move || -> io::Result<()> {
            let entrance = Entrance {
                name: "local",
                sockets: vec![vec![listener.try_clone()?]],
                bounds: Bounds {
                    connections: CONNECTIONS,
                    answer: Duration::from_secs(10),
                    ..Bounds::usual()
                },
                tls: None,
                refusal: None,
                traffic: Traffic::uncounted(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(serving::serve(entrance, app.clone(), CancellationToken::new()))
        };
        // It answers for as long as the process lives, whatever happens to it.
        let forever = move || for_ever("local", AGAIN, run);
        thread::Builder::new().name("local".to_owned()).spawn(forever).map_err(failed)?;
        Ok(Self { caddy_config: config.caddy_config.clone(), shown })
    }
}

impl Server for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        let live = view.directory.live();
        let caddy_config = match &self.caddy_config {
            None => Err("agent.local.caddy_config is not set".to_owned()),
            Some(file) => caddy::config(file, view),
        };
        let names = view.names.iter().map(|(name, id)| (name.clone(), live.join(id.as_str()))).collect();
        let answers =
            Answers { names: Some(names), traefik: traefik::document(view).to_string(), caddy_config };
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(answers);
        Ok(Applied::Nothing)
    }
}

/// Does it again whenever it ends, and says so.
fn for_ever(what: &str, pause: Duration, mut run: impl FnMut() -> io::Result<()>) -> ! {
    loop {
        let ended = panic::catch_unwind(AssertUnwindSafe(&mut run));
        let why = match ended {
            Ok(Ok(())) => "it ended".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        tracing::error!(what, why, "what answers on this machine is started again");
        thread::sleep(pause);
    }
}

async fn answer(
    request: HttpRequest,
    shown: web::Data<Shown>,
    secret: web::Data<Secret>,
    sightings: web::Data<Sightings>,
) -> HttpResponse {
    if !is_allowed(&request, &secret) {
        return HttpResponse::Unauthorized()
            .insert_header(("WWW-Authenticate", "Basic realm=\"signpost\""))
            .finish();
    }
    let answers = Arc::clone(&shown.read().unwrap_or_else(PoisonError::into_inner));
    let json = |text: String| secret_answer("application/json", text.into_bytes());
    let Some(names) = &answers.names else { return HttpResponse::ServiceUnavailable().finish() };
    match (request.method().as_str(), request.path()) {
        ("GET", "/caddy") => match caddy::certificate(&request, names) {
            Ok(Some(pem)) => secret_answer("application/x-pem-file", pem),
            Ok(None) => {
                parameter(&request, "server_name").iter().for_each(|name| sightings.see(&canonical(name)));
                HttpResponse::NoContent().finish()
            }
            Err(error) => {
                tracing::warn!(%error, "a certificate of this machine can't be read");
                HttpResponse::InternalServerError().finish()
            }
        },
        ("GET", "/ask") => {
            let name = parameter(&request, "domain").map(|name| canonical(&name));
            if name.as_deref().is_some_and(|name| find(names, name).is_some()) {
                HttpResponse::Ok().finish()
            } else {
                name.iter().for_each(|name| sightings.see(name));
                HttpResponse::Forbidden().finish()
            }
        }
        ("GET", "/caddy/config") => match &answers.caddy_config {
            Ok(text) => json(text.clone()),
            Err(reason) => HttpResponse::ServiceUnavailable().body(reason.clone()),
        },
        ("GET", "/traefik") if !answers.traefik.is_empty() => json(answers.traefik.clone()),
        ("GET", "/traefik") => HttpResponse::ServiceUnavailable().finish(),
        _ => HttpResponse::NotFound().finish(),
    }
}

fn secret_answer(kind: &str, body: Vec<u8>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, kind))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(body)
}

/// Whether who asks knows the password: as a bearer token, as the password of any user, or as `token` in the query.
fn is_allowed(request: &HttpRequest, secret: &Secret) -> bool {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = header.and_then(|value| match value.split_once(' ') {
        Some(("Bearer", token)) => Some(token.trim().as_bytes().to_vec()),
        Some(("Basic", login)) => {
            let login = decode_block(login.trim()).ok()?;
            let colon = login.iter().position(|byte| *byte == b':')?;
            Some(login[colon + 1..].to_vec())
        }
        _ => None,
    });
    let given = given.or_else(|| parameter(request, "token").map(String::into_bytes));
    given.is_some_and(|given| {
        let secret = secret.reveal().as_bytes();
        given.len() == secret.len() && openssl::memcmp::eq(&given, secret)
    })
}

fn parameter(request: &HttpRequest, name: &str) -> Option<String> {
    let query = url::form_urlencoded::parse(request.query_string().as_bytes());
    query.into_owned().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The name that a client asks for, as names are kept: lower case, without the dot at the end.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// What answers for a name: its own, or the one with a star in the place of its first label.
fn find<'a>(names: &'a BTreeMap<Arc<str>, PathBuf>, name: &str) -> Option<&'a PathBuf> {
    names.get(name).or_else(|| {
        let (_, parent) = name.split_once('.').filter(|_| is_hostname(name))?;
        names.get(format!("*.{parent}").as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_listener_that_ended_or_panicked_is_started_again() {
        let (started, starts) = mpsc::channel();
        let mut count = 0;
        let run = move || {
            count += 1;
            started.send(count).ok();
            match count {
                1 => panic!("a bug"),
                2 => Err(io::Error::other("no descriptors")),
                3 => Ok(()),
                _ => loop {
                    thread::park();
                },
            }
        };
        thread::spawn(move || for_ever("test", Duration::ZERO, run));
        let starts = (0..4).map(|_| starts.recv_timeout(Duration::from_secs(60)).unwrap());
        assert_eq!(starts.collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}
