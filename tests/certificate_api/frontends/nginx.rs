//! nginx: the layout of one server for all names, where a renewal needs no reload; and what names a client may come with.

use anyhow::{Result, ensure};
use harness::nginx::Nginx;

use super::{SHOP, Scene};

/// nginx with the agent's layout; the agent, which is not started yet, may reload it.
pub(super) async fn start(scene: &mut Scene) -> Result<Nginx> {
    // It is not running yet.
    for key in ["nginx.test", "nginx.reload"] {
        scene.set_command(key, &[])?;
    }
    scene.sync().await?;
    let agent = scene.of_agent("");
    let http = format!(
        "map_hash_bucket_size 128; server_names_hash_bucket_size 128;\n\
         map $ssl_server_name $crt {{ hostnames; default _none; include {0}/nginx/map.conf; }}\n\
         server {{ listen {1} ssl default_server; ssl_reject_handshake on; }}\n\
         server {{ listen {1} ssl; include {0}/nginx/names.conf;\n\
         ssl_certificate {0}/live/$crt/ecdsa-fullchain.pem; ssl_certificate_key {0}/live/$crt/ecdsa-privkey.pem;\n\
         ssl_certificate {0}/live/$crt/rsa-fullchain.pem; ssl_certificate_key {0}/live/$crt/rsa-privkey.pem;\n\
         location / {{ return 200; }} }}\n",
        agent.display(),
        scene.address
    );
    let nginx = Nginx::start_with_main("worker_processes 1;", &http, &[scene.address], &[]).await?;
    scene.set_command("nginx.test", &nginx.test_command())?;
    scene.set_command("nginx.reload", &nginx.reload_command())?;
    Ok(nginx)
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_by_a_map_and_is_reloaded_for_names_alone() -> Result<()> {
    let mut scene = Scene::new(&["nginx"]).await?;
    let nginx = start(&mut scene).await?;
    scene.start_agent()?;
    scene.until_served(SHOP).await?;
    let workers = nginx.workers();
    scene.renew(&[SHOP], super::ECDSA).await?;
    let shown = scene.until_served(SHOP).await?;
    ensure!(nginx.workers() == workers, "a renewal reloads nothing");

    // Names that are nobody's, and that are no names at all.
    ensure!(scene.served("SHOP.example.COM", &[]) == Some(shown.clone()), "upper case");
    ensure!(scene.served("shop.example.com.", &[]) == Some(shown), "with a dot at the end");
    let long = format!("{}.example.com", "a".repeat(240));
    let id = std::fs::read_dir(scene.of_agent("live"))?.next().map(|entry| entry.map(|e| e.file_name()));
    let id = id.transpose()?.unwrap_or_default().to_string_lossy().into_owned();
    for name in [
        "../x",
        "stranger.example.com",
        &long,
        "127.0.0.1",
        &format!("../live/{id}"),
        &id,
        "_none",
        "*",
        "x y",
    ] {
        ensure!(scene.served(name, &[]).is_none(), "{name:?} was shown a certificate");
    }
    ensure!(scene.served(SHOP, &["-noservername"]).is_none(), "no name at all");
    scene.tell_the_story(true).await?;
    nginx.process().assert_running()
}
