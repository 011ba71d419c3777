//! Whole passes against an HTTPS server that says what the test wants: what is published, and above all what is not
//! withdrawn.

use crate::{
    client::Client,
    config::{AgentConfig, Credentials, StoreConfig},
    disk::Directory,
    listing::ItemId,
    sync::{Report, SyncError, sync},
    test_pki::{Issued, TestPki, days},
};
use openssl::{
    pkey::PKey,
    ssl::{SslAcceptor, SslMethod},
    x509::X509,
};
use shared::domain::Slot;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// What the server answers: path with query -> status, ETag and body.
type Answers = Arc<Mutex<BTreeMap<String, (u16, String, Vec<u8>)>>>;

const LIST: &str = "/v1/certificates?limit=500";

struct World {
    root: tempfile::TempDir,
    pki: TestPki,
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
    config: AgentConfig,
    client: Client,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let pki = TestPki::new();
        let (answers, asked) = (Answers::default(), Arc::default());
        let port = serve(&pki, Arc::clone(&answers), Arc::clone(&asked));
        fs::write(root.path().join("ca.pem"), pki.ca_pem()).unwrap();
        fs::write(root.path().join("token"), "secret-token\n").unwrap();
        let log_line = |word: &str| {
            ["sh".into(), "-c".into(), format!("echo {word} >> {}", root.path().join("log").display())]
                .to_vec()
        };
        let config = AgentConfig {
            server: format!("https://localhost:{port}").parse().unwrap(),
            ca_file: Some(root.path().join("ca.pem")),
            credentials: Credentials::Token(root.path().join("token")),
            store: StoreConfig { directory: root.path().join("agent"), group_id: None },
            poll: Duration::from_secs(60),
            nginx_test: log_line("test"),
            nginx_reload: log_line("reload"),
        };
        let client = Client::new(&config).unwrap();
        Self { root, pki, answers, asked, config, client }
    }

    fn answer(&self, path: &str, status: u16, etag: &str, body: impl Into<Vec<u8>>) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, etag.to_owned(), body.into()));
    }

    fn list(&self, items: &[String]) {
        self.answer(LIST, 200, "", page(items, None));
    }

    /// Serves a fresh pair for `names`, and gives its lineage as JSON.
    fn offer(&self, id: &str, names: &[&str], slot: Slot) -> String {
        self.offer_pair(id, &self.pki.issue(names, slot, days(-1), days(90)))
    }

    fn offer_pair(&self, id: &str, issued: &Issued) -> String {
        let slot = issued.slot;
        let link = |file: &str| format!("/v1/certificates/{id}/{slot}/{file}");
        self.answer(&link("fullchain.pem"), 200, "", issued.fullchain.clone());
        self.answer(&link("privkey.pem"), 200, "", issued.privkey.to_vec());
        format!(
            r#""{slot}":{{"fingerprint_sha256":"{}","not_after":"2100-01-01T00:00:00Z","links":{{"fullchain":"{}","privkey":"{}"}}}}"#,
            issued.fingerprint,
            link("fullchain.pem"),
            link("privkey.pem")
        )
    }

    /// One item with an ECDSA certificate for NAME.example.
    fn simple(&self, id: &str) -> String {
        let name = format!("{id}.example");
        item(id, &[&name], &[self.offer(id, &[&name], Slot::Ecdsa)])
    }

    async fn sync(&mut self) -> Result<Report, SyncError> {
        sync(&self.config, &mut self.client, false).await
    }

    fn map(&self) -> String {
        fs::read_to_string(self.config.store.directory.join("nginx/map.conf")).unwrap_or_default()
    }

    fn live(&self, path: &str) -> PathBuf {
        self.config.store.directory.join("live").join(path)
    }

    fn nginx_log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }
}

fn item(id: &str, names: &[&str], lineages: &[String]) -> String {
    format!(
        r#"{{"id":"{id}","names":{},"lineages":{{{}}}}}"#,
        serde_json::to_string(names).unwrap(),
        lineages.join(",")
    )
}

fn page(items: &[String], next: Option<&str>) -> String {
    format!(r#"{{"items":[{}],"next":{}}}"#, items.join(","), serde_json::to_string(&next).unwrap())
}

/// An HTTPS server on loopback; a path without an answer is a 404. One request per connection.
fn serve(pki: &TestPki, answers: Answers, asked: Arc<Mutex<Vec<String>>>) -> u16 {
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
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && tls.read(&mut byte).is_ok_and(|count| count == 1) {
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let found = answers.lock().unwrap().get(&path).cloned();
            let (mut status, etag, mut body) = found.unwrap_or((404, String::new(), Vec::new()));
            if !request.contains("authorization: bearer secret-token\r\n") {
                (status, body) = (401, Vec::new());
            } else if !etag.is_empty() && request.contains(&format!("if-none-match: {etag}")) {
                (status, body) = (304, Vec::new());
            }
            asked.lock().unwrap().push(format!("{status} {path}"));
            let etag = if etag.is_empty() { String::new() } else { format!("ETag: {etag}\r\n") };
            let head = format!(
                "HTTP/1.1 {status} x\r\n{etag}Content-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            tls.write_all(&[head.as_bytes(), &body].concat()).ok();
            tls.shutdown().ok();
        }
    });
    port
}

#[tokio::test]
async fn publishes_reloads_once_and_then_does_nothing() {
    let mut world = World::new();
    let dual = item(
        "dual1",
        &["d.example", "*.d.example"],
        &[
            world.offer("dual1", &["d.example", "*.d.example"], Slot::Ecdsa),
            world.offer("dual1", &["d.example", "*.d.example"], Slot::Rsa),
        ],
    );
    world.list(&[dual, world.simple("single1"), item("waiting1", &["w.example"], &[])]);
    let report = world.sync().await.unwrap();
    assert!(report.is_success() && report.reloaded, "{}", report.problems());
    assert_eq!((report.published.len(), report.waiting), (2, 1));
    assert_eq!(world.map(), "*.d.example dual1;\nd.example dual1;\nsingle1.example single1;\n");
    assert!(world.live("dual1/rsa-privkey.pem").exists());

    let report = world.sync().await.unwrap();
    assert_eq!((report.published.len(), report.unchanged, report.reloaded), (0, 2, false));
    assert_eq!(world.nginx_log(), "test\nreload\n");
}

#[tokio::test]
async fn a_renewal_is_published_without_a_reload() {
    let mut world = World::new();
    world.list(&[world.simple("shop")]);
    world.sync().await.unwrap();
    let before = fs::read(world.live("shop/ecdsa-fullchain.pem")).unwrap();
    world.list(&[world.simple("shop")]);
    let report = world.sync().await.unwrap();
    assert_eq!((report.published.len(), report.reloaded), (1, false));
    assert_ne!(fs::read(world.live("shop/ecdsa-fullchain.pem")).unwrap(), before);
}

#[tokio::test]
async fn no_failure_of_the_server_changes_anything() {
    let mut world = World::new();
    let items = [world.simple("a1"), world.simple("b1")];
    world.list(&items);
    world.sync().await.unwrap();
    let (map, key) = (world.map(), fs::read(world.live("a1/privkey.pem")).unwrap());
    let whole = page(&items, None);
    for (status, body) in [
        (500, String::new()),
        (503, whole.clone()),
        (401, String::new()),
        (403, whole.clone()),
        (404, String::new()),
        (204, String::new()),
        (200, String::new()),
        (200, "{}".to_owned()),
        (200, whole[..whole.len() / 2].to_owned()),
        (200, "<html>maintenance</html>".to_owned()),
    ] {
        world.answer(LIST, status, "", body);
        assert!(world.sync().await.is_err(), "{status}");
    }
    // The second page fails.
    world.answer(LIST, 200, "", page(&items[..1], Some("a1")));
    assert!(world.sync().await.is_err());
    // The pages go round in circles.
    world.answer("/v1/certificates?limit=500&after=a1", 200, "", page(&[], Some("a1")));
    assert!(world.sync().await.is_err());
    // Nothing listed at all: no error of the server, but no order to withdraw everything either.
    world.list(&[]);
    let report = world.sync().await.unwrap();
    assert!(report.withheld.as_ref().is_some_and(|text| text.contains("nothing at all")), "{report:?}");
    assert!(!report.is_success());
    // The server is gone.
    world.config.server = "https://localhost:1".parse().unwrap();
    world.client = Client::new(&world.config).unwrap();
    assert!(world.sync().await.is_err());

    assert_eq!(world.map(), map);
    assert_eq!(fs::read(world.live("a1/privkey.pem")).unwrap(), key);
    assert_eq!(world.nginx_log(), "test\nreload\n");
}

#[tokio::test]
async fn a_vanished_item_leaves_the_map_keeps_its_files_and_can_come_back() {
    let mut world = World::new();
    let items = [world.simple("a1"), world.simple("b1")];
    world.list(&items);
    world.sync().await.unwrap();
    world.list(&items[..1]);
    let report = world.sync().await.unwrap();
    assert_eq!(report.removed, [ItemId::parse("b1").unwrap()]);
    assert!(report.is_success() && report.reloaded);
    assert_eq!(world.map(), "a1.example a1;\n");
    assert!(world.live("b1/privkey.pem").exists());

    // A day later the files go.
    let directory = Directory::existing(&world.config.store);
    directory.mark_removed(&ItemId::parse("b1").unwrap(), days(-2)).unwrap();
    world.list(&items);
    let report = world.sync().await.unwrap();
    assert!(report.deleted.is_empty(), "it is listed again");
    assert!(world.map().contains("b1.example"));
    world.list(&items[..1]);
    world.sync().await.unwrap();
    directory.mark_removed(&ItemId::parse("b1").unwrap(), days(-2)).unwrap();
    let report = world.sync().await.unwrap();
    assert_eq!(report.deleted.len(), 1);
    assert!(!world.live("b1").exists());
}

#[tokio::test]
async fn many_vanished_at_once_need_a_confirmation() {
    let mut world = World::new();
    let items: Vec<_> = (0..24).map(|number| world.simple(&format!("i{number:03}"))).collect();
    world.list(&items);
    assert_eq!(world.sync().await.unwrap().published.len(), 24);
    world.list(&items[..2]);
    let report = world.sync().await.unwrap();
    assert!(report.removed.is_empty() && report.withheld.is_some());
    assert_eq!(world.map().lines().count(), 24);
    let report = sync(&world.config, &mut world.client, true).await.unwrap();
    assert_eq!((report.removed.len(), world.map().lines().count()), (22, 2));
}

#[tokio::test]
async fn one_bad_item_is_reported_and_the_others_are_published() {
    let mut world = World::new();
    let foreign = world
        .simple("foreign")
        .replace("\"/v1/certificates/foreign/ecdsa/privkey.pem\"", "\"https://evil.example/v1/k\"");
    let wrong_name =
        item("wrongname", &["other.example"], &[world.offer("wrongname", &["a.example"], Slot::Ecdsa)]);
    let no_key =
        world.simple("nokey").replace(",\"privkey\":\"/v1/certificates/nokey/ecdsa/privkey.pem\"", "");
    let gone = world.simple("gone");
    world.answer("/v1/certificates/gone/ecdsa/privkey.pem", 404, "", "");
    let dangerous = world.simple("evil").replace("evil.example", "evil.example; include /etc/shadow");
    world.list(&[foreign, wrong_name, no_key, gone, dangerous, world.simple("good")]);
    let report = world.sync().await.unwrap();
    assert_eq!((report.published.len(), report.failed.len()), (1, 5), "{}", report.problems());
    assert_eq!(world.map(), "good.example good;\n");
    for words in [
        "not on the certificate server",
        "does not cover other.example",
        "may not read the key",
        "404",
        "no hostname",
    ] {
        assert!(report.problems().contains(words), "{words} in {}", report.problems());
    }
    assert!(!report.problems().contains("BEGIN"));
}

#[tokio::test]
async fn an_older_certificate_does_not_replace_a_newer_one() {
    let mut world = World::new();
    world.list(&[world.simple("shop")]);
    world.sync().await.unwrap();
    let key = fs::read(world.live("shop/privkey.pem")).unwrap();
    let old = world.pki.issue(&["shop.example"], Slot::Ecdsa, days(-30), days(60));
    world.list(&[item("shop", &["shop.example"], &[world.offer_pair("shop", &old)])]);
    let report = world.sync().await.unwrap();
    assert!(report.problems().contains("older than the live one"), "{}", report.problems());
    assert_eq!(fs::read(world.live("shop/privkey.pem")).unwrap(), key);
}

#[tokio::test]
async fn an_unchanged_listing_is_not_sent_twice_and_pages_are_followed() {
    let mut world = World::new();
    let items = [world.simple("a1"), world.simple("b1")];
    world.answer(LIST, 200, "\"one\"", page(&items[..1], Some("a1")));
    world.answer("/v1/certificates?limit=500&after=a1", 200, "\"two\"", page(&items[1..], None));
    assert_eq!(world.sync().await.unwrap().published.len(), 2);
    world.asked.lock().unwrap().clear();
    assert_eq!(world.sync().await.unwrap().unchanged, 2);
    let asked = world.asked.lock().unwrap().clone();
    assert_eq!(asked, [format!("304 {LIST}"), "304 /v1/certificates?limit=500&after=a1".to_owned()]);
}

#[tokio::test]
async fn a_reload_that_failed_is_owed_until_it_succeeds() {
    let mut world = World::new();
    world.list(&[world.simple("shop")]);
    let reload = std::mem::replace(&mut world.config.nginx_reload, vec!["/nonexistent/nginx".to_owned()]);
    let report = world.sync().await.unwrap();
    assert!(report.nginx_error.is_some() && !report.is_success());
    world.config.nginx_reload = reload;
    let report = world.sync().await.unwrap();
    assert!(report.reloaded && report.is_success());
    assert!(!world.sync().await.unwrap().reloaded);
}

#[tokio::test]
async fn a_damaged_or_widely_readable_key_is_replaced() {
    let mut world = World::new();
    world.list(&[world.simple("shop")]);
    world.sync().await.unwrap();
    let key = world.live("shop/ecdsa-privkey.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(world.sync().await.unwrap().published.len(), 1);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&key, "").unwrap();
    assert_eq!(world.sync().await.unwrap().published.len(), 1);
    assert!(fs::metadata(&key).unwrap().len() > 0);
    assert_eq!(world.sync().await.unwrap().unchanged, 1);
}

#[tokio::test]
async fn a_crash_between_the_names_and_the_reload_loses_no_reload() {
    let mut world = World::new();
    world.list(&[world.simple("shop")]);
    let directory = Directory::open(&world.config.store).unwrap();
    // The test command sees what a crash at that moment would leave.
    let seen = world.root.path().join("seen");
    world.config.nginx_test = ["cp", "-r"]
        .map(str::to_owned)
        .into_iter()
        .chain([directory.root().display().to_string(), seen.display().to_string()])
        .collect();
    world.sync().await.unwrap();
    let status = fs::read_to_string(seen.join("status.json")).unwrap();
    assert!(status.contains(r#""reload_owed": true"#), "{status}");
    assert!(fs::read_to_string(seen.join("nginx/map.conf")).unwrap().contains("shop.example"));
    let status = fs::read_to_string(directory.root().join("status.json")).unwrap();
    assert!(status.contains(r#""reload_owed": false"#), "{status}");
}
