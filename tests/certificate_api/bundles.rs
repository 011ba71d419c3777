//! Many keys in one answer: whole lines, each for an id that was asked for; nothing out of scope; each answer in the audit.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use openssl::{pkey::PKey, x509::X509};
use serde_json::{Value, json};
use shared::domain::{AuditAction, KeyType};

use crate::fleet::{CERTS, Fleet, KEYS, post};

#[tokio::test(flavor = "multi_thread")]
async fn a_line_for_each_id() -> Result<()> {
    let fleet = Fleet::new().await?;
    let dual = fleet.add_site(&["shop.a.example.com"], &[], &[KeyType::EcdsaP256, KeyType::Rsa2048]).await?;
    let plain = fleet.add_site(&["plain.a.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    let foreign = fleet.add_site(&["shop.b.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    let edge = fleet.add_frontend("edge", &["*.a.example.com"], &[], KEYS).await?;
    let certs = fleet.add_frontend("certs", &["*.a.example.com"], &[], CERTS).await?;
    let daemon = fleet.start().await?;
    let ask = |body: &Value| post(&fleet, daemon.address, &edge, "/v1/bundles", body.to_string().as_bytes());
    let ids = json!({ "ids": [dual, "no id at all", foreign, plain, "ffffffffffffffffffff", dual] });
    let answer = ask(&ids)?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(answer.header("content-type") == Some("application/x-ndjson"), "{answer:?}");
    ensure!(answer.header("cache-control") == Some("no-store"), "{answer:?}");
    let lines: Vec<Value> = answer.text().lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 6, "{lines:?}");
    for (line, missing) in lines.iter().zip([false, true, true, false, true, false]) {
        ensure!((line["missing"] == true) == missing, "{line}");
    }
    ensure!(lines[0] == lines[5] && lines[0]["names"] == json!(["shop.a.example.com"]), "{}", lines[0]);
    for (line, slots) in [(&lines[0], &["ecdsa", "rsa"][..]), (&lines[3], &["ecdsa"])] {
        let certificates = line["certificates"].as_object().context("no certificates")?;
        ensure!(certificates.keys().eq(slots.iter()), "{line}");
        for files in certificates.values() {
            let chain = X509::stack_from_pem(files["fullchain"].as_str().context("no chain")?.as_bytes())?;
            let key = PKey::private_key_from_pem(files["privkey"].as_str().context("no key")?.as_bytes())?;
            ensure!(chain.len() == 2 && chain[0].public_key()?.public_eq(&key));
        }
    }
    // One entry for the answer, with every key that was in it; the same key twice in it is one.
    let audit = fleet.audit().await?;
    ensure!(
        audit.len() == 1 && audit[0].action == AuditAction::ReadKey && audit[0].keys.len() == 3,
        "{audit:?}"
    );

    // What it has already is not sent again, and no key leaves for it.
    let have =
        json!({ "ids": [dual, plain], "have": { dual.as_str(): lines[0]["version"], plain.as_str(): "0" } });
    let answer = ask(&have)?;
    let lines: Vec<Value> = answer.text().lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines[0]["unchanged"] == true && lines[0].get("certificates").is_none(), "{}", lines[0]);
    ensure!(lines[1]["certificates"]["ecdsa"].is_object(), "{}", lines[1]);
    ensure!(fleet.audit().await?.len() == 2);

    // Certificates without keys are no bundles.
    let answer = post(&fleet, daemon.address, &certs, "/v1/bundles", ids.to_string().as_bytes())?;
    ensure!(answer.status == 404 && !answer.text().contains("PRIVATE"), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused() -> Result<()> {
    let fleet = Fleet::new().await?;
    let site = fleet.add_site(&["shop.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], KEYS).await?;
    let daemon = fleet.start().await?;
    let ask = |body: &[u8]| post(&fleet, daemon.address, &edge, "/v1/bundles", body);
    for body in [&b""[..], b"{", b"[]", b"{}", br#"{"ids":[]}"#, br#"{"ids":[1]}"#, b"\xff"] {
        let answer = ask(body)?;
        ensure!(answer.status == 400, "{body:?}: {answer:?}");
    }
    let ids: Vec<String> = (0..201).map(|number| format!("{number:020}")).collect();
    ensure!(ask(json!({ "ids": &ids }).to_string().as_bytes())?.status == 400);
    ensure!(ask(json!({ "ids": &ids[..200] }).to_string().as_bytes())?.status == 200);
    let large = json!({ "ids": [site], "have": { "x": "y".repeat(70_000) } });
    ensure!(ask(large.to_string().as_bytes())?.status == 413);
    // What can't be written down doesn't happen.
    fleet.redis.command(&["DEL", "sp:audit"]).await?;
    fleet.redis.command(&["SET", "sp:audit", "no stream"]).await?;
    let answer = ask(json!({ "ids": [site] }).to_string().as_bytes())?;
    ensure!(answer.status == 500 && !answer.text().contains("PRIVATE"), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_kept_with_what_the_centre_knows() -> Result<()> {
    let fleet = Fleet::new().await?;
    let site = fleet.add_site(&["shop.example.com"], &[], &[KeyType::EcdsaP256]).await?;
    let edge = fleet.add_frontend("edge", &["*"], &[], CERTS).await?;
    let daemon = fleet.start().await?;
    let page: Value =
        serde_json::from_slice(&fleet.get(daemon.address, &edge, "/v1/certificates/shop.example.com")?.body)?;
    let since = jiff::Timestamp::now() + Duration::from_secs(3);
    let report = json!({ "agent": "test 1", "items": 1, "unheard-of": {}, "served": [
        { "id": site, "name": "shop.example.com", "since": since,
          "fingerprint_sha256": page["lineages"]["ecdsa"]["fingerprint_sha256"] },
        { "id": site, "name": "shop.example.com", "since": since, "fingerprint_sha256": "00" },
    ]});
    let send = |body: &[u8]| post(&fleet, daemon.address, &edge, "/v1/frontends/self/status", body);
    ensure!(send(report.to_string().as_bytes())?.status == 204);
    for body in [&b"{}"[..], b"x", br#"{"agent":1}"#] {
        ensure!(send(body)?.status == 400);
    }
    let kept = fleet.store.load_reports(&["edge".parse()?, "other".parse()?]).await?;
    let [Some(kept), None] = kept.as_slice() else { anyhow::bail!("{kept:?}") };
    let after = kept.report.served[0].after_seconds.context("the centre knows when it was issued")?;
    ensure!((2..60).contains(&after) && kept.report.served[1].after_seconds.is_none(), "{kept:?}");
    Ok(())
}
