//! Accounts and their keys: every type, new keys, accounts of other clients, external account bindings; and revocation.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use harness::{
    ca_proxy::Endpoint,
    pebble::PebbleOptions,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use openssl::{
    bn::BigNumRef,
    pkey::{PKey, Private},
};
use serde_json::{Value, json};

const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_every_type_goes_through_an_accounts_whole_life() -> Result<()> {
    let stage = Stage::trusting().await?;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    let types = [
        ("ecdsa-p256", "rsa-2048"),
        ("ecdsa-p384", "ecdsa-p256"),
        ("rsa-2048", "ecdsa-p384"),
        ("rsa-3072", "rsa-2048"),
        ("rsa-4096", "ecdsa-p256"),
    ];
    for (first, second) in types {
        let account = |verb: &str| vec!["account".to_owned(), verb.to_owned(), "--name".into(), first.into()];
        let run = async |verb: &str, more: &[&str]| -> Result<Value> {
            let line = account(verb);
            let line: Vec<&str> = line.iter().map(String::as_str).chain(more.iter().copied()).collect();
            stage.signpost.issuer_json(&line).await.with_context(|| format!("{first}: {line:?}"))
        };
        let made = run("create", &["--key-type", first]).await?;
        ensure!(made["key_type"] == first && made["status"] == "valid", "{made:#}");
        let again = run("create", &["--key-type", first]).await?;
        ensure!(again["url"] == made["url"], "safe to repeat: {again:#}");
        let shown = run("show", &[]).await?;
        ensure!(shown["at_ca"]["status"] == "valid" && shown["url"] == made["url"], "{shown:#}");
        run("update", &[]).await?;

        let old_key = stored.account_key("pebble", first).await?;
        let rolled = run("rollover", &["--key-type", second]).await?;
        ensure!(rolled["key_type"] == second && rolled["url"] == made["url"], "{rolled:#}");
        ensure!(!stored.account_key("pebble", first).await?.public_eq(&old_key), "the key is the old one");
        ensure!(run("show", &[]).await?["at_ca"]["status"] == "valid");

        let ended = run("deactivate", &["--yes"]).await?;
        ensure!(ended["status"] == "deactivated", "{ended:#}");
        let shown = run("show", &[]).await?;
        ensure!(shown["status"] == "deactivated", "{shown:#}");
    }
    let list = stage.signpost.issuer_json(&["account", "list"]).await?;
    ensure!(list["accounts"].as_array().context("accounts")?.len() == types.len(), "{list:#}");
    let made = stage.proxy.log().into_iter().filter(|line| line.ca_status == Some(201));
    ensure!(made.filter(|line| line.endpoint == Endpoint::NewAccount).count() == types.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_not_there_is_not_found() -> Result<()> {
    let stage = Stage::trusting().await?;
    for verb in ["show", "update", "rollover", "deactivate"] {
        stage.signpost.issuer(&["account", verb, "--name", "nobody"]).await?.with_code(4)?;
    }
    ensure!(stage.proxy.requests().of(Endpoint::NewAccount) == 0, "one was made by asking");
    Ok(())
}

/// The keys that other clients leave: a PEM file, and certbot's `private_key.json`.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_of_other_clients_are_taken_over() -> Result<()> {
    let stage = Stage::trusting().await?;
    let stored = Stored::open(stage.signpost.config_path()).await?;
    for (kind, as_jwk) in
        [("ecdsa-p256", false), ("ecdsa-p384", false), ("rsa-2048", false), ("rsa-3072", true)]
    {
        let theirs = format!("theirs-{kind}");
        let create = ["account", "create", "--name", &theirs, "--key-type", kind];
        let made = stage.signpost.issuer_json(&create).await?;
        let key = stored.account_key("pebble", &theirs).await?;
        let file = match (as_jwk, kind.starts_with("rsa")) {
            (true, _) => stage.signpost.write("private_key.json", jwk(&key)?.to_string())?,
            (false, true) => stage.signpost.write("key.pem", key.rsa()?.private_key_to_pem()?)?,
            (false, false) => stage.signpost.write("key.pem", key.private_key_to_pem_pkcs8()?)?,
        };
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        let file = file.to_str().context("a path of text")?.to_owned();
        let ours = format!("ours-{kind}");
        let import = ["account", "import", &file, "--name", &ours];
        let imported = stage.signpost.issuer_json(&import).await?;
        ensure!(imported["url"] == made["url"] && imported["key_type"] == kind, "{imported:#}");
        ensure!(stage.signpost.issuer_json(&import).await?["url"] == made["url"], "safe to repeat");
        ensure!(stored.account_key("pebble", &ours).await?.public_eq(&key));
        stage.signpost.issuer(&["account", "update", "--name", &ours]).await?.success()?;
    }
    // A key that the CA has never seen makes no account.
    let key = openssl::rsa::Rsa::generate(2048)?.private_key_to_pem()?;
    let file = stage.signpost.write("unknown.pem", key)?;
    let file = file.to_str().context("a path of text")?.to_owned();
    stage.signpost.issuer(&["account", "import", &file, "--name", "x"]).await?.with_code(4)?;
    let nonsense = stage.signpost.write("nonsense.pem", "-----BEGIN NONSENSE-----\n")?;
    let nonsense = nonsense.to_str().context("a path of text")?;
    stage.signpost.issuer(&["account", "import", nonsense, "--name", "x"]).await?.with_code(2)?;
    Ok(())
}

/// As certbot writes it (RFC 7517, RFC 7518 section 6.3).
fn jwk(key: &PKey<Private>) -> Result<Value> {
    let rsa = key.rsa()?;
    let text = |number: &BigNumRef| URL_SAFE_NO_PAD.encode(number.to_vec());
    let part = |number: Option<&BigNumRef>| number.map(text).context("a whole RSA key");
    Ok(json!({
        "kty": "RSA", "n": text(rsa.n()), "e": text(rsa.e()), "d": text(rsa.d()),
        "p": part(rsa.p())?, "q": part(rsa.q())?,
        "dp": part(rsa.dmp1())?, "dq": part(rsa.dmq1())?, "qi": part(rsa.iqmp())?,
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_wants_a_binding_gets_one() -> Result<()> {
    let eab = Some(("hoster-1".to_owned(), EAB_KEY.to_owned()));
    let pebble = PebbleOptions { eab, ..PebbleOptions::default() };
    let mut stage = Stage::trusting_with(StageOptions { pebble, ..StageOptions::default() }).await?;
    let file = stage.signpost.directory().join("eab-hmac");

    stage.signpost.unset("ca.pebble.eab_kid")?;
    stage.signpost.unset("ca.pebble.eab_hmac_file")?;
    let run = stage.run_issue(&["shop.example"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("ca.pebble.eab_kid"), "the setting is named: {}", run.stderr);
    ensure!(stage.proxy.requests().of(Endpoint::NewAccount) == 0, "it was sent in vain");

    stage.signpost.set("ca.pebble.eab_kid", "hoster-1")?;
    stage.signpost.set("ca.pebble.eab_hmac_file", file.to_str().context("a path of text")?)?;
    std::fs::write(&file, "!")?;
    let run = stage.run_issue(&["shop.example"]).await?.with_code(2)?;
    ensure!(run.stderr.contains("eab-hmac"), "the file is named: {}", run.stderr);
    std::fs::write(&file, URL_SAFE_NO_PAD.encode([7; 32]))?;
    let run = stage.run_issue(&["shop.example"]).await?;
    ensure!(run.code()? == 1, "the CA refuses another key: {}", run.stderr);
    ensure!(!run.stderr.contains(&URL_SAFE_NO_PAD.encode([7; 32])), "the key is shown");

    std::fs::write(&file, format!("{EAB_KEY}\n"))?;
    stage.issue(&["shop.example"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_operators_agreement_no_account_is_made() -> Result<()> {
    let mut stage = Stage::trusting().await?;
    stage.signpost.set("ca.pebble.agree_to_terms", false)?;
    for line in [&["issue", "shop.example"][..], &["account", "create"]] {
        let run = stage.signpost.issuer(line).await?.with_code(2)?;
        ensure!(run.stderr.contains("ca.pebble.agree_to_terms"), "the setting is named: {}", run.stderr);
        ensure!(run.stderr.contains("Do%20what%20thou%20wilt"), "the terms are named: {}", run.stderr);
    }
    let requests = stage.proxy.requests();
    ensure!(requests.total() == requests.of(Endpoint::Directory), "more was asked: {requests}");
    let accounts = stage.signpost.issuer_json(&["account", "list"]).await?;
    ensure!(accounts["accounts"] == json!([]), "{accounts:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_ordered_anew() -> Result<()> {
    let stage = Stage::trusting().await?;
    for (name, by, reason) in
        [("account.example", "account", "superseded"), ("key.example", "certificate-key", "key-compromise")]
    {
        let first = stage.issue(&["--dual", name]).await?;
        let serial = |result: &Value, slot: &str| -> Result<String> {
            let certificates = result["results"][0]["certificates"].as_array().context("certificates")?;
            let one = certificates.iter().find(|one| one["slot"] == slot).context("the slot")?;
            Ok(one["serial"].as_str().context("a serial")?.to_owned())
        };
        let line = ["revoke", name, "--by", by, "--reason", reason, "--slot", "rsa"];
        let revoked = stage.signpost.issuer_json(&line).await?;
        ensure!(revoked["revoked"][0]["serial"] == serial(&first, "rsa")?.as_str(), "{revoked:#}");
        let at_ca = async |serial: &str| stage.pebble.certificate_status(serial).await;
        ensure!(at_ca(&serial(&first, "rsa")?).await? == "Revoked", "{by}");
        ensure!(at_ca(&serial(&first, "ecdsa")?).await? == "Valid", "{by}: the other one too");
        let status = stage.signpost.issuer_json(&["status", name]).await?;
        ensure!(status["sites"][0]["state"] == "revoked", "{status:#}");

        stage.proxy.reset();
        let second = stage.issue(&["--dual", name]).await?;
        ensure!(serial(&second, "ecdsa")? == serial(&first, "ecdsa")?, "{second:#}");
        ensure!(serial(&second, "rsa")? != serial(&first, "rsa")?, "{second:#}");
        ensure!(stage.proxy.issued_for(&[name]) == ["rsa-2048"]);
        ensure!(at_ca(&serial(&second, "rsa")?).await? == "Valid");
        let status = stage.signpost.issuer_json(&["status", name]).await?;
        ensure!(status["sites"][0]["state"] == "valid", "{status:#}");
    }
    stage.signpost.issuer(&["revoke", "unheard-of.example"]).await?.with_code(4)?;
    Ok(())
}
