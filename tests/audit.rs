//! Who was given which key: written down before it leaves, taken to the issuers' disks, asked, and acted upon.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, pull::Pull, signpost::Signpost, stage::Stage};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

async fn audit(node: &Signpost, arguments: &[&str]) -> Result<Value> {
    node.issuer_json(&[&["audit"], arguments].concat()).await
}

/// How many lines of a node's copy are there, all of them as they were written.
async fn lines_of(node: &Signpost) -> Result<u64> {
    let verified = audit(node, &["--verify"]).await?;
    ensure!(verified["fault_count"] == 0 && verified["complete_since"].is_null(), "{verified:#}");
    verified["lines"].as_u64().with_context(|| format!("{verified:#}"))
}

async fn waiting(stage: &Stage) -> Result<u64> {
    Ok(redis::from_redis_value(stage.redis.command(&["XLEN", "sp:audit"]).await?)?)
}

/// Until some copy says that it has the last line there is.
async fn until_copied(stage: &Stage) -> Result<()> {
    let copied = async || -> Result<bool> {
        let newest = stage.redis.command(&["XREVRANGE", "sp:audit", "+", "-", "COUNT", "1"]).await?;
        let newest: Vec<(String, Vec<String>)> = redis::from_redis_value(newest)?;
        let (last, _) = newest.first().context("nothing waits")?;
        let copies = stage.redis.command(&["HVALS", "sp:audit-copies"]).await?;
        let copies: Vec<String> = redis::from_redis_value(copies)?;
        Ok(copies.iter().any(|copy| copy.contains(&format!("\"to\":\"{last}\""))))
    };
    until_true("a copy has the last line", LIMIT, async || copied().await.is_ok_and(|is_there| is_there))
        .await
}

fn segments(node: &Signpost) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in node.state_dir().join("audit").read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frontend_was_given_is_known_and_renewed_with_new_keys() -> Result<()> {
    let stage = Stage::trusting().await?;
    let _daemon = stage.start_daemon()?;
    let first = Pull::start(&stage, &["--scope", "*"]).await?;
    let second = first.beside(&stage, &["--scope", "*"]).await?;
    for name in ["given.example", "kept.example"] {
        stage.json(&["site", "add", name]).await?;
        stage.until_valid(name).await?;
    }
    for _ in 0..2 {
        ensure!(first.status("given.example/ecdsa/privkey.pem")? == 200);
    }
    for name in ["given.example", "kept.example"] {
        ensure!(second.status(&format!("{name}/ecdsa/privkey.pem"))? == 200);
    }
    let fingerprint_of = |name: &str, kind: &str| -> Result<String> {
        let document = first.document(name)?;
        let text = document["lineages"]["ecdsa"][kind].as_str();
        Ok(text.with_context(|| format!("{document:#}"))?.to_owned())
    };
    let key = fingerprint_of("given.example", "spki_sha256")?;
    let certificate = fingerprint_of("given.example", "fingerprint_sha256")?;

    let node = &stage.signpost;
    let check = async |when: &str| -> Result<()> {
        let of_first = audit(node, &["--frontend", "first"]).await?;
        let keys = of_first["keys"].as_array().context("no keys")?;
        ensure!(keys.len() == 1 && keys[0]["times"] == 2, "{when}: {of_first:#}");
        ensure!(keys[0]["spki_sha256"] == json!(key) && keys[0]["from"] == json!(["127.0.0.1"]), "{when}");
        let second = audit(node, &["--frontend", "second"]).await?;
        ensure!(second["keys"].as_array().map(Vec::len) == Some(2), "{when}: {second:#}");
        let pairs: Vec<String> = certificate
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair).to_uppercase())
            .collect();
        for fingerprint in [&key, &certificate, &pairs.join(":")] {
            let found = audit(node, &["--key", fingerprint]).await?;
            let frontends = found["frontends"].as_array().context("no frontends")?;
            let names: Vec<&Value> = frontends.iter().map(|frontend| &frontend["name"]).collect();
            ensure!(names == ["first", "second"], "{when}: {fingerprint}: {found:#}");
        }
        let nobody = audit(node, &["--key", &"0".repeat(64)]).await?;
        ensure!(nobody["frontends"] == json!([]) && nobody["complete_since"].is_null(), "{when}: {nobody:#}");
        Ok(())
    };
    check("at once").await?;
    until_true("the store holds nothing of it any more", LIMIT, async || {
        waiting(&stage).await.is_ok_and(|lines| lines == 0)
    })
    .await?;
    check("from the disk").await?;
    ensure!(lines_of(node).await? == 4);
    node.issuer(&["--json", "audit", "--frontend", "nobody"]).await?.with_code(4)?;
    node.issuer(&["audit", "--key", "abc"]).await?.with_code(2)?;

    const GIVEN: &str = "given.example/ecdsa/fullchain.pem";
    let (given, kept) = (second.serial_in(GIVEN)?, stage.serial("kept.example").await?);
    let revoked = stage.json(&["frontend", "revoke", "first", "--rekey"]).await?;
    ensure!(revoked["rekey"] == json!({ "given": 1, "asked": 1, "complete": true }), "{revoked:#}");
    ensure!(first.status("given.example")? == 401);
    until_true("it has another certificate", LIMIT, || {
        std::future::ready(second.serial_in(GIVEN).is_ok_and(|now| now != given))
    })
    .await?;
    let document = second.document("given.example")?;
    ensure!(document["lineages"]["ecdsa"]["spki_sha256"] != json!(key), "{document:#}");
    let again = stage.json(&["frontend", "revoke", "first", "--rekey"]).await?;
    ensure!(again["rekey"] == json!({ "given": 1, "asked": 0, "complete": true }), "{again:#}");
    ensure!(stage.serial("kept.example").await? == kept, "nobody else's key is replaced");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_issuer_has_it_whole_though_it_is_killed_and_nothing_stays_in_the_store() -> Result<()> {
    let stage = Stage::trusting().await?;
    let mut daemon = stage.start_daemon()?;
    stage.json(&["site", "add", "shop.example"]).await?;
    stage.until_valid("shop.example").await?;
    let mut node = stage.signpost.another_node()?;
    let directory = node.directory().join("audit");
    node.set("audit.directory", directory.display().to_string())?;
    let other = node.start_issuer().await?;
    let frontend = Pull::start(&stage, &["--scope", "*"]).await?;
    let mut read = 0;
    for _ in 0..10 {
        // Few enough that each is a line of its own.
        for _ in 0..10 {
            ensure!(frontend.status("shop.example/ecdsa/privkey.pem")? == 200);
            read += 1;
        }
        daemon.process.kill9().await?;
        daemon = stage.start_daemon()?;
    }
    until_true("the store holds nothing of it any more", LIMIT, async || {
        waiting(&stage).await.is_ok_and(|lines| lines == 0)
    })
    .await?;
    ensure!(lines_of(&stage.signpost).await? == read && lines_of(&node).await? == read);

    // One that is away is waited for. What this node said it has before it says that it has the last line was acted upon.
    drop(other);
    for _ in 0..4 {
        ensure!(frontend.status("shop.example/ecdsa/privkey.pem")? == 200);
    }
    until_copied(&stage).await?;
    ensure!(frontend.status("shop.example/ecdsa/privkey.pem")? == 200);
    until_copied(&stage).await?;
    ensure!(waiting(&stage).await? == 5 && lines_of(&stage.signpost).await? == read + 5);
    let _other = node.start_issuer().await?;
    until_true("both have it", LIMIT, async || waiting(&stage).await.is_ok_and(|lines| lines == 0)).await?;
    ensure!(lines_of(&node).await? == read + 5);

    // What is changed on the disk is seen.
    let path = segments(&stage.signpost)?.pop().context("no segment")?;
    let whole = std::fs::read_to_string(&path)?;
    let lines: Vec<&str> = whole.lines().collect();
    let without = |left_out: usize| {
        let rest = lines.iter().enumerate().filter(|(number, _)| *number != left_out);
        rest.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    for (text, found) in [
        (whole.replacen("127.0.0.1", "127.0.0.2", 1), "not what was written"),
        (without(3), "is missing"),
        (whole.replacen("{", "[", 1), "can't be read"),
    ] {
        std::fs::write(&path, text)?;
        let run = stage.signpost.issuer(&["audit", "--verify"]).await?.with_code(1)?;
        ensure!(run.stdout.contains(found), "{}", run.stdout);
    }
    std::fs::write(&path, &whole)?;
    ensure!(lines_of(&stage.signpost).await? == read + 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_audit_gives_no_key_out_until_somebody_takes_it_to_a_disk() -> Result<()> {
    let stage = Stage::trusting().await?;
    stage.json(&["issue", "shop.example"]).await?;
    let frontend = Pull::start(&stage, &["--scope", "*"]).await?;
    const KEY: &str = "shop.example/ecdsa/privkey.pem";
    ensure!(frontend.status(KEY)? == 200);
    let fill = "for i = 1, 100000 do redis.call('XADD', KEYS[1], '*', 'line', '{}') end";
    stage.redis.command(&["EVAL", fill, "1", "sp:audit"]).await?;
    // The one that finds it full is still in it.
    ensure!(frontend.status(KEY)? == 200 && frontend.status(KEY)? == 503 && frontend.status(KEY)? == 503);
    ensure!(frontend.status("shop.example/ecdsa/fullchain.pem")? == 200, "a certificate needs no audit");
    let _daemon = stage.start_daemon()?;
    until_true("keys are given out again", LIMIT, || {
        std::future::ready(frontend.status(KEY).is_ok_and(|s| s == 200))
    })
    .await
}
