//! What Redis needs.

use anyhow::{Context as _, Result};
use harness::redis::Redis;
use serde::Serialize;

use crate::fleet::{id, name};

const SAMPLES: usize = 200;

/// One kind of key: how many bytes of it a site costs, as `MEMORY USAGE` says.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Part {
    pub(crate) kind: &'static str,
    pub(crate) bytes_each: f64,
}

/// Bytes that Redis uses for data.
pub(crate) async fn used(redis: &Redis) -> Result<u64> {
    let text: String = redis::from_redis_value(redis.command(&["INFO", "memory"]).await?)?;
    let line = text.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
    let data: u64 = line.context("used_memory_dataset")?.trim().parse()?;
    // The table of the keys belongs to them, and Redis counts it as overhead.
    let tables: redis::Value = redis.command(&["MEMORY", "STATS"]).await?;
    Ok(data + overhead_of_keys(&tables).unwrap_or(0))
}

/// `db.0`: `overhead.hashtable.main`
fn overhead_of_keys(stats: &redis::Value) -> Option<u64> {
    let pairs = |value: &redis::Value| -> Option<Vec<(String, redis::Value)>> {
        redis::from_redis_value(value.clone()).ok()
    };
    let (_, database) = pairs(stats)?.into_iter().find(|(key, _)| key == "db.0")?;
    let (_, bytes) = pairs(&database)?.into_iter().find(|(key, _)| key == "overhead.hashtable.main")?;
    redis::from_redis_value(bytes).ok()
}

/// Of samples, but for what a partition has one of.
pub(crate) async fn parts(redis: &Redis, sites: usize) -> Result<Vec<Part>> {
    let mut connection = redis.connection().await?;
    let mut parts = Vec::new();
    let (mut groups, mut certificates, mut names) = (0, 0, 0);
    for sample in 0..SAMPLES {
        let number = sample * sites / SAMPLES;
        let id = id(number)?;
        let group = format!("sp:{{{}}}:site:{id}", id.partition());
        let current: String =
            redis::cmd("HGET").arg(&group).arg("cert:ecdsa").query_async(&mut connection).await?;
        let certificate = format!("sp:{{{}}}:cert:{id}:{current}", id.partition());
        let mut usage = redis::pipe();
        for key in [&group, &certificate, &format!("sp:name:{}", name(number))] {
            usage.cmd("MEMORY").arg("USAGE").arg(key);
        }
        let (group, certificate, name): (u64, u64, u64) = usage.query_async(&mut connection).await?;
        groups += group;
        certificates += certificate;
        names += name;
    }
    for (kind, bytes) in [("certificate", certificates), ("site", groups), ("name", names)] {
        parts.push(Part { kind, bytes_each: bytes as f64 / SAMPLES as f64 });
    }
    for (kind, suffix) in [("sites", "sites"), ("due", "due")] {
        let mut usage = redis::pipe();
        for partition in shared::domain::Partition::all() {
            usage
                .cmd("MEMORY")
                .arg("USAGE")
                .arg(format!("sp:{{{partition}}}:{suffix}"))
                .arg("SAMPLES")
                .arg(0);
        }
        let bytes: Vec<Option<u64>> = usage.query_async(&mut connection).await?;
        let bytes: u64 = bytes.into_iter().flatten().sum();
        parts.push(Part { kind, bytes_each: bytes as f64 / sites as f64 });
    }
    Ok(parts)
}
