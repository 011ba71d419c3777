//! Every identity on every route; what is refused is refused alike; a revocation counts from the next request on.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::deadline::until_true;
use shared::domain::{AuditAction, AuditEntry, KeyType};

use crate::fleet::{CERTS, Fleet, Identity, KEYS, ask};

const LIMIT: Duration = Duration::from_secs(20);
const SHOP: &str = "shop.a.example.com";
const BANK: &str = "bank.b.example.com";

/// A dual site below a.example.com, one below b.example.com with the tag `eu`.
async fn fleet() -> Result<Fleet> {
    let fleet = Fleet::new().await?;
    fleet.add_site(&[SHOP, "www.shop.a.example.com"], &[], &[KeyType::EcdsaP256, KeyType::Rsa2048]).await?;
    fleet.add_site(&[BANK], &["eu"], &[KeyType::EcdsaP256]).await?;
    Ok(fleet)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_identity_on_every_route() -> Result<()> {
    let fleet = fleet().await?;
    let keys = fleet.add_frontend("keys", &["*.a.example.com"], &[], KEYS).await?;
    let certs = fleet.add_frontend("certs", &["*.a.example.com"], &[], CERTS).await?;
    let mtls = fleet.add_frontend_with_key("mtls", &["*.a.example.com"], KEYS).await?;
    let tagged = fleet.add_frontend("tagged", &[], &["eu"], KEYS).await?;
    let all = fleet.add_frontend("all", &["*"], &[], KEYS).await?;
    let powerless = fleet.add_frontend("powerless", &["*"], &[], &[]).await?;
    let part = fleet.add_frontend("part", &[SHOP], &[], KEYS).await?;
    let revoked = fleet.add_frontend("revoked", &["*"], &[], KEYS).await?;
    let revoked_mtls = fleet.add_frontend_with_key("revoked-mtls", &["*"], KEYS).await?;
    let stranger = Identity::Key(fleet.internal_ca.issue_client(&"stranger".parse()?)?.into());
    fleet.revoke("revoked").await?;
    fleet.revoke("revoked-mtls").await?;
    let daemon = fleet.start().await?;

    // Statuses on: shop's page, certificate, key, bundle; bank's page, certificate, key; how many are listed.
    const SHOP_KEYS: [u16; 7] = [200, 200, 200, 200, 404, 404, 404];
    const NONE: [u16; 7] = [401; 7];
    let table = [
        ("keys", &keys, SHOP_KEYS, Some(1)),
        ("certs", &certs, [200, 200, 404, 404, 404, 404, 404], Some(1)),
        ("mtls", &mtls, SHOP_KEYS, Some(1)),
        ("tagged", &tagged, [404, 404, 404, 404, 200, 200, 200], Some(1)),
        ("all", &all, [200; 7], Some(2)),
        ("powerless", &powerless, [404; 7], Some(0)),
        ("part of a site's names", &part, [404; 7], Some(0)),
        ("revoked", &revoked, NONE, None),
        ("revoked certificate", &revoked_mtls, NONE, None),
        ("a certificate of no frontend", &stranger, NONE, None),
        ("nobody", &Identity::Nobody, NONE, None),
        ("wrong token", &Identity::token("keys-token-0123456788"), NONE, None),
        ("no token", &Identity::Header("Bearer ".into()), NONE, None),
        ("another scheme", &Identity::Header("Basic a2V5czprZXlz".into()), NONE, None),
        ("a token's hash", &Identity::token(&sha256_of("keys-token-0123456789")), NONE, None),
    ];
    for (who, identity, expected, listed) in table {
        let paths = [
            format!("/v1/certificates/{SHOP}"),
            format!("/v1/certificates/{SHOP}/rsa/fullchain.pem"),
            format!("/v1/certificates/{SHOP}/ecdsa/privkey.pem"),
            format!("/v1/certificates/{SHOP}/ecdsa/bundle.pem"),
            format!("/v1/certificates/{BANK}"),
            format!("/v1/certificates/{BANK}/ecdsa/cert.pem"),
            format!("/v1/certificates/{BANK}/ecdsa/privkey.pem"),
        ];
        let mut stream = fleet.connect(daemon.address, identity)?;
        for (path, expected) in paths.iter().zip(expected) {
            let answer = ask(&mut stream, identity, "GET", path, "")?;
            ensure!(answer.status == expected, "{who}: {path}: {answer:?}");
            let has_key = answer.text().contains("PRIVATE KEY");
            ensure!(
                has_key == (expected == 200 && (path.contains("privkey") || path.contains("bundle"))),
                "{who}: {path}"
            );
        }
        let list = ask(&mut stream, identity, "GET", "/v1/certificates", "")?;
        let expected = if listed.is_some() { 200 } else { 401 };
        ensure!(list.status == expected, "{who}: {list:?}");
        if let Some(count) = listed {
            let list: serde_json::Value = serde_json::from_slice(&list.body)?;
            ensure!(list["items"].as_array().map(Vec::len) == Some(count), "{who}: {list}");
            let text = list.to_string();
            ensure!(text.contains("privkey") == (who != "certs" && count > 0), "{who}: {text}");
        }
        // Whatever else there might be is a secret for those without an identity, and isn't there for the others.
        for path in
            ["/", "/v1", "/v1/change", "/metrics", "/v1/certificates/", "/v1/certificates/../certificates"]
        {
            let answer = ask(&mut stream, identity, "GET", path, "")?;
            ensure!(answer.status == if listed.is_some() { 404 } else { 401 }, "{who}: {path}: {answer:?}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let answer = ask(&mut stream, identity, method, &paths[0], "content-length: 0\r\n")?;
            ensure!(answer.status == if listed.is_some() { 405 } else { 401 }, "{who}: {method}: {answer:?}");
        }
    }
    let answer = fleet.get(daemon.address, &Identity::Nobody, "/v1/certificates")?;
    ensure!(answer.header("www-authenticate") == Some("Bearer"), "{answer:?}");
    ensure!(answer.text().starts_with(r#"{"error":"unauthorized""#), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_scope_is_answered_as_what_does_not_exist() -> Result<()> {
    let fleet = fleet().await?;
    let certs = fleet.add_frontend("certs", &["*.a.example.com"], &[], CERTS).await?;
    let daemon = fleet.start().await?;
    let bank = fleet.store.site_of(&BANK.parse_name()?).await?.context("no site")?;
    let never = fleet.get(daemon.address, &certs, "/v1/certificates/no-such-name.example.com")?;
    ensure!(never.status == 404 && never.text().starts_with(r#"{"error":"not-found""#), "{never:?}");
    for path in [
        format!("/v1/certificates/{BANK}"),
        format!("/v1/certificates/{bank}"),
        format!("/v1/certificates/{bank}/ecdsa/cert.pem"),
        format!("/v1/certificates/{BANK}/ecdsa/privkey.pem"),
        format!("/v1/certificates/{BANK}/rsa/cert.pem"),
        format!("/v1/certificates/{SHOP}/ecdsa/privkey.pem"),
        format!("/v1/certificates/{SHOP}/ecdsa/bundle.pem"),
        format!("/v1/certificates/{SHOP}/ecdsa/ocsp.der"),
        format!("/v1/certificates/{SHOP}/ecdsa/other.pem"),
        format!("/v1/certificates/{SHOP}/dsa/cert.pem"),
        "/v1/certificates/ffffffffffffffffffff".to_owned(),
        "/v1/certificates/%".to_owned(),
        "/v1/certificates/*.a.example.com".to_owned(),
        "/v1/anything".to_owned(),
    ] {
        let answer = fleet.get(daemon.address, &certs, &path)?;
        ensure!(answer.without_date() == never.without_date(), "{path}: {answer:?}");
        let mut stream = fleet.connect(daemon.address, &certs)?;
        let known = ask(&mut stream, &certs, "GET", &path, "if-none-match: *\r\n")?;
        ensure!(known.without_date() == never.without_date(), "{path}: {known:?}");
    }
    // Written beside the answer, so it may come a moment later.
    let denied = async || {
        let audit = fleet.audit().await.unwrap_or_default();
        let is_denial = |entry: &&AuditEntry| entry.who == "certs" && entry.action == AuditAction::Denied;
        audit.iter().filter(is_denial).count()
    };
    // Seven paths and an id that nobody has, twice each; a name that nobody has, once. What its pattern covers is no secret.
    until_true("each is in the audit", LIMIT, async || denied().await == 17).await
}

/// What the store is asked for one answer, by command.
async fn questions(
    fleet: &Fleet,
    at: std::net::SocketAddr,
    who: &Identity,
    path: &str,
) -> Result<BTreeMap<String, u64>> {
    /// Of each, so that what the program asks for itself meanwhile is a fraction.
    const TIMES: u64 = 40;
    let mut stream = fleet.connect(at, who)?;
    ask(&mut stream, who, "GET", path, "")?;
    fleet.redis.command(&["CONFIG", "RESETSTAT"]).await?;
    for _ in 0..TIMES {
        ask(&mut stream, who, "GET", path, "")?;
    }
    let stats: String = redis::from_redis_value(fleet.redis.command(&["INFO", "commandstats"]).await?)?;
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), (rest.split(',').next()?.parse::<u64>().ok()? + TIMES / 2) / TIMES))
    });
    // What is refused is written down beside the answer, and counted after some of it. The feed is followed by HMGET, 64 at once.
    let reads = ["get", "mget", "hget", "hgetall", "zscore"];
    Ok(calls.filter(|(name, count)| *count > 0 && reads.contains(&name.as_str())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_scope_costs_the_same_questions_as_what_does_not_exist() -> Result<()> {
    let fleet = fleet().await?;
    let certs = fleet.add_frontend("certs", &["*.a.example.com"], &[], CERTS).await?;
    let daemon = fleet.start().await?;
    let asked = async |path: &str| {
        questions(&fleet, daemon.address, &certs, &format!("/v1/certificates/{path}")).await
    };
    let never = asked("no-such-name.example.com").await?;
    let total = |questions: &BTreeMap<String, u64>| questions.values().sum::<u64>();
    ensure!(total(&never) > 2, "{never:?}");
    for path in [
        BANK.to_owned(),
        format!("{BANK}/ecdsa/cert.pem"),
        format!("{BANK}/ecdsa/privkey.pem"),
        format!("{BANK}/rsa/cert.pem"),
        "no-such-name.example.com/ecdsa/cert.pem".to_owned(),
    ] {
        ensure!(asked(&path).await? == never, "{path}: {:?}, and not {never:?}", asked(&path).await?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_counts_from_the_next_request_of_an_open_connection() -> Result<()> {
    let fleet = fleet().await?;
    let by_token = fleet.add_frontend("token", &["*"], &[], KEYS).await?;
    let by_key = fleet.add_frontend_with_key("key", &["*"], KEYS).await?;
    let daemon = fleet.start().await?;
    let path = format!("/v1/certificates/{SHOP}/ecdsa/privkey.pem");
    for (name, identity) in [("token", by_token), ("key", by_key)] {
        let mut open = fleet.connect(daemon.address, &identity)?;
        for _ in 0..3 {
            ensure!(ask(&mut open, &identity, "GET", &path, "")?.status == 200, "{name}");
        }
        fleet.revoke(name).await?;
        let answer = ask(&mut open, &identity, "GET", &path, "")?;
        ensure!(answer.status == 401 && !answer.text().contains("PRIVATE"), "{name}: {answer:?}");
        ensure!(fleet.get(daemon.address, &identity, &path)?.status == 401, "{name}, on a new connection");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_that_is_read_is_in_the_audit_and_nothing_else_is() -> Result<()> {
    let fleet = fleet().await?;
    let keys = fleet.add_frontend("keys", &["*.a.example.com"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let mut stream = fleet.connect(daemon.address, &keys)?;
    let mut get = |file: &str, headers: &str| {
        ask(&mut stream, &keys, "GET", &format!("/v1/certificates/{SHOP}/{file}"), headers)
    };
    ensure!(get("ecdsa/fullchain.pem", "")?.status == 200);
    let key = get("ecdsa/privkey.pem", "")?;
    let tag = key.header("etag").context("no tag")?.to_owned();
    ensure!(get("ecdsa/privkey.pem", &format!("if-none-match: {tag}\r\n"))?.status == 304);
    ensure!(get("rsa/bundle.pem", "")?.status == 200);
    // HEAD gives out nothing, and so there is nothing to be written.
    for path in [
        format!("/v1/certificates/{SHOP}/ecdsa/privkey.pem"),
        format!("/v1/adapters/haproxy/{SHOP}.pem"),
        "/v1/adapters/traefik".to_owned(),
        "/v1/adapters/caddy".to_owned(),
    ] {
        let mut stream = fleet.connect(daemon.address, &keys)?;
        let head = ask(&mut stream, &keys, "HEAD", &path, "")?;
        ensure!(head.status == 200 && head.text().is_empty(), "{path}: {head:?}");
    }
    let audit = fleet.audit().await?;
    let site = fleet.store.site_of(&SHOP.parse_name()?).await?.context("no site")?;
    ensure!(audit.len() == 2, "{audit:?}");
    for (entry, slot) in audit.iter().zip(["ecdsa", "rsa"]) {
        ensure!(entry.who == "keys" && entry.action == AuditAction::ReadKey, "{audit:?}");
        ensure!(entry.by == format!("token:{}", sha256_of("keys-token-0123456789")), "{audit:?}");
        ensure!(entry.keys.len() == 1 && entry.keys[0].lineage == format!("{site}.{slot}"), "{audit:?}");
    }
    // What can't be written down doesn't happen.
    fleet.redis.command(&["DEL", "sp:audit"]).await?;
    fleet.redis.command(&["SET", "sp:audit", "no stream"]).await?;
    let refused = get("ecdsa/privkey.pem", "")?;
    ensure!(refused.status == 500 && !refused.text().contains("PRIVATE"), "{refused:?}");
    ensure!(get("ecdsa/cert.pem", "")?.status == 200, "a certificate needs no audit");
    // Nor where the primary itself takes no writes for want of replicas: what only reads goes on.
    fleet.redis.command(&["DEL", "sp:audit"]).await?;
    ensure!(get("ecdsa/privkey.pem", "")?.status == 200);
    fleet.redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await?;
    ensure!(get("ecdsa/privkey.pem", "")?.status == 503, "a key without a line in the audit");
    ensure!(get("ecdsa/cert.pem", "")?.status == 200 && get("ecdsa/fullchain.pem", "")?.status == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_again_and_again_is_counted_and_the_count_is_written_at_the_end() -> Result<()> {
    const READS: usize = 300;
    let fleet = fleet().await?;
    let keys = fleet.add_frontend("keys", &["*.a.example.com"], &[], KEYS).await?;
    let mut daemon = fleet.start().await?;
    let mut stream = fleet.connect(daemon.address, &keys)?;
    let path = format!("/v1/certificates/{SHOP}/ecdsa/privkey.pem");
    for _ in 0..READS {
        ensure!(ask(&mut stream, &keys, "GET", &path, "")?.status == 200);
    }
    let lines = fleet.audit().await?.len();
    ensure!(lines < READS, "{lines} lines");
    ensure!(daemon.process.terminate(LIMIT).await?.code() == Some(0));
    let audit = fleet.audit().await?;
    let last = audit.last().and_then(|entry| entry.what.clone()).context("no count")?;
    ensure!(
        audit.len() == lines + 1 && last.starts_with(&format!("{} more answers", READS - lines)),
        "{last}"
    );
    Ok(())
}

trait ParseName {
    fn parse_name(&self) -> Result<shared::domain::DnsName>;
}

impl ParseName for str {
    fn parse_name(&self) -> Result<shared::domain::DnsName> {
        Ok(shared::domain::DnsName::parse(self)?)
    }
}

fn sha256_of(text: &str) -> String {
    crate::fleet::hex(&openssl::sha::sha256(text.as_bytes()))
}
