//! What a CA changes: it is noticed, the operator is told once, and orders go on.

use anyhow::{Context as _, Result, ensure};
use harness::{
    ca_proxy::{Action, Answer, Endpoint, Rule},
    pebble::PebbleOptions,
    stage::{Stage, StageOptions},
};
use serde_json::{Value, json};

/// The directory as the programs keep it.
async fn directory(stage: &Stage) -> Result<Value> {
    let kept: String =
        redis::from_redis_value(stage.redis.command(&["GET", "sp:{ca:pebble}:directory"]).await?)?;
    let record: Value = serde_json::from_str(&kept)?;
    Ok(record["directory"].clone())
}

/// An hour passes: whoever comes next fetches the directory anew.
async fn an_hour_passes(stage: &Stage) -> Result<()> {
    stage.redis.command(&["DEL", "sp:{ca:pebble}:directory"]).await?;
    Ok(())
}

async fn told(stage: &Stage) -> Result<Vec<Value>> {
    let run = stage.signpost.issuer(&["--json", "events", "--kind", "ca-changed"]).await?.success()?;
    run.json_lines()
}

#[tokio::test(flavor = "multi_thread")]
async fn new_terms_and_profiles_are_told_once() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["a.example"]).await?;
    ensure!(told(&stage).await?.is_empty(), "the first directory is no change");
    let mut changed = directory(&stage).await?;
    changed["meta"]["termsOfService"] = json!("https://ca.example/terms/2");
    changed["meta"]["profiles"] = json!({"classic": "as ever"});
    let rule = Rule::on(Endpoint::Directory).does(Action::ReplaceBody(changed.to_string()));
    let fetched = stage.proxy.add_rule(rule);
    for name in ["b.example", "c.example"] {
        an_hour_passes(&stage).await?;
        stage.issue(&[name]).await?;
    }
    ensure!(fetched.count() == 2, "{}", fetched.count());
    let told = told(&stage).await?;
    ensure!(told.len() == 1 && told[0]["ca"] == "pebble", "{told:?}");
    let what = told[0]["what"].as_str().unwrap_or_default();
    ensure!(what.contains("https://ca.example/terms/2") && what.contains("\"classic\" is new"), "{what}");

    // What it has always been is no change either, whoever starts.
    an_hour_passes(&stage).await?;
    stage.issue(&["d.example"]).await?;
    ensure!(self::told(&stage).await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_goes_on_with_the_directory_it_knows() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.issue(&["a.example"]).await?;
    // Whoever comes next knows none, and the CA gives none: nothing is lost, it is told.
    an_hour_passes(&stage).await?;
    let gone = Answer::page(500, "text/plain", "no directory today");
    stage.proxy.add_rule(Rule::on(Endpoint::Directory).first(9).does(Action::Answer(gone)));
    let ending = stage.issue_ending(1, &["b.example"]).await?;
    ensure!(ending.to_string().contains("directory"), "{ending}");
    stage.proxy.clear_rules();
    stage.issue(&["b.example"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_gone_is_done_without_or_waited_for() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.issue(&["a.example"]).await?;
    let mut changed = directory(&stage).await?;
    changed["meta"]["profiles"] = json!({"classic": "as ever"});
    stage.proxy.add_rule(Rule::on(Endpoint::Directory).does(Action::ReplaceBody(changed.to_string())));
    an_hour_passes(&stage).await?;
    stage.signpost.set("ca.pebble.profile", "shortlived")?;
    stage.signpost.set("ca.pebble.profile_required", true)?;
    let before = stage.proxy.requests().of(Endpoint::NewOrder);
    let refused = stage.issue_ending(1, &["b.example"]).await?.to_string();
    ensure!(refused.contains("no profile") && refused.contains("it has classic"), "{refused}");
    ensure!(stage.proxy.requests().of(Endpoint::NewOrder) == before, "the CA was asked in vain");
    stage.signpost.set("ca.pebble.profile_required", false)?;
    stage.issue(&["b.example"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_ends_elsewhere_is_told_once() -> Result<()> {
    let options = StageOptions {
        pebble: PebbleOptions { alternate_roots: 1, ..PebbleOptions::default() },
        ..StageOptions::default()
    };
    let mut stage = Stage::trusting_with(options).await?;
    stage.issue(&["a.example"]).await?;
    stage.issue(&["b.example"]).await?;
    ensure!(told(&stage).await?.is_empty(), "the first chain is no change");
    let other = openssl::x509::X509::from_pem(stage.pebble.roots().await?[1].root_pem.as_bytes())?;
    let other = other.subject_name().entries().next().context("a name")?.data().to_string()?;
    stage.signpost.set("ca.pebble.preferred_chain", other.clone())?;
    stage.issue(&["c.example"]).await?;
    stage.issue(&["d.example"]).await?;
    let told = told(&stage).await?;
    ensure!(told.len() == 1, "{told:?}");
    ensure!(told[0]["what"].as_str().unwrap_or_default().contains(&other), "{told:?}");
    Ok(())
}
