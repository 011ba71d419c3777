//! One item that a web server can't take, and one that was damaged on disk: everything else goes live, and the centre knows.

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, nginx::Nginx, signpost::Daemon};
use serde_json::{Value, json};

use super::{SERVED, SHOP, Scene, nginx};
use crate::fleet::{Identity, KEYS};

/// Too long for the hashes of the test's nginx, whose buckets have 128 bytes.
fn long_name() -> String {
    format!("{}.{}.example.com", "a".repeat(60), "b".repeat(60))
}

async fn edge(scene: &Scene) -> Result<Value> {
    let fleet = scene.fleet.signpost.issuer_json(&["status", "--fleet"]).await?;
    let found = fleet["frontends"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "edge"));
    found.cloned().with_context(|| format!("{fleet:#}"))
}

async fn until_edge(scene: &Scene, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    let found = until_true(what, SERVED, async || edge(scene).await.is_ok_and(|edge| is_it(&edge))).await;
    found.with_context(|| scene.agent.as_ref().and_then(|agent| agent.stderr().ok()).unwrap_or_default())?;
    edge(scene).await
}

/// The daemon, once it has noted what the store is.
async fn issuer(scene: &Scene) -> Result<Daemon> {
    let issuer = scene.fleet.signpost.start_issuer().await?;
    until_true("the epoch is known", SERVED, async || {
        let known = scene.fleet.redis.command(&["HLEN", "sp:epoch"]).await;
        known.is_ok_and(|known| known != redis::Value::Int(0))
    })
    .await?;
    Ok(issuer)
}

fn has_problem(edge: &Value, words: &[&str]) -> bool {
    let problems = edge["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().any(|problem| words.iter().all(|word| problem.to_string().contains(word)))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_that_nginx_refuses_keeps_no_other_from_going_live() -> Result<()> {
    let mut scene = Scene::with(&["nginx"], |signpost, _| signpost.set("agent.probe", "")).await?;
    let _issuer = issuer(&scene).await?;
    let nginx = nginx::start(&mut scene).await?;
    scene.start_agent()?;
    scene.until_served(SHOP).await?;
    until_edge(&scene, "all is served", |edge| edge["standing"] == "converged").await?;

    let long = long_name();
    let refused = scene.renew(&[&long], super::ECDSA).await?;
    scene.renew(&["new.example.com"], super::ECDSA).await?;
    scene.until_served("new.example.com").await?;
    let words = [refused.as_str(), &long, "bucket_size"];
    until_edge(&scene, "the centre knows which one, and why", |edge| has_problem(edge, &words)).await?;
    ensure!(scene.served(&long, &[]).is_none());
    let site = scene.fleet.signpost.issuer_json(&["status", &long]).await?;
    ensure!(site["sites"][0]["frontends"]["waiting"] == serde_json::json!(["edge"]), "{site:#}");
    until_true("the centre knows that the other one is served", SERVED, async || {
        let site = scene.fleet.signpost.issuer_json(&["status", "new.example.com"]).await;
        site.is_ok_and(|site| site["sites"][0]["frontends"]["served_by"] == json!(["edge"]))
    })
    .await?;

    // The configuration itself is broken: no item's fault, and nothing new is called served.
    let config = std::fs::read_to_string(nginx.config_path())?;
    std::fs::write(nginx.config_path(), format!("no_such_directive;\n{config}"))?;
    scene.renew(&["late.example.com"], super::ECDSA).await?;
    until_edge(&scene, "the centre has nginx' words", |edge| has_problem(edge, &["no_such_directive"]))
        .await?;
    let site = scene.fleet.signpost.issuer_json(&["status", "late.example.com"]).await?;
    ensure!(site["sites"][0]["frontends"]["waiting"] == serde_json::json!(["edge"]), "{site:#}");

    // Mended, with room for every name.
    std::fs::write(nginx.config_path(), config.replace("bucket_size 128", "bucket_size 512"))?;
    if let Some(mut agent) = scene.agent.take() {
        agent.process.kill9().await?;
    }
    scene.start_agent()?;
    scene.until_served("late.example.com").await?;
    scene.until_served(&long).await?;
    until_edge(&scene, "all is served", |edge| edge["standing"] == "converged").await?;

    // A bit that fell over on disk: the size is what it was.
    let key = scene.of_agent(&format!("live/{refused}/ecdsa-privkey.pem"));
    let mut content = std::fs::read(&key)?;
    content[60] ^= 1;
    std::fs::write(&key, &content)?;
    until_true("it is fetched again", SERVED, || {
        std::future::ready(std::fs::read(&key).is_ok_and(|now| now != content && !now.is_empty()))
    })
    .await?;
    scene.until_served(&long).await?;
    nginx.process().assert_running()
}

/// The groups that a frontend is told to speak.
fn groups(scene: &Scene, frontend: &Identity) -> Result<Value> {
    let answer = scene.fleet.get(scene.centre()?, frontend, "/v1/changes")?;
    let document: Value = serde_json::from_slice(&answer.body)?;
    Ok(document["tls_policy"]["groups"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_policy_reaches_all_frontends_once_a_canary_has_taken_it() -> Result<()> {
    let mut scene = Scene::with(&["nginx"], |signpost, _| {
        for key in ["issuer.canary_minutes", "frontends.lag_minutes"] {
            signpost.set(key, 0.02)?;
        }
        signpost.set("issuer.canary_tag", "canary")?;
        signpost.set("agent.probe", "")
    })
    .await?;
    scene.fleet.change_frontend("edge", |edge| edge.scope.tags.push("canary".to_owned())).await?;
    let other = scene.fleet.add_frontend("other", &["*"], &["eu"], KEYS).await?;
    let issuer = issuer(&scene).await?;
    for key in ["nginx.test", "nginx.reload"] {
        scene.set_command(key, &[])?;
    }
    scene.set("nginx.min_reload_seconds", 0)?;
    scene.sync().await?;
    let http = format!(
        "map_hash_bucket_size 128; server_names_hash_bucket_size 128;\n\
         map $ssl_server_name $crt {{ hostnames; default _none; include {0}/nginx/map.conf; }}\n\
         include {0}/nginx/tls.conf;\n\
         server {{ listen {1} ssl; include {0}/nginx/names.conf;\n\
         ssl_certificate {0}/live/$crt/ecdsa-fullchain.pem; ssl_certificate_key {0}/live/$crt/ecdsa-privkey.pem;\n\
         location / {{ return 200; }} }}\n",
        scene.of_agent("").display(),
        scene.address,
    );
    let nginx = Nginx::start_with_main("worker_processes 1;", &http, &[scene.address], &[]).await?;
    scene.set_command("nginx.test", &nginx.test_command())?;
    scene.set_command("nginx.reload", &nginx.reload_command())?;
    scene.start_agent()?;
    scene.until_served(SHOP).await?;
    let before = groups(&scene, &other)?;
    ensure!(before.is_array(), "{before}");

    // One that this nginx can't speak: the canary alone is asked to, and goes on as it was.
    let unknown = json!({ "min_version": "1.3", "ciphersuites": ["TLS_AES_128_GCM_SHA256"], "groups": ["X25519MLKEM768"] });
    let file = scene.write("policy.json", &unknown.to_string())?.display().to_string();
    let set = scene.fleet.signpost.issuer_json(&["tls-policy", "set", "--file", &file]).await?;
    ensure!(
        set["staged"]["tag"] == "canary" && set["staged"]["policy"]["groups"] == unknown["groups"],
        "{set:#}"
    );
    until_edge(&scene, "the canary says why", |edge| {
        has_problem(edge, &["refuses the TLS policy", "X25519MLKEM768"])
    })
    .await?;
    until_true("the operator is told, after the others would have got it", SERVED, async || {
        let events = scene.fleet.signpost.issuer(&["--json", "events"]).await;
        events.is_ok_and(|events| events.stdout.contains("refuses the TLS policy"))
    })
    .await?;
    ensure!(groups(&scene, &other)? == before);
    ensure!(scene.served(SHOP, &["-tls1_2"]).is_some());

    // One that it can: all get it.
    let known = unknown.to_string().replace("X25519MLKEM768", "secp384r1");
    let file = scene.write("policy.json", &known)?.display().to_string();
    scene.fleet.signpost.issuer(&["tls-policy", "set", "--file", &file]).await?.success()?;
    let wanted = json!(["secp384r1"]);
    until_true("all are given what the canary has taken", SERVED, || {
        std::future::ready(groups(&scene, &other).is_ok_and(|given| given == wanted))
    })
    .await
    .with_context(|| scene.agent.as_ref().and_then(|agent| agent.stderr().ok()).unwrap_or_default())?;
    let shown = scene.fleet.signpost.issuer_json(&["tls-policy", "show"]).await?;
    ensure!(shown["groups"] == wanted && shown["staged"].is_null(), "{shown:#}");
    // And where somebody says so, nothing is tried.
    scene.fleet.signpost.issuer(&["tls-policy", "set", "--all", "intermediate"]).await?.success()?;
    until_true("all at once", SERVED, || {
        std::future::ready(groups(&scene, &other).is_ok_and(|given| given == before))
    })
    .await?;
    drop(issuer);
    nginx.process().assert_running()
}
