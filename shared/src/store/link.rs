//! The connection for reads and for writes that may be lost: it heals itself.
//!
//! The library reconnects when the connection breaks, but never gives up one whose peer is silent. So each command has a
//! deadline, and a command that misses it replaces the connection. A watchdog does the same while nothing else is asked.

use super::{Embedded, StoreError, scripts::Script};
use arc_swap::ArcSwap;
use redis::{
    Client, Cmd, FromRedisValue, Pipeline, RedisError, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long a command may take before its connection is replaced.
pub(super) const DEADLINE: Duration = Duration::from_millis(1500);
/// Pause between two questions of the watchdog.
const WATCH_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Link {
    client: Client,
    current: ArcSwap<ConnectionManager>,
    embedded: Option<Arc<Embedded>>,
    healthy: AtomicBool,
}

impl Link {
    /// Connects when it is first used.
    pub(super) fn new(client: Client, embedded: Option<Arc<Embedded>>) -> Result<Self, StoreError> {
        let manager = manager(&client).map_err(StoreError::Url)?;
        Ok(Self { client, current: ArcSwap::from_pointee(manager), embedded, healthy: AtomicBool::new(true) })
    }

    /// Whether the last command was answered.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        parse(self.run(Request::Command(command)).await?)
    }

    pub(super) async fn pipe<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StoreError> {
        parse(self.run(Request::Pipeline(pipeline)).await?)
    }

    /// Runs a script, loading it where the server doesn't have it yet.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let call = script.call(keys, arguments);
        match self.run(Request::Command(&call)).await {
            Err(StoreError::Refused(e)) if e.code() == Some("NOSCRIPT") => {
                self.run(Request::Command(&script.load())).await?;
                parse(self.run(Request::Command(&call)).await?)
            }
            answer => parse(answer?),
        }
    }

    async fn run(&self, request: Request<'_>) -> Result<Value, StoreError> {
        let mut revived = false;
        loop {
            let used = self.current.load_full();
            let mut connection = ConnectionManager::clone(&used);
            let answer = tokio::time::timeout(DEADLINE, request.send(&mut connection)).await;
            match answer {
                Ok(Ok(value)) => {
                    self.healthy.store(true, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(_) => {
                    self.healthy.store(false, Ordering::Relaxed);
                    self.replace(&used);
                    return Err(StoreError::Timeout(DEADLINE));
                }
                Ok(Err(error)) => {
                    let never_sent = is_absent(&error);
                    let error = StoreError::from(error);
                    if matches!(error, StoreError::Unavailable(_)) {
                        self.healthy.store(false, Ordering::Relaxed);
                    }
                    // A store of our own that nobody runs is started again; the command never reached it.
                    match &self.embedded {
                        Some(embedded) if never_sent && !revived => {
                            revived = true;
                            embedded.ensure_running().await?;
                            self.replace(&used);
                        }
                        _ => return Err(error),
                    }
                }
            }
        }
    }

    /// Puts a new connection in the place of `used`, unless somebody else has.
    fn replace(&self, used: &Arc<ConnectionManager>) {
        if Arc::ptr_eq(&self.current.load(), used)
            && let Ok(fresh) = manager(&self.client)
        {
            self.current.compare_and_swap(used, Arc::new(fresh));
        }
    }

    /// Asks again and again, so that a silent store is noticed while nothing else is asked. Never returns.
    pub(super) async fn watch(&self) {
        let mut was_healthy = true;
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let answer: Result<String, StoreError> = self.query(&redis::cmd("PING")).await;
            match (&answer, was_healthy) {
                (Err(error), true) => {
                    tracing::error!(error = crate::error::chain(error), "the store does not answer");
                }
                (Ok(_), false) => tracing::info!("the store answers again"),
                _ => {}
            }
            was_healthy = answer.is_ok();
        }
    }
}

/// What is asked of the server.
#[derive(Clone, Copy)]
enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
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

/// Nobody listens: the command can't have been seen.
fn is_absent(error: &RedisError) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    error.is_connection_refusal()
        || std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .is_some_and(|io| matches!(io.kind(), NotFound | ConnectionRefused))
}

fn manager(client: &Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(DEADLINE))
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_millis(100));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}
