//! Frontends that ask the centre themselves, each in its own way; and curl for all others.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shared::domain::KeyType;

use super::{SHOP, Scene, caddy, envoy, traefik};
use crate::fleet::{CERTS, Identity, KEYS, ask, post};

const TOKEN: &str = "edge-token-0123456789";

fn ca_file(scene: &Scene) -> String {
    scene.path("agent-ca.pem").display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_asks_again_and_again() -> Result<()> {
    let mut scene = Scene::new(&[]).await?;
    let router = scene.write("router.yml", traefik::ROUTER)?;
    let options = [
        format!("--providers.file.filename={}", router.display()),
        format!("--providers.http.endpoint=https://127.0.0.1:{}/v1/adapters/traefik", scene.centre()?.port()),
        "--providers.http.pollinterval=1s".to_owned(),
        format!("--providers.http.headers.authorization=Bearer {TOKEN}"),
        format!("--providers.http.tls.ca={}", ca_file(&scene)),
    ];
    let traefik = traefik::start(&scene, &options).await?;
    scene.tell_the_story_without_agent(true).await?;
    traefik.assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_loads_its_whole_configuration() -> Result<()> {
    let mut scene = Scene::with(&[], |signpost, address| {
        let ca = signpost.directory().join("agent-ca.pem").display().to_string();
        let load = json!({ "module": "http", "tls": { "root_ca_pem_files": [ca] } });
        let whole = json!({
            "admin": { "disabled": true, "config": { "load": load, "load_delay": "1s" } },
            "apps": { "http": caddy::http(address) },
        });
        let whole = signpost.write("whole.json", whole.to_string())?;
        signpost.set("certificates.caddy_config_file", whole.display().to_string())
    })
    .await?;
    let load = json!({
        "module": "http",
        "url": format!("https://127.0.0.1:{}/v1/adapters/caddy", scene.centre()?.port()),
        "header": { "Authorization": [format!("Bearer {TOKEN}")] },
        "tls": { "root_ca_pem_files": [ca_file(&scene)] },
    });
    let boot = json!({ "admin": { "disabled": true, "config": { "persist": false, "load": load } } });
    let caddy = caddy::start(&scene, &boot).await?;
    scene.tell_the_story_without_agent(true).await?;
    caddy.assert_running()
}

/// Caddy orders by itself at a handshake, of its own CA here, if the centre says that it may.
#[tokio::test(flavor = "multi_thread")]
async fn caddy_asks_before_it_orders() -> Result<()> {
    let mut scene = Scene::new(&[]).await?;
    let fleet = &scene.fleet;
    let one = fleet.add_frontend("one", &[SHOP], &[], CERTS).await?;
    let endpoint = format!("https://one:one-token-0123456789@127.0.0.1:{}/v1/ask", scene.centre()?.port());
    let config = json!({
        "admin": { "disabled": true, "config": { "persist": false } },
        "apps": {
            "http": caddy::http(scene.address),
            "pki": { "certificate_authorities": { "local": { "install_trust": false } } },
            "tls": { "automation": {
                "policies": [{ "issuers": [{ "module": "internal" }], "on_demand": true }],
                "on_demand": { "permission": { "module": "http", "endpoint": endpoint } },
            } },
        },
    });
    let caddy = caddy::start_trusting(&scene, &config, &ca_file(&scene)).await?;
    fleet.add_site(&["other.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    ensure!(scene.served(SHOP, &[]).is_some(), "its own name");
    for name in ["other.example.com", "stranger.example.com", "127.0.0.1"] {
        ensure!(scene.served(name, &[]).is_none(), "{name} is not its own");
    }
    let at = scene.centre()?;
    for (query, status) in [
        (format!("domain={SHOP}"), 200),
        (format!("fe=1&domain={}", SHOP.to_uppercase()), 200),
        ("domain=other.example.com".to_owned(), 403),
        ("domain=stranger.example.com".to_owned(), 403),
        ("domain=*.example.com".to_owned(), 403),
        ("domain=..%2f".to_owned(), 403),
        (format!("domain={}.example.com", "a".repeat(300)), 403),
        ("domain=".to_owned(), 403),
        (String::new(), 403),
    ] {
        let answer = fleet.get(at, &one, &format!("/v1/ask?{query}"))?;
        ensure!(answer.status == status && answer.body.is_empty(), "{query}: {answer:?}");
    }
    ensure!(fleet.get(at, &Identity::Nobody, &format!("/v1/ask?domain={SHOP}"))?.status == 401);
    // Where nobody knows, nobody may.
    scene.fleet.redis.kill9().await?;
    ensure!(scene.fleet.get(at, &one, &format!("/v1/ask?domain={SHOP}"))?.status == 503);
    caddy.assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_asks_for_a_secret() -> Result<()> {
    let mut scene = Scene::new(&[]).await?;
    let identity = scene.fleet.add_frontend_with_key("envoy", &["*"], KEYS).await?;
    let Identity::Key(pair) = &identity else { anyhow::bail!("a key was asked for") };
    let certificate = scene.write("envoy.pem", &pair.certificate_pem)?.display().to_string();
    let key = scene.write("envoy-key.pem", std::str::from_utf8(&pair.key_pem)?)?.display().to_string();
    let secret = json!({ "name": SHOP, "sds_config": { "resource_api_version": "V3", "api_config_source": {
        "api_type": "REST", "transport_api_version": "V3", "cluster_names": ["centre"],
        "refresh_delay": "1s", "request_timeout": "5s",
    } } });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "localhost",
        "common_tls_context": {
            "tls_certificates": [{
                "certificate_chain": { "filename": certificate }, "private_key": { "filename": key },
            }],
            "validation_context": {
                "trusted_ca": { "filename": ca_file(&scene) },
                "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "localhost" } }],
            },
        },
    });
    let endpoint = json!({ "endpoint": { "address": { "socket_address": {
        "address": "127.0.0.1", "port_value": scene.centre()?.port(),
    } } } });
    let cluster = json!({
        "name": "centre", "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": { "cluster_name": "centre", "endpoints": [{ "lb_endpoints": [endpoint] }] },
        "transport_socket": { "name": "tls", "typed_config": tls },
    });
    let envoy = envoy::start(&scene, secret, json!([cluster])).await?;
    scene.tell_the_story_without_agent(false).await?;
    // What it has is not sent again and again.
    envoy.assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_script_with_curl_keeps_haproxy_up_to_date() -> Result<()> {
    let mut scene = Scene::new(&[]).await?;
    let directory = scene.path("haproxy-certs");
    std::fs::create_dir(&directory)?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/frontends/curl/signpost-pull");
    let pid_file = scene.path("haproxy.pid");
    let reloads = scene.path("reloads");
    let server = format!("https://127.0.0.1:{}", scene.centre()?.port());
    let (ca, token) = (ca_file(&scene), scene.path("agent-token"));
    let pull = |server: &str| -> Result<std::process::Output> {
        // Reloaded as systemd reloads it.
        let reload = format!("echo >>{}; kill -USR2 $(cat {})", reloads.display(), pid_file.display());
        let mut command = Command::new("sh");
        command.arg(script).arg(SHOP).env("SIGNPOST_DIRECTORY", &directory).env("SIGNPOST_RELOAD", reload);
        command.env("SIGNPOST_SERVER", server).env("SIGNPOST_CA", &ca).env("SIGNPOST_TOKEN", &token);
        Ok(command.output()?)
    };
    let count = || std::fs::read_to_string(&reloads).unwrap_or_default().lines().count();
    // Nobody is there yet to be reloaded.
    pull(&server)?;
    let configuration = format!(
        "global\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
         frontend https\n  bind {} ssl crt {} strict-sni\n  http-request return status 200\n",
        scene.address,
        directory.display()
    );
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-W").arg("-db").arg("-f").arg(scene.write("haproxy.cfg", &configuration)?);
    let haproxy = scene.start_server(command, "haproxy").await?;
    std::fs::write(&pid_file, haproxy.pid().to_string())?;
    let first = scene.until_served(SHOP).await?;
    let before = count();
    for _ in 0..3 {
        let output = pull(&server)?;
        ensure!(output.status.success(), "{output:?}");
    }
    ensure!(count() == before, "what is the same is not fetched again, and nothing is reloaded");
    scene.renew(&[SHOP], &[KeyType::EcdsaP256]).await?;
    ensure!(pull(&server)?.status.success() && count() == before + 1);
    ensure!(scene.until_served(SHOP).await? != first);
    let files = std::fs::read(directory.join(format!("{SHOP}.pem")))?;
    scene.lose_the_centre().await?;
    let output = pull(&server)?;
    ensure!(!output.status.success() && count() == before + 1, "it says that it could not");
    ensure!(String::from_utf8_lossy(&output.stderr).contains(SHOP), "{output:?}");
    ensure!(
        std::fs::read_dir(&directory)?.flatten().all(|file| !file.path().to_string_lossy().ends_with(".new"))
    );
    ensure!(scene.served(SHOP, &[]).is_some());
    ensure!(std::fs::read(directory.join(format!("{SHOP}.pem")))? == files);
    haproxy.assert_running()
}

/// What a scope, a right and a damaged record make of each of them.
#[tokio::test(flavor = "multi_thread")]
async fn each_is_whole_or_an_error() -> Result<()> {
    let scene = Scene::new(&[]).await?;
    let fleet = &scene.fleet;
    let site =
        fleet.add_site(&["dual.example.com"], &["eu"], &[KeyType::EcdsaP256, KeyType::Rsa2048]).await?;
    let all = Identity::token(TOKEN);
    let certs = fleet.add_frontend("certs", &["*"], &[], CERTS).await?;
    let nothing = fleet.add_frontend("nothing", &["*.example.org"], &[], KEYS).await?;
    let one = fleet.add_frontend("one", &["dual.example.com"], &[], KEYS).await?;
    let at = scene.centre()?;
    const SECRETS: &str = "/v1/adapters/envoy/v3/discovery:secrets";
    let secrets = |identity: &Identity, names: &[&str], version: &str| {
        let body = json!({ "version_info": version, "resource_names": names, "node": { "id": "edge" } });
        post(fleet, at, identity, SECRETS, body.to_string().as_bytes())
    };
    let document = |identity: &Identity, path: &str| -> Result<Value> {
        let answer = fleet.get(at, identity, path)?;
        ensure!(answer.status == 200 && answer.header("cache-control") == Some("no-store"), "{path}");
        Ok(serde_json::from_slice(&answer.body)?)
    };
    let counts = |identity: &Identity| -> Result<[usize; 2]> {
        let traefik = document(identity, "/v1/adapters/traefik")?;
        let caddy = document(identity, "/v1/adapters/caddy")?;
        let count = |list: &Value| list.as_array().map(Vec::len).context("no list");
        ensure!(
            caddy["admin"]["config"]["load"]["url"] == json!(format!("https://localhost/v1/adapters/caddy")),
            "{caddy}"
        );
        Ok([
            count(&traefik["tls"]["certificates"])?,
            count(&caddy["apps"]["tls"]["certificates"]["load_pem"])?,
        ])
    };
    ensure!(counts(&all)? == [3, 3] && counts(&one)? == [2, 2]);
    ensure!(
        fleet.get(at, &all, "/v1/adapters/traefik")?.body
            == fleet.get(at, &all, "/v1/adapters/traefik")?.body
    );
    for path in ["/v1/adapters/traefik", "/v1/adapters/caddy"] {
        for (who, identity) in [("certs", &certs), ("nothing", &nothing)] {
            let answer = fleet.get(at, identity, path)?;
            ensure!(answer.status == 404 && !answer.text().contains("PRIVATE"), "{who} {path}: {answer:?}");
        }
        ensure!(fleet.get(at, &Identity::Nobody, path)?.status == 401);
    }
    let answer = secrets(&all, &[SHOP, "dual.example.com"], "")?;
    let found: Value = serde_json::from_slice(&answer.body)?;
    ensure!(answer.status == 200 && found["resources"].as_array().map(Vec::len) == Some(2), "{answer:?}");
    let version = found["version_info"].as_str().context("no version")?;
    ensure!(secrets(&all, &["dual.example.com", SHOP], version)?.status == 304);
    for (identity, names, status) in [
        (&one, &["dual.example.com"][..], 200),
        (&one, &["dual.example.com", SHOP], 404),
        (&one, &["no-such-name.example.com"], 404),
        (&all, &["../x"], 404),
        (&all, &[], 400),
        (&certs, &[SHOP], 404),
        (&Identity::Nobody, &[SHOP], 401),
    ] {
        let answer = secrets(identity, names, "")?;
        ensure!(answer.status == status, "{names:?}: {answer:?}");
        ensure!(answer.text().contains("PRIVATE") == (status == 200), "{names:?}");
    }
    for (identity, file, status) in [
        (&all, "dual.example.com.pem", 200),
        (&all, "dual.example.com.pem.rsa", 200),
        (&all, "shop.example.com.pem.ecdsa", 200),
        (&all, "shop.example.com.pem.rsa", 404),
        (&all, "shop.example.com", 404),
        (&all, "..%2fx.pem", 404),
        (&one, "shop.example.com.pem", 404),
        (&certs, "shop.example.com.pem", 404),
        (&Identity::Nobody, "shop.example.com.pem", 401),
    ] {
        let path = format!("/v1/adapters/haproxy/{file}");
        let answer = fleet.get(at, identity, &path)?;
        ensure!(answer.status == status, "{file}: {answer:?}");
        ensure!(answer.text().contains("PRIVATE") == (status == 200), "{file}");
        if let Some(tag) = answer.header("etag") {
            let mut stream = fleet.connect(at, identity)?;
            let known = ask(&mut stream, identity, "GET", &path, &format!("if-none-match: {tag}\r\n"))?;
            ensure!(known.status == 304, "{file}: {known:?}");
        }
    }
    let fresh = fleet.audit().await?;
    let of_all: Vec<_> = fresh.iter().filter(|entry| entry.who == "edge" && !entry.keys.is_empty()).collect();
    ensure!(of_all[0].keys.len() == 3, "{of_all:?}");
    let again = fresh.iter().filter(|entry| entry.what.as_ref().is_some_and(|what| what.contains("again")));
    ensure!(again.count() >= 3, "the same keys are written down once: {fresh:?}");

    // A record that can't be read takes nobody else's answer away: it is left out, and named.
    let records = fleet.redis.command(&["KEYS", &format!("sp:{{p*}}:cert:{site}:*")]).await?;
    for key in redis::from_redis_value::<Vec<String>>(records)? {
        fleet.redis.command(&["SET", &key, "damaged"]).await?;
    }
    for path in ["/v1/adapters/traefik", "/v1/adapters/caddy"] {
        let answer = fleet.get(at, &all, path)?;
        ensure!(
            answer.status == 200 && answer.text().matches("BEGIN PRIVATE").count() == 1,
            "{path}: {answer:?}"
        );
        ensure!(answer.header("signpost-damaged") == Some(site.as_str()), "{path}: {answer:?}");
    }
    ensure!(
        secrets(&all, &["dual.example.com"], "")?.status == 500 && secrets(&all, &[SHOP], "")?.status == 200
    );
    let both = secrets(&all, &["dual.example.com", SHOP], "")?;
    ensure!(both.status == 200 && both.text().matches("BEGIN PRIVATE").count() == 1, "{both:?}");
    // It is there, whoever asks for it alone.
    for path in
        ["/v1/adapters/haproxy/dual.example.com.pem", "/v1/certificates/dual.example.com/ecdsa/bundle.pem"]
    {
        let answer = fleet.get(at, &all, path)?;
        ensure!(answer.status == 500 && answer.text().contains("damaged"), "{path}: {answer:?}");
    }
    let answer = fleet.get(at, &all, "/v1/certificates/dual.example.com")?;
    ensure!(answer.status == 200 && answer.text().contains(r#""state":"damaged""#), "{answer:?}");
    // So is a site whose wanted state can't be read; what it serves is served on to whoever may see all names.
    let shop = fleet.store.site_serving(&shared::domain::DnsName::parse(SHOP)?).await?.context("the shop")?;
    let record = format!("sp:{{{}}}:site:{shop}", shop.partition());
    fleet.redis.command(&["HSET", &record, "spec", "{"]).await?;
    for (path, status) in [
        ("/v1/adapters/traefik".to_owned(), 200),
        (format!("/v1/certificates/{SHOP}"), 500),
        (format!("/v1/adapters/haproxy/{SHOP}.pem"), 500),
    ] {
        let answer = fleet.get(at, &all, &path)?;
        ensure!(answer.status == status, "{path}: {answer:?}");
    }
    Ok(())
}
