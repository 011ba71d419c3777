//! The role has no right in Redis that it doesn't need: each command that it is granted is one that it has run.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, rights};
use serde_json::json;
use shared::domain::{KeyType, Right};

use crate::{
    enrolment::{enrol, new_key},
    fleet::{Fleet, KEYS, post},
};

const LIMIT: Duration = Duration::from_secs(30);
const SHOP: &str = "shop.a.example.com";

/// What Redis was asked since its counters began.
async fn asked(fleet: &Fleet) -> Result<BTreeSet<String>> {
    let stats: String = redis::from_redis_value(fleet.redis.command(&["INFO", "commandstats"]).await?)?;
    let names = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    Ok(names.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_that_it_may_run_is_one_that_it_runs() -> Result<()> {
    let fleet = Fleet::new().await?;
    let site = fleet.add_site(&[SHOP], &["eu"], &[KeyType::EcdsaP256, KeyType::Rsa2048]).await?;
    let keys = fleet.add_frontend("keys", &["*.a.example.com"], &["eu"], KEYS).await?;
    let sight =
        fleet.add_frontend("sight", &["*.a.example.com"], &[], &[Right::ReadCert, Right::Sight]).await?;
    let enrols = fleet.add_frontend("enrols", &["*"], &[], KEYS).await?;
    // What was denied a while ago is forgotten when the next names come.
    fleet.redis.command(&["ZADD", "sp:{sightings}:denied", "1", "old.a.example.com"]).await?;
    fleet.redis.command(&["HSET", "sp:{sightings}:denials", "old.a.example.com", "1 1 nobody"]).await?;
    fleet.redis.command(&["CONFIG", "RESETSTAT"]).await?;
    let daemon = fleet.start().await?;
    let at = daemon.address;

    for path in [
        "/v1/certificates".to_owned(),
        format!("/v1/certificates/{SHOP}"),
        format!("/v1/certificates/{SHOP}/rsa/bundle.pem"),
        "/v1/changes".to_owned(),
        "/v1/adapters/traefik".to_owned(),
        format!("/v1/adapters/haproxy/{SHOP}.pem"),
        format!("/v1/ask?domain={SHOP}"),
    ] {
        ensure!(fleet.get(at, &keys, &path)?.status == 200, "{path}");
    }
    let bundles = json!({ "ids": [site] }).to_string();
    let sighted = json!({ "names": ["new.a.example.com", "other.a.example.com"] }).to_string();
    for (identity, path, body, status) in [
        (&keys, "/v1/bundles", bundles.as_str(), 200),
        (&keys, "/v1/frontends/self/status", r#"{"agent":"test","items":0}"#, 204),
        (&sight, "/v1/sightings", sighted.as_str(), 200),
        (&sight, "/v1/sightings", sighted.as_str(), 200),
    ] {
        let answer = post(&fleet, at, identity, path, body.as_bytes())?;
        ensure!(answer.status == status, "{path}: {answer:?}");
    }
    // A key, and the next one.
    let enrolled = enrol(&fleet, at, &enrols, &new_key()?)?.1.context("a certificate")?;
    let next = enrol(&fleet, at, &enrolled, &new_key()?)?.1.context("the next one")?;
    ensure!(fleet.get(at, &next, &format!("/v1/certificates/{SHOP}"))?.status == 200);
    ensure!(fleet.get(at, &enrolled, &format!("/v1/certificates/{SHOP}"))?.status == 401);

    // Everybody's, or written as a part of another: with replicas that confirm.
    let besides = ["hello", "auth", "wait"];
    let granted: BTreeSet<String> = rights::of_role("certificates")?
        .iter()
        .filter_map(|word| word.strip_prefix('+').filter(|name| !besides.contains(name)).map(str::to_owned))
        .collect();
    let unused = async || Some(granted.difference(&asked(&fleet).await.ok()?).cloned().collect::<Vec<_>>());
    let all = until_true("it reports, and follows the feed", LIMIT, async || {
        unused().await.is_some_and(|rest| rest.is_empty())
    })
    .await;
    ensure!(all.is_ok(), "it never ran {:?}: {}", unused().await, daemon.process.log_tail());
    Ok(())
}
