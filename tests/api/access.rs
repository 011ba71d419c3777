//! Who may what: every route, asked by nobody, by each role, and by a token that was revoked.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use issuer::api::ROUTES;
use serde_json::{Value, json};

use crate::service::Service;

const NOBODY: u16 = 401;
const REFUSED: u16 = 403;

/// Sent as a file, not as JSON.
const FILE: &str = r#"{"names":["f.example.com"]}"#;

/// A request of each route, with the status for nobody, read, write, admin and a revoked token, asked in this order.
/// `gone.example.com` is there before each request.
const POLICY: &str = r#"{"min_version":"1.3","ciphersuites":["TLS_AES_128_GCM_SHA256"],"groups":["x25519"]}"#;
const TABLE: &[(&str, Option<&str>, [u16; 5])] = &[
    ("GET /sites", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("POST /sites", Some(r#"{"names":["new.example.com"]}"#), [NOBODY, REFUSED, 201, 200, NOBODY]),
    ("GET /sites/a.example.com", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("PATCH /sites/a.example.com", Some(r#"{"tags":["x"]}"#), [NOBODY, REFUSED, 200, 200, NOBODY]),
    ("DELETE /sites/gone.example.com", None, [NOBODY, REFUSED, 200, 200, NOBODY]),
    ("POST /sites/a.example.com/pause", None, [NOBODY, REFUSED, 200, 200, NOBODY]),
    ("POST /sites/a.example.com/resume", None, [NOBODY, REFUSED, 200, 200, NOBODY]),
    ("POST /sites/a.example.com/retry", None, [NOBODY, REFUSED, 202, 202, NOBODY]),
    ("POST /sites/a.example.com/renew", None, [NOBODY, REFUSED, 202, 202, NOBODY]),
    ("POST /sites/a.example.com/rollback", None, [NOBODY, REFUSED, 404, 404, NOBODY]),
    ("POST /plan", Some(FILE), [NOBODY, 200, 200, 200, NOBODY]),
    ("POST /apply", Some(FILE), [NOBODY, REFUSED, 200, 200, NOBODY]),
    ("POST /retry", None, [NOBODY, REFUSED, 202, 202, NOBODY]),
    ("GET /certificates/a.example.com", None, [NOBODY, 404, 404, 404, NOBODY]),
    ("GET /status", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("GET /fleet", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("GET /limits", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("GET /forecast?lifetime_hours=2160", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("GET /events", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("GET /brakes", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("PUT /brakes/issuance/tag:x", Some(r#"{"reason":"test"}"#), [NOBODY, REFUSED, REFUSED, 201, NOBODY]),
    ("DELETE /brakes/issuance/tag:x", None, [NOBODY, REFUSED, REFUSED, 200, NOBODY]),
    ("GET /tenants", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("PUT /tenants/acme", Some(r#"{"redirect":true}"#), [NOBODY, REFUSED, REFUSED, 201, NOBODY]),
    ("GET /tenants/acme", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("DELETE /tenants/acme", None, [NOBODY, REFUSED, REFUSED, 200, NOBODY]),
    ("GET /tls-policy", None, [NOBODY, 200, 200, 200, NOBODY]),
    ("PUT /tls-policy", Some(POLICY), [NOBODY, REFUSED, REFUSED, 200, NOBODY]),
    ("GET /tokens", None, [NOBODY, REFUSED, REFUSED, 200, NOBODY]),
    ("GET /openapi.json", None, [200, 200, 200, 200, 200]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_in_whom_it_should() -> Result<()> {
    let service = Service::start().await?;
    let mut tokens = vec![String::new()];
    for role in ["read", "write", "admin"] {
        tokens.push(service.token(role, role).await?);
    }
    tokens.push(service.token("old", "admin").await?);
    service.ask("GET /status", &tokens[4], None).await?.with(200)?;
    service.signpost.issuer(&["token", "revoke", "old"]).await?.success()?;
    let admin = tokens[3].clone();
    service.ask("POST /sites", &admin, Some(&json!({"names": ["a.example.com"]}))).await?.with(201)?;

    let mut covered = BTreeSet::new();
    for (line, body, statuses) in TABLE {
        let (method, path) = line.split_once(' ').unwrap_or_default();
        covered.insert((method, pattern_of(path)));
        let is_file = *body == Some(FILE);
        let body: Option<Value> = body.map(serde_json::from_str).transpose()?;
        for (status, token) in statuses.iter().zip(&tokens) {
            service.ask("POST /sites", &admin, Some(&json!({"names": ["gone.example.com"]}))).await?;
            let reply = if is_file {
                service.send_file(line, token, "application/x-ndjson", FILE, &[]).await?
            } else {
                service.ask(line, token, body.as_ref()).await?
            };
            ensure!(reply.status == *status, "{line}: {} in the place of {status}", reply.status);
            let code = reply.body["error"]["code"].as_str();
            match status {
                401 => {
                    ensure!(code == Some("unauthorized"), "{code:?}");
                    ensure!(reply.header("WWW-Authenticate") == Some("Bearer"));
                }
                403 => ensure!(code == Some("forbidden"), "{code:?}"),
                _ => {}
            }
        }
    }
    let routes: BTreeSet<_> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
    ensure!(covered == routes, "the table has {covered:?}, the API {routes:?}");
    Ok(())
}

fn pattern_of(path: &str) -> &'static str {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |pattern: &str| {
        let (wanted, given): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
        wanted.len() == given.len()
            && wanted.iter().zip(given).all(|(one, other)| one.starts_with('{') || *one == other)
    };
    ROUTES.iter().map(|route| route.path).find(|pattern| fits(pattern)).unwrap_or("none")
}

/// Refused before the body is looked at: whoever has no token learns nothing of what is wrong with it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_more_than_that_a_token_is_needed() -> Result<()> {
    let service = Service::start().await?;
    for header in ["", "Bearer", "Bearer ", "Bearer sp_0", "Basic YTpi", "bearer \u{e4}"] {
        let headers = [("Authorization", header)];
        let body = Some(("text/plain", b"x".to_vec()));
        service.send("POST /sites", "", body, &headers).await?.refused(401, "unauthorized")?;
        service.send("GET /sites/no.example.com", "", None, &headers).await?.refused(401, "unauthorized")?;
    }
    let token = service.token("panel", "read").await?;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let header = format!("{scheme} {token}");
        service.send("GET /status", "", None, &[("Authorization", &header)]).await?.with(200)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_replaced_and_revoked() -> Result<()> {
    let service = Service::start().await?;
    let panel = service.token("panel", "write").await?;
    service.signpost.issuer(&["token", "add", "panel", "--role", "read"]).await?.with_code(1)?;
    service.signpost.issuer(&["token", "add", "Panel!", "--role", "read"]).await?.with_code(2)?;
    service.signpost.issuer(&["token", "add", "x", "--role", "root"]).await?.with_code(2)?;
    service.signpost.issuer(&["token", "revoke", "nobody"]).await?.with_code(4)?;
    let listed = service.signpost.issuer_json(&["token", "list"]).await?;
    ensure!(listed["tokens"][0]["last_used"].is_null(), "{listed:#}");
    service.ask("GET /status", &panel, None).await?.with(200)?;
    let listed = service.signpost.issuer_json(&["token", "list"]).await?;
    ensure!(listed["tokens"][0]["last_used"].is_string(), "{listed:#}");
    ensure!(listed["tokens"][0]["role"] == "write" && listed["tokens"].as_array().map(Vec::len) == Some(1));

    let line = ["token", "add", "panel", "--role", "read", "--replace"];
    let made = service.signpost.issuer_json(&line).await?;
    let newer = made["token"].as_str().unwrap_or_default();
    service.ask("GET /status", &panel, None).await?.refused(401, "unauthorized")?;
    service.ask("GET /status", newer, None).await?.with(200)?;
    service.ask("POST /retry", newer, None).await?.refused(403, "forbidden")?;
    service.signpost.issuer(&["token", "revoke", "panel"]).await?.success()?;
    service.ask("GET /status", newer, None).await?.refused(401, "unauthorized")?;
    let listed = service.signpost.issuer_json(&["token", "list"]).await?;
    ensure!(listed["tokens"].as_array().map(Vec::len) == Some(1), "{listed:#}");
    ensure!(listed["tokens"][0]["revoked"].is_string(), "{listed:#}");

    // The store has no token, only what it can be recognised by.
    let stored = format!("{:?}", service.redis.command(&["HGETALL", "sp:{api}:tokens"]).await?);
    ensure!(stored.contains("panel") && !stored.contains(newer) && !stored.contains(&panel), "{stored}");
    Ok(())
}
