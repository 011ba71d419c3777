//! The connection for reads and for writes that may be lost: it heals itself.
//!
//! Each command has a deadline, and one that misses it, or that the connection breaks under, replaces the connection. A
//! watchdog ([`Store::watch`](super::Store::watch)) asks while nothing else is asked. What can't have reached the server, and
//! what only reads, is asked once more over a new connection: a proxy may have closed one that was idle.

use super::{
    Embedded, StoreError,
    halt::Halt,
    node::{DIAL_DEADLINE, DialError, Line, Node},
    parts::{Answered, asking, by_slot, first_slot, put_together},
    scripts::Script,
    servers::{Layout, Reaction, Servers, is_absent},
    slots::slot_of,
};
use futures_util::future::try_join_all;
use redis::{
    Cmd, FromRedisValue, Pipeline, RedisError, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// How long a command may take before its connection is replaced.
pub(super) const DEADLINE: Duration = Duration::from_millis(1500);
/// How long a command waits for a connection, and for who serves.
pub(super) const SETUP: Duration = DIAL_DEADLINE;
/// Between two tries at a server that is gone.
pub(super) const UNTIL_A_SUCCESSOR: Duration = Duration::from_millis(50);
/// When it is said what is waited for.
const SAID_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Link {
    pub(super) servers: Arc<Servers>,
    embedded: Option<Arc<Embedded>>,
    halt: Arc<Halt>,
    /// Whether it was said that there is no answer, since the last one.
    said: AtomicBool,
}

impl Link {
    /// Connects when it is first used.
    pub(super) const fn new(servers: Arc<Servers>, embedded: Option<Arc<Embedded>>, halt: Arc<Halt>) -> Self {
        Self { servers, embedded, halt, said: AtomicBool::new(false) }
    }

    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let answer = self.told(self.run(slot_of(command), Request::Command(command))).await?;
        parse(answer, || key_of(command))
    }

    /// Sends several commands at once. In a Cluster they may be of several slots; nothing is said about their order then.
    pub(super) async fn pipe<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StoreError> {
        if !self.servers.are_many() || pipeline.is_transaction() {
            let answer = self.told(self.run(first_slot(pipeline), Request::Pipeline(pipeline))).await?;
            return parse(answer, || first_key(pipeline));
        }
        let parts = by_slot(pipeline);
        let answers = parts.iter().map(async |part| {
            let answer = self.told(self.run(part.slot, Request::Pipeline(&part.pipeline))).await?;
            parse::<Vec<Value>>(answer, || first_key(&part.pipeline))
        });
        let answers = try_join_all(answers).await?;
        let answered = pipeline.query_async(&mut Answered(put_together(&parts, answers))).await;
        answered.map_err(|e: RedisError| match e.kind() {
            redis::ErrorKind::UnexpectedReturnType | redis::ErrorKind::Parse => {
                StoreError::corrupt(first_key(pipeline), e)
            }
            _ => e.into(),
        })
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
        self.ask_each_for(|_, _| Some(command.clone())).await
    }

    /// Asks every server what is to be asked of the one with this first slot, if anything.
    pub(super) async fn ask_each_for<T: FromRedisValue>(
        &self,
        question: impl Fn(&Layout, u16) -> Option<Cmd>,
    ) -> Result<Vec<(u16, Result<T, StoreError>)>, StoreError> {
        self.told(self.ask_until_answered(question)).await
    }

    async fn ask_until_answered<T: FromRedisValue>(
        &self,
        question: impl Fn(&Layout, u16) -> Option<Cmd>,
    ) -> Result<Vec<(u16, Result<T, StoreError>)>, StoreError> {
        let until = Instant::now() + DEADLINE;
        loop {
            let answers = self.ask_each_once(&question).await?;
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
        question: &impl Fn(&Layout, u16) -> Option<Cmd>,
    ) -> Result<Vec<(u16, Result<T, StoreError>)>, StoreError> {
        let layout = self.layout().await?;
        let shards = layout.shards();
        let questions =
            shards.iter().filter_map(|(slot, node)| Some((*slot, node, question(&layout, *slot)?)));
        let asked = questions.map(async |(slot, node, command)| {
            let answer = self.ask(node, Request::Command(&command)).await;
            if let Err(Trouble::Late) = &answer {
                self.servers.doubt(&layout);
            } else if let Err(Trouble::Server(error)) = &answer {
                self.servers.react(&layout, node, error);
            }
            let answer = answer.map_err(|trouble| StoreError::from(trouble).of_node(node));
            (slot, answer.and_then(|answer| parse(answer, || key_of(&command))))
        });
        Ok(futures_util::future::join_all(asked).await)
    }

    async fn layout(&self) -> Result<Arc<Layout>, StoreError> {
        timeout(SETUP, self.servers.layout()).await.map_err(|_| StoreError::Timeout(SETUP, String::new()))?
    }

    /// Says after a second what is waited for, once until there is an answer.
    async fn told<T>(&self, asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        tokio::pin!(asked);
        let answer = tokio::select! {
            answer = &mut asked => answer,
            () = sleep(SAID_AFTER) => {
                if !self.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!(store = self.servers.place(), "the store has not answered for a second: waiting for it");
                }
                asked.await
            }
        };
        if answer.is_ok() && self.said.load(Ordering::Relaxed) {
            self.said.store(false, Ordering::Relaxed);
        }
        answer
    }

    async fn run(&self, slot: Option<u16>, request: Request<'_>) -> Result<Value, StoreError> {
        if !request.only_reads() {
            self.halt.check()?;
        }
        let until = Instant::now() + DEADLINE;
        let mut tries = self.servers.most_tries();
        loop {
            let layout = self.layout().await?;
            let node = layout.node_of(slot)?;
            let trouble = match self.ask(node, request).await {
                Ok(value) => return Ok(value),
                Err(trouble) => trouble,
            };
            let error = match &trouble {
                Trouble::Server(error) => error,
                Trouble::Store(StoreError::Corrupt { .. }) => return Err(trouble.into()),
                _ => {
                    self.servers.doubt(&layout);
                    return Err(StoreError::from(trouble).of_node(node));
                }
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
                Reaction::AskAt(node) => return Ok(self.ask_at(&node, request).await?),
                Reaction::Again | Reaction::GiveUp => return Err(StoreError::from(trouble).of_node(node)),
            }
        }
    }

    async fn ask_at(&self, node: &Node, request: Request<'_>) -> Result<Value, Trouble> {
        match request {
            Request::Pipeline(pipeline) => self.ask(node, Request::Pipeline(&asking(pipeline))).await,
            Request::Command(command) => {
                let mut alone = Pipeline::new();
                alone.add_command(command.clone());
                let value = self.ask(node, Request::Pipeline(&asking(&alone))).await?;
                let mut values: Vec<Value> = parse(value, || key_of(command)).map_err(Trouble::Store)?;
                Ok(values.pop().unwrap_or(Value::Nil))
            }
        }
    }

    /// Asks one server.
    async fn ask(&self, node: &Node, request: Request<'_>) -> Result<Value, Trouble> {
        let (mut revived, mut again) = (false, request.only_reads());
        loop {
            let trouble = match timeout(SETUP, node.line()).await {
                Ok(Ok(line)) => match self.ask_over(node, line, request).await {
                    Ok(value) => return Ok(value),
                    Err(Trouble::Server(error)) if again && is_broken(&error) => {
                        again = false;
                        continue;
                    }
                    Err(trouble) => trouble,
                },
                Ok(Err(DialError::Server(error))) => Trouble::Server(error),
                Ok(Err(DialError::Files(text))) => Trouble::Store(StoreError::Credentials(text)),
                Err(_) => Trouble::Late,
            };
            // A store of our own that nobody runs is started again; the command never reached it.
            match (&trouble, &self.embedded) {
                (Trouble::Server(error), Some(embedded)) if is_absent(error) && !revived => {
                    revived = true;
                    embedded.revive().await.map_err(|e| Trouble::Store(e.into()))?;
                    node.forget_failure();
                }
                _ => {
                    if trouble.is_away() {
                        node.set_healthy(false);
                    }
                    return Err(trouble);
                }
            }
        }
    }

    async fn ask_over(&self, node: &Node, line: Line, request: Request<'_>) -> Result<Value, Trouble> {
        let mut connection = line.connection.clone();
        match timeout(DEADLINE, request.send(&mut connection)).await {
            Ok(Ok(value)) => {
                node.set_healthy(true);
                Ok(value)
            }
            Err(_) => {
                node.forget(&line);
                Err(Trouble::Late)
            }
            Ok(Err(error)) if error.is_timeout() => {
                node.forget(&line);
                Err(Trouble::Late)
            }
            Ok(Err(error)) => {
                if super::error::first_of_pipeline(error.clone()).code() == Some("NOPERM") {
                    node.set_refused(true);
                }
                if is_broken(&error) || self.servers.is_another(&error) {
                    node.forget(&line);
                }
                Err(match request.key_of_another_kind(&error) {
                    Some(key) => Trouble::Store(StoreError::corrupt(key, error)),
                    None => Trouble::Server(error),
                })
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
            Trouble::Late => Self::Timeout(DEADLINE, String::new()),
            Trouble::Server(error) => error.into(),
            Trouble::Store(error) => error,
        }
    }
}

impl Trouble {
    /// Whether the server can't be used, whatever is asked.
    fn is_away(&self) -> bool {
        match self {
            Self::Late => true,
            Self::Server(error) => match super::error::first_of_pipeline(error.clone()).code() {
                Some(code) => matches!(code, "LOADING" | "MASTERDOWN" | "CLUSTERDOWN"),
                None => true,
            },
            Self::Store(error) => matches!(error, StoreError::Credentials(_) | StoreError::Embedded(_)),
        }
    }
}

/// Commands that change nothing: they may be asked twice.
const READS: &str = "GET MGET STRLEN EXISTS TTL PTTL HGET HMGET HGETALL HVALS HLEN HEXISTS HRANDFIELD ZRANGE ZREVRANGE ZRANGEBYLEX \
                     ZRANGEBYSCORE ZCARD ZCOUNT ZSCORE XRANGE XREVRANGE XLEN XREAD XINFO SMEMBERS SISMEMBER SCARD INFO TIME DBSIZE PING";

impl Request<'_> {
    async fn send(self, connection: &mut MultiplexedConnection) -> Result<Value, RedisError> {
        match self {
            // An error reply is a value to the library until it is asked for.
            Self::Command(command) => connection.req_packed_command(command).await?.extract_error(),
            Self::Pipeline(pipeline) => pipeline.query_async(connection).await,
        }
    }

    /// The record that is of another kind than it was asked as, where that is what the server says. Of which key of a script that
    /// is, it doesn't say.
    fn key_of_another_kind(self, error: &RedisError) -> Option<String> {
        if super::error::first_of_pipeline(error.clone()).code() != Some("WRONGTYPE") {
            return None;
        }
        let command = match self {
            Self::Command(command) => command,
            Self::Pipeline(pipeline) => {
                let (place, _) = *error.clone().into_server_errors()?.first()?;
                pipeline.cmd_iter().nth(place)?
            }
        };
        (!is_script(command)).then(|| key_of(command))
    }

    fn only_reads(self) -> bool {
        let reads = |command: &Cmd| {
            let Some(redis::Arg::Simple(name)) = command.args_iter().next() else { return false };
            READS.split_ascii_whitespace().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
        };
        match self {
            Self::Command(command) => reads(command),
            Self::Pipeline(pipeline) => pipeline.cmd_iter().all(reads),
        }
    }
}

/// Whether there is no answer because the connection broke, and not because the server is silent.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.clone().into_server_errors().is_none()
        && !error.is_timeout()
        && (error.is_io_error() || error.is_connection_dropped())
}

fn parse<T: FromRedisValue>(value: Value, key: impl FnOnce() -> String) -> Result<T, StoreError> {
    T::from_redis_value(value).map_err(|e| StoreError::corrupt(key(), e))
}

fn word(command: &Cmd, place: usize) -> Option<String> {
    match command.args_iter().nth(place)? {
        redis::Arg::Simple(word) => Some(String::from_utf8_lossy(word).into_owned()),
        _ => None,
    }
}

fn is_script(command: &Cmd) -> bool {
    word(command, 0).is_some_and(|name| name.starts_with("EVAL"))
}

/// The record that a command is about: its first key, or else its name.
pub(super) fn key_of(command: &Cmd) -> String {
    let place = match word(command, 0).as_deref() {
        Some("EVAL" | "EVALSHA") => 3,
        Some("XINFO") => 2,
        _ => 1,
    };
    word(command, place).or_else(|| word(command, 0)).unwrap_or_default()
}

fn first_key(pipeline: &Pipeline) -> String {
    pipeline.cmd_iter().next().map(key_of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::cmd;

    #[test]
    fn what_a_command_is_about_is_named() {
        assert_eq!(key_of(cmd("HGETALL").arg("sp:nodes")), "sp:nodes");
        assert_eq!(
            key_of(cmd("EVALSHA").arg("digest").arg(1).arg("sp:{p00}:due").arg("word")),
            "sp:{p00}:due"
        );
        assert_eq!(key_of(cmd("XINFO").arg("STREAM").arg("sp:audit")), "sp:audit");
        assert_eq!(key_of(&cmd("TIME")), "TIME");
    }
}
