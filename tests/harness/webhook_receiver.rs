//! Somebody's webhook: takes messages over HTTP or HTTPS, and answers as the test says.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Instant,
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, http::StatusCode, web};
use anyhow::{Context as _, Result, bail};
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use serde_json::Value;
use tempfile::TempDir;

use crate::{pki::Authority, ports};

const BINDS: u32 = 5;

/// How a message is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// To another path of the same server, with 307.
    Redirect,
    /// Never; the connection stays.
    Nothing,
}

/// One message as it came.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: String,
    pub signature: String,
    pub body: Vec<u8>,
    pub path: String,
    pub answer: Answer,
    pub at: Instant,
}

/// The running server. Dropping it ends it.
pub struct WebhookReceiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: ServerHandle,
    tls: Option<TempDir>,
}

struct Shared {
    answers: Mutex<(VecDeque<Answer>, Answer)>,
    deliveries: Mutex<Vec<Delivery>>,
}

impl Delivery {
    /// The body, parsed.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).context("the body is JSON")
    }

    /// The value of one field of every event that is listed.
    pub fn events(&self, field: &str) -> Result<Vec<String>> {
        let body = self.json()?;
        let events = body["events"].as_array().context("a message has events")?;
        Ok(events.iter().map(|event| event[field].as_str().unwrap_or_default().to_owned()).collect())
    }
}

impl WebhookReceiver {
    pub async fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// HTTPS with a root of its own: [`WebhookReceiver::root_file`].
    pub async fn start_tls() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let authority = Authority::new("Test CA for a webhook")?;
        std::fs::write(directory.path().join("root.pem"), authority.pem()?)?;
        authority.issue_server(&["127.0.0.1"])?.write(directory.path(), "server")?;
        Self::start_with(Some(directory))
    }

    fn start_with(tls: Option<TempDir>) -> Result<Self> {
        let shared = Arc::new(Shared {
            answers: Mutex::new((VecDeque::new(), Answer::Status(204))),
            deliveries: Mutex::default(),
        });
        for _ in 0..BINDS {
            let address = ports::free_address()?;
            let share = web::Data::from(Arc::clone(&shared));
            let server = HttpServer::new(move || {
                App::new()
                    .app_data(share.clone())
                    .app_data(web::PayloadConfig::new(16 << 20))
                    .default_service(web::to(take))
            })
            .workers(1)
            .shutdown_timeout(0)
            .disable_signals();
            let server = match &tls {
                Some(files) => {
                    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
                    acceptor.set_certificate_chain_file(files.path().join("server.pem"))?;
                    acceptor.set_private_key_file(files.path().join("server.key"), SslFiletype::PEM)?;
                    server.bind_openssl(address, acceptor)
                }
                None => server.bind(address),
            };
            let server = match server {
                Ok(server) => server.run(),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => continue,
                Err(error) => return Err(error).context("bind the receiver"),
            };
            let handle = server.handle();
            tokio::spawn(server);
            return Ok(Self { address, shared, server: handle, tls });
        }
        bail!("no free port for the receiver after {BINDS} tries")
    }

    /// What goes into `notify.webhook_url`.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/hook", self.address)
    }

    /// What goes into `notify.webhook_roots_file`.
    pub fn root_file(&self) -> Option<PathBuf> {
        self.tls.as_ref().map(|files| files.path().join("root.pem"))
    }

    /// The next messages are answered so, one after the other; those behind them as before.
    pub fn answer_next(&self, answers: &[Answer]) {
        self.shared.answers.lock().expect("no panic while held").0.extend(answers);
    }

    /// Every message is answered so from now on.
    pub fn answer(&self, answer: Answer) {
        self.shared.answers.lock().expect("no panic while held").1 = answer;
    }

    /// Every message so far, refused ones too.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().expect("no panic while held").clone()
    }

    /// What was answered with success.
    pub fn accepted(&self) -> Vec<Delivery> {
        let accepted = |delivery: &Delivery| matches!(delivery.answer, Answer::Status(200..=299));
        self.deliveries().into_iter().filter(accepted).collect()
    }
}

impl Drop for WebhookReceiver {
    fn drop(&mut self) {
        // The message is sent when the future is made.
        drop(self.server.stop(false));
    }
}

async fn take(request: HttpRequest, body: web::Bytes, shared: web::Data<Shared>) -> HttpResponse {
    let answer = {
        let mut answers = shared.answers.lock().expect("no panic while held");
        answers.0.pop_front().unwrap_or(answers.1)
    };
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    shared.deliveries.lock().expect("no panic while held").push(Delivery {
        id: header("Signpost-Id"),
        signature: header("Signpost-Signature"),
        body: body.to_vec(),
        path: request.path().to_owned(),
        answer,
        at: Instant::now(),
    });
    match answer {
        Answer::Status(status) => {
            HttpResponse::build(StatusCode::from_u16(status).expect("a status of the test's")).finish()
        }
        Answer::Redirect => {
            HttpResponse::TemporaryRedirect().insert_header(("Location", "/elsewhere")).finish()
        }
        Answer::Nothing => std::future::pending().await,
    }
}
