//! What is asked of a store before it is trusted, and before it is written into.

use super::{Store, StoreError, discovery::unlikely_successors, keys, open::Role};
use crate::domain::Partition;
use redis::{FromRedisValue, Value, cmd};
use std::{collections::HashMap, sync::LazyLock};

/// The version of the layout that this program writes.
const SCHEMA: u32 = 2;
/// Functions and the access rights that the roles use came with 7.0.
const OLDEST_REDIS: (u32, u32) = (7, 0);

/// Keys that never exist: of each server of a Cluster there is one.
static PROBES: LazyLock<Vec<String>> =
    LazyLock::new(|| Partition::all().map(|partition| format!("sp:{{{partition}}}:startup-check")).collect());

/// What a store is, and what an operator should know of it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Health {
    pub redis_version: String,
    pub append_only: bool,
    /// `always`, `everysec`, `no`; absent where the server doesn't say.
    pub append_fsync: Option<String>,
    /// Connected ones; in a Cluster, of the primary that has the fewest.
    pub replicas: u32,
    pub used_memory_bytes: u64,
    /// Whether it takes writes at present. One that doesn't can be read all the same.
    pub takes_writes: bool,
    /// What can be lost, and what should be changed.
    pub warnings: Vec<String>,
}

impl Store {
    /// Asks what the store is, and refuses one that would lose things. Writes nothing: a store that is full, read-only or
    /// without its replicas can be looked at.
    ///
    /// # Errors
    /// [`StoreError::Unsuitable`] with the setting to change, [`StoreError::NewerSchema`], or that it can't be asked.
    pub async fn check(&self, confirm_replicas: u32) -> Result<Health, StoreError> {
        let mut servers = Vec::new();
        for (_, info) in self.link.ask_each::<String>(&cmd("INFO")).await? {
            servers.push(health_of(&info.map_err(lacking_for("INFO"))?, self.link.servers.are_many())?);
        }
        let mut health = servers.into_iter().reduce(Health::together).unwrap_or_default();
        if self.role != Role::Issuer {
            self.check_rights().await?;
        }
        if self.role == Role::Challenge {
            return Ok(health);
        }
        self.check_schema().await?;
        if self.role == Role::Issuer {
            health.append_fsync = self.append_fsync().await;
            health.warnings = what_can_be_lost(&health, confirm_replicas);
            health.warnings.extend(self.unequal_priorities(confirm_replicas));
            if health.append_only {
                health.warnings.extend(self.check_default_user().await?);
            }
            match self.probe_writing().await {
                Ok(()) => health.takes_writes = true,
                Err(error) => health.warnings.push(format!(
                    "the store takes no writes, so nothing can be ordered or changed: {}",
                    crate::error::chain(&error)
                )),
            }
        }
        Ok(health)
    }

    /// How much of the memory that a server may use it uses, from 0 to 1 and more: of the fullest. `None`: it may use any.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn fullness(&self) -> Result<Option<f64>, StoreError> {
        let mut fullest: Option<f64> = None;
        for (_, info) in self.link.ask_each::<String>(cmd("INFO").arg("memory")).await? {
            let info = info?;
            let bytes = |name: &str| field(&info, name).and_then(|bytes| bytes.parse::<u64>().ok());
            if let (Some(used), Some(most @ 1..)) = (bytes("used_memory"), bytes("maxmemory")) {
                let share = used as f64 / most as f64;
                fullest = Some(fullest.map_or(share, |fullest| fullest.max(share)));
            }
        }
        Ok(fullest)
    }

    /// Makes sure that an issuer may write, claims the layout's version, and brings an older layout up to date.
    ///
    /// # Errors
    /// [`StoreError`]: it takes no writes, or a right is lacking.
    pub async fn prepare_for_writing(&self) -> Result<(), StoreError> {
        self.check_rights().await?;
        self.probe_scripts().await?;
        let _: Option<String> = self.link.query(cmd("SET").arg(keys::SCHEMA).arg(SCHEMA).arg("NX")).await?;
        match self.check_schema().await? {
            Some(found) if found < SCHEMA => {
                tracing::info!(found, "the store's layout is brought up to date");
                self.adopt_all_into_feed().await?;
                self.link.query(cmd("SET").arg(keys::SCHEMA).arg(SCHEMA)).await
            }
            _ => Ok(()),
        }
    }

    /// Asks every primary to write nothing: it answers whether it would write something.
    ///
    /// # Errors
    /// [`StoreError`]: why one of them wouldn't.
    pub(super) async fn probe_writing(&self) -> Result<(), StoreError> {
        let question = |layout: &super::servers::Layout, slot: u16| {
            let key = layout.key_at(slot, &PROBES)?;
            // Of nothing, at the beginning of what isn't there: refused like any write, and without any effect.
            Some(cmd("SETRANGE").arg(key).arg(0).arg("").clone())
        };
        for (_, answer) in self.link.ask_each_for::<i64>(question).await? {
            answer.map_err(lacking_for("SETRANGE"))?;
        }
        Ok(())
    }

    /// Sentinel goes by the priority first, and by what a replica has received second.
    fn unequal_priorities(&self, confirm_replicas: u32) -> Option<String> {
        let layout = self.link.servers.known()?;
        let replicas = layout.replicas()?;
        if unlikely_successors(replicas) == 0 {
            return None;
        }
        let priorities: Vec<u64> = replicas.iter().map(|replica| replica.priority).collect();
        let waits = match confirm_replicas {
            0 => "a failover may choose a replica that lacks what another one has".to_owned(),
            _ => format!(
                "so that nothing confirmed is lost, {} replicas must confirm each write",
                layout.replicas_to_wait_for(confirm_replicas)
            ),
        };
        Some(format!(
            "the replicas have different replica-priority ({priorities:?}), and Sentinel promotes by it before it looks at \
             what they have received: {waits}. Give all of them the same"
        ))
    }

    /// Of several servers the most careless one's.
    async fn append_fsync(&self) -> Option<String> {
        // Managed servers forbid CONFIG; then nobody knows.
        let answers = self.link.ask_each(cmd("CONFIG").arg("GET").arg("appendfsync")).await.ok()?;
        let mut found = Vec::new();
        for (_, answer) in answers {
            let mut settings: HashMap<String, String> = answer.ok()?;
            found.push(settings.remove("appendfsync")?);
        }
        let worst = ["no", "everysec", "always"];
        worst.iter().find(|value| found.iter().any(|known| known == *value)).map(|value| (*value).to_owned())
    }

    /// Redis reads its append-only file back with the rights of the user `default`, and leaves out, without a word, each
    /// script that this user may not run: a restart would lose orders and certificates.
    async fn check_default_user(&self) -> Result<Option<String>, StoreError> {
        let question = cmd("ACL").arg("GETUSER").arg("default").clone();
        for (_, answer) in self.link.ask_each::<HashMap<String, Value>>(&question).await? {
            let user = match answer {
                Ok(user) => user,
                Err(StoreError::Refused(_)) => {
                    return Ok(Some("it can't be checked whether the Redis user `default` may read the append-only file back (grant +acl|getuser to this user): were it restricted, a restart of Redis would lose orders and certificates".into()));
                }
                Err(error) => return Err(error),
            };
            if !may_do_everything(&user) {
                return Err(StoreError::Unsuitable(
                    "the Redis user `default` is restricted, and Redis reads its append-only file back with that user's rights: \
                     a restart would lose orders and certificates. Set `user default off resetpass ~* &* +@all`: nobody can \
                     log in as it, because it is off"
                        .into(),
                ));
            }
        }
        Ok(None)
    }

    /// The version of the layout, where there is one.
    async fn check_schema(&self) -> Result<Option<u32>, StoreError> {
        let found: Option<u32> =
            self.link.query(cmd("GET").arg(keys::SCHEMA)).await.map_err(lacking_for("GET sp:schema"))?;
        match found {
            Some(found) if found > SCHEMA => Err(StoreError::NewerSchema { found, known: SCHEMA }),
            found => Ok(found),
        }
    }

    pub(super) async fn probe_reading(&self, key: &str) -> Result<(), StoreError> {
        let answer: Result<Option<String>, _> = self.link.query(cmd("GET").arg(key)).await;
        answer.map_err(lacking_for(&format!("GET {key}"))).map(drop)
    }

    /// What every script needs.
    async fn probe_scripts(&self) -> Result<(), StoreError> {
        let key = "sp:startup-check";
        let script = "redis.call('TIME') redis.call('HSET', KEYS[1], 'a', 1) redis.call('HDEL', KEYS[1], 'a') return 1";
        let mut probe = cmd("EVAL");
        probe.arg(script).arg(1).arg(key);
        let _: i64 = self.link.query(&probe).await.map_err(lacking_for("EVAL"))?;
        Ok(())
    }
}

impl Health {
    /// Two servers of one store.
    fn together(self, other: Self) -> Self {
        Self {
            redis_version: if self.redis_version == other.redis_version {
                self.redis_version
            } else {
                format!("{}, {}", self.redis_version, other.redis_version)
            },
            append_only: self.append_only && other.append_only,
            append_fsync: None,
            replicas: self.replicas.min(other.replicas),
            used_memory_bytes: self.used_memory_bytes.saturating_add(other.used_memory_bytes),
            takes_writes: false,
            warnings: Vec::new(),
        }
    }
}

/// One server's health from its answer to `INFO`.
fn health_of(info: &str, in_cluster: bool) -> Result<Health, StoreError> {
    let field = |name: &str| field(info, name);
    if field("redis_mode") == Some("sentinel") {
        return Err(StoreError::Unsuitable(
            "store.url names a Sentinel: write redis+sentinel://HOST,HOST/SERVICE".into(),
        ));
    }
    if field("cluster_enabled") == Some("1") && !in_cluster {
        return Err(StoreError::Unsuitable(
            "store.url names a node of a Redis Cluster: write redis+cluster://HOST,HOST".into(),
        ));
    }
    let version = field("redis_version").unwrap_or("0").to_owned();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST_REDIS {
        return Err(StoreError::Unsuitable(format!("Redis {version} is too old: 7.0 or newer is needed")));
    }
    if let Some(policy) = evicting_policy(info) {
        return Err(StoreError::Unsuitable(format!(
            "Redis may throw records away: its maxmemory-policy is {policy}. Set maxmemory-policy noeviction"
        )));
    }
    Ok(Health {
        append_only: field("aof_enabled") == Some("1"),
        replicas: field("connected_slaves").and_then(|n| n.parse().ok()).unwrap_or(0),
        used_memory_bytes: field("used_memory").and_then(|n| n.parse().ok()).unwrap_or(0),
        redis_version: version,
        ..Health::default()
    })
}

/// One line of what `INFO` answers.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The policy of a server that may throw records away.
pub(super) fn evicting_policy(info: &str) -> Option<&str> {
    Some(field(info, "maxmemory_policy").unwrap_or("unknown")).filter(|policy| *policy != "noeviction")
}

fn may_do_everything(user: &HashMap<String, Value>) -> bool {
    let text = |field: &str| {
        user.get(field).and_then(|value| String::from_redis_value(value.clone()).ok()).unwrap_or_default()
    };
    text("commands").trim() == "+@all" && text("keys").split_whitespace().any(|keys| keys == "~*")
}

/// A right that is lacking is named, with what needs it.
pub(super) fn lacking_for(what: &str) -> impl Fn(StoreError) -> StoreError {
    move |error| match error {
        StoreError::Refused(e) if e.code() == Some("NOPERM") => {
            StoreError::LacksRight(format!("`{what}`: {}", e.detail().unwrap_or("NOPERM")))
        }
        other => other,
    }
}

fn what_can_be_lost(health: &Health, confirm_replicas: u32) -> Vec<String> {
    let mut warnings = Vec::new();
    if !health.append_only {
        warnings.push("Redis keeps no append-only file (appendonly no): a restart loses everything since its last snapshot, keys of issued certificates included".into());
    } else if health.append_fsync.as_deref() == Some("everysec") && confirm_replicas == 0 {
        warnings.push("Redis writes its append-only file once a second and no replica confirms (store.confirm_replicas = 0): a power failure loses up to two seconds of keys and orders, and so may a crash while its disk is busy. Set appendfsync always, or confirm by replicas".into());
    } else if health.append_fsync.as_deref() == Some("no") {
        warnings.push("Redis leaves it to the system when its append-only file is written (appendfsync no): a power failure loses half a minute or more".into());
    }
    if health.replicas < confirm_replicas {
        warnings.push(format!(
            "{confirm_replicas} replicas must confirm and {} are connected: no order can be placed",
            health.replicas
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str, more: &str) -> String {
        format!("redis_version:{version}\r\nredis_mode:standalone\r\nmaxmemory_policy:noeviction\r\n{more}")
    }

    #[test]
    fn a_server_that_would_lose_things_is_refused_with_what_to_change() {
        let refused = |info: &str| match health_of(info, false) {
            Err(StoreError::Unsuitable(what)) => what,
            other => panic!("{other:?}"),
        };
        for version in ["6.2.14", "6.99.99", "2.8.24", "nonsense"] {
            assert!(refused(&info(version, "")).contains("7.0 or newer"), "{version}");
        }
        for version in ["7.0.0", "7.2.4", "8.4.0", "10.0.1"] {
            assert_eq!(health_of(&info(version, ""), false).unwrap().redis_version, version);
        }
        for policy in ["allkeys-lru", "volatile-ttl", "volatile-lru", "allkeys-random"] {
            let evicting = info("7.0.0", "").replace("noeviction", policy);
            assert!(refused(&evicting).contains("Set maxmemory-policy noeviction"), "{policy}");
        }
        // Who doesn't say is not trusted.
        assert!(refused("redis_version:7.0.0\r\n").contains("is unknown"));
        assert!(refused(&info("7.0.0", "cluster_enabled:1\r\n")).contains("redis+cluster://"));
        assert!(health_of(&info("7.0.0", "cluster_enabled:1\r\n"), true).is_ok());
        assert!(refused(&info("7.0.0", "").replace("standalone", "sentinel")).contains("redis+sentinel://"));
    }

    /// Row by row as the handbook's table has them.
    #[test]
    fn what_can_be_lost_is_warned_of() {
        let of = |append_only, fsync: Option<&str>, replicas, confirm| {
            let append_fsync = fsync.map(str::to_owned);
            what_can_be_lost(&Health { append_only, append_fsync, replicas, ..Health::default() }, confirm)
        };
        let one = |found: Vec<String>, word: &str| {
            assert!(matches!(&found[..], [warning] if warning.contains(word)), "{word}: {found:?}");
        };
        assert!(of(true, Some("always"), 0, 0).is_empty());
        one(of(true, Some("everysec"), 0, 0), "up to two seconds");
        assert!(of(true, Some("everysec"), 1, 1).is_empty());
        one(of(true, Some("no"), 0, 0), "half a minute or more");
        one(of(true, Some("no"), 1, 1), "half a minute or more");
        one(of(false, Some("everysec"), 0, 0), "everything since its last snapshot");
        one(of(false, None, 1, 1), "everything since its last snapshot");
        one(of(true, Some("always"), 1, 2), "2 replicas must confirm and 1 are connected");
    }
}
