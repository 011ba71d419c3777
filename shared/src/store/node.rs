//! One server that keys live on, and the connections to it: one that all commands share, and those of confirmed writes.
//!
//! Whatever a connection failed of, another one is dialled: by the next command, after a pause that grows to a second. What
//! is known of the last failure is the answer meanwhile, so that a server that refuses is not asked by everybody at once.

use super::{StoreError, dial::Recipe, link::DEADLINE};
use crate::config::HostPort;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{
    AsyncConnectionConfig, ErrorKind, FromRedisValue, PushInfo, PushKind, RedisError, Value,
    aio::MultiplexedConnection, cmd,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};

/// Confirmed writes to one server at once: as many as a node has workers, usually. The server writes to its disk once for all
/// that wait in the same moment.
const MOST: usize = 64;
/// How long dialling may take: name, TCP, TLS and login are six round trips, which are more than a second between continents.
pub(super) const DIAL_DEADLINE: Duration = Duration::from_secs(3);
/// Between two attempts to dial a server that refuses or is away.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection to a server that only follows another one is not kept: the address may lead to the primary by now.
const FOLLOWER_KEPT: Duration = Duration::from_secs(1);
/// A connection that nobody needed for so long is closed: the server has room for others.
const IDLE_KEPT: Duration = Duration::from_secs(10);

pub(super) struct Node {
    /// `None` for a server that its URL alone names.
    pub(super) address: Option<HostPort>,
    recipe: Arc<Recipe>,
    /// Where connections live: a caller's own runtime may end before them.
    runtime: Handle,
    healthy: AtomicBool,
    /// Whether a right was lacking since it was looked for last.
    refused: AtomicBool,
    kept: Mutex<Kept>,
    failed: Mutex<Option<Failed>>,
    idle: Mutex<Vec<(Line, Instant)>>,
    /// Connections for confirmed writes that are in use or being dialled.
    in_use: AtomicUsize,
    given_back: Notify,
    pub(super) places: Semaphore,
}

/// A connection.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    closed: Arc<AtomicBool>,
    is_primary: bool,
    since: Instant,
}

/// A connection that one confirmed write has for itself.
pub(super) struct Taken<'a> {
    place: InUse<'a>,
    line: Line,
    was_used: bool,
    is_well: bool,
}

/// Counted as long as it lives.
struct InUse<'a>(&'a Node);

/// What is known of the connection that all commands share.
enum Kept {
    Nothing,
    Dialling(Dialling),
    Open(Line),
}

type Dialling = Shared<BoxFuture<'static, Result<Line, DialError>>>;

struct Failed {
    error: DialError,
    at: Instant,
    pause: Duration,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(super) enum DialError {
    Server(RedisError),
    /// A file that can't be used.
    Files(String),
}

impl From<DialError> for StoreError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Server(error) => error.into(),
            DialError::Files(text) => Self::Credentials(text),
        }
    }
}

impl Taken<'_> {
    pub(super) fn connection(&mut self) -> &mut MultiplexedConnection {
        &mut self.line.connection
    }

    /// Whether it may have been closed while nobody looked.
    pub(super) const fn was_used(&self) -> bool {
        self.was_used
    }

    /// It did its work: the next one may have it. Dropped without this it is closed.
    pub(super) fn give_back(mut self) {
        self.is_well = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let node = self.place.0;
        if self.is_well && self.line.is_usable() {
            lock(&node.idle).push((self.line.clone(), Instant::now()));
        }
        node.close_what_idles();
        node.given_back.notify_one();
    }
}

impl<'a> InUse<'a> {
    fn of(node: &'a Node) -> Self {
        node.in_use.fetch_add(1, Ordering::Relaxed);
        Self(node)
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Line {
    fn is_usable(&self) -> bool {
        !self.closed.load(Ordering::Relaxed) && (self.is_primary || self.since.elapsed() < FOLLOWER_KEPT)
    }
}

impl Node {
    /// Connects when it is first used. What stands in files is read once, so that a mistake is found at the start.
    pub(super) fn new(address: Option<HostPort>, recipe: Recipe) -> Result<Self, StoreError> {
        recipe.client()?;
        Ok(Self {
            address,
            recipe: Arc::new(recipe),
            runtime: Handle::current(),
            healthy: AtomicBool::new(true),
            refused: AtomicBool::new(false),
            kept: Mutex::new(Kept::Nothing),
            failed: Mutex::default(),
            idle: Mutex::default(),
            in_use: AtomicUsize::new(0),
            given_back: Notify::new(),
            places: Semaphore::new(MOST),
        })
    }

    /// Whether the last command was answered.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    pub(super) fn set_refused(&self, refused: bool) {
        self.refused.store(refused, Ordering::Relaxed);
    }

    pub(super) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Where the server is and who says so, as it follows the word "store".
    pub(super) fn at(&self) -> String {
        self.recipe.at()
    }

    /// Who logs in, and with what.
    pub(super) fn login(&self) -> String {
        self.recipe.login()
    }

    /// The place of the server, for people.
    pub(super) fn place(&self) -> String {
        self.recipe.place()
    }

    /// The connection that all commands share; dialled where there is none. Whoever waits waits for the same attempt, which
    /// goes on also where nobody waits any more.
    pub(super) async fn line(&self) -> Result<Line, DialError> {
        let dialling = {
            let mut kept = lock(&self.kept);
            match &*kept {
                Kept::Open(line) if line.is_usable() => return Ok(line.clone()),
                Kept::Dialling(dialling) if dialling.peek().is_none() => dialling.clone(),
                Kept::Dialling(dialling) if matches!(dialling.peek(), Some(Ok(line)) if line.is_usable()) => {
                    dialling.clone()
                }
                _ => {
                    if let Some(error) = self.failure() {
                        return Err(error);
                    }
                    let dialled = self.runtime.spawn(dial(Arc::clone(&self.recipe)));
                    let dialling: Dialling =
                        async move { dialled.await.unwrap_or_else(|_| Err(ending())) }.boxed().shared();
                    *kept = Kept::Dialling(dialling.clone());
                    dialling
                }
            }
        };
        let result = dialling.clone().await;
        let mut kept = lock(&self.kept);
        if matches!(&*kept, Kept::Dialling(current) if current.ptr_eq(&dialling)) {
            match &result {
                Ok(line) => {
                    *kept = Kept::Open(line.clone());
                    *lock(&self.failed) = None;
                }
                Err(error) => {
                    *kept = Kept::Nothing;
                    self.note_failure(error);
                }
            }
        }
        result
    }

    /// Dials anew the next time: this connection is broken, or its server is another one by now.
    pub(super) fn forget(&self, line: &Line) {
        line.closed.store(true, Ordering::Relaxed);
        let mut kept = lock(&self.kept);
        if matches!(&*kept, Kept::Open(current) if Arc::ptr_eq(&current.closed, &line.closed)) {
            *kept = Kept::Nothing;
        }
    }

    /// Dials anew at once: what it failed of was mended.
    pub(super) fn forget_failure(&self) {
        *lock(&self.failed) = None;
    }

    /// A connection for a confirmed write: it never reconnects. Where the server has no room for another one, one of those
    /// that there are is waited for.
    pub(super) async fn connection(&self) -> Result<Taken<'_>, DialError> {
        loop {
            if let Some(line) = self.take_idle() {
                return Ok(Taken { place: InUse::of(self), line, was_used: true, is_well: false });
            }
            if let Some(error) = self.failure() {
                return Err(error);
            }
            let freed = self.given_back.notified();
            let place = InUse::of(self);
            match self.runtime.spawn(dial(Arc::clone(&self.recipe))).await.unwrap_or_else(|_| Err(ending())) {
                Ok(line) => return Ok(Taken { place, line, was_used: false, is_well: false }),
                Err(DialError::Server(error))
                    if has_no_room(&error) && self.in_use.load(Ordering::Relaxed) > 1 =>
                {
                    drop(place);
                    // What freed room may have been somebody else's.
                    let _ = timeout(LONGEST_PAUSE / 4, freed).await;
                }
                Err(error) => {
                    self.note_failure(&error);
                    return Err(error);
                }
            }
        }
    }

    /// Where one connection broke, the idle ones are broken too, most likely.
    pub(super) fn forget_idle(&self) {
        lock(&self.idle).clear();
    }

    /// Closes the connections that nobody needed for a while.
    pub(super) fn close_what_idles(&self) {
        lock(&self.idle).retain(|(line, since)| since.elapsed() < IDLE_KEPT && line.is_usable());
    }

    /// The one that was used last, so that the others are closed in time.
    fn take_idle(&self) -> Option<Line> {
        let mut idle = lock(&self.idle);
        std::iter::from_fn(|| idle.pop())
            .find(|(line, since)| since.elapsed() < IDLE_KEPT && line.is_usable())
            .map(|(line, _)| line)
    }

    /// Why it is not dialled in this moment.
    fn failure(&self) -> Option<DialError> {
        let failed = lock(&self.failed);
        failed.as_ref().filter(|failed| failed.at.elapsed() < failed.pause).map(|failed| failed.error.clone())
    }

    fn note_failure(&self, error: &DialError) {
        let mut failed = lock(&self.failed);
        let pause = failed.as_ref().map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        *failed = Some(Failed { error: error.clone(), at: Instant::now(), pause });
    }
}

fn ending() -> DialError {
    DialError::Server((ErrorKind::Io, "the program ends").into())
}

/// Whether the server has as many connections as it takes.
pub(super) fn has_no_room(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.starts_with("max number of clients"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn dial(recipe: Arc<Recipe>) -> Result<Line, DialError> {
    let client = recipe.client().map_err(|error| match error {
        StoreError::Url(error) => DialError::Server(error),
        StoreError::Embedded(error) => {
            DialError::Server((ErrorKind::Io, "the embedded store", crate::error::chain(&error)).into())
        }
        other => DialError::Files(crate::error::chain(&other)),
    })?;
    let closed = Arc::new(AtomicBool::new(false));
    let on_close = Arc::clone(&closed);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DIAL_DEADLINE))
        // Each command has its own deadline, which is shorter.
        .set_response_timeout(Some(DEADLINE * 2))
        .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
            if push.kind == PushKind::Disconnection {
                on_close.store(true, Ordering::Relaxed);
            }
            Ok(())
        });
    let mut connection =
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(DialError::Server)?;
    let is_primary = is_primary(&mut connection).await?;
    Ok(Line { connection, closed, is_primary, since: Instant::now() })
}

/// What the server says of itself. `HELLO` and not `ROLE`, which not every user may ask. Who doesn't say counts as a primary:
/// the first write tells.
async fn is_primary(connection: &mut MultiplexedConnection) -> Result<bool, DialError> {
    let answer: Result<Value, RedisError> = cmd("HELLO").query_async(connection).await;
    let fields = match answer {
        Ok(answer) => HashMap::<String, Value>::from_redis_value(answer).unwrap_or_default(),
        Err(error) if error.is_io_error() || error.is_timeout() => return Err(DialError::Server(error)),
        Err(_) => return Ok(true),
    };
    let role = fields.get("role").and_then(|role| String::from_redis_value(role.clone()).ok());
    Ok(!matches!(role.as_deref(), Some("replica" | "slave")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Secret, store::dial::Files};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    fn node(port: u16) -> Node {
        let url = Secret::from(format!("redis://127.0.0.1:{port}"));
        Node::new(None, Recipe::Url { url, files: Files::default() }).unwrap()
    }

    /// Answers each command with what it is told, connection by connection.
    async fn server(answers: Vec<Vec<&'static str>>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for of_connection in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    for answer in of_connection {
                        if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                            return;
                        }
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        port
    }

    const PRIMARY: &str = "%2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$5\r\nproto\r\n:3\r\n";
    const REPLICA: &str = "%2\r\n$4\r\nrole\r\n$7\r\nreplica\r\n$5\r\nproto\r\n:3\r\n";

    #[tokio::test]
    async fn a_refused_login_is_tried_again_after_a_pause() {
        let port = server(vec![
            vec!["-WRONGPASS invalid username-password pair or user is disabled.\r\n"],
            vec!["-ERR max number of clients reached\r\n"],
            vec![PRIMARY, PRIMARY],
        ])
        .await;
        let node = node(port);
        for word in ["WRONGPASS", "max number"] {
            for _ in 0..3 {
                let Err(DialError::Server(error)) = node.line().await else { panic!("refused") };
                assert!(error.to_string().contains(word), "{error}");
            }
            tokio::time::sleep(LONGEST_PAUSE / 5).await;
        }
        assert!(node.line().await.is_ok_and(|line| line.is_primary));
    }

    #[tokio::test]
    async fn a_closed_connection_and_one_to_a_follower_are_not_used_again() {
        let port = server(vec![vec![PRIMARY, PRIMARY], vec![REPLICA, REPLICA], vec![PRIMARY, PRIMARY]]).await;
        let node = node(port);
        let first = node.line().await.ok().unwrap();
        // The server closes it after its last answer.
        while first.is_usable() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut second = node.line().await.ok().unwrap();
        assert!(!second.is_primary);
        second.since -= FOLLOWER_KEPT;
        assert!(!second.is_usable());
        node.forget(&second);
        assert!(node.line().await.ok().unwrap().is_primary);
    }
}
