//! A primary, two replicas and three Sentinels that make another the primary within seconds.

use std::{fmt::Write as _, net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{
    deadline::{START_LIMIT, until, until_true},
    ports,
    process::Process,
    redis::{Address, Redis, RedisOptions},
};

/// The name by which the Sentinels know the primary.
pub const SERVICE: &str = "signpost-store";
const SENTINELS: usize = 3;
const REPLICAS: usize = 2;
/// Silence after which a Sentinel takes a server for dead. Shorter, and a machine that compiles would fail over by itself.
const DOWN_AFTER_MS: u32 = 1000;
const FAILOVER_TIMEOUT_MS: u32 = 4000;
/// A failover takes about two seconds here; one whose election failed is tried again after twice its timeout.
const FAILOVER_LIMIT: Duration = Duration::from_secs(60);
const STARTS: u32 = 5;

/// The servers. Their Sentinels end first.
pub struct SentinelStore {
    sentinels: Vec<Sentinel>,
    pub redis: Vec<Redis>,
    directory: TempDir,
}

struct Sentinel {
    address: SocketAddr,
    process: Process,
}

impl SentinelStore {
    /// Returns once every Sentinel knows the others and both replicas are in step.
    pub async fn start() -> Result<Self> {
        // A replica that comes back must not wait for others that might want the same copy.
        let options = |replica_of| RedisOptions {
            replica_of,
            extra: "repl-diskless-sync-delay 0\nrepl-timeout 10".to_owned(),
            ..RedisOptions::default()
        };
        let primary = Redis::start(options(None)).await?;
        let address = tcp(&primary)?;
        let mut redis = vec![primary];
        for _ in 0..REPLICAS {
            redis.push(Redis::start(options(Some(address))).await?);
        }
        in_step(&redis[0], REPLICAS).await?;
        let directory = tempfile::Builder::new().prefix("sentinels-").tempdir()?;
        let mut store = Self { sentinels: Vec::new(), redis, directory };
        for number in 0..SENTINELS {
            let sentinel = store.start_sentinel(number, address).await?;
            store.sentinels.push(sentinel);
        }
        let others = (SENTINELS - 1).to_string();
        for sentinel in &store.sentinels {
            until_true("a Sentinel knows the others and the replicas", START_LIMIT, async || {
                let Ok(fields) = sentinel.master().await else { return false };
                let is = |name: &str, wanted: &str| {
                    fields.iter().any(|(key, value)| key == name && value == wanted)
                };
                is("num-other-sentinels", &others) && is("num-slaves", &REPLICAS.to_string())
            })
            .await?;
        }
        Ok(store)
    }

    /// For `[store] url`.
    pub fn url(&self) -> String {
        let addresses: Vec<String> =
            self.sentinels.iter().map(|sentinel| sentinel.address.to_string()).collect();
        format!("redis+sentinel://{}/{SERVICE}", addresses.join(","))
    }

    /// Where the Sentinels listen.
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        self.sentinels.iter().map(|sentinel| sentinel.address).collect()
    }

    /// The number of the primary that most Sentinels name, and that says so itself.
    pub async fn primary(&self) -> Result<usize> {
        until("the Sentinels agree on a primary", FAILOVER_LIMIT, async || self.agreed().await).await
    }

    /// `kill -9` of the primary, whose number is returned. Its successor isn't chosen yet.
    pub async fn kill_primary(&mut self) -> Result<usize> {
        let number = self.primary().await?;
        self.redis[number].kill9().await?;
        Ok(number)
    }

    /// Waits until another one than `dead` is the primary, and returns its number.
    pub async fn successor_of(&self, dead: usize) -> Result<usize> {
        until("a replica becomes the primary", FAILOVER_LIMIT, async || {
            self.agreed().await.filter(|number| *number != dead)
        })
        .await
    }

    /// Starts a server again that was killed, and waits until it follows the primary in step with the other replicas.
    pub async fn start_again(&mut self, number: usize) -> Result<()> {
        self.redis[number].start_again().await?;
        // Asked anew each time: on a slow machine there may be another failover in between.
        until_true("the replicas are in step", FAILOVER_LIMIT, async || match self.agreed().await {
            Some(primary) => has_in_step(&self.redis[primary], REPLICAS).await,
            None => false,
        })
        .await
    }

    async fn agreed(&self) -> Option<usize> {
        let mut votes = vec![0; self.redis.len()];
        for sentinel in &self.sentinels {
            let fields = sentinel.master().await.ok()?;
            let port = fields.iter().find(|(key, _)| key == "port")?.1.clone();
            let at = |redis: &Redis| tcp(redis).is_ok_and(|address| address.port().to_string() == port);
            votes[self.redis.iter().position(at)?] += 1;
        }
        let number = votes.iter().position(|votes| *votes > SENTINELS / 2)?;
        let info = self.redis[number].command(&["INFO", "replication"]).await.ok()?;
        let info: String = redis::from_redis_value(info).ok()?;
        info.contains("role:master").then_some(number)
    }

    async fn start_sentinel(&self, number: usize, primary: SocketAddr) -> Result<Sentinel> {
        for _ in 0..STARTS {
            let address = ports::free_address()?;
            let directory = self.directory.path().join(format!("{number}-{}", address.port()));
            std::fs::create_dir(&directory)?;
            let mut config = String::new();
            writeln!(config, "bind 127.0.0.1\nport {}\ndir {}", address.port(), directory.display())?;
            writeln!(config, "sentinel monitor {SERVICE} {} {} 2", primary.ip(), primary.port())?;
            writeln!(config, "sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}")?;
            writeln!(config, "sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}")?;
            let path = directory.join("sentinel.conf");
            std::fs::write(&path, config)?;
            let mut command = Command::new("redis-sentinel");
            command.arg(&path);
            let process = Process::spawn(command, "redis-sentinel", &directory.join("sentinel.log"))?;
            let sentinel = Sentinel { address, process };
            let up = sentinel.process.ready(START_LIMIT, || async { sentinel.master().await.is_ok() }).await;
            match up {
                Ok(()) => return Ok(sentinel),
                Err(error) if format!("{error:#}").contains("already in use") => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no free port for a Sentinel after {STARTS} tries")
    }
}

impl Sentinel {
    async fn master(&self) -> Result<Vec<(String, String)>> {
        let client = redis::Client::open(format!("redis://{}", self.address))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        Ok(redis::cmd("SENTINEL").arg("MASTER").arg(SERVICE).query_async(&mut connection).await?)
    }
}

/// Waits until this many replicas are in step with a primary.
pub async fn in_step(primary: &Redis, replicas: usize) -> Result<()> {
    let wait = async || has_in_step(primary, replicas).await;
    until_true("the replicas are in step", FAILOVER_LIMIT, wait).await
}

async fn has_in_step(primary: &Redis, replicas: usize) -> bool {
    let Ok(answer) = primary.command(&["INFO", "replication"]).await else { return false };
    let Ok(text) = redis::from_redis_value::<String>(answer) else { return false };
    text.contains(&format!("connected_slaves:{replicas}")) && text.matches("state=online").count() == replicas
}

fn tcp(redis: &Redis) -> Result<SocketAddr> {
    match redis.address() {
        Address::Tcp(address) => Ok(*address),
        Address::Unix(_) => Err(anyhow::anyhow!("a unix socket")).context("replicas listen on TCP"),
    }
}
