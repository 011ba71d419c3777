//! Servers that name each certificate in a configuration of their own, and a command that is told of each change.

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, nginx::Nginx};
use serde_json::Value;

use super::{SERVED, SHOP, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_block_for_each_name() -> Result<()> {
    let mut scene = Scene::new(&["files"]).await?;
    scene.sync().await?;
    let (files, address) = (scene.of_agent("files"), scene.address);
    let block = |name: &str| {
        format!(
            "server {{ listen {address} ssl; server_name {name}; ssl_certificate {0}/{name}/fullchain.pem;\n\
             ssl_certificate_key {0}/{name}/privkey.pem; location / {{ return 200; }} }}\n",
            files.display()
        )
    };
    let nginx = Nginx::start(&block(SHOP), &[scene.address], &[]).await?;
    // It refuses another pair of the shop's than the one that stands in a file, where that is there.
    let only = scene.path("only");
    let script = format!(
        "if test -e {0} && test \"$(readlink -f {1}/{SHOP})\" != \"$(cat {0})\"; then echo key too small >&2; exit 1; fi; exec \"$@\"",
        only.display(),
        files.display()
    );
    let test = ["sh".to_owned(), "-c".to_owned(), script, "test".to_owned()];
    scene.set_command("files.test", &[&test[..], &nginx.test_command()].concat())?;
    scene.set_command("files.reload", &nginx.reload_command())?;
    scene.set("files.min_reload_seconds", 1)?;
    scene.start_agent()?;

    // The block of a name that is gone still names its files: nginx starts with them, and shows the certificate of nobody.
    let gone = scene.renew(&["gone.example.com"], super::ECDSA).await?;
    let link = files.join("gone.example.com/fullchain.pem");
    until_true("the files are there", SERVED, || std::future::ready(link.exists())).await?;
    let former = scene.wanted("gone.example.com", "ecdsa")?;
    nginx.set_http(&(block(SHOP) + &block("gone.example.com")))?;
    nginx.reload().await?;
    scene.fleet.retire_site(&gone).await?;
    until_true("it is nobody's", SERVED, || {
        std::future::ready(scene.served("gone.example.com", &[]).is_some_and(|print| print != former))
    })
    .await?;
    ensure!(std::fs::read_link(files.join("gone.example.com"))? == std::path::Path::new("nobody"));
    ensure!(scene.served(SHOP, &[]) == Some(scene.wanted(SHOP, "ecdsa")?));
    nginx.set_http(&block(SHOP))?;
    nginx.reload().await?;

    // A renewed pair that is refused leaves the one before in its place, and keeps no other from going live.
    let present = std::fs::canonicalize(files.join(SHOP))?;
    std::fs::write(&only, present.display().to_string())?;
    let former = scene.wanted(SHOP, "ecdsa")?;
    scene.renew(&[SHOP], super::ECDSA).await?;
    scene.renew(&["other.example.com"], super::ECDSA).await?;
    until_true("it is told, and the other one is there", SERVED, async || {
        let status = scene.fleet.signpost.agent(&["status"]).await.map(|run| run.stdout).unwrap_or_default();
        status.contains("files refuses shop.example.com: key too small")
            && files.join("other.example.com").exists()
    })
    .await?;
    ensure!(std::fs::canonicalize(files.join(SHOP))? == present);
    ensure!(scene.served(SHOP, &[]) == Some(former), "it is served on");
    // The next one is tried anew.
    std::fs::remove_file(&only)?;
    scene.renew(&[SHOP], super::ECDSA).await?;
    scene.tell_the_story(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_is_told_until_it_succeeds() -> Result<()> {
    let mut scene = Scene::new(&["hook"]).await?;
    let (log, closed) = (scene.path("hook.log"), scene.path("closed"));
    let script = format!("test ! -e {} && cat >> {1} && echo >> {1}", closed.display(), log.display());
    scene.set_command("hook.command", &["sh".to_owned(), "-c".to_owned(), script])?;
    scene.start_agent()?;
    let told = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    until_true("the first message", SERVED, || std::future::ready(told().len() == 1)).await?;
    let first = told()[0]["changed"][0].clone();
    ensure!(first["names"] == serde_json::json!([SHOP]), "{first}");
    let certificate = &first["certificates"]["ecdsa"];
    ensure!(certificate["fingerprint_sha256"] == scene.wanted(SHOP, "ecdsa")?.as_str(), "{first}");
    let key = std::fs::read(certificate["privkey"].as_str().context("no key")?)?;
    ensure!(!key.is_empty() && !told()[0].to_string().contains("PRIVATE"));

    // It fails for a while; a site is renewed, another one goes.
    std::fs::write(&closed, "")?;
    let gone = scene.renew(&["gone.example.com"], super::ECDSA).await?;
    scene.renew(&[SHOP], super::ECDSA).await?;
    let stderr = || scene.agent.as_ref().and_then(|agent| agent.stderr().ok()).unwrap_or_default();
    until_true("the failure is told", SERVED, || std::future::ready(stderr().contains("some of it failed")))
        .await?;
    std::fs::remove_file(&closed)?;
    let print = scene.wanted(SHOP, "ecdsa")?;
    let heard = |what: &str| told().iter().any(|message| message.to_string().contains(what));
    until_true("the renewal is told", SERVED, || std::future::ready(heard(&print))).await?;
    scene.fleet.retire_site(&gone).await?;
    let removed = || told().iter().any(|message| message["removed"][0] == gone.as_str());
    until_true("the removal is told", SERVED, || std::future::ready(removed())).await
}
