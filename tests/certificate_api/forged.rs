//! Whoever can write to Redis can't let himself in: records that grant something count only as this fleet has written them, where
//! it has written them.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::deadline::until_true;
use serde_json::{Value, json};
use shared::{domain::KeyType, store::StoreError};

use crate::fleet::{Fleet, Identity, KEYS, hex};

const LIMIT: Duration = Duration::from_secs(30);
const KEY: &str = "/v1/certificates/shop.example.com/ecdsa/privkey.pem";

async fn set(fleet: &Fleet, key: &str, value: &str) -> Result<()> {
    fleet.redis.command(&["SET", key, value]).await.map(drop)
}

async fn tokens(fleet: &Fleet) -> Result<HashMap<String, String>> {
    Ok(redis::from_redis_value(fleet.redis.command(&["HGETALL", "sp:{api}:tokens"]).await?)?)
}

/// The record of a frontend as JSON, whatever stands before it.
async fn json_of(fleet: &Fleet, name: &str) -> Result<(String, Value)> {
    let stored = fleet.redis.text_of(&format!("sp:frontend:{name}")).await?;
    let (mac, text) = stored.split_once('\n').context("a line with its MAC comes first")?;
    ensure!(mac.starts_with("sp1 kek-"), "{mac}");
    Ok((mac.to_owned(), serde_json::from_str(text)?))
}

async fn refused_and_listed(
    fleet: &Fleet,
    at: SocketAddr,
    identity: &Identity,
    name: &str,
    what: &str,
) -> Result<()> {
    let answer = fleet.get(at, identity, KEY)?;
    ensure!(answer.status == 401 && !answer.text().contains("PRIVATE"), "{what}: {answer:?}");
    let listed = fleet.signpost.issuer_json(&["frontend", "list"]).await?;
    let listed = listed["frontends"].as_array().context("frontends")?;
    let shown = listed.iter().find(|shown| shown["name"] == name).with_context(|| format!("{listed:?}"))?;
    ensure!(shown["state"] == "unverified" && shown["scope"].is_null(), "{what}: {shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_can_write_to_redis_reads_no_key() -> Result<()> {
    let mut fleet = Fleet::new().await?;
    fleet.signpost.set("frontends.lag_minutes", 0.05)?;
    fleet.add_site(&["shop.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    let all = fleet.add_frontend("all", &["*"], &[], KEYS).await?;
    let edge = fleet.add_frontend("edge", &["other.example.com"], &[], KEYS).await?;
    let former = fleet.add_frontend("former", &["*"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let at = daemon.address;
    ensure!(fleet.get(at, &all, KEY)?.status == 200 && fleet.get(at, &edge, KEY)?.status == 404);
    let genuine = fleet.redis.text_of("sp:frontend:edge").await?;

    // Somebody's own frontend, as an older version would have stored it, and with a MAC of his own making.
    let thief = Identity::token("thief-token-0123456789");
    let digest = hex(&openssl::sha::sha256(b"thief-token-0123456789"));
    let (_, mut record) = json_of(&fleet, "all").await?;
    record["name"] = json!("thief");
    record["token_sha256"] = json!(digest);
    set(&fleet, &format!("sp:frontend-key:{digest}"), "thief").await?;
    fleet.redis.command(&["ZADD", "sp:frontends", "0", "thief"]).await?;
    let kek = genuine.split(' ').nth(1).context("an id")?.to_owned();
    let mac = openssl::base64::encode_block(&[7; 32]);
    for (what, text) in [
        ("no MAC", record.to_string()),
        ("a wrong MAC", format!("sp1 {kek} {mac}\n{record}")),
        ("another's key", format!("sp1 kek-mine {mac}\n{record}")),
        ("nonsense", "\u{1b}[2J".to_owned()),
    ] {
        set(&fleet, "sp:frontend:thief", &text).await?;
        refused_and_listed(&fleet, at, &thief, "thief", what).await?;
    }
    // A genuine record in the place of another one.
    set(&fleet, "sp:frontend:thief", &fleet.redis.text_of("sp:frontend:all").await?).await?;
    refused_and_listed(&fleet, at, &thief, "thief", "copied").await?;
    // A pointer to a genuine one, which does not know of it.
    set(&fleet, &format!("sp:frontend-key:{digest}"), "all").await?;
    ensure!(fleet.get(at, &thief, KEY)?.status == 401);

    // What a frontend of ours may see is not changed from outside.
    let (mac, mut wider) = json_of(&fleet, "edge").await?;
    wider["scope"]["names"] = json!(["*"]);
    set(&fleet, "sp:frontend:edge", &format!("{mac}\n{wider}")).await?;
    refused_and_listed(&fleet, at, &edge, "edge", "a wider scope").await?;
    set(&fleet, "sp:frontend:edge", &genuine).await?;
    ensure!(fleet.get(at, &edge, KEY)?.status == 404, "as it was written it counts again");

    // What was revoked stays so, although the record of before is genuine: the program has seen a newer one.
    let before = fleet.redis.text_of("sp:frontend:former").await?;
    ensure!(fleet.get(at, &former, KEY)?.status == 200);
    fleet.revoke("former").await?;
    ensure!(fleet.get(at, &former, KEY)?.status == 401);
    set(&fleet, "sp:frontend:former", &before).await?;
    ensure!(fleet.get(at, &former, KEY)?.status == 401, "put back");

    // The operator is told, once; and what is made anew counts.
    let issuer = fleet.signpost.start_issuer().await?;
    let told = async || {
        let events = fleet.signpost.issuer_json(&["events", "--kind", "record-unverified"]).await.ok()?;
        Some(events.to_string())
    };
    until_true("the operator is told", LIMIT, async || {
        told().await.is_some_and(|events| events.contains("sp:frontend:thief"))
    })
    .await?;
    let said = issuer.process.log();
    ensure!(said.contains("ERROR") && said.contains("sp:frontend:thief"), "{said}");
    let add = ["frontend", "add", "thief", "--scope", "*.example.com"];
    ensure!(fleet.signpost.issuer(&add).await?.code()? == 1, "it is there");
    let added = fleet.signpost.issuer_json(&[&add[..], &["--replace"]].concat()).await?;
    let token = Identity::token(added["token"].as_str().context("a token")?);
    ensure!(fleet.get(at, &token, KEY)?.status == 200);
    ensure!(fleet.get(at, &thief, KEY)?.status == 401);
    drop(issuer);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_api_nor_the_policy_nor_the_internal_ca_is_had_from_redis() -> Result<()> {
    let fleet = Fleet::new().await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let issuer = fleet.signpost.start_issuer().await?;
    let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
    let status = async |token: &str| -> Result<u16> {
        let url = format!("http://{}/api/v1/tokens", issuer.address);
        Ok(client.get(url).bearer_auth(token).send().await?.status().as_u16())
    };
    // A token of the API.
    let added = fleet.signpost.issuer_json(&["token", "add", "panel", "--role", "admin"]).await?;
    let panel = added["token"].as_str().context("a token")?;
    ensure!(status(panel).await? == 200);
    let genuine = tokens(&fleet).await?;
    let record = genuine.get(&hex(&openssl::sha::sha256(panel.as_bytes()))).context("its record")?.clone();
    let bare = record.split_once('\n').context("a MAC")?.1.replace("panel", "thief");
    let digest = hex(&openssl::sha::sha256(b"sp_thief"));
    for text in [&record, &bare] {
        fleet.redis.command(&["HSET", "sp:{api}:tokens", &digest, text]).await?;
        ensure!(status("sp_thief").await? == 401, "{text}");
    }
    let listed = fleet.signpost.issuer_json(&["token", "list"]).await?;
    let shown = listed["tokens"].as_array().context("tokens")?.iter().find(|shown| shown["name"] == "thief");
    ensure!(shown.is_some_and(|shown| shown["state"] == "unverified"), "{listed}");
    let revoked = fleet.signpost.issuer_json(&["token", "revoke", "thief"]).await?;
    ensure!(revoked["state"] == "removed", "{revoked}");
    ensure!(tokens(&fleet).await?.len() == 1);
    // Revoked, and put back.
    let digest = hex(&openssl::sha::sha256(panel.as_bytes()));
    fleet.signpost.issuer(&["token", "revoke", "panel"]).await?.success()?;
    ensure!(status(panel).await? == 401);
    fleet.redis.command(&["HSET", "sp:{api}:tokens", &digest, &record]).await?;
    ensure!(status(panel).await? == 401, "put back");

    // What frontends speak.
    let changes = || -> Result<Value> {
        Ok(serde_json::from_str(&fleet.get(daemon.address, &edge, "/v1/changes")?.text())?)
    };
    ensure!(!changes()?["tls_policy"].is_null());
    fleet.signpost.issuer(&["tls-policy", "set", "modern"]).await?.success()?;
    ensure!(changes()?["tls_policy"]["min_version"] == "1.3");
    let stored = fleet.redis.text_of("sp:tls-policy").await?;
    // A genuine one of before, and none at all, are older than what was seen.
    fleet.signpost.issuer(&["tls-policy", "set", "intermediate"]).await?.success()?;
    ensure!(changes()?["tls_policy"]["min_version"] == "1.2");
    let older = fleet.redis.text_of("sp:tls-policy").await?;
    fleet.signpost.issuer(&["tls-policy", "set", "modern"]).await?.success()?;
    ensure!(changes()?["tls_policy"]["min_version"] == "1.3");
    for put_back in [&older, &stored] {
        set(&fleet, "sp:tls-policy", put_back).await?;
        ensure!(changes()?["tls_policy"]["min_version"] == "1.3", "put back");
    }
    fleet.redis.command(&["DEL", "sp:tls-policy"]).await?;
    ensure!(changes()?["tls_policy"]["min_version"] == "1.3", "taken away");
    let weaker = stored.split_once('\n').context("a MAC")?.1.replace("1.3", "1.2");
    set(&fleet, "sp:tls-policy", &weaker).await?;
    ensure!(changes()?["tls_policy"].is_null(), "frontends keep the one that they have");
    let shown = fleet.signpost.issuer(&["tls-policy", "show"]).await?;
    ensure!(shown.code()? == 1 && shown.stderr.contains("sp:tls-policy"), "{}", shown.stderr);
    fleet.signpost.issuer(&["tls-policy", "set", "modern"]).await?.success()?;
    ensure!(changes()?["tls_policy"]["min_version"] == "1.3");

    // The CA that frontends are told to trust.
    let own = fleet.redis.text_of("sp:internal-ca").await?;
    let mut forged: Value = serde_json::from_str(&own)?;
    forged["certificate_pem"] = json!(String::from_utf8(harness::pki::Authority::new("thief")?.pem()?)?);
    set(&fleet, "sp:internal-ca", &forged.to_string()).await?;
    let refused = fleet.signpost.issuer(&["frontend", "add", "new", "--scope", "*"]).await?;
    ensure!(refused.code()? == 1 && refused.stderr.contains("sp:internal-ca"), "{}", refused.stderr);
    let name = "new".parse()?;
    ensure!(matches!(fleet.store.load_frontend(&name).await, Ok(None) | Err(StoreError::Unverified { .. })));
    Ok(())
}
