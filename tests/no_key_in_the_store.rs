//! Whoever gets hold of Redis' files or memory has no private key: the real keys, in every form that a program could have
//! left them in, are looked for in the dump, in the append-only file and in every record.

use anyhow::{Context as _, Result, ensure};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use harness::{
    pull::Pull,
    redis::RedisOptions,
    stage::{Stage, StageOptions},
    stored::Stored,
};
use openssl::pkey::{Id, PKey, Private};
use shared::vault::{Binding, SealedKind};

/// A secret, and a word for what it is.
type Secret = (String, Vec<u8>);

#[tokio::test(flavor = "multi_thread")]
async fn neither_dump_nor_log_nor_memory_shows_a_private_key() -> Result<()> {
    // Compressed strings could hide what is looked for.
    let redis = RedisOptions { extra: "rdbcompression no".to_owned(), ..RedisOptions::default() };
    let mut stage = Stage::trusting_with(StageOptions { redis, ..StageOptions::default() }).await?;
    stage.signpost.set("telemetry.log", "trace")?;
    stage.issue(&["--dual", "dual.example"]).await?;
    stage.issue(&["--san", "--key-type", "ecdsa-p384", "a.example", "b.example"]).await?;
    stage
        .signpost
        .issuer(&["account", "create", "--name", "rsa", "--key-type", "rsa-2048"])
        .await?
        .success()?;
    let before_rollover =
        Stored::open(stage.signpost.config_path()).await?.account_key("pebble", "rsa").await?;
    stage.signpost.issuer(&["account", "rollover", "--name", "rsa"]).await?.success()?;
    let out = stage.signpost.directory().join("frontend");
    let out_text = out.to_str().context("a path of text")?;
    let add = ["frontend", "add", "f1", "--scope", "*", "--mtls", "--out", out_text];
    stage.signpost.issuer(&add).await?.success()?;
    let token = stage.signpost.issuer_json(&["frontend", "add", "f2", "--scope", "*"]).await?;

    // What opens keys, and says all that it has to say.
    let daemon = stage.start_daemon()?;
    let frontend = Pull::start(&stage, &["--scope", "*"]).await?;
    ensure!(frontend.status("dual.example/rsa/privkey.pem")? == 200);
    ensure!(frontend.status("a.example/ecdsa/bundle.pem")? == 200);
    stage.json(&["site", "add", "logged.example"]).await?;
    stage.until_valid("logged.example").await?;
    drop(daemon);

    let stored = Stored::open(stage.signpost.config_path()).await?;
    let mut keys: Vec<(String, PKey<Private>)> = vec![
        ("account".into(), stored.account_key("pebble", "default").await?),
        ("RSA account".into(), stored.account_key("pebble", "rsa").await?),
        ("RSA account, before".into(), before_rollover),
        ("internal CA".into(), internal_ca_key(&stored).await?),
        (
            "client certificate".into(),
            PKey::private_key_from_pem(&std::fs::read(out.join("client-key.pem"))?)?,
        ),
    ];
    for name in ["dual.example", "a.example", "logged.example"] {
        for served in stored.served(name).await? {
            keys.push((format!("{name} {}", served.slot), served.key));
        }
    }
    ensure!(keys.len() == 9, "{} keys are looked for", keys.len());
    let mut secrets: Vec<Secret> = Vec::new();
    for (owner, key) in &keys {
        secrets.extend(secrets_of(owner, key)?);
    }
    let token = token["token"].as_str().context("a bearer token")?;
    secrets.push(("bearer token".into(), token.as_bytes().to_vec()));
    secrets.extend(key_encryption_keys(&std::fs::read_to_string(stage.signpost.key_encryption_key_file())?)?);

    let haystacks = everything_in(&stage).await?;
    let whole: usize = haystacks.iter().map(|(_, bytes)| bytes.len()).sum();
    // What is meant to be found is: the search looks at the right bytes.
    ensure!(haystacks.iter().filter(|(_, bytes)| contains(bytes, b"dual.example")).count() >= 3);
    for (what, secret) in &secrets {
        for (form, needle) in forms(secret) {
            for (place, bytes) in &haystacks {
                ensure!(!contains(bytes, &needle), "{what} stands in {place}, as {form}");
            }
        }
    }
    // What the programs have said: the errors and the log. A token is shown once, to whom it is made for.
    let said = said_in(&stage)?;
    ensure!(said.iter().any(|(_, bytes)| contains(bytes, b"logged.example") && contains(bytes, b"TRACE")));
    for (what, secret) in secrets.iter().filter(|(what, _)| what != "bearer token") {
        for (form, needle) in forms(secret) {
            for (place, bytes) in &said {
                ensure!(!contains(bytes, &needle), "{what} stands in {place}, as {form}");
            }
        }
    }
    println!("{} secrets are in none of {whole} bytes", secrets.len());
    Ok(())
}

/// The search itself: each form is found where it is planted, at every offset that base64 can have.
#[test]
fn the_search_finds_what_is_planted() -> Result<()> {
    let key = PKey::from_rsa(openssl::rsa::Rsa::generate(2048)?)?;
    for (what, secret) in secrets_of("planted", &key)? {
        let found = |haystack: &[u8]| forms(&secret).iter().any(|(_, needle)| contains(haystack, needle));
        ensure!(!found(b"nothing of the kind"));
        for offset in 0..4 {
            let raw = [&vec![0x5a; offset][..], &secret, b"tail"].concat();
            ensure!(found(&raw), "{what}, raw");
            ensure!(found(STANDARD.encode(&raw).as_bytes()), "{what}, base64 at {offset}");
            ensure!(found(URL_SAFE_NO_PAD.encode(&raw).as_bytes()), "{what}, base64url at {offset}");
            ensure!(found(hex(&raw).as_bytes()), "{what}, hex");
            ensure!(found(hex(&raw).to_uppercase().as_bytes()), "{what}, upper-case hex");
        }
    }
    let needles = secrets_of("planted", &key)?;
    for pem in [key.private_key_to_pem_pkcs8()?, key.rsa()?.private_key_to_pem()?] {
        let found =
            needles.iter().flat_map(|(_, secret)| forms(secret)).any(|(_, needle)| contains(&pem, &needle));
        ensure!(found, "PEM");
    }
    Ok(())
}

async fn internal_ca_key(stored: &Stored) -> Result<PKey<Private>> {
    let record = stored.store.load_internal_ca().await?.context("frontend add --mtls has made one")?;
    let binding =
        Binding { kind: SealedKind::InternalCa, owner: "fleet", spki_sha256: &record.key_spki_sha256 };
    let key = stored.vault.open(&STANDARD.decode(&record.sealed_key)?, &binding)?;
    Ok(PKey::private_key_from_pkcs8(&key)?)
}

/// The numbers that make a key private, whole documents of it, and the lines of its PEM.
fn secrets_of(owner: &str, key: &PKey<Private>) -> Result<Vec<Secret>> {
    let named = |what: &str, bytes: Vec<u8>| (format!("{owner}: {what}"), bytes);
    let mut secrets = vec![
        named("PKCS#8", key.private_key_to_pkcs8()?),
        named("traditional DER", key.private_key_to_der()?),
    ];
    let mut pems = vec![key.private_key_to_pem_pkcs8()?];
    if key.id() == Id::RSA {
        let rsa = key.rsa()?;
        secrets.push(named("d", rsa.d().to_vec()));
        for (what, number) in [("p", rsa.p()), ("q", rsa.q()), ("dp", rsa.dmp1()), ("dq", rsa.dmq1())] {
            secrets.push(named(what, number.context("a whole RSA key")?.to_vec()));
        }
        pems.push(rsa.private_key_to_pem()?);
    } else {
        let key = key.ec_key()?;
        secrets.push(named("scalar", key.private_key().to_vec()));
        pems.push(key.private_key_to_pem()?);
    }
    for pem in pems {
        for line in String::from_utf8(pem)?.lines().filter(|line| line.len() == 64 && !line.starts_with('-'))
        {
            // The first line of a key says which algorithm it has, and is the same for every key of the kind.
            if STANDARD.decode(line).is_ok_and(|bytes| !is_preamble(&bytes)) {
                secrets.push(named("a line of PEM", line.as_bytes().to_vec()));
            }
        }
    }
    Ok(secrets)
}

/// Begins with the outer SEQUENCE of a private key.
fn is_preamble(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x30)
}

fn key_encryption_keys(ring: &str) -> Result<Vec<Secret>> {
    let lines = ring.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(id, key)| Ok((format!("key-encryption key {id}"), STANDARD.decode(key.trim())?)))
        .collect()
}

/// The forms that bytes are found in whatever stands around them.
fn forms(secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut forms = vec![
        ("raw bytes".to_owned(), secret.to_vec()),
        ("hex".to_owned(), hex(secret).into_bytes()),
        ("upper-case hex".to_owned(), hex(secret).to_uppercase().into_bytes()),
    ];
    for alignment in 0..3 {
        // Whole groups of three only: their letters don't depend on what stands before and after.
        let inner = &secret[alignment..];
        let inner = &inner[..inner.len() / 3 * 3];
        forms.push((format!("base64 ({alignment})"), STANDARD_NO_PAD.encode(inner).into_bytes()));
        forms.push((format!("base64url ({alignment})"), URL_SAFE_NO_PAD.encode(inner).into_bytes()));
    }
    forms
}

/// The dump, the append-only file, and every record as the running server has it.
async fn everything_in(stage: &Stage) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = vec![("the dump".to_owned(), std::fs::read(stage.redis.save().await?)?)];
    for path in stage.redis.aof_paths()? {
        found.push((path.display().to_string(), std::fs::read(&path)?));
    }
    let keys: Vec<String> = redis::from_redis_value(stage.redis.command(&["KEYS", "*"]).await?)?;
    ensure!(keys.len() > 10, "{keys:?}");
    for key in keys {
        let dump: Vec<u8> = redis::from_redis_value(stage.redis.command(&["DUMP", &key]).await?)?;
        found.push((key, dump));
    }
    Ok(found)
}

/// What every program that was run has written to its output and to its log.
fn said_in(stage: &Stage) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(stage.signpost.directory())? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| ["out", "err", "log"].iter().any(|kind| extension == *kind))
        {
            found.push((path.display().to_string(), std::fs::read(&path)?));
        }
    }
    ensure!(found.len() > 10, "{found:?}");
    Ok(found)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    haystack.windows(needle.len()).any(|window| window[0] == *first && window == needle)
}
