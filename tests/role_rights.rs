//! What each role may do in Redis: the handbook's lines are enough, and a right that is missing is named before anything is done.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    cluster::Cluster,
    deadline::START_LIMIT,
    redis::{Redis, RedisOptions},
    rights::{self, PASSWORD},
    sentinel::SentinelStore,
    stage::{Stage, StageOptions},
    stored::listed,
};
use shared::{
    config::Config,
    store::{Role, Store, StoreError},
};

/// What a program of this role does before it goes to work.
async fn begin(url: &str, role: Role) -> Result<Vec<String>, StoreError> {
    let text = format!("[store]\nurl = \"{url}\"\n");
    let config = Config::parse(&text, Path::new("x"), &[]).expect("a configuration");
    let store = Store::open(&config.store, role).await?;
    let health = store.check(0).await?;
    if role == Role::Issuer {
        store.prepare_for_writing().await?;
    }
    Ok(health.warnings)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_that_a_role_lacks_is_named() -> Result<()> {
    let redis = Redis::start(RedisOptions::default()).await?;
    let mut taken = 0;
    for role in Role::ALL {
        let all = rights::of_role(role.as_str())?;
        let url = redis.url_as(role.as_str(), PASSWORD);
        rights::set(&redis, role.as_str(), &all).await?;
        let warnings = begin(&url, role).await.with_context(|| format!("{role:?} with all its rights"))?;
        ensure!(warnings.is_empty(), "{role:?}: {warnings:?}");
        for (number, word) in all.iter().enumerate() {
            // What takes away is no right, and these two are everybody's.
            if !word.starts_with(['+', '%', '~']) || ["+hello", "+auth"].contains(&word.as_str()) {
                continue;
            }
            let mut rest = all.clone();
            rest.remove(number);
            rights::set(&redis, role.as_str(), &rest).await?;
            let answer = begin(&url, role).await;
            taken += 1;
            match (word.as_str(), answer) {
                // It goes on without these two, and says of one what that costs.
                ("+config|get", Ok(_)) => {}
                // Only newer servers count it among what blocks, which is taken away before.
                ("+wait", Ok(_)) if role == Role::Issuer => {}
                ("+acl|getuser", Ok(warnings)) => {
                    ensure!(warnings.iter().any(|warning| warning.contains("+acl|getuser")), "{warnings:?}");
                }
                (_, Err(error @ StoreError::LacksRight(_))) => {
                    let (said, name) =
                        (error.to_string(), word.trim_start_matches(['+', '%', '~', 'R', 'W']));
                    let is_named = match word.starts_with('+') {
                        true => said.to_lowercase().contains(name.split('|').next().unwrap_or(name)),
                        // A question of a key of that kind.
                        false => said.contains(name.split(['*', '{']).next().unwrap_or(name)),
                    };
                    ensure!(is_named || word == "+@all", "{role:?} without {word}: {said}");
                }
                (_, answer) => bail!("{role:?} without {word}: {answer:?}"),
            }
        }
        // Half of a right: to read and not to write, and the other way round.
        for (number, word) in all.iter().enumerate().filter(|(_, word)| word.starts_with("%RW~")) {
            for half in ["%R~", "%W~"] {
                let mut rest = all.clone();
                rest[number] = word.replace("%RW~", half);
                rights::set(&redis, role.as_str(), &rest).await?;
                let answer = begin(&url, role).await;
                let is_named = matches!(answer, Err(StoreError::LacksRight(_)));
                // Nothing reads these.
                let is_only_written = half == "%W~" && ["%RW~sp:audit"].contains(&word.as_str());
                ensure!(is_named || is_only_written, "{role:?} with {}: {answer:?}", rest[number]);
            }
        }
    }
    // Another database is chosen by a command of its own.
    for role in [Role::Challenge, Role::Certificates] {
        let mut words = rights::of_role(role.as_str())?;
        let url = format!("{}/1", redis.url_as(role.as_str(), PASSWORD));
        rights::set(&redis, role.as_str(), &words).await?;
        ensure!(begin(&url, role).await.is_err(), "{role:?} chose another database");
        words.push("+select".to_owned());
        rights::set(&redis, role.as_str(), &words).await?;
        begin(&url, role).await.with_context(|| format!("{role:?} with +select"))?;
    }
    ensure!(taken > 45, "only {taken} rights were taken away");
    Ok(())
}

/// The programs with their users, in a Cluster and behind Sentinels that want a login, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_rights_are_enough_in_a_cluster() -> Result<()> {
    let cluster = Cluster::start().await?;
    for node in &cluster.nodes {
        rights::grant(node, &["+cluster|slots", "+asking"]).await?;
    }
    let url = cluster.url()?;
    all_roles_work(&url, "redis+cluster://").await?;
    let certificates = url.replace("://", &format!("://certificates:{PASSWORD}@"));
    for besides in ["+cluster|slots", "+asking"] {
        for node in &cluster.nodes {
            rights::grant(node, &[besides]).await?;
        }
        let answer = begin(&certificates, Role::Certificates).await;
        ensure!(answer.is_err(), "with {besides} alone: {answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_are_enough_behind_sentinels() -> Result<()> {
    let store = SentinelStore::start().await?;
    for redis in &store.redis {
        rights::grant(redis, &[]).await?;
    }
    for address in store.sentinels() {
        let client = redis::Client::open(format!("redis://{address}"))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut user = redis::cmd("ACL");
        user.arg("SETUSER").arg("watcher").arg("on").arg(">seen").arg("-@all");
        user.arg(&["+sentinel|master", "+sentinel|replicas", "+ping", "+hello"]);
        let () = user.query_async(&mut connection).await?;
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "seen\n")?;
    let login = format!("?sentinel_user=watcher&sentinel_password_file={}", file.path().display());
    all_roles_work(&format!("{}{login}", store.url()), "redis+sentinel://").await
}

/// A certificate is ordered, its challenge answered, and it is pulled: each program with the user of its role.
async fn all_roles_work(url: &str, scheme: &str) -> Result<()> {
    let as_user = |role: &str| url.replace(scheme, &format!("{scheme}{role}:{PASSWORD}@"));
    let mut stage =
        Stage::looking_with(StageOptions { store_url: Some(as_user("issuer")), ..StageOptions::default() })
            .await?;
    let challenge = &mut stage.fleet.as_mut().context("a fleet")?.challenge;
    challenge.process.terminate(START_LIMIT).await?;
    stage.signpost.set_environment_of("validation-server", "SIGNPOST_STORE__URL", &as_user("challenge"));
    let _challenge = stage.signpost.start_challenge().await?;
    stage.signpost.set_environment_of("validation-server", "SIGNPOST_STORE__URL", &as_user("certificates"));
    // The role `certificates` has no right to set a store up.
    stage.issue(&["shop.example"]).await?;
    let certificates = stage.signpost.start_certificates().await?;
    let frontend = stage.signpost.issuer_json(&["frontend", "add", "web1", "--scope", "*"]).await?;
    let text = |key: &str| frontend[key].as_str().context("text").map(str::to_owned);
    let names = listed(&certificates, &text("ca_certificate_pem")?, &text("token")?).await?;
    ensure!(names == ["shop.example"], "{names:?}");
    Ok(())
}
