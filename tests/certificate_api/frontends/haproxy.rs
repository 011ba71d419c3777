//! HAProxy by its runtime socket: the process that was started is the one that serves at the end.

use std::process::Command;

use anyhow::{Result, ensure};
use harness::deadline::until_true;
use shared::domain::KeyType;

use super::{SERVED, SHOP, Scene};

fn configuration(scene: &Scene) -> String {
    let (socket, list) = (scene.path("haproxy.sock"), scene.of_agent("haproxy/crt-list"));
    format!(
        "global\n  stats socket {} mode 600 level admin\n  maxconn 100\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
         frontend https\n  bind {} ssl crt-list {} strict-sni\n  http-request return status 200\n",
        socket.display(),
        scene.address,
        list.display()
    )
}

fn command(scene: &Scene) -> Result<Command> {
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(scene.write("haproxy.cfg", &configuration(scene))?);
    Ok(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn is_told_and_never_reloaded() -> Result<()> {
    let mut scene = Scene::new(&["haproxy"]).await?;
    scene.set("haproxy.socket", scene.path("haproxy.sock").display().to_string())?;
    scene.sync().await?;
    let mut haproxy = scene.start_server(command(&scene)?, "haproxy").await?;
    scene.start_agent()?;

    // Both kinds of keys, each to who can use it.
    let dual = ["dual.example.com"];
    scene.renew(&dual, &[KeyType::EcdsaP256, KeyType::Rsa2048]).await?;
    scene.until_served(dual[0]).await?;
    let rsa = Some(scene.wanted(dual[0], "rsa")?);
    // HAProxy 2.6 doesn't count PSS as RSA; no client offers that alone.
    let old = ["-sigalgs", "rsa_pss_rsae_sha256:rsa_pkcs1_sha256"];
    until_true("the RSA key is served", SERVED, || std::future::ready(scene.served(dual[0], &old) == rsa))
        .await?;

    // What is no longer wanted is not shown any more.
    let gone = scene.renew(&["gone.example.com"], super::ECDSA).await?;
    scene.until_served("gone.example.com").await?;
    scene.fleet.retire_site(&gone).await?;
    until_true("a name that is gone is refused", SERVED, || {
        std::future::ready(scene.served("gone.example.com", &[]).is_none())
    })
    .await?;

    // Another process has read the files; what is published from then on it is told.
    haproxy.kill9().await?;
    haproxy = scene.start_server(command(&scene)?, "haproxy").await?;
    scene.until_served(dual[0]).await?;
    ensure!(scene.served("gone.example.com", &[]).is_none());
    let pid = haproxy.pid();
    scene.tell_the_story(true).await?;
    haproxy.assert_running()?;
    ensure!(haproxy.pid() == pid && scene.served(SHOP, &[]).is_some());
    Ok(())
}
