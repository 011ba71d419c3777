//! A Redis of the operator's own: TLS with a private root, a user with a password file, and no more rights than a role needs.

use anyhow::{Result, ensure};
use harness::{
    daemon::SOON,
    deadline::until_true,
    redis::{Listen, Redis, RedisOptions},
    rights::{PASSWORD, acl_file},
    stage::Stage,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_issued_over_tls_by_a_user_with_the_rights_of_its_role() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let options = RedisOptions { listen: Listen::Tls, acl: Some(acl_file()?), ..RedisOptions::default() };
    let mut redis = Redis::start(options).await?;
    let url = redis.url_as("issuer", "").replace(":@", "@");
    stage.signpost.use_store(&url)?;

    let refused = stage.run_issue(&["shop.example"]).await?;
    ensure!(refused.code()? == 1, "an unknown root is not trusted: {}", refused.stderr);

    stage.signpost.set("store.trusted_roots_file", redis.root_file().display().to_string())?;
    let password = stage.signpost.write("issuer.password", format!("{PASSWORD}\n"))?;
    stage.signpost.set("store.password_file", password.display().to_string())?;
    stage.issue(&["shop.example"]).await?;

    redis.kill9().await?;
    redis.start_again().await?;
    stage.proxy.reset();
    let again = stage.issue(&["shop.example"]).await?;
    ensure!(again["results"][0]["status"] == "valid", "a restart of Redis lost something: {again}");
    ensure!(stage.proxy.requests().total() == 0, "the CA was asked again");

    // Its certificate and the root of it are replaced while a daemon runs: the file is read again, and nothing is restarted.
    let roots = stage.signpost.write("roots.pem", std::fs::read(redis.root_file())?)?;
    stage.signpost.set("store.trusted_roots_file", roots.display().to_string())?;
    let daemon = stage.signpost.start_issuer().await?;
    stage.json(&["site", "add", "before.example"]).await?;
    stage.until_valid("before.example").await?;
    redis.replace_root().await?;
    until_ready(&stage, 503).await?;
    let refused = stage.run_issue(&["meanwhile.example"]).await?;
    ensure!(refused.code()? == 1, "the former root is not that of the certificate: {}", refused.stderr);
    stage.signpost.write("roots.pem", std::fs::read(redis.root_file())?)?;
    until_ready(&stage, 200).await?;
    stage.json(&["site", "add", "after.example"]).await?;
    stage.until_valid("after.example").await?;
    daemon.process.assert_running()?;
    drop(daemon);

    let wrong = stage.signpost.write("wrong.password", "guess")?;
    stage.signpost.set("store.password_file", wrong.display().to_string())?;
    let refused = stage.run_issue(&["other.example"]).await?;
    ensure!(refused.code()? == 1 && !refused.stderr.contains("guess"), "{}", refused.stderr);
    for told in ["refused the login at ", "store.url", &wrong.display().to_string()] {
        ensure!(refused.stderr.contains(told), "{told} in {}", refused.stderr);
    }
    Ok(())
}

async fn until_ready(stage: &Stage, status: u16) -> Result<()> {
    until_true(&format!("readyz is {status}"), SOON, async || {
        stage.signpost.readiness().await.is_some_and(|(found, _)| found == status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_lacks_a_right_is_named_before_anything_is_ordered() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let options = RedisOptions { acl: Some(acl_file()?), ..RedisOptions::default() };
    let redis = Redis::start(options).await?;
    stage.signpost.use_store(&redis.url_as("challenge", PASSWORD))?;
    let refused = stage.run_issue(&["shop.example"]).await?;
    ensure!(refused.code()? == 2, "{}", refused.stderr);
    ensure!(refused.stderr.contains("lacks a right"), "{}", refused.stderr);
    ensure!(stage.proxy.requests().total() == 0, "nothing was asked of the CA");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_user_that_would_lose_records_at_a_restart_is_refused() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    let acl = acl_file()?.replace("user default on nopass ~* &* +@all", "user default off resetkeys -@all");
    let redis = Redis::start(RedisOptions { acl: Some(acl), ..RedisOptions::default() }).await?;
    stage.signpost.use_store(&redis.url_as("issuer", PASSWORD))?;
    let refused = stage.run_issue(&["shop.example"]).await?;
    ensure!(refused.code()? == 2, "{}", refused.stderr);
    ensure!(refused.stderr.contains("user default off resetpass ~* &* +@all"), "{}", refused.stderr);
    Ok(())
}
