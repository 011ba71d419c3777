//! Two addresses that hold as many connections as they get: some say nothing, some drip, some begin a request and stop.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

const ATTACKERS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
/// After how long one that was sent away comes back, and how often one that holds on says something.
const PAUSE: Duration = Duration::from_secs(10);
const DRIP: Duration = Duration::from_secs(1);

/// An attack that goes on.
pub(crate) struct Attack {
    counts: Arc<Counts>,
    connections: usize,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    held: AtomicUsize,
    opened: AtomicU64,
}

impl Attack {
    pub(crate) fn start(server: SocketAddr, connections: usize) -> Self {
        let (counts, stop) = (Arc::new(Counts::default()), CancellationToken::new());
        let tasks = (0..connections)
            .map(|number| {
                let (counts, stop) = (Arc::clone(&counts), stop.clone());
                tokio::spawn(async move {
                    // Not all at once: the backlog of one listener is full before it is asked for.
                    tokio::time::sleep(PAUSE.mul_f64(number as f64 / connections as f64) / 2).await;
                    stop.run_until_cancelled(hold(server, number, &counts)).await;
                })
            })
            .collect();
        Self { counts, connections, stop, tasks }
    }

    /// Whether each of them has tried.
    pub(crate) fn has_begun(&self) -> bool {
        self.counts.opened.load(Ordering::Relaxed) >= self.connections as u64
    }

    pub(crate) fn held(&self) -> usize {
        self.counts.held.load(Ordering::Relaxed)
    }

    /// Ends it; how many connections were tried.
    pub(crate) async fn end(self) -> u64 {
        self.stop.cancel();
        for task in self.tasks {
            task.await.ok();
        }
        self.counts.opened.load(Ordering::Relaxed)
    }
}

/// Holds one connection, and opens it again when it was ended.
async fn hold(server: SocketAddr, number: usize, counts: &Counts) {
    loop {
        if let Some(stream) = connect(ATTACKERS[number % 2], server).await {
            counts.held.fetch_add(1, Ordering::Relaxed);
            keep(stream, number).await;
            counts.held.fetch_sub(1, Ordering::Relaxed);
        }
        counts.opened.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn connect(client: Ipv4Addr, server: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((client, 0).into()).ok()?;
    tokio::time::timeout(PAUSE, socket.connect(server)).await.ok()?.ok()
}

/// Until the server ends it.
async fn keep(mut stream: TcpStream, number: usize) {
    let begin: &[u8] = match number % 4 {
        0 => b"",
        1 => b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        2 => b"GET / HTTP/1.1\r\nho",
        // The begin of a handshake.
        _ => &[22, 3, 1, 2, 0, 1],
    };
    if stream.write_all(begin).await.is_err() {
        return;
    }
    let mut answer = [0; 1024];
    loop {
        match tokio::time::timeout(DRIP, stream.read(&mut answer)).await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => {}
            Err(_) if number % 4 == 2 => {
                if stream.write_all(b"x").await.is_err() {
                    return;
                }
            }
            Err(_) => {}
        }
    }
}
