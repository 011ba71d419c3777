//! Whatever of the store is damaged, what is asked about is answered: with all else, and with what is damaged by its name.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use harness::{deadline::until_true, signpost::Daemon, stage::Stage, stored::Stored};
use serde_json::{Value, json};
use shared::domain::{Partition, SiteId};

const SITES: [&str; 2] = ["one.example", "two.example"];
const SOON: Duration = Duration::from_secs(90);
/// What is answered from many records at once.
const LISTS: [&str; 9] =
    ["/sites", "/status", "/limits", "/brakes", "/tenants", "/tokens", "/events", "/fleet", "/forecast"];
/// What is of one site, or of a moment: nobody lists it, and it is met by whoever needs it.
const MET_WHEN_NEEDED: [&str; 14] = [
    "sp:name:",
    "sp:chain:",
    "sp:token:",
    "sp:schema",
    "sp:vault:canary",
    "sp:vault:current",
    ":leaf:",
    ":feed:",
    ":order:",
    ":looking:",
    ":directory",
    ":known-directory",
    ":chain-tops:",
    "sp:idempotency:",
];
/// More of that, which does not stand for a record of an operator's.
const PASSING: [&str; 11] = [
    "sp:frontend-key:",
    "sp:frontend-report:",
    ":told:",
    ":requests:",
    ":asking:",
    ":open:",
    ":limit:",
    ":limits-since",
    ":spent:",
    "sp:{sightings}:by",
    "sp:{sightings}:counts",
];

struct Scene {
    stage: Stage,
    daemon: Option<Daemon>,
    stored: Stored,
    client: reqwest::Client,
    token: String,
}

impl Scene {
    /// A store with something of everything.
    async fn set_up() -> Result<Self> {
        let stage = Stage::trusting().await?;
        let daemon = stage.signpost.start_issuer().await?;
        for name in SITES {
            stage.json(&["site", "add", name]).await?;
        }
        for tenant in ["acme", "other"] {
            stage.json(&["tenant", "set", tenant]).await?;
        }
        for name in ["edge", "rim"] {
            stage.json(&["frontend", "add", name, "--scope", "*"]).await?;
        }
        stage.json(&["tls-policy", "set", "modern"]).await?;
        stage.json(&["token", "add", "reader", "--role", "read"]).await?;
        let added = stage.json(&["token", "add", "panel", "--role", "admin"]).await?;
        let token = added["token"].as_str().context("a token")?.to_owned();
        for name in SITES {
            stage.until_valid(name).await?;
        }
        stage.until_idle().await?;
        let stored = Stored::open(stage.signpost.config_path()).await?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let scene = Self { stage, daemon: Some(daemon), stored, client, token };
        let created = "2026-01-01T00:00:00Z";
        let delegation =
            json!({ "v": 1, "provider": "zone", "target": "x.proofs.example", "created": created });
        let account = scene.stage.redis.text_of("sp:account:pebble:default").await?;
        let pause =
            json!({ "since_ms": 1, "until_ms": 9_000_000_000_000_i64, "try_ms": 9_000_000_000_000_i64 });
        let brake = json!({ "what": "issuance", "scope": "tag:none", "since": created });
        for line in [
            vec!["HSET", "sp:delegations", "one.example", &delegation.to_string()],
            vec!["HSET", "sp:delegations", "two.example", &delegation.to_string()],
            vec!["SET", "sp:account:pebble:second", &account.replace("default", "second")],
            vec!["SADD", "sp:accounts", "pebble:second"],
            vec!["HSET", "sp:{ca:pebble}:pauses", "renewalInfo:127.0.0.1", &pause.to_string()],
            vec!["HSET", "sp:{ca:pebble}:pauses", "keyChange:127.0.0.1", &pause.to_string()],
            vec!["HSET", "sp:brakes", "issuance:tag:none", &brake.to_string()],
            vec!["HSET", "sp:brakes", "issuance:tag:other", &brake.to_string().replace("none", "other")],
            vec![
                "ZADD",
                "sp:{sightings}:denied",
                "9000000000000",
                "seen.example",
                "9000000000000",
                "also.example",
            ],
            vec![
                "HSET",
                "sp:{sightings}:denials",
                "seen.example",
                "9000000000000 1 no",
                "also.example",
                "9000000000000 1 no",
            ],
        ] {
            scene.redis(&line).await?;
        }
        Ok(scene)
    }

    async fn redis(&self, words: &[&str]) -> Result<redis::Value> {
        self.stage.redis.command(words).await.with_context(|| words.join(" "))
    }

    async fn text(&self, words: &[&str]) -> Result<String> {
        Ok(redis::from_redis_value(self.redis(words).await?)?)
    }

    async fn get(&self, path: &str) -> Result<(u16, String)> {
        let address = self.daemon.as_ref().context("a daemon")?.address;
        let url = format!("http://{address}/api/v1{path}");
        let answer = self.client.get(url).bearer_auth(&self.token).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// What the fleet itself says that can't be read.
    async fn named(&self) -> Result<BTreeSet<String>> {
        let store = &self.stored.store;
        let cas = ["pebble".to_owned()];
        let mut named: BTreeSet<String> =
            store.damage_of_fleet(cas.iter()).await?.into_iter().map(|damage| damage.key).collect();
        for partition in Partition::all() {
            named.extend(store.damage_of_lists(partition).await?.into_iter().map(|damage| damage.key));
        }
        let ids: Vec<SiteId> = self.ids().await?;
        for record in store.check_records(&ids).await? {
            named.extend(record.problem.map(|_| record.key));
        }
        Ok(named)
    }

    async fn ids(&self) -> Result<Vec<SiteId>> {
        let keys = self.stage.keys("sp:{p*}:site:*").await?;
        Ok(keys.iter().filter_map(|key| SiteId::parse(key.rsplit(':').next()?)).collect())
    }

    /// Every list is answered, and both sites are, where it is not they that are damaged.
    async fn answers(&self, key: &str, damage: &str) -> Result<()> {
        let what = || format!("{key}, {damage}");
        for path in LISTS {
            let (status, body) = self.get(path).await.with_context(what)?;
            // What nobody can be let in without, or be told from where changes begin, is one record.
            let is_all = key == "sp:{api}:tokens"
                || (path == "/forecast" && key == "sp:schema")
                || (path == "/fleet" && ["sp:epoch", "sp:frontends"].contains(&key));
            match status {
                200 => {}
                500 if is_all && body.contains("damaged") => {}
                _ => anyhow::bail!("{}: {path}: {status} {body}", what()),
            }
            if status == 200 && path == "/brakes" && key != "sp:brakes" {
                ensure!(body.contains("tag:none") && body.contains("tag:other"), "{}: {body}", what());
            }
        }
        for name in SITES {
            let (status, body) = self.get(&format!("/sites/{name}")).await?;
            ensure!(
                status == 200 || (status == 500 && body.contains("damaged")),
                "{}: {name}: {status} {body}",
                what()
            );
        }
        let (status, body) = self.get("/tls-policy").await?;
        let is_own = ["sp:tls-policy", "sp:{api}:tokens"].contains(&key);
        ensure!(status == 200 || (is_own && status == 500), "{}: {status} {body}", what());
        Ok(())
    }

    /// Puts something else in the place of what is there, looks, and puts it back.
    async fn damaged(&self, key: &str, damage: &str, write: &[&str]) -> Result<()> {
        // It may have ended by itself meanwhile.
        if self.redis(&["COPY", key, "aside", "REPLACE"]).await? == redis::Value::Int(0) {
            return Ok(());
        }
        for words in write.split(|word| *word == ";") {
            self.redis(words).await?;
        }
        let answered = self.answers(key, damage).await;
        // What frontends follow may be put right by now.
        let is_looked_at =
            !MET_WHEN_NEEDED.iter().chain(&PASSING).any(|part| key.contains(part)) && !key.ends_with(":feed");
        let named = if is_looked_at && damage != "a field is gone" {
            self.named().await
        } else {
            Ok(BTreeSet::new())
        };
        self.redis(&["RENAME", "aside", key]).await?;
        answered?;
        let is_named = |named: &BTreeSet<String>| named.iter().any(|one| one.split(' ').next() == Some(key));
        if is_looked_at && damage == "another kind" {
            let named = named?;
            // The hash of what was noted is the one that notes.
            ensure!(is_named(&named) || key == "sp:damaged", "{key}, {damage}: {named:?}");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_answered_whatever_is_damaged() -> Result<()> {
    let scene = Scene::set_up().await?;
    ensure!(scene.named().await?.is_empty(), "{:?}", scene.named().await?);
    scene.answers("-", "nothing").await?;
    let own = shared::digest::sha256_hex(scene.token.as_bytes());
    let mut keys = scene.stage.keys("sp:*").await?;
    keys.sort();
    // Who leads the notifying, and what is held at this moment, is another in the next one.
    keys.retain(|key| !key.starts_with("sp:{notify}:leader") && !key.contains("sp:token:"));
    ensure!(keys.len() > 40, "{keys:?}");
    for key in &keys {
        let kind: String = scene.text(&["TYPE", key]).await?;
        let another: &[&str] = match kind.as_str() {
            "string" => &["DEL", key, ";", "SADD", key, "x"],
            "none" => continue,
            _ => &["DEL", key, ";", "SET", key, "x"],
        };
        scene.damaged(key, "another kind", another).await?;
        match kind.as_str() {
            "string" => scene.damaged(key, "garbage", &["SET", key, "\u{1}{rubbish"]).await?,
            "set" => scene.damaged(key, "a member too many", &["SADD", key, "\u{1}rubbish"]).await?,
            "zset" => scene.damaged(key, "a member too many", &["ZADD", key, "1", "\u{1}rubbish"]).await?,
            "hash" => {
                let fields: Vec<String> = redis::from_redis_value(scene.redis(&["HKEYS", key]).await?)?;
                // Whose own token can't be read is let in nowhere.
                for field in fields.iter().filter(|field| **field != own).take(8) {
                    scene
                        .damaged(key, &format!("garbage as {field}"), &["HSET", key, field, "\u{1}{rubbish"])
                        .await?;
                    scene.damaged(key, "a field is gone", &["HDEL", key, field]).await?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_member_of_each_list_is_named_by_every_command_and_told_until_it_is_gone() -> Result<()> {
    let mut scene = Scene::set_up().await?;
    let tokens: Vec<String> = redis::from_redis_value(scene.redis(&["HKEYS", "sp:{api}:tokens"]).await?)?;
    let own = shared::digest::sha256_hex(scene.token.as_bytes());
    let other = tokens.iter().find(|token| **token != own).context("another token")?.clone();
    let bad: [(&str, Option<&str>); 10] = [
        ("sp:account:pebble:second", None),
        ("sp:tenant:other", None),
        ("sp:frontend:rim", None),
        ("sp:{api}:tokens", Some(&other)),
        ("sp:brakes", Some("issuance:tag:other")),
        ("sp:delegations", Some("two.example")),
        ("sp:{ca:pebble}:pauses", Some("keyChange:127.0.0.1")),
        ("sp:{sightings}:denials", Some("also.example")),
        ("sp:nodes", Some("gone/issuer/1")),
        ("sp:frontends-troubled", Some("edge")),
    ];
    let mut before = Vec::new();
    for (key, field) in bad {
        match field {
            None => {
                before.push(scene.text(&["GET", key]).await?);
                scene.redis(&["SET", key, "{\"v\":"]).await?;
            }
            Some(field) => {
                before.push(scene.text(&["HGET", key, field]).await.unwrap_or_default());
                scene.redis(&["HSET", key, field, "{\"v\":"]).await?;
            }
        }
    }
    let commands: [(&[&str], &str, &str); 10] = [
        (&["account", "list"], "default", "sp:account:pebble:second"),
        (&["tenant", "list"], "acme", "sp:tenant:other"),
        (&["frontend", "list"], "edge", "sp:frontend:rim"),
        (&["token", "list"], "panel", &other),
        (&["delegation", "list"], "one.example", "sp:delegations two.example"),
        (&["limits"], "renewalInfo", "keyChange"),
        (&["sightings"], "seen.example", "sp:{sightings}:denials also.example"),
        (&["key", "status"], "issuer", "gone/issuer/1"),
        (&["site", "list"], "one.example", "two.example"),
        (&["status"], "one.example", "sp:brakes issuance:tag:other"),
    ];
    for (command, good, damaged) in commands {
        let shown = scene.stage.json(command).await?.to_string();
        ensure!(shown.contains(good) && shown.contains(damaged), "{command:?}: {shown}");
        ensure!(!shown.contains("not-found"), "{command:?}: {shown}");
        let text = scene.stage.signpost.issuer(command).await?.success()?.stdout;
        ensure!(text.contains(good), "{command:?}: {text}");
    }
    // A brake whose record can't be read is on, and can be released.
    let brakes = scene.get("/brakes").await?.1;
    ensure!(brakes.contains("tag:none") && brakes.contains("tag:other"), "{brakes}");

    // The daemon tells of each, and of each again once it can be read.
    let told = async |kind: &str| {
        let told = scene.stage.events(&[kind]).await.unwrap_or_default();
        told.iter()
            .filter_map(|event| Some(event["data"]["key"].as_str()?.to_owned()))
            .collect::<BTreeSet<_>>()
    };
    let keys = [
        "sp:account:pebble:second",
        "sp:tenant:other",
        "sp:brakes issuance:tag:other",
        "sp:nodes gone/issuer/1",
    ];
    until_true("it is told what is damaged", SOON, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let told = told("record-damaged").await;
        keys.iter().all(|key| told.contains(*key))
    })
    .await?;
    // What can't be read of a node that does not say anything new is forgotten.
    until_true("the node is forgotten", SOON, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        scene.text(&["HGET", "sp:nodes", "gone/issuer/1"]).await.is_err()
    })
    .await?;
    // What frontends follow is put right as well.
    let chunk = format!("sp:{{{}}}:feed:0", scene.ids().await?[1].partition());
    scene.redis(&["SET", &chunk, "rubbish"]).await?;
    until_true("the feed is put right", SOON, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        told("record-damaged").await.contains(&chunk) && told("record-recovered").await.contains(&chunk)
    })
    .await?;
    // Also by a daemon that has not told of it.
    let due = format!("sp:{{{}}}:due", scene.ids().await?[0].partition());
    scene.redis(&["COPY", &due, "aside"]).await?;
    scene.redis(&["SET", &due, "rubbish"]).await?;
    until_true("the schedule is told", SOON, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        told("record-damaged").await.contains(&due)
    })
    .await?;
    scene.daemon.take().context("a daemon")?.process.kill9().await?;
    scene.redis(&["RENAME", "aside", &due]).await?;
    for ((key, field), text) in bad.iter().zip(&before) {
        match field {
            None => scene.redis(&["SET", key, text]).await?,
            Some(field) if text.is_empty() => scene.redis(&["HDEL", key, field]).await?,
            Some(field) => scene.redis(&["HSET", key, field, text]).await?,
        };
    }
    scene.daemon = Some(scene.stage.signpost.start_issuer().await?);
    until_true("nothing is damaged any more", SOON, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let status: Value =
            serde_json::from_str(&scene.get("/status").await.unwrap_or_default().1).unwrap_or_default();
        status["damaged"].as_array().is_some_and(Vec::is_empty)
    })
    .await?;
    Ok(())
}
