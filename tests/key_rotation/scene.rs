//! An installation with something sealed of every kind, and what is true before and after a rotation.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use harness::{
    redis::RedisOptions,
    redis_proxy::{Moment, Then, Trigger},
    signpost::Signpost,
    stage::{Fuse, Stage, StageOptions},
    stored::Stored,
};
use serde_json::Value;
use shared::vault::{Binding, Keyring, SealedKind};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Sites with a certificate; the first is dual.
pub(crate) const NAMES: [&str; 3] = ["dual.example", "a.example", "b.example"];
/// Sites whose issuer was killed when their key was sealed, and nobody went on.
pub(crate) const OPEN: [&str; 2] = ["finalizing.example", "issued.example"];

/// Sealed are: certificates (one with a predecessor), orders in both states that hold a key, accounts (one with a candidate
/// key), and the internal CA. Signed are: a frontend, a token of the API, the TLS policy.
pub(crate) async fn stage() -> Result<Stage> {
    // Compressed strings could hide what is looked for.
    let redis = RedisOptions { extra: "rdbcompression no".to_owned(), ..RedisOptions::default() };
    let mut stage = Stage::trusting_with(StageOptions { redis, ..StageOptions::default() }).await?;
    stage.signpost.set("issuer.lease_seconds", 2)?;
    stage.issue(&["--dual", NAMES[0]]).await?;
    stage.issue(&NAMES[1..]).await?;
    // A predecessor.
    stage.signpost.issuer(&["renew", "--force", NAMES[1]]).await?.success()?;
    stage.signpost.issuer(&["account", "create", "--name", "second"]).await?.success()?;
    stage
        .signpost
        .issuer(&["frontend", "add", "f0", "--scope", "*", "--mtls", "--out", &path(&stage, "f0")])
        .await?
        .success()?;
    stage.signpost.issuer(&["token", "add", "panel", "--role", "read"]).await?.success()?;
    stage.signpost.issuer(&["tls-policy", "set", "modern"]).await?.success()?;
    // Whoever can write to the store does not hold up a rotation.
    stage.redis.command(&["ZADD", "sp:frontends", "0", "forged"]).await?;
    stage.redis.command(&["SET", "sp:frontend:forged", "sp1 kek-nobody AAAA\n{}"]).await?;
    for (name, state) in OPEN.into_iter().zip(["finalizing", "issued"]) {
        let fuse = Fuse::default();
        let kill = fuse.clone();
        let act = move || {
            kill.kill9();
            Then::Cut
        };
        let state = format!("\"state\":\"{state}\"");
        stage.redis_proxy.add_trigger(Trigger::on(&state, Moment::Answered, act).and("EVALSHA"));
        killed(&stage, &fuse, &["issue", name]).await?;
    }
    // A candidate: the CA is never asked.
    let fuse = Fuse::default();
    let kill = fuse.clone();
    let act = move || {
        kill.kill9();
        Then::Cut
    };
    stage.redis_proxy.add_trigger(Trigger::on("\"candidate\":", Moment::Answered, act).and("EVALSHA"));
    killed(&stage, &fuse, &["account", "rollover", "--name", "second"]).await?;
    Ok(stage)
}

/// Runs `issuer`, which must not survive it.
pub(crate) async fn killed(stage: &Stage, fuse: &Fuse, arguments: &[&str]) -> Result<()> {
    let started = stage.signpost.start_run("issuer", arguments)?;
    fuse.attach(started.process.killer());
    let run = started.wait(LIMIT).await?;
    ensure!(run.exit.code().is_none(), "it was never killed: {}{}", run.stdout, run.stderr);
    Ok(())
}

fn path(stage: &Stage, name: &str) -> String {
    stage.signpost.directory().join(name).display().to_string()
}

/// The ids of an installation's ring.
pub(crate) fn ring(signpost: &Signpost) -> Result<Vec<String>> {
    let ring = Keyring::load(&signpost.key_encryption_key_file())?;
    Ok(ring.ids().into_iter().map(str::to_owned).collect())
}

/// Adds a key to the ring of an installation.
pub(crate) async fn add_key(signpost: &Signpost) -> Result<String> {
    let added = signpost.issuer_json(&["key", "add"]).await?;
    Ok(added["added"].as_str().context("an id")?.to_owned())
}

/// A ring as an operator copies it: a draft beside it, then the new name.
pub(crate) fn copy_ring(from: &Path, to: &Path) -> Result<()> {
    let draft = to.with_extension("draft");
    std::fs::copy(from, &draft)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
    Ok(std::fs::rename(draft, to)?)
}

/// Another node, with a ring of its own: the lines of this one that `wanted` accepts.
pub(crate) fn node_with_ring(signpost: &Signpost, wanted: impl Fn(&str) -> bool) -> Result<Signpost> {
    let mut node = signpost.another_node()?;
    let text = std::fs::read_to_string(signpost.key_encryption_key_file())?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && wanted(line)).collect();
    let file: PathBuf = node.directory().join("kek");
    std::fs::write(&file, lines.join("\n"))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    node.set("store.key_encryption_key_file", file.display().to_string())?;
    Ok(node)
}

/// The keys of records that hold something sealed with this key-encryption key, as the server would dump them.
pub(crate) async fn sealed_with(stage: &Stage, id: &str) -> Result<Vec<String>> {
    let keys: Vec<String> = redis::from_redis_value(stage.redis.command(&["KEYS", "*"]).await?)?;
    ensure!(keys.len() > 10, "{keys:?}");
    // The header of a sealed secret: format, length of the id, the id. In JSON it is base64, whole groups of three.
    let mut header = vec![1, u8::try_from(id.len())?];
    header.extend_from_slice(id.as_bytes());
    let text = STANDARD.encode(&header[..header.len() / 3 * 3]);
    let mut found = Vec::new();
    for key in keys {
        let dump: Vec<u8> = redis::from_redis_value(stage.redis.command(&["DUMP", &key]).await?)?;
        if contains(&dump, &header) || contains(&dump, text.as_bytes()) {
            found.push(key);
        }
    }
    found.sort();
    Ok(found)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Every kind of record was found with the key, or the search would prove nothing.
pub(crate) async fn everything_is_sealed_with(stage: &Stage, id: &str) -> Result<()> {
    let found = sealed_with(stage, id).await?;
    for (kind, count) in [
        (":cert:", 5),
        (":order:", OPEN.len()),
        ("sp:account:pebble:default", 1),
        ("sp:account:pebble:second", 1),
        ("sp:internal-ca", 1),
        ("sp:vault:canary", 1),
    ] {
        let of_kind = found.iter().filter(|key| key.contains(kind)).count();
        ensure!(of_kind == count, "{of_kind} of {kind}, not {count}, are sealed with {id}: {found:#?}");
    }
    Ok(())
}

/// What the end of a rotation leaves: one key, and every record opens with it.
pub(crate) async fn is_rotated(stage: &Stage, from: &str, to: &str) -> Result<()> {
    let left = sealed_with(stage, from).await?;
    ensure!(left.is_empty(), "sealed with the old key: {left:#?}");
    for key in ["sp:frontend:f0", "sp:tls-policy"] {
        let signed = stage.redis.text_of(key).await?;
        ensure!(signed.starts_with(&format!("sp1 {to} ")), "{key}: {signed}");
    }
    everything_is_sealed_with(stage, to).await?;
    for gone in ["sp:vault:rotation", "sp:vault:canary-next"] {
        let there: i64 = redis::from_redis_value(stage.redis.command(&["EXISTS", gone]).await?)?;
        ensure!(there == 0, "{gone} is left");
    }
    ensure!(stage.redis.text_of("sp:vault:current").await? == to);
    Ok(())
}

/// Every key opens with the ring as it is now, and fits.
pub(crate) async fn everything_opens(stage: &Stage) -> Result<()> {
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let root = stage.pebble.roots().await?.remove(0).root_pem;
    for name in NAMES {
        let served = stored.served(name).await?;
        ensure!(!served.is_empty(), "{name} is served");
        for certificate in served {
            certificate.verify(&root, &[name])?;
        }
    }
    for name in ["default", "second"] {
        stored.account_key("pebble", name).await?;
    }
    let account = stored.store.load_account("pebble", "second").await?.context("an account")?.account;
    let candidate = account.candidate.context("a candidate key")?;
    let binding = Binding {
        kind: SealedKind::AccountKey,
        owner: "pebble:second",
        spki_sha256: &candidate.key_spki_sha256,
    };
    stored.vault.open(&STANDARD.decode(&candidate.sealed_key)?, &binding)?;
    shared::tls::InternalCa::of(&stored.store, &stored.vault).await?;
    let unverified = stored.store.list_unverified().await?;
    ensure!(unverified.len() == 1 && unverified[0].key == "sp:frontend:forged", "{unverified:?}");
    ensure!(!stored.store.list_frontends().await?.is_empty());
    ensure!(stored.store.list_api_tokens().await?.found.iter().all(|listed| listed.token.is_ok()));
    ensure!(stored.store.load_tls_policy().await? == shared::domain::TlsPolicy::shipped("modern")?);
    Ok(())
}

/// The open orders are gone on with, and each has cost the CA one order and one certificate.
pub(crate) async fn open_orders_are_finished(stage: &Stage) -> Result<()> {
    for name in OPEN {
        let result = stage.issue(&[name]).await?;
        ensure!(result["results"][0]["status"] == "issued", "{result:#}");
        ensure!(stage.proxy.orders_for(&[name]).len() == 1, "{name}: another order was placed");
        ensure!(stage.proxy.issued_for(&[name]) == ["ecdsa-p256"], "{name}: another certificate");
        let root = stage.pebble.roots().await?.remove(0).root_pem;
        for certificate in Stored::open(stage.signpost.config_path()).await?.served(name).await? {
            certificate.verify(&root, &[name])?;
        }
    }
    Ok(())
}

/// `issuer --json key rotate`, expected to end with 0.
pub(crate) async fn rotate(stage: &Stage) -> Result<Value> {
    stage.signpost.issuer_json(&["key", "rotate"]).await
}
