//! An agent on a temporary directory, and the HTTPS server that tells it what a test wants it to hear.

use crate::{
    config::{AgentConfig, Credentials, ServerConfig, StoreConfig},
    report::Report,
    sightings::Sightings,
    sync::{Agent, SyncError},
    test_pki::{Issued, TestPki, days},
};
use openssl::{
    pkey::PKey,
    ssl::{SslAcceptor, SslMethod},
    x509::X509,
};
use serde_json::json;
use shared::{config::AgentNginx, domain::Slot};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// What the server answers.
#[derive(Default)]
pub(crate) struct Answers {
    /// Path with query -> status and body.
    pub(crate) pages: BTreeMap<String, (u16, Vec<u8>)>,
    /// The lines of bundles, by id.
    pub(crate) bundles: BTreeMap<String, String>,
    /// In the place of any answer to a question for bundles.
    pub(crate) bundles_fail: Option<(u16, Vec<u8>)>,
    pub(crate) asked: Vec<String>,
}

pub(crate) const FIRST: &str = "/v1/changes?limit=500";

pub(crate) struct World {
    pub(crate) root: tempfile::TempDir,
    pub(crate) pki: TestPki,
    pub(crate) answers: Arc<Mutex<Answers>>,
    pub(crate) config: AgentConfig,
    pub(crate) agent: Agent,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let pki = TestPki::new();
        let answers = Arc::<Mutex<Answers>>::default();
        let port = serve(&pki, Arc::clone(&answers));
        fs::write(root.path().join("ca.pem"), pki.ca_pem()).unwrap();
        fs::write(root.path().join("token"), "secret-token\n").unwrap();
        let log_line = |word: &str| {
            ["sh".into(), "-c".into(), format!("echo {word} >> {}", root.path().join("log").display())]
                .to_vec()
        };
        let nginx = AgentNginx { test: log_line("test"), reload: log_line("reload"), min_reload_seconds: 0 };
        let config = AgentConfig {
            sightings: false,
            server: format!("https://localhost:{port}").parse().unwrap(),
            ca_file: Some(root.path().join("ca.pem")),
            credentials: Credentials::Token(root.path().join("token")),
            store: StoreConfig::at(root.path().join("agent")),
            poll: Duration::from_secs(50),
            refused_issuers: Vec::new(),
            probe: None,
            servers: vec![ServerConfig::Nginx(nginx)],
        };
        let agent = Agent::new(config.clone(), &Sightings::default()).unwrap();
        Self { root, pki, answers, config, agent }
    }

    pub(crate) fn nginx(&mut self) -> &mut AgentNginx {
        let Some(ServerConfig::Nginx(nginx)) = self.config.servers.first_mut() else { panic!("no nginx") };
        nginx
    }

    /// The agent begins anew, as after a restart.
    pub(crate) fn restart(&mut self) {
        self.agent = Agent::new(self.config.clone(), &Sightings::default()).unwrap();
    }

    pub(crate) fn answer(&self, path: &str, status: u16, body: impl Into<Vec<u8>>) {
        self.answers.lock().unwrap().pages.insert(path.to_owned(), (status, body.into()));
    }

    /// What an agent without a cursor is told; it ends at the cursor `one`, after which there is nothing.
    pub(crate) fn everything(&self, items: &[String]) {
        self.answer(FIRST, 200, page("one", false, items));
        self.after("one", "one", &[]);
    }

    /// What is told after a cursor.
    pub(crate) fn after(&self, cursor: &str, next: &str, items: &[String]) {
        self.answer(&after(cursor), 200, page(next, false, items));
    }

    /// A fresh pair for `names` in the bundle `id`; answers its change.
    pub(crate) fn offer(&self, id: &str, names: &[&str], slots: &[Slot]) -> String {
        let pairs: Vec<Issued> =
            slots.iter().map(|slot| self.pki.issue(names, *slot, days(-1), days(90))).collect();
        self.offer_pairs(id, names, &pairs)
    }

    pub(crate) fn offer_pairs(&self, id: &str, names: &[&str], pairs: &[Issued]) -> String {
        let (mut lineages, mut certificates) = (serde_json::Map::new(), serde_json::Map::new());
        for pair in pairs {
            let slot = pair.slot.to_string();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let lineage =
                json!({ "fingerprint_sha256": pair.fingerprint, "not_after": "2100-01-01T00:00:00Z" });
            lineages.insert(slot.clone(), lineage);
            let files = json!({
                "fingerprint_sha256": pair.fingerprint,
                "fullchain": text(&pair.fullchain),
                "privkey": text(&pair.privkey),
            });
            certificates.insert(slot, files);
        }
        let version =
            pairs.first().map_or_else(|| "none".to_owned(), |pair| pair.fingerprint[..16].to_owned());
        let bundle = json!({ "id": id, "version": version, "names": names, "certificates": certificates });
        self.answers.lock().unwrap().bundles.insert(id.to_owned(), bundle.to_string());
        json!({ "op": "put", "id": id, "version": version, "names": names, "lineages": lineages }).to_string()
    }

    /// One item with an ECDSA certificate for NAME.example.
    pub(crate) fn simple(&self, id: &str) -> String {
        self.offer(id, &[&format!("{id}.example")], &[Slot::Ecdsa])
    }

    pub(crate) async fn sync(&mut self) -> Result<Report, SyncError> {
        self.agent.pass(Duration::ZERO, false).await
    }

    pub(crate) fn map(&self) -> String {
        fs::read_to_string(self.config.store.directory.join("nginx/map.conf")).unwrap_or_default()
    }

    pub(crate) fn live(&self, path: &str) -> PathBuf {
        self.config.store.directory.join("live").join(path)
    }

    pub(crate) fn nginx_log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }
}

pub(crate) fn after(cursor: &str) -> String {
    format!("{FIRST}&cursor={cursor}")
}

pub(crate) fn page(cursor: &str, more: bool, items: &[String]) -> String {
    format!(r#"{{"cursor":"{cursor}","more":{more},"items":[{}]}}"#, items.join(","))
}

pub(crate) fn del(id: &str) -> String {
    format!(r#"{{"op":"del","id":"{id}"}}"#)
}

/// An HTTPS server on loopback; a path without an answer is a 404. One request per connection.
fn serve(pki: &TestPki, answers: Arc<Mutex<Answers>>) -> u16 {
    let own = pki.issue(&["localhost"], Slot::Ecdsa, days(-1), days(30));
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key(&PKey::private_key_from_pem(&own.privkey).unwrap()).unwrap();
    acceptor.set_certificate(&X509::from_pem(&own.fullchain).unwrap()).unwrap();
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let Ok(mut tls) = acceptor.accept(stream) else { continue };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && tls.read(&mut byte).is_ok_and(|count| count == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            tls.read_exact(&mut body).ok();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, body) = {
                let mut answers = answers.lock().unwrap();
                let answer = if !head.contains("authorization: bearer secret-token\r\n") {
                    (401, Vec::new())
                } else if path == "/v1/bundles" {
                    answers.bundles(&body)
                } else {
                    answers.pages.get(&path).cloned().unwrap_or((404, Vec::new()))
                };
                answers.asked.push(format!("{} {path}", answer.0));
                answer
            };
            let head =
                format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            tls.write_all(&[head.as_bytes(), &body].concat()).ok();
            tls.shutdown().ok();
        }
    });
    port
}

impl Answers {
    pub(crate) fn bundles(&self, body: &[u8]) -> (u16, Vec<u8>) {
        if let Some(failure) = &self.bundles_fail {
            return failure.clone();
        }
        let wanted: serde_json::Value = serde_json::from_slice(body).unwrap();
        let mut lines = String::new();
        for id in wanted["ids"].as_array().unwrap() {
            let id = id.as_str().unwrap();
            let missing = json!({ "id": id, "missing": true }).to_string();
            lines.push_str(self.bundles.get(id).unwrap_or(&missing));
            lines.push('\n');
        }
        (200, lines.into_bytes())
    }
}
