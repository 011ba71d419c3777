//! Honest clients: a CA that asks for a token, on a connection of its own each time; a frontend that asks for changes, with a
//! handshake each time.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use harness::raw_http::{connect, exchange};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};

/// Between two questions: far from what the machine can do, so that what is measured is waiting.
const PAUSE: Duration = Duration::from_millis(10);

/// Somebody who asks.
#[derive(Clone)]
pub(crate) struct Client {
    server: SocketAddr,
    request: Arc<str>,
    /// What the answer has in it.
    expected: Arc<str>,
    tls: Option<SslConnector>,
}

/// How long answers took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Client {
    pub(crate) fn ca(server: SocketAddr, token: &str, expected: &str) -> Self {
        let request = format!(
            "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n"
        );
        Self { server, request: request.into(), expected: expected.into(), tls: None }
    }

    pub(crate) fn frontend(server: SocketAddr, token: &str) -> Result<Self> {
        let request = format!(
            "GET /v1/changes HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        // Who answers is known here: what is measured is when.
        connector.set_verify(SslVerifyMode::NONE);
        Ok(Self {
            server,
            request: request.into(),
            expected: "\"cursor\"".into(),
            tls: Some(connector.build()),
        })
    }

    /// Asks once.
    pub(crate) fn ask(&self) -> Result<()> {
        let mut stream = connect(self.server)?;
        let answer = match &self.tls {
            None => exchange(&mut stream, self.request.as_bytes())?,
            Some(tls) => exchange(&mut tls.connect("localhost", stream)?, self.request.as_bytes())?,
        };
        let answer = answer.context("closed without an answer")?;
        ensure!(answer.status == 200 && answer.text().contains(&*self.expected), "{answer:?}");
        Ok(())
    }

    /// Asks again and again; an answer that does not come, or is another one, is an error.
    pub(crate) async fn measure(&self, time: Duration) -> Result<Waits> {
        let client = self.clone();
        tokio::task::spawn_blocking(move || {
            let (started, mut waits) = (Instant::now(), Vec::new());
            while started.elapsed() < time {
                let asked = Instant::now();
                client.ask()?;
                waits.push(asked.elapsed());
                std::thread::sleep(PAUSE);
            }
            waits.sort_unstable();
            let at = |share: usize| waits[(waits.len() * share / 100).min(waits.len() - 1)];
            Ok(Waits { p50: at(50), p99: at(99) })
        })
        .await?
    }
}
