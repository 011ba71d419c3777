//! The daemon in a scene, and what an operator sees of its work.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::{
    deadline::{until, until_true},
    signpost::Started,
    stage::Stage,
};

/// How long something may take that the daemon does at once.
pub const SOON: Duration = Duration::from_secs(30);
/// Each look at the fleet is a program that starts and ends.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

impl Stage {
    /// `issuer run`, ended with `kill -9` when the value is dropped.
    pub fn start_daemon(&self) -> Result<Started> {
        self.signpost.start_run("issuer", &["run"])
    }

    /// Runs `issuer` with these arguments, expecting exit code 0 and one JSON document.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        self.signpost.issuer_json(arguments).await
    }

    /// How the group stands that a name belongs to.
    pub async fn site(&self, name: &str) -> Result<Value> {
        let status = self.json(&["status", name]).await?;
        status["sites"].get(0).cloned().with_context(|| format!("{name}: {status:#}"))
    }

    /// Waits until the group of a name stands as wished, and answers how.
    pub async fn until_site(&self, name: &str, what: &str, wished: impl Fn(&Value) -> bool) -> Result<Value> {
        self.until_site_within(SOON, name, what, wished).await
    }

    /// [`Stage::until_site`] with a limit of its own.
    pub async fn until_site_within(
        &self,
        limit: Duration,
        name: &str,
        what: &str,
        wished: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let began = Instant::now();
        loop {
            // A store that is away for a moment says nothing of the site.
            let found = self.site(name).await;
            if let Ok(site) = &found
                && wished(site)
            {
                return found;
            }
            if began.elapsed() >= limit {
                return Err(match found {
                    Ok(site) => anyhow!("{what}: not within {limit:?}: {site:#}"),
                    Err(error) => error.context(format!("{what}: not within {limit:?}")),
                });
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Waits until every certificate of a name's group is there, and nothing is wrong with it.
    pub async fn until_valid(&self, name: &str) -> Result<Value> {
        self.until_site(name, "the certificate is there", |site| site["state"] == "valid").await
    }

    /// Events of these kinds, oldest first.
    pub async fn events(&self, kinds: &[&str]) -> Result<Vec<Value>> {
        let mut line = vec!["--json", "events", "--since", "1d"];
        for kind in kinds {
            line.extend(["--kind", kind]);
        }
        self.signpost.issuer(&line).await?.success()?.json_lines()
    }

    /// Events of these kinds that concern a name.
    pub async fn events_of(&self, name: &str, kinds: &[&str]) -> Result<Vec<Value>> {
        let mut events = self.events(kinds).await?;
        events.retain(|event| list(&event["names"]).contains(&name));
        Ok(events)
    }

    /// Waits until an event of this kind concerns a name, and answers the newest.
    pub async fn until_event(&self, name: &str, kind: &str) -> Result<Value> {
        until(&format!("{name}: an event {kind}"), SOON, || async {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            self.events_of(name, &[kind]).await.ok()?.pop()
        })
        .await
    }

    /// Waits until the daemon has nothing to do: nothing is due, nothing is worked on.
    pub async fn until_idle(&self) -> Result<()> {
        until_true("the daemon is idle", SOON, || async {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let Ok(status) = self.json(&["status", "--limit", "1"]).await else { return false };
            let load = &status["fleet"]["load"];
            let ready = load["ready"].as_object().is_some_and(|ready| ready.values().all(|count| count == 0));
            // What is worked on is due again when its lease ends.
            ready && load["overdue"] == 0 && self.leases().await.is_ok_and(|leases| leases == 0)
        })
        .await
    }

    /// How many groups somebody works on.
    async fn leases(&self) -> Result<usize> {
        let mut held = 0;
        for key in self.keys("sp:{p*}:site:*").await? {
            let answer = self.redis.command(&["HEXISTS", &key, "lease_until"]).await?;
            held += usize::from(redis::from_redis_value::<bool>(answer)?);
        }
        Ok(held)
    }

    /// `KEYS`, which a test may use.
    pub async fn keys(&self, pattern: &str) -> Result<Vec<String>> {
        Ok(redis::from_redis_value(self.redis.command(&["KEYS", pattern]).await?)?)
    }

    /// The serial number that is served for a name.
    pub async fn serial(&self, name: &str) -> Result<String> {
        let site = self.site(name).await?;
        match site["certificates"][0]["serial"].as_str() {
            Some(serial) => Ok(serial.to_owned()),
            None => bail!("{name}: no certificate: {site:#}"),
        }
    }
}

/// The words of a JSON array.
pub fn list(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Numbers for the configuration: `issuer.retry_seconds`, `issuer.parked_seconds`.
pub fn seconds(values: &[f64]) -> Vec<toml::Value> {
    values.iter().map(|value| (*value).into()).collect()
}
