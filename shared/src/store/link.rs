//! The connection for reads and for writes that may be lost: it heals itself.
//!
//! The library reconnects when the connection breaks, but never gives up one whose peer is silent. So each command has a
//! deadline, and a command that misses it replaces the connection. A watchdog ([`Store::watch`](super::Store::watch)) does
//! the same while nothing else is asked.

use super::{
    Embedded, StoreError,
    node::Node,
    parts::{Answered, asking, by_slot, first_slot, put_together},
    scripts::Script,
    servers::{Reaction, Servers, is_absent},
    slots::slot_of,
};
use futures_util::future::try_join_all;
use redis::{
    Cmd, FromRedisValue, Pipeline, RedisError, Value,
    aio::{ConnectionLike, ConnectionManager},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};

/// How long a command may take before its connection is replaced.
pub(super) const DEADLINE: Duration = Duration::from_millis(1500);
/// Servers that one command is sent to at most, each having said that it is another's.
pub(super) const MOST_TRIES: usize = 4;
/// Between two tries at a server that is gone.
pub(super) const UNTIL_A_SUCCESSOR: Duration = Duration::from_millis(50);

pub(super) struct Link {
    pub(super) servers: Arc<Servers>,
    embedded: Option<Arc<Embedded>>,
}

impl Link {
    /// Connects when it is first used.
    pub(super) const fn new(servers: Arc<Servers>, embedded: Option<Arc<Embedded>>) -> Self {
        Self { servers, embedded }
    }

    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        parse(self.run(slot_of(command), Request::Command(command)).await?)
    }

    /// Sends several commands at once. In a Cluster they may be of several slots; nothing is said about their order then.
    pub(super) async fn pipe<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StoreError> {
        if !self.servers.are_many() || pipeline.is_transaction() {
            return parse(self.run(first_slot(pipeline), Request::Pipeline(pipeline)).await?);
        }
        let parts = by_slot(pipeline);
        let answers = parts.iter().map(async |part| {
            let answer = self.run(part.slot, Request::Pipeline(&part.pipeline)).await?;
            parse::<Vec<Value>>(answer)
        });
        let answers = try_join_all(answers).await?;
        Ok(pipeline.query_async(&mut Answered(put_together(&parts, answers))).await?)
    }

    /// Runs a script, by its text where the server doesn't have it yet.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        match self.query(&script.call(keys, arguments)).await {
            Err(StoreError::Refused(e)) if e.code() == Some("NOSCRIPT") => {
                self.query(&script.call_by_text(keys, arguments)).await
            }
            answer => answer,
        }
    }

    /// Asks every server the same, each with the first slot that it serves.
    pub(super) async fn ask_each<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<Vec<(u16, Result<T, StoreError>)>, StoreError> {
        let until = Instant::now() + DEADLINE;
        loop {
            let answers = self.ask_each_once(command, until).await?;
            let is_gone = |answer: &Result<T, StoreError>| matches!(answer, Err(StoreError::Unavailable(error)) if is_absent(error));
            // As with a single command: it may have a successor in a moment.
            let again = self.servers.may_change() && answers.iter().any(|(_, answer)| is_gone(answer));
            if !again || Instant::now() >= until {
                return Ok(answers);
            }
            sleep(UNTIL_A_SUCCESSOR).await;
        }
    }

    async fn ask_each_once<T: FromRedisValue>(
        &self,
        command: &Cmd,
        until: Instant,
    ) -> Result<Vec<(u16, Result<T, StoreError>)>, StoreError> {
        let layout =
            timeout_at(until, self.servers.layout()).await.map_err(|_| StoreError::Timeout(DEADLINE))??;
        let asked = layout.shards().into_iter().map(async |(slot, node)| {
            let answer = self.ask(&node, Request::Command(command), until).await;
            if let Err(Trouble::Late) = &answer {
                self.servers.doubt(&layout);
            } else if let Err(Trouble::Server(error)) = &answer {
                self.servers.react(&layout, &node, error);
            }
            (slot, answer.map_err(StoreError::from).and_then(parse))
        });
        Ok(futures_util::future::join_all(asked).await)
    }

    async fn run(&self, slot: Option<u16>, request: Request<'_>) -> Result<Value, StoreError> {
        let until = Instant::now() + DEADLINE;
        let mut tries = MOST_TRIES;
        loop {
            let layout = timeout_at(until, self.servers.layout())
                .await
                .map_err(|_| StoreError::Timeout(DEADLINE))??;
            let node = layout.node_of(slot)?;
            let trouble = match self.ask(node, request, until).await {
                Ok(value) => return Ok(value),
                Err(trouble) => trouble,
            };
            let Trouble::Server(error) = &trouble else {
                self.servers.doubt(&layout);
                return Err(trouble.into());
            };
            let reaction = self.servers.react(&layout, node, error);
            // A server that is gone may have a successor in a moment: until the command's time is over.
            if is_absent(error) && matches!(reaction, Reaction::Again) {
                sleep(UNTIL_A_SUCCESSOR).await;
            } else {
                tries -= 1;
            }
            match reaction {
                Reaction::Again if tries > 0 && Instant::now() < until => {}
                Reaction::AskAt(node) => return Ok(self.ask_at(&node, request, until).await?),
                Reaction::Again | Reaction::GiveUp => return Err(trouble.into()),
            }
        }
    }

    async fn ask_at(&self, node: &Node, request: Request<'_>, until: Instant) -> Result<Value, Trouble> {
        match request {
            Request::Pipeline(pipeline) => self.ask(node, Request::Pipeline(&asking(pipeline)), until).await,
            Request::Command(command) => {
                let mut alone = Pipeline::new();
                alone.add_command(command.clone());
                let value = self.ask(node, Request::Pipeline(&asking(&alone)), until).await?;
                let mut values: Vec<Value> = parse(value).map_err(Trouble::Store)?;
                Ok(values.pop().unwrap_or(Value::Nil))
            }
        }
    }

    /// Asks one server.
    async fn ask(&self, node: &Node, request: Request<'_>, mut until: Instant) -> Result<Value, Trouble> {
        let mut revived = false;
        loop {
            let used = node.manager();
            let mut connection = ConnectionManager::clone(&used);
            match timeout_at(until, request.send(&mut connection)).await {
                Ok(Ok(value)) => {
                    node.set_healthy(true);
                    return Ok(value);
                }
                Err(_) => {
                    node.set_healthy(false);
                    node.replace(&used);
                    return Err(Trouble::Late);
                }
                Ok(Err(error)) => {
                    if matches!(StoreError::from(error.clone()), StoreError::Unavailable(_)) {
                        node.set_healthy(false);
                    }
                    // A store of our own that nobody runs is started again; the command never reached it.
                    match &self.embedded {
                        Some(embedded) if is_absent(&error) && !revived => {
                            revived = true;
                            embedded.ensure_running().await.map_err(|e| Trouble::Store(e.into()))?;
                            node.replace(&used);
                            until = Instant::now() + DEADLINE;
                        }
                        _ => return Err(Trouble::Server(error)),
                    }
                }
            }
        }
    }
}

/// What is asked of the server.
#[derive(Clone, Copy)]
enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
}

/// Why there is no answer.
enum Trouble {
    Late,
    /// The server, or the way to it.
    Server(RedisError),
    Store(StoreError),
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Late => Self::Timeout(DEADLINE),
            Trouble::Server(error) => error.into(),
            Trouble::Store(error) => error,
        }
    }
}

impl Request<'_> {
    async fn send(self, connection: &mut ConnectionManager) -> Result<Value, RedisError> {
        match self {
            // An error reply is a value to the library until it is asked for.
            Self::Command(command) => connection.req_packed_command(command).await?.extract_error(),
            Self::Pipeline(pipeline) => pipeline.query_async(connection).await,
        }
    }
}

fn parse<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    T::from_redis_value(value).map_err(|e| StoreError::corrupt("reply", e))
}
