//! The server itself: its own certificate, TLS, a store that is away, keyrings, and how it ends.

use std::{
    io::Read as _,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::until_true,
    pki::{Authority, Pair},
    raw_http::{connect, exchange},
    signpost::Signpost,
};
use openssl::{
    ssl::{SslConnector, SslMethod, SslVersion},
    x509::X509,
};
use rustix::process::Signal;
use shared::{domain::KeyType, vault::Keyring};

use crate::fleet::{Fleet, Identity, KEYS, ask};

const LIMIT: Duration = Duration::from_secs(20);
const PATH: &str = "/v1/certificates/shop.example.com";

async fn fleet() -> Result<Fleet> {
    let fleet = Fleet::new().await?;
    fleet.add_site(&["shop.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    Ok(fleet)
}

/// Installs a pair the way tools do: each file replaced at once.
fn install(signpost: &Signpost, pair: &Pair) -> Result<()> {
    for (name, content) in [("own.pem", &pair.certificate_pem), ("own.key", &pair.key_pem)] {
        let draft = signpost.write("draft", content)?;
        std::fs::rename(draft, signpost.directory().join(name))?;
    }
    Ok(())
}

/// The certificate that a new connection is shown.
fn shown(address: SocketAddr, root: &Authority) -> Result<Vec<u8>> {
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.cert_store_mut().add_cert(root.certificate().clone())?;
    let stream = connector.build().connect("localhost", connect(address)?)?;
    Ok(stream.ssl().peer_certificate().context("no certificate")?.to_pem()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_certificate_is_replaced_while_a_connection_stays_open() -> Result<()> {
    let mut fleet = fleet().await?;
    let root = Authority::new("Root of the provider")?;
    let first = root.issue_server(&["localhost"])?;
    install(&fleet.signpost, &first)?;
    for (key, file) in [("tls_certificate_file", "own.pem"), ("tls_key_file", "own.key")] {
        let path = fleet.signpost.directory().join(file).to_string_lossy().into_owned();
        fleet.signpost.set(&format!("certificates.{key}"), path)?;
    }
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let with_key = fleet.add_frontend_with_key("with-key", &["*"], KEYS).await?;
    let daemon = fleet.start().await?;
    ensure!(shown(daemon.address, &root)? == first.certificate_pem);
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.cert_store_mut().add_cert(root.certificate().clone())?;
    let mut open = connector.build().connect("localhost", connect(daemon.address)?)?;
    let mut still_open = |what: &str| -> Result<()> {
        let answer = ask(&mut open, &edge, "GET", PATH, "")?;
        ensure!(answer.status == 200, "{what}: {answer:?}");
        Ok(())
    };
    still_open("at first")?;

    // Noticed by itself.
    let second = root.issue_server(&["localhost"])?;
    install(&fleet.signpost, &second)?;
    let is_shown = |pair: &Pair| shown(daemon.address, &root).is_ok_and(|pem| pem == pair.certificate_pem);
    until_true("the new certificate is shown", LIMIT, async || is_shown(&second)).await?;
    still_open("after the replacement")?;

    // A pair that doesn't fit, then garbage: the old one stays, and it is said why.
    let third = root.issue_server(&["localhost"])?;
    install(
        &fleet.signpost,
        &Pair { certificate_pem: third.certificate_pem.clone(), key_pem: second.key_pem.clone() },
    )?;
    let complaints = || daemon.process.log().matches("can't be replaced").count();
    until_true("a complaint", LIMIT, async || complaints() == 1).await?;
    ensure!(is_shown(&second), "a key that doesn't fit was taken");
    std::fs::remove_file(fleet.signpost.directory().join("own.key"))?;
    until_true("another complaint", LIMIT, async || complaints() == 2).await?;
    ensure!(is_shown(&second) && daemon.process.log().contains("does not fit"), "{}", daemon.process.log());
    still_open("after bad pairs")?;

    // Told so.
    install(&fleet.signpost, &third)?;
    daemon.process.signal(Signal::HUP)?;
    until_true("the third certificate is shown", LIMIT, async || is_shown(&third)).await?;
    still_open("at the end")?;

    // Client certificates of the internal CA are still known.
    let Identity::Key(pair) = &with_key else { unreachable!("it was made with a key") };
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.cert_store_mut().add_cert(root.certificate().clone())?;
    connector.set_certificate(&*X509::from_pem(pair.certificate_pem.as_bytes())?)?;
    connector.set_private_key(&*openssl::pkey::PKey::private_key_from_pem(&pair.key_pem)?)?;
    let mut stream = connector.build().connect("localhost", connect(daemon.address)?)?;
    ensure!(ask(&mut stream, &with_key, "GET", PATH, "")?.status == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_http1_only_never_resumed_and_trusts_the_internal_ca_alone() -> Result<()> {
    let fleet = fleet().await?;
    let by_key = fleet.add_frontend_with_key("key", &["*"], KEYS).await?;
    let daemon = fleet.start().await?;
    let mut connector = fleet.connector()?;
    connector.set_alpn_protos(b"\x02h2\x08http/1.1")?;
    let stream = connector.build().connect("localhost", connect(daemon.address)?)?;
    ensure!(stream.ssl().selected_alpn_protocol() == Some(&b"http/1.1"[..]));

    // No session is kept and no ticket given that a client could come back with.
    let root = fleet.signpost.write("root.pem", fleet.internal_ca.certificate_pem()?)?;
    for version in ["-tls1_2", "-tls1_3"] {
        let output = Command::new("openssl")
            .args(["s_client", "-reconnect", "-verify_return_error", version, "-CAfile"])
            .arg(&root)
            .args(["-connect", &daemon.address.to_string(), "-servername", "localhost"])
            .stdin(Stdio::null())
            .output()
            .context("openssl isn't there: apt-get install openssl")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(text.matches("New, TLS").count() >= 5, "{version}: {text}");
        ensure!(!text.contains("Reused, TLS") && !text.contains("session ticket:"), "{version}: {text}");
    }
    let mut connector = fleet.connector()?;
    connector.set_min_proto_version(Some(SslVersion::TLS1))?;
    connector.set_max_proto_version(Some(SslVersion::TLS1_1))?;
    connector.set_cipher_list("DEFAULT:@SECLEVEL=0")?;
    ensure!(connector.build().connect("localhost", connect(daemon.address)?).is_err(), "TLS 1.1");

    // A certificate that somebody else signed, for a name that we know: not even a 401.
    let foreign = Authority::new("Somebody else")?.issue_client("key")?;
    let mut connector = fleet.connector()?;
    connector.set_certificate(&*X509::from_pem(&foreign.certificate_pem)?)?;
    connector.set_private_key(&*openssl::pkey::PKey::private_key_from_pem(&foreign.key_pem)?)?;
    let refused = match connector.build().connect("localhost", connect(daemon.address)?) {
        Err(_) => true,
        // In TLS 1.3 the client learns of it when it reads.
        Ok(mut stream) => ask(&mut stream, &Identity::Nobody, "GET", PATH, "").is_err(),
    };
    ensure!(refused, "a foreign client certificate was let in");
    ensure!(fleet.get(daemon.address, &by_key, PATH)?.status == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_it_says_so_and_comes_back() -> Result<()> {
    let mut fleet = fleet().await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let mut open = fleet.connect(daemon.address, &edge)?;
    ensure!(ask(&mut open, &edge, "GET", PATH, "")?.status == 200);
    fleet.redis.stop().await?;
    for path in [PATH, "/v1/certificates", "/v1/certificates/no-such-name.example.com"] {
        let answer = ask(&mut open, &edge, "GET", path, "")?;
        ensure!(answer.status == 503 && answer.header("retry-after") == Some("1"), "{path}: {answer:?}");
        ensure!(answer.text().starts_with(r#"{"error":"unavailable""#), "{answer:?}");
    }
    until_true("not ready", LIMIT, async || readiness(daemon.telemetry) == Some(503)).await?;
    fleet.redis.start_again().await?;
    until_true("ready again", LIMIT, async || readiness(daemon.telemetry) == Some(200)).await?;
    ensure!(ask(&mut open, &edge, "GET", PATH, "")?.status == 200, "on the same connection");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_at_the_start_is_waited_for() -> Result<()> {
    let mut fleet = fleet().await?;
    let root = Authority::new("Root of the provider")?;
    install(&fleet.signpost, &root.issue_server(&["localhost"])?)?;
    for (key, file) in [("tls_certificate_file", "own.pem"), ("tls_key_file", "own.key")] {
        let path = fleet.signpost.directory().join(file).to_string_lossy().into_owned();
        fleet.signpost.set(&format!("certificates.{key}"), path)?;
    }
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    fleet.redis.stop().await?;
    let mut started = fleet.signpost.start_run("validation-server", &["certificates"])?;
    let config = shared::config::Config::load(Some(fleet.signpost.config_path()))?;
    let address = *config.certificates.listen.first().context("no address")?;
    let telemetry = config.telemetry.address_of(shared::config::Program::Certificates);
    let status = || -> Result<u16> {
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        connector.cert_store_mut().add_cert(root.certificate().clone())?;
        let mut stream = connector.build().connect("localhost", connect(address)?)?;
        Ok(ask(&mut stream, &edge, "GET", PATH, "")?.status)
    };
    until_true("listening", LIMIT, async || status().is_ok_and(|status| status == 503)).await?;
    ensure!(readiness(telemetry) == Some(503));
    fleet.redis.start_again().await?;
    until_true("ready", LIMIT, async || readiness(telemetry) == Some(200)).await?;
    ensure!(status()? == 200);
    ensure!(started.process.terminate(LIMIT).await?.code() == Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_a_wrong_and_an_exposed_keyring_are_refused() -> Result<()> {
    let fleet = fleet().await?;
    let ring = fleet.signpost.directory().join("kek");
    let run = async || fleet.signpost.run("validation-server", &["certificates"], LIMIT).await?.with_code(2);
    std::fs::rename(&ring, fleet.signpost.directory().join("kept"))?;
    let missing = run().await?;
    ensure!(missing.stderr.contains("there is no keyring"), "{}", missing.stderr);
    ensure!(!ring.exists(), "it made one of its own");
    Keyring::generate(&ring)?;
    let wrong = run().await?;
    ensure!(wrong.stderr.contains("is not the one this store was sealed with"), "{}", wrong.stderr);
    std::fs::copy(fleet.signpost.directory().join("kept"), &ring)?;
    std::fs::set_permissions(&ring, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let exposed = run().await?;
    ensure!(exposed.stderr.contains("readable by others"), "{}", exposed.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_the_configuration_are_all_named() -> Result<()> {
    let mut signpost = Signpost::new()?;
    signpost.run("validation-server", &["certificates", "--check"], LIMIT).await?.success()?;
    signpost.set("certificates.names", vec!["a b"])?;
    signpost.set("certificates.listen", toml::Value::Array(Vec::new()))?;
    let run = signpost.run("validation-server", &["certificates", "--check"], LIMIT).await?.with_code(2)?;
    ensure!(
        run.stderr.contains("certificates.names") && run.stderr.contains("certificates.listen"),
        "{}",
        run.stderr
    );
    signpost.set("certificates.tls_certificate_file", "/nonexistent/own.pem")?;
    signpost.set("certificates.tls_key_file", "/nonexistent/own.key")?;
    let run = signpost.run("validation-server", &["certificates", "--check"], LIMIT).await?.with_code(2)?;
    ensure!(run.stderr.contains("/nonexistent/own.pem"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_refused_and_told_to_end_it_ends() -> Result<()> {
    let fleet = fleet().await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let mut daemon = fleet.start().await?;
    let mut stream = fleet.connect(daemon.address, &edge)?;
    ensure!(ask(&mut stream, &edge, "GET", PATH, "content-length: 5\r\n")?.status == 400);
    let mut idle = fleet.connect(daemon.address, &edge)?;
    ensure!(ask(&mut idle, &edge, "GET", PATH, "")?.status == 200);
    let exit = daemon.process.terminate(Duration::from_secs(6)).await?;
    ensure!(exit.code() == Some(0), "{exit:?}");
    ensure!(idle.read(&mut [0]).unwrap_or(0) == 0, "the idle connection is still open");
    Ok(())
}

fn readiness(telemetry: SocketAddr) -> Option<u16> {
    let request = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    Some(exchange(&mut connect(telemetry).ok()?, request).ok()??.status)
}
