//! A Redis Cluster: three primaries with a replica each.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    deadline::{until, until_true},
    ports,
    redis::{Address, Redis, RedisOptions},
};

const PRIMARIES: usize = 3;
const NODES: usize = 2 * PRIMARIES;
/// Silence after which a node is taken for dead. Shorter, and a machine that compiles would fail over by itself.
const NODE_TIMEOUT_MS: u32 = 1500;
const LIMIT: Duration = Duration::from_secs(60);
const STARTS: u32 = 5;

pub struct Cluster {
    pub nodes: Vec<Redis>,
}

/// A slot on its way from one primary to another.
pub struct Move {
    slot: String,
    from: usize,
    to: usize,
    ids: (String, String),
}

impl Cluster {
    /// Returns once every slot is served and every replica is in step.
    pub async fn start() -> Result<Self> {
        let mut cluster = Self { nodes: Vec::new() };
        for _ in 0..NODES {
            cluster.nodes.push(start_node().await?);
        }
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create"]);
        for node in &cluster.nodes {
            command.arg(tcp(node)?.to_string());
        }
        command.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await?
            .context("redis-cli isn't there: apt-get install redis-tools")?;
        ensure!(
            output.status.success(),
            "redis-cli --cluster create: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        cluster.in_step().await?;
        Ok(cluster)
    }

    /// For `[store] url`: three of the nodes, as an operator would name them.
    pub fn url(&self) -> Result<String> {
        let addresses: Vec<String> =
            self.nodes.iter().take(3).map(|node| Ok(tcp(node)?.to_string())).collect::<Result<_>>()?;
        Ok(format!("redis+cluster://{}", addresses.join(",")))
    }

    /// The number of the primary that serves a key.
    pub async fn primary_of(&self, key: &str) -> Result<usize> {
        until("a node serves the slot", LIMIT, async || {
            for (number, node) in self.nodes.iter().enumerate() {
                // Who serves the slot answers; all others point elsewhere.
                let answers = node.process().is_ok() && node.command(&["EXISTS", key]).await.is_ok();
                if answers && role(node).await.is_some_and(|role| role == "master") {
                    return Some(number);
                }
            }
            None
        })
        .await
    }

    pub async fn is_primary(&self, number: usize) -> Result<bool> {
        Ok(role(&self.nodes[number]).await.context("a node that answers")? == "master")
    }

    /// Waits until a primary has lost its replica.
    pub async fn alone(&self, number: usize) -> Result<()> {
        until_true("the replica is gone", LIMIT, async || {
            let Ok(answer) = self.nodes[number].command(&["INFO", "replication"]).await else { return false };
            redis::from_redis_value::<String>(answer).is_ok_and(|info| info.contains("connected_slaves:0"))
        })
        .await
    }

    /// The slot of this key begins to move: the old primary answers for what it still has and points to the new one for
    /// the rest.
    pub async fn begin_move(&self, key: &str, from: usize, to: usize) -> Result<Move> {
        let redis::Value::Int(slot) = self.nodes[from].command(&["CLUSTER", "KEYSLOT", key]).await? else {
            bail!("no slot")
        };
        let slot = slot.to_string();
        let id = async |number: usize| -> Result<String> {
            Ok(redis::from_redis_value(self.nodes[number].command(&["CLUSTER", "MYID"]).await?)?)
        };
        let ids = (id(from).await?, id(to).await?);
        self.nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids.0]).await?;
        self.nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids.1]).await?;
        Ok(Move { slot, from, to, ids })
    }

    /// One key of the slot goes over, before all others.
    pub async fn move_key(&self, moving: &Move, key: &str) -> Result<()> {
        let to = tcp(&self.nodes[moving.to])?;
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        self.nodes[moving.from].command(&["MIGRATE", &host, &port, key, "0", "5000"]).await.map(drop)
    }

    /// Every key of the slot goes over; the slot is the old primary's still.
    pub async fn move_keys(&self, moving: &Move) -> Result<()> {
        let from = &self.nodes[moving.from];
        let keys: Vec<String> =
            redis::from_redis_value(from.command(&["CLUSTER", "GETKEYSINSLOT", &moving.slot, "100"]).await?)?;
        ensure!(!keys.is_empty(), "the slot has keys");
        let (host, port) =
            (tcp(&self.nodes[moving.to])?.ip().to_string(), tcp(&self.nodes[moving.to])?.port());
        for key in keys {
            from.command(&["MIGRATE", &host, &port.to_string(), &key, "0", "5000"]).await?;
        }
        Ok(())
    }

    /// The slot is the new primary's.
    pub async fn end_move(&self, moving: &Move) -> Result<()> {
        for number in [moving.to, moving.from] {
            let words = ["CLUSTER", "SETSLOT", &moving.slot, "NODE", &moving.ids.1];
            self.nodes[number].command(&words).await?;
        }
        Ok(())
    }

    /// `kill -9`. Its successor isn't chosen yet.
    pub async fn kill(&mut self, number: usize) -> Result<()> {
        self.nodes[number].kill9().await.map(drop)
    }

    /// Waits until every living node knows that every slot is served by a living one.
    pub async fn healed(&self) -> Result<()> {
        let (mut living, mut dead) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            let of_its_kind = if node.process().is_ok() { &mut living } else { &mut dead };
            of_its_kind.push((node, tcp(node)?));
        }
        until_true("every slot is served by a living node", LIMIT, async || {
            for (node, _) in &living {
                let text = async |words: &[&str]| -> Result<String> {
                    Ok(redis::from_redis_value(node.command(words).await?)?)
                };
                let Ok(info) = text(&["CLUSTER", "INFO"]).await else { return false };
                let Ok(map) = text(&["CLUSTER", "NODES"]).await else { return false };
                // A line has eight fields, and the node's slots after them.
                let serves_nothing = |address: &SocketAddr| {
                    map.lines()
                        .filter(|line| line.contains(&format!(" {address}@")))
                        .all(|line| line.split(' ').count() == 8)
                };
                let whole = info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384");
                if !whole || !dead.iter().all(|(_, address)| serves_nothing(address)) {
                    return false;
                }
            }
            true
        })
        .await
    }

    /// Starts a node again that was killed, and waits until all is as in the beginning, with roles exchanged.
    pub async fn start_again(&mut self, number: usize) -> Result<()> {
        self.nodes[number].start_again().await?;
        self.in_step().await
    }

    /// Waits until every primary has a replica in step.
    pub async fn in_step(&self) -> Result<()> {
        self.healed().await?;
        until_true("every primary has a replica in step", LIMIT, async || {
            let mut primaries = 0;
            for node in &self.nodes {
                let Ok(answer) = node.command(&["INFO", "replication"]).await else { return false };
                let Ok(info) = redis::from_redis_value::<String>(answer) else { return false };
                if info.contains("role:master") && info.contains("state=online") {
                    primaries += 1;
                }
            }
            primaries == PRIMARIES
        })
        .await
    }
}

/// Nodes speak to each other on a port of its own each, which must be free too.
async fn start_node() -> Result<Redis> {
    for _ in 0..STARTS {
        let options = RedisOptions {
            extra: format!(
                "cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout {NODE_TIMEOUT_MS}\n\
                 cluster-port {}\nrepl-diskless-sync-delay 0",
                ports::free_port()?
            ),
            ..RedisOptions::default()
        };
        match Redis::start(options).await {
            Err(error) if format!("{error:#}").contains("already in use") => {}
            started => return started,
        }
    }
    bail!("no free port for the bus of a Cluster's node after {STARTS} tries")
}

async fn role(node: &Redis) -> Option<String> {
    let info: String = redis::from_redis_value(node.command(&["INFO", "replication"]).await.ok()?).ok()?;
    info.lines().find_map(|line| line.strip_prefix("role:")).map(|role| role.trim().to_owned())
}

fn tcp(node: &Redis) -> Result<SocketAddr> {
    match node.address() {
        Address::Tcp(address) => Ok(*address),
        Address::Unix(_) => bail!("nodes of a Cluster listen on TCP"),
    }
}
