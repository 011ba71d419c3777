//! Connections for writes that the CA is about to be told of.
//!
//! None of them reconnects by itself. Each write and its confirmation go out together, on the same connection; one that
//! failed is thrown away. `WAIT` counts the replicas that have what *this connection* wrote: after a command that changed
//! nothing it may confirm nothing at all. So everything that is confirmed here must write, also where it finds its work
//! done already.

use super::{
    StoreError,
    halt::Halt,
    link::{DEADLINE, SETUP, UNTIL_A_SUCCESSOR, is_broken},
    node::{DialError, Node},
    parts::{asking, by_slot, first_slot, put_together},
    scripts::Script,
    servers::{Reaction, Servers, is_absent},
    slots::slot_of,
};
use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, Value};
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout};

pub(super) struct ConfirmedPool {
    servers: Arc<Servers>,
    replicas: u32,
    halt: Arc<Halt>,
}

/// Why there is no answer.
enum Unanswered {
    Late,
    Server(RedisError),
    Store(StoreError),
}

impl ConfirmedPool {
    pub(super) const fn new(servers: Arc<Servers>, replicas: u32, halt: Arc<Halt>) -> Self {
        Self { servers, replicas, halt }
    }

    /// How many replicas must have each write, as far as it is known who may be promoted.
    pub(super) fn replicas_to_wait_for(&self) -> u32 {
        self.servers.known().map_or(self.replicas, |layout| layout.replicas_to_wait_for(self.replicas))
    }

    /// Runs a script. It has happened, on as many replicas as are required, when this returns `Ok`; when it returns an
    /// error it may have happened all the same, so the script must be safe to repeat, and write when it is repeated.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let value = match self.one(script.call(keys, arguments)).await {
            Err(StoreError::Refused(e)) if e.code() == Some("NOSCRIPT") => {
                self.one(script.call_by_text(keys, arguments)).await?
            }
            answer => answer?,
        };
        T::from_redis_value(value)
            .map_err(|e| StoreError::corrupt(keys.first().map_or("a script", String::as_str), e))
    }

    /// Runs a pipeline whose last value is returned. In a Cluster nothing is said about the order of its commands.
    pub(super) async fn write(&self, pipeline: Pipeline) -> Result<Value, StoreError> {
        if !self.servers.are_many() {
            return self.confirm(None, &pipeline).await.map(last);
        }
        let parts = by_slot(&pipeline);
        let answers = try_join_all(parts.iter().map(|part| self.confirm(part.slot, &part.pipeline))).await?;
        Ok(last(put_together(&parts, answers)))
    }

    async fn one(&self, command: Cmd) -> Result<Value, StoreError> {
        let slot = slot_of(&command);
        let mut pipeline = Pipeline::new();
        pipeline.add_command(command);
        self.confirm(slot, &pipeline).await.map(last)
    }

    /// Runs commands of one slot on its server.
    async fn confirm(&self, slot: Option<u16>, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        self.halt.check()?;
        let slot = slot.or_else(|| first_slot(pipeline));
        let mut on_the_move: Option<Arc<Node>> = None;
        let until = Instant::now() + DEADLINE;
        let mut tries = self.servers.most_tries();
        loop {
            let layout = timeout(SETUP, self.servers.layout())
                .await
                .map_err(|_| StoreError::Timeout(SETUP, String::new()))??;
            let moving = on_the_move.take();
            let node = moving.as_ref().map_or_else(|| layout.node_of(slot), Ok)?;
            let _place = node.places.acquire().await.expect("the semaphore is never closed");
            let replicas = layout.replicas_to_wait_for(self.replicas);
            let sent = if moving.is_some() { asking(pipeline) } else { pipeline.clone() };
            let error = match self.send(node, sent, replicas).await {
                Ok(values) => {
                    // A primary that lost its replicas may be one no more.
                    return count(values, replicas).inspect_err(|_| self.servers.doubt(&layout));
                }
                Err(Unanswered::Server(error)) => error,
                Err(Unanswered::Store(error)) => return Err(error),
                Err(Unanswered::Late) => {
                    node.forget_idle();
                    self.servers.doubt(&layout);
                    return Err(StoreError::Timeout(DEADLINE, node.at()));
                }
            };
            let reaction = self.servers.react(&layout, node, &error);
            if is_absent(&error) && matches!(reaction, Reaction::Again) {
                sleep(UNTIL_A_SUCCESSOR).await;
            } else {
                tries -= 1;
            }
            match reaction {
                Reaction::Again if tries > 0 && Instant::now() < until => {}
                Reaction::AskAt(node) if tries > 0 => on_the_move = Some(node),
                _ => return Err(StoreError::from(error).of_node(node)),
            }
        }
    }

    /// A connection that was used before may have been closed while nobody looked: the write, which is safe to repeat, goes
    /// out once more over a new one.
    async fn send(
        &self,
        node: &Node,
        mut pipeline: Pipeline,
        replicas: u32,
    ) -> Result<Vec<Value>, Unanswered> {
        if replicas > 0 {
            pipeline.cmd("WAIT").arg(replicas).arg(wait_ms());
        }
        loop {
            let mut taken = match timeout(SETUP, node.connection()).await {
                Ok(Ok(taken)) => taken,
                Ok(Err(DialError::Server(error))) => return Err(Unanswered::Server(error)),
                Ok(Err(error)) => return Err(Unanswered::Store(error.into())),
                Err(_) => return Err(Unanswered::Late),
            };
            match timeout(DEADLINE, pipeline.query_async(taken.connection())).await {
                Ok(Ok(values)) => {
                    taken.give_back();
                    return Ok(values);
                }
                Ok(Err(error)) if is_broken(&error) => {
                    node.forget_idle();
                    if !taken.was_used() {
                        return Err(Unanswered::Server(error));
                    }
                }
                Ok(Err(error)) => {
                    if self.servers.is_another(&error) {
                        node.forget_idle();
                    } else {
                        taken.give_back();
                    }
                    return Err(Unanswered::Server(error));
                }
                Err(_) => return Err(Unanswered::Late),
            }
        }
    }
}

/// The values without the count of replicas, where it is enough.
fn count(mut values: Vec<Value>, replicas: u32) -> Result<Vec<Value>, StoreError> {
    if replicas > 0 {
        let got = match values.pop() {
            Some(Value::Int(got)) => u32::try_from(got).unwrap_or(0),
            _ => 0,
        };
        if got < replicas {
            return Err(StoreError::Unconfirmed { wanted: replicas, got });
        }
    }
    Ok(values)
}

fn last(mut values: Vec<Value>) -> Value {
    values.pop().unwrap_or(Value::Nil)
}

/// How long the server may wait for its replicas: less than the command's deadline, so that its count is heard.
fn wait_ms() -> u64 {
    u64::try_from(DEADLINE.as_millis()).expect("a deadline of seconds") * 2 / 3
}
