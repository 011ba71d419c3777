//! A proxy in front of Redis that stalls, cuts, and acts the moment that a chosen command goes by.
//!
//! It reads Redis' protocol only as far as needed to pair each command with its reply, so that "the server has done it and
//! the client doesn't know" is a moment that a test can stop at. Subscriptions answer out of step and don't belong here.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{ports, redis::Address, resp};

const READ_BYTES: usize = 64 * 1024;
const BINDS: u32 = 5;

/// What the proxy does with bytes that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Connections are accepted and kept, bytes are swallowed in both directions. What was swallowed is lost for ever: a
    /// connection that lived through a black hole is closed by the first byte after it.
    BlackHole,
    /// Every batch of bytes waits this long, in both directions.
    Delay(Duration),
    /// New connections are closed at once; established ones go on.
    Refuse,
}

/// The moment at which a [`Trigger`] acts, around the command that it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Redis hasn't seen the command.
    BeforeCommand,
    /// Redis has answered, the client doesn't know.
    Answered,
    /// The client has been sent the reply.
    PassedOn,
}

/// What happens to the connection after a trigger has acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    GoOn,
    /// Both sides are closed, nothing more is passed on.
    Cut,
}

type Act = Box<dyn FnMut() -> Then + Send>;

/// Acts once, when a command that contains all the given byte strings goes by.
pub struct Trigger {
    containing: Vec<Vec<u8>>,
    nth: u64,
    moment: Moment,
    act: Act,
}

impl Trigger {
    /// For commands that contain these bytes, in their name, keys or arguments.
    pub fn on(containing: &str, moment: Moment, act: impl FnMut() -> Then + Send + 'static) -> Self {
        Self { containing: vec![containing.as_bytes().to_vec()], nth: 1, moment, act: Box::new(act) }
    }

    /// Only commands that contain these bytes as well.
    #[must_use]
    pub fn and(mut self, containing: &str) -> Self {
        self.containing.push(containing.as_bytes().to_vec());
        self
    }

    /// Lets n - 1 such commands pass first.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.nth = n;
        self
    }
}

/// Cuts the connection at such a command, and once more when it is asked again: a program may take a connection that breaks for
/// one that was closed while it was idle.
pub fn cut_twice(containing: &[&str], moment: Moment) -> [Trigger; 2] {
    [1, 2].map(|nth| {
        let first = Trigger::on(containing[0], moment, || Then::Cut).nth(nth);
        containing[1..].iter().fold(first, |trigger, more| trigger.and(more))
    })
}

/// The running proxy. Dropping it closes its listener and all connections.
pub struct RedisProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    mode: watch::Sender<Mode>,
    _running: DropGuard,
}

struct Shared {
    upstream: Mutex<Address>,
    triggers: Mutex<Vec<Armed>>,
    next_id: AtomicU64,
    fired: AtomicU64,
    commands: AtomicU64,
    /// The last round trip of which a reply has gone back.
    heard: AtomicU64,
    /// Cancelled by [`RedisProxy::cut`], then replaced.
    connections: Mutex<CancellationToken>,
    running: CancellationToken,
}

struct Armed {
    id: u64,
    trigger: Trigger,
    /// The command that it waits for has gone by: acts with the reply.
    pending: bool,
}

impl RedisProxy {
    /// Listens on a free port of 127.0.0.1 for a Redis on TCP (without TLS) or a unix socket.
    pub async fn start(upstream: &Address) -> Result<Self> {
        let running = CancellationToken::new();
        let (mode, modes) = watch::channel(Mode::Pass);
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream.clone()),
            triggers: Mutex::new(Vec::new()),
            next_id: AtomicU64::new(0),
            fired: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            connections: Mutex::new(running.child_token()),
            running: running.clone(),
        });
        for _ in 0..BINDS {
            let address = ports::free_address()?;
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            tokio::spawn(accept(listener, Arc::clone(&shared), modes));
            return Ok(Self { address, shared, mode, _running: running.drop_guard() });
        }
        bail!("no free port for the Redis proxy after {BINDS} tries")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `[store] url`, without user and password.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Changes what happens to bytes from now on, on all connections.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Where new connections lead from now on: the address follows another server.
    pub fn lead_to(&self, upstream: &Address) {
        *self.shared.upstream.lock().expect("no panic while held") = upstream.clone();
    }

    /// Closes every established connection; new ones are accepted.
    pub fn cut(&self) {
        let mut connections = self.shared.connections.lock().expect("no panic while held");
        connections.cancel();
        *connections = self.shared.running.child_token();
    }

    /// Adds a trigger; it sees commands from now on.
    pub fn add_trigger(&self, trigger: Trigger) {
        let id = self.shared.next_id.fetch_add(1, Ordering::SeqCst);
        self.shared.triggers.lock().expect("no panic while held").push(Armed { id, trigger, pending: false });
    }

    /// How many triggers have acted.
    pub fn fired(&self) -> u64 {
        self.shared.fired.load(Ordering::SeqCst)
    }

    /// How many round trips there were, one behind the other: a command belongs to the one after those whose replies its sender may
    /// have had. What is asked at once, on whatever connections, is one.
    pub fn round_trips(&self) -> u64 {
        self.shared.heard.load(Ordering::SeqCst)
    }

    /// How many commands went to Redis.
    pub fn commands(&self) -> u64 {
        self.shared.commands.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mode: watch::Receiver<Mode>) {
    loop {
        let accepted = tokio::select! {
            () = shared.running.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((client, _)) = accepted else { continue };
        if *mode.borrow() == Mode::Refuse {
            continue;
        }
        let closed = shared.connections.lock().expect("no panic while held").clone();
        let (shared, mode) = (Arc::clone(&shared), mode.clone());
        tokio::spawn(async move {
            // What ends here ends for the client as a closed connection, and that is all there is to report.
            let _ = closed.run_until_cancelled(serve(client, &shared, mode)).await;
        });
    }
}

async fn serve(client: TcpStream, shared: &Shared, mode: watch::Receiver<Mode>) -> Result<()> {
    client.set_nodelay(true)?;
    let connection =
        Connection { shared, mode, round: AtomicU64::new(0), waiting: Mutex::new(Waiting::default()) };
    let (from_client, to_client) = client.into_split();
    let upstream = shared.upstream.lock().expect("no panic while held").clone();
    match &upstream {
        Address::Tcp(address) => {
            let server = TcpStream::connect(address).await?;
            server.set_nodelay(true)?;
            let (from_server, to_server) = server.into_split();
            connection.run(from_client, to_client, from_server, to_server).await
        }
        Address::Unix(path) => {
            let (from_server, to_server) = UnixStream::connect(path).await?.into_split();
            connection.run(from_client, to_client, from_server, to_server).await
        }
    }
}

/// One client with its own connection to Redis.
struct Connection<'a> {
    shared: &'a Shared,
    mode: watch::Receiver<Mode>,
    /// The round trip of what the client has sent last.
    round: AtomicU64,
    waiting: Mutex<Waiting>,
}

/// Commands and replies on one connection, by number.
#[derive(Default)]
struct Waiting {
    commands: u64,
    replies: u64,
    /// The round trips of commands that are not answered.
    rounds: VecDeque<u64>,
    /// (command, trigger that waits for its reply)
    marked: BTreeSet<(u64, u64)>,
}

impl Connection<'_> {
    async fn run(
        &self,
        from_client: impl AsyncRead + Unpin,
        to_client: impl AsyncWrite + Unpin,
        from_server: impl AsyncRead + Unpin,
        to_server: impl AsyncWrite + Unpin,
    ) -> Result<()> {
        tokio::select! {
            ended = self.pump(from_client, to_server, Self::sent, Self::command) => ended,
            ended = self.pump(from_server, to_client, |_| {}, Self::reply) => ended,
        }
    }

    /// Moves whole messages; `arrived` is called when something has come, `look` is shown each message before it is written and again
    /// after.
    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        arrived: fn(&Self),
        look: fn(&Self, &[u8], Stage) -> Then,
    ) -> Result<()> {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let mut swallowed = false;
        loop {
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            arrived(self);
            let mode = *self.mode.borrow();
            match mode {
                Mode::BlackHole => {
                    buffer.clear();
                    swallowed = true;
                    continue;
                }
                Mode::Delay(time) => tokio::time::sleep(time).await,
                Mode::Pass | Mode::Refuse => {}
            }
            if swallowed {
                bail!("the streams are out of step after the black hole");
            }
            let mut done = 0;
            let mut written = 0;
            while let Some(length) = resp::message_length(&buffer[done..]) {
                let message = done..done + length;
                if self.has_triggers() {
                    // What came before is out of the way when the trigger acts.
                    to.write_all(&buffer[written..done]).await?;
                    if look(self, &buffer[message.clone()], Stage::Before) == Then::Cut {
                        return Ok(());
                    }
                    to.write_all(&buffer[message.clone()]).await?;
                    written = message.end;
                    if look(self, &buffer[message.clone()], Stage::After) == Then::Cut {
                        return Ok(());
                    }
                } else {
                    look(self, &buffer[message.clone()], Stage::Before);
                }
                done = message.end;
            }
            to.write_all(&buffer[written..done]).await?;
            buffer.drain(..done);
        }
    }

    fn has_triggers(&self) -> bool {
        !self.shared.triggers.lock().expect("no panic while held").is_empty()
    }

    fn sent(&self) {
        self.round.store(self.shared.heard.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
    }

    fn command(&self, message: &[u8], stage: Stage) -> Then {
        if stage == Stage::After {
            return Then::GoOn;
        }
        self.shared.commands.fetch_add(1, Ordering::SeqCst);
        let mut waiting = self.waiting.lock().expect("no panic while held");
        let number = waiting.commands;
        waiting.commands += 1;
        waiting.rounds.push_back(self.round.load(Ordering::SeqCst));
        let mut then = Then::GoOn;
        let mut triggers = self.shared.triggers.lock().expect("no panic while held");
        triggers.retain_mut(|armed| {
            let trigger = &mut armed.trigger;
            if armed.pending || !trigger.containing.iter().all(|bytes| contains(message, bytes)) {
                return true;
            }
            trigger.nth = trigger.nth.saturating_sub(1);
            if trigger.nth > 0 {
                return true;
            }
            if trigger.moment == Moment::BeforeCommand {
                self.shared.fired.fetch_add(1, Ordering::SeqCst);
                if (trigger.act)() == Then::Cut {
                    then = Then::Cut;
                }
                return false;
            }
            armed.pending = true;
            waiting.marked.insert((number, armed.id));
            true
        });
        then
    }

    fn reply(&self, message: &[u8], stage: Stage) -> Then {
        if resp::is_push(message) {
            return Then::GoOn;
        }
        let mut waiting = self.waiting.lock().expect("no panic while held");
        let number = match stage {
            Stage::Before => {
                waiting.replies += 1;
                let round = waiting.rounds.pop_front().unwrap_or_default();
                self.shared.heard.fetch_max(round, Ordering::SeqCst);
                waiting.replies - 1
            }
            Stage::After => waiting.replies - 1,
        };
        let moment = if stage == Stage::Before { Moment::Answered } else { Moment::PassedOn };
        let mut then = Then::GoOn;
        let mut triggers = self.shared.triggers.lock().expect("no panic while held");
        triggers.retain_mut(|armed| {
            if armed.trigger.moment != moment || !waiting.marked.remove(&(number, armed.id)) {
                return true;
            }
            self.shared.fired.fetch_add(1, Ordering::SeqCst);
            if (armed.trigger.act)() == Then::Cut {
                then = Then::Cut;
            }
            false
        });
        then
    }
}

impl Drop for Connection<'_> {
    /// Triggers whose reply never came wait for another command.
    fn drop(&mut self) {
        let waiting = self.waiting.lock().expect("no panic while held");
        for armed in self.shared.triggers.lock().expect("no panic while held").iter_mut() {
            if waiting.marked.iter().any(|(_, id)| *id == armed.id) {
                armed.pending = false;
                armed.trigger.nth = 1;
            }
        }
    }
}

/// When a message is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Before,
    After,
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}
