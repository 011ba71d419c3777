//! Workers, each a thread with a runtime and sockets of its own, and the loop that takes connections.

use crate::{
    address::{Addresses, Place},
    bounds::Bounds,
    connection::{self, RefusalBody},
    exchange::{Told, watch},
    life::{Connection, Life, Phase},
    seldom::Seldom,
    stream::{Transport, Watched},
    traffic::{Fault, Traffic},
};
use actix_http::{Extensions, HttpService, KeepAlive, Request, Response, body::BoxBody, body::MessageBody};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, apply_fn_factory};
use openssl::ssl::{SslContext, SslRef};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt::Debug,
    io, net,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    task::LocalSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Pause when the system has no file or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(50);
/// The part of all connections that is given up at once where there is no place left: looking for them takes a while.
const DISPLACED_PART: usize = 32;

/// One way in: where connections come from, and what is allowed.
pub struct Entrance {
    /// As the log calls it.
    pub name: &'static str,
    /// For each address one socket for each worker, as [`crate::listener::bind_shared`] makes them.
    pub sockets: Vec<Vec<net::TcpListener>>,
    pub bounds: Bounds,
    /// Absent: plain HTTP.
    pub tls: Option<Tls>,
    /// What is said of a head that HTTP itself refuses, before there is a request that anybody could answer; absent: nothing.
    pub refusal: Option<RefusalBody>,
    pub traffic: Traffic,
}

/// What is shown to clients who say hello.
#[derive(Clone)]
pub struct Tls {
    pub context: SslContext,
    /// What of a handshake a request is to know: it is found with `conn_data`.
    pub on_connect: fn(&SslRef, &mut Extensions),
}

/// What a worker is made of.
#[derive(Clone)]
struct Way {
    name: &'static str,
    bounds: Bounds,
    tls: Option<Tls>,
    refusal: Option<RefusalBody>,
    traffic: Traffic,
    addresses: Arc<Addresses>,
    stop: CancellationToken,
}

/// Serves until `stop`, then finishes what is open. Each worker makes a service of its own.
///
/// # Errors
/// A worker can't be started, or ended by itself.
pub async fn serve<F, I, S, B>(entrance: Entrance, service: F, stop: CancellationToken) -> io::Result<()>
where
    F: Fn() -> I + Clone + Send + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<
            Request,
            Config = (),
            Response: Into<Response<B>> + 'static,
            Error: Into<Response<BoxBody>> + 'static,
            InitError: Debug,
            Service: Service<Request, Future: 'static>,
        > + 'static,
    B: MessageBody + Unpin + 'static,
{
    let Entrance { name, sockets, bounds, tls, refusal, traffic } = entrance;
    let workers = sockets.iter().map(Vec::len).max().unwrap_or_default();
    let mut bounds = bounds.within_the_systems();
    let addresses = Addresses::new(bounds.of_one_address, std::mem::take(&mut bounds.unlimited_addresses));
    bounds.connections = bounds.connections.div_ceil(workers.max(1));
    // Ends the workers whenever this future does.
    let stop = stop.child_token();
    let _end = stop.clone().drop_guard();
    let way = Way { name, bounds, tls, refusal, traffic: traffic.clone(), addresses, stop };
    let mut of_worker: Vec<Vec<net::TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for sockets in sockets {
        of_worker.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.push(socket));
    }
    let mut running = Vec::new();
    for (number, sockets) in of_worker.into_iter().enumerate() {
        let (service, way, (ended, end)) = (service.clone(), way.clone(), oneshot::channel());
        let work = move || {
            // Nobody waits for it any more: then nobody has to know.
            let _ = ended.send(work(sockets, &service, way));
        };
        std::thread::Builder::new().name(format!("{name}-{number}")).spawn(work)?;
        running.push(end);
    }
    let all = futures_util::future::try_join_all(
        running
            .into_iter()
            .map(async |end| end.await.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))),
    );
    tokio::select! {
        ended = all => ended.map(drop),
        () = traffic.tell_forever(name) => Ok(()),
    }
}

/// One worker.
fn work<F, I, S, B>(sockets: Vec<net::TcpListener>, service: &F, mut way: Way) -> io::Result<()>
where
    F: Fn() -> I,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<
            Request,
            Config = (),
            Response: Into<Response<B>> + 'static,
            Error: Into<Response<BoxBody>> + 'static,
            InitError: Debug,
            Service: Service<Request, Future: 'static>,
        > + 'static,
    B: MessageBody + Unpin + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        // A token of its own: connections that register with it contend with nobody.
        way.stop = way.stop.child_token();
        let draining = way.stop.clone();
        let on_connect = way.tls.as_ref().map(|tls| tls.on_connect);
        let service = HttpService::build()
            // The life of a connection sees to all of this, for every request and not for the first one only.
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(Duration::ZERO)
            .keep_alive(KeepAlive::Os)
            .on_connect_ext(move |stream: &Watched, extensions| {
                extensions.insert(Connection(Rc::clone(stream.life())));
                if let Some(on_connect) = on_connect {
                    stream.with(|transport| match transport {
                        Transport::Tls(stream) => on_connect(stream.ssl(), extensions),
                        Transport::Plain(_) => {}
                    });
                }
            })
            // Not in its documentation yet, but what actix-web itself ends its connections with.
            .graceful_shutdown_signal(move || draining.clone().cancelled_owned())
            .h1::<_, Told<B>>(apply_fn_factory(service(), watch::<S::Service, B>))
            .new_service(())
            .await
            .map_err(|()| io::Error::other("the HTTP service can't be made"))?;
        let drain = way.bounds.drain;
        let worker = Rc::new(Worker {
            service,
            bounds: Rc::new(way.bounds.clone()),
            way,
            open: RefCell::default(),
            next: Cell::default(),
            all_ended: Notify::new(),
        });
        let accepting: Vec<_> = sockets
            .into_iter()
            .map(|socket| tokio::task::spawn_local(Rc::clone(&worker).accept(socket)))
            .collect();
        for task in accepting {
            task.await.map_err(io::Error::other)??;
        }
        let _ = tokio::time::timeout(drain, worker.all_ended()).await;
        Ok(())
    })
}

/// What the connections of one thread have in common.
struct Worker<S> {
    service: S,
    bounds: Rc<Bounds>,
    way: Way,
    /// The open connections by their number.
    open: RefCell<HashMap<u64, Rc<Life>>>,
    next: Cell<u64>,
    all_ended: Notify,
}

/// A connection's place in the list of those that are open.
struct Listed<S> {
    worker: Rc<Worker<S>>,
    number: u64,
    _place: Place,
}

impl<S> Worker<S>
where
    S: Service<(Watched, Option<net::SocketAddr>), Response = (), Error = actix_http::error::DispatchError>
        + 'static,
{
    /// Takes connections until the end. Nothing that one of them, or the system, does to it ends it or has it spin.
    async fn accept(self: Rc<Self>, socket: net::TcpListener) -> io::Result<()> {
        static TOLD: Seldom = Seldom::new();
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket)?;
        let stop = self.way.stop.clone();
        let stopped = stop.cancelled();
        tokio::pin!(stopped);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.take(stream, peer),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    TOLD.say(|unsaid| {
                        tracing::error!(
                            listener = self.way.name,
                            %error,
                            unsaid,
                            "no further connection can be accepted for now"
                        );
                    });
                    self.make_room();
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    /// Gives a connection its place and its task, or closes it.
    fn take(self: &Rc<Self>, stream: TcpStream, peer: net::SocketAddr) {
        let traffic = &self.way.traffic;
        let Some(place) = self.way.addresses.enter(peer.ip()) else {
            traffic.note_too_many(peer.ip());
            return refuse(&stream);
        };
        let most = self.bounds.connections;
        // Those that are displaced are still there for a moment.
        let open = self.open.borrow().len();
        if open >= most && (open >= most + most.div_ceil(DISPLACED_PART) || !self.make_room()) {
            traffic.note(Fault::full);
            return refuse(&stream);
        }
        let phase = if self.way.tls.is_some() { Phase::Handshake } else { Phase::Head };
        let life = Rc::new(Life::new(Rc::clone(&self.bounds), phase));
        let listed = self.list(Rc::clone(&life), place);
        tokio::task::spawn_local(async move {
            let Self { service, way, .. } = &*listed.worker;
            let transport = connection::transport(stream, way.tls.as_ref(), &life, &way.traffic, &way.stop);
            let transport = match way.tls {
                None => transport.await,
                // Boxed: every connection has room for this future, and it is soon over.
                Some(_) => Box::pin(transport).await,
            };
            if let Some(transport) = transport {
                if way.refusal.is_some() {
                    life.hide_refusals();
                }
                let stream = Watched::new(transport, life);
                let protocol = service.call((stream.clone(), Some(peer)));
                connection::serve(&stream, protocol, way.refusal, &way.traffic).await;
            }
        });
    }

    fn list(self: &Rc<Self>, life: Rc<Life>, place: Place) -> Listed<S> {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.open.borrow_mut().insert(number, life);
        self.way.traffic.opened();
        Listed { worker: Rc::clone(self), number, _place: place }
    }

    /// Ends those connections whose clients have kept us waiting for the longest. False where there is none.
    fn make_room(&self) -> bool {
        let open = self.open.borrow();
        let waiting = open.values().filter_map(|life| Some((life.waiting_since()?, life))).collect();
        let first = longest_waiting(waiting, (open.len() / DISPLACED_PART).max(1));
        first.iter().for_each(|(_, life)| life.displace());
        !first.is_empty()
    }
}

/// So many of those that have been waited for since the earliest moments.
fn longest_waiting<T>(mut waiting: Vec<(Instant, T)>, count: usize) -> Vec<(Instant, T)> {
    if waiting.len() > count {
        waiting.select_nth_unstable_by_key(count, |(since, _)| *since);
        waiting.truncate(count);
    }
    waiting
}

impl<S> Worker<S> {
    async fn all_ended(&self) {
        while !self.open.borrow().is_empty() {
            self.all_ended.notified().await;
        }
    }
}

impl<S> Drop for Listed<S> {
    fn drop(&mut self) {
        let mut open = self.worker.open.borrow_mut();
        open.remove(&self.number);
        self.worker.way.traffic.closed();
        if open.is_empty() {
            self.worker.all_ended.notify_one();
        }
    }
}

/// Closes without a word, and without leaving anything in the system for the time that closed connections are remembered.
fn refuse(stream: &TcpStream) {
    // Where it can't be done, it is closed all the same.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// The client was gone before it was its turn.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_go_first_that_have_been_waited_for_the_longest() {
        let begin = Instant::now();
        let waiting =
            |order: &[u64]| order.iter().map(|s| (begin + Duration::from_secs(*s), *s)).collect::<Vec<_>>();
        let going = |order: &[u64], count| {
            let mut going: Vec<u64> =
                longest_waiting(waiting(order), count).into_iter().map(|(_, s)| s).collect();
            going.sort_unstable();
            going
        };
        assert_eq!(going(&[9, 2, 7, 1, 8, 3], 2), [1, 2]);
        assert_eq!(going(&[5], 2), [5]);
        assert!(going(&[], 1).is_empty());
    }
}
