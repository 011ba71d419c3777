//! `issuer run`: the daemon.

use super::{
    context::{Context, of_store, of_vault},
    output::{Exit, Failed, Output},
};
use crate::{
    api::{self, Api},
    audit,
    ca::unconfigured,
    dns::Resolver,
    dns01::Prover,
    fleet,
    issuance::draw,
    monitoring, notify,
    schedule::{Counters, Node},
    sightings::Sightings,
    sites::Registry,
    suffixes,
    supervision::Supervisor,
};
use jiff::Timestamp;
use shared::{
    config::{Config, Program},
    domain::{Event, EventKind},
    store::{Role, Store, StoreError, VaultError, open_vault, report_forever},
    vault::Vault,
};
use std::{future::Future, net::TcpListener, sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long the store is waited for between two tries at the start.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// Sites are looked at for the CAs that they name beside everything else.
const LONGEST_COUNT_OF_DAEMON: Duration = Duration::from_secs(600);
/// What is left to do once the workers have ended.
const FAREWELL: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Groups worked on at once [default: issuer.slots]
    #[arg(long, value_parser = super::site::at_least_one)]
    slots: Option<usize>,
}

pub(super) async fn run(arguments: &Arguments, mut config: Config, output: &Output) -> Result<Exit, Failed> {
    if let Some(slots) = arguments.slots {
        config.issuer.slots = slots.max(1);
    }
    let stop = stop_on_signals()?;
    let of_bind = |e: serving::listener::BindError| Failed::because(Exit::Failed, "listen", &e);
    serving::open_files::raise_limit();
    let operators = serving::listener::bind_shared(config.issuer.listen, api::WORKERS).map_err(of_bind)?;
    let page = serving::listener::bind(config.telemetry.address_of(Program::Issuer)).map_err(of_bind)?;
    let waiting = Waiting::begin(&operators, &page)?;
    let opened = open(&config, output, &stop).await;
    waiting.end().await;
    let Some((store, vault)) = opened? else { return Ok(Exit::Done) };
    let config = Arc::new(config);
    let counters = Counters::default();
    let mut metrics = monitoring::new_registry();
    counters.register(&mut metrics);
    let unusable = |e: &(dyn std::error::Error + 'static)| Failed::because(Exit::Usage, "configuration", e);
    let node = Node::new(store.clone(), Arc::clone(&vault), Arc::clone(&config), counters)
        .map_err(|e| unusable(&e))?;
    let node = Arc::new(node);
    let mut parts = Supervisor::new(store.clone());
    keep_parts(&mut parts, &store, &vault, &config);
    parts.keep("looks over the schedule and its records", {
        let node = Arc::clone(&node);
        move || Arc::clone(&node).watch_records()
    });
    parts.keep("takes over from processes that have ended", {
        let node = Arc::clone(&node);
        move || Arc::clone(&node).watch_leases()
    });
    parts.keep("compares clocks", {
        let node = Arc::clone(&node);
        move || Arc::clone(&node).watch_clocks()
    });
    parts.keep("looks whether the store has room", {
        let node = Arc::clone(&node);
        move || Arc::clone(&node).watch_room()
    });
    // The operator is told of what the last orders came to, too: the notifier ends after the workers.
    let workers_ended = CancellationToken::new();
    let notified = tokio::spawn({
        let told = notify::run(store.clone(), config.notify.clone(), workers_ended.clone());
        let (stop, workers_ended) = (stop.clone(), workers_ended.clone());
        async move {
            // Whatever it ends with before the workers do: nobody would be told of anything any more.
            let _ends_the_daemon = stop.clone().drop_guard();
            let ended = told.await;
            if ended.is_ok() {
                workers_ended.cancelled().await;
            }
            ended
        }
    });
    if let Some(sightings) = Sightings::of(&store, &config, &mut metrics).map_err(|e| unusable(&e))? {
        let sightings = Arc::new(sightings);
        parts.keep("decides about names that visitors came with", move || Arc::clone(&sightings).run());
    }
    let resolver = Resolver::with_servers(&config.issuer.resolvers).map_err(|e| unusable(&e))?;
    let prover = Arc::new(Prover::open(&config, store.clone(), resolver).map_err(|e| unusable(&e))?);
    parts.keep("removes TXT records that are left over", move || {
        let prover = Arc::clone(&prover);
        async move { prover.sweep_forever(draw).await }
    });
    let registry = Registry::new(store.clone(), Arc::clone(&config));
    let troubled = Arc::clone(&node);
    let mut api =
        Api::new(store.clone(), Arc::clone(&config), registry).with_troubles(move || troubled.troubles());
    api.register(&mut metrics);
    let page = monitoring::serve(page, metrics, store.clone(), stop.clone(), workers_ended.clone());
    let monitored = tokio::spawn(ending(page, stop.clone(), "the page for monitoring"));
    parts.keep("tells systemd how it is", {
        let (node, stop) = (Arc::clone(&node), stop.clone());
        move || {
            let (node, stop) = (Arc::clone(&node), stop.clone());
            async move {
                tell_systemd(node, stop).await;
                std::future::pending::<()>().await;
            }
        }
    });
    if let Some(what) = suffixes::warning(&config, Timestamp::now()) {
        tracing::warn!(what, "the limits of domains may be counted wrong");
    }
    if config.ca.is_empty() {
        let remedy = "add a section such as [ca.letsencrypt], and restart";
        tracing::warn!(remedy, "no CA is configured: nothing can be ordered");
    }
    tokio::spawn(tell_of_unconfigured(store.clone(), Arc::clone(&config)));
    tracing::info!(slots = config.issuer.slots, "working on what is due");
    let served = ending(api::serve(operators, api, stop.clone()), stop.clone(), "the operators' API");
    let (served, ()) = tokio::join!(served, node.run(stop.clone()));
    workers_ended.cancel();
    let failed = match tokio::time::timeout(FAREWELL, notified).await {
        Ok(Ok(Err(error))) => Some(unusable(&error)),
        Ok(Ok(Ok(()))) => None,
        Ok(Err(error)) => Some(Failed::because(Exit::Failed, "bug", &error)),
        Err(_) => {
            tracing::warn!(
                "a receiver of notifications does not answer; it is told by another node, or at the next start"
            );
            None
        }
    };
    drop(parts);
    monitored.abort();
    tracing::info!("ended");
    failed.or(served.err()).map_or(Ok(Exit::Done), Err)
}

/// The parts that need nothing but the store.
fn keep_parts(parts: &mut Supervisor, store: &Store, vault: &Arc<Vault>, config: &Arc<Config>) {
    let watched = store.clone();
    parts.keep("asks the store whether it is there", move || {
        let store = watched.clone();
        async move { store.watch().await }
    });
    let followed = store.clone();
    parts.keep("tells of failovers", move || tell_of_failovers(followed.clone()));
    // What this node has of the keyring is known to whoever rotates a key, and what the store wants of it is followed.
    let (reported, vault) = (store.clone(), Arc::clone(vault));
    parts.keep("reports this node's keys", move || {
        let (store, vault) = (reported.clone(), Arc::clone(&vault));
        async move { report_forever(store, &vault, "issuer").await }
    });
    let (copied, settings) = (store.clone(), Arc::clone(config));
    parts.keep("copies the audit", move || {
        audit::copy_forever(copied.clone(), audit::directory(&settings), settings.audit.keep_days)
    });
    let (compared, settings) = (store.clone(), Arc::clone(config));
    parts.keep("watches the frontends", move || {
        fleet::watch_forever(compared.clone(), settings.frontends.clone())
    });
}

/// A listener without which the daemon is none: where it ends before it is told to, so does the daemon.
async fn ending(
    served: impl Future<Output = std::io::Result<()>>,
    stop: CancellationToken,
    what: &'static str,
) -> Result<(), Failed> {
    let guard = stop.clone().drop_guard();
    let served = served.await;
    let was_told = stop.is_cancelled();
    drop(guard);
    match served {
        Err(error) => {
            tracing::error!(%error, "{what} has failed: the daemon ends");
            Err(Failed::because(Exit::Failed, "listen", &error))
        }
        Ok(()) if was_told => Ok(()),
        Ok(()) => {
            tracing::error!("{what} has ended by itself: the daemon ends");
            Err(Failed::new(Exit::Failed, "bug", format!("{what} has ended by itself")))
        }
    }
}

/// Who listens, answers: while the store is waited for, that it is.
struct Waiting {
    answered: CancellationToken,
    servers: tokio::task::JoinSet<std::io::Result<()>>,
}

impl Waiting {
    fn begin(operators: &[TcpListener], page: &TcpListener) -> Result<Self, Failed> {
        let failed = |e: std::io::Error| Failed::because(Exit::Failed, "listen", &e);
        let answered = CancellationToken::new();
        let mut servers = tokio::task::JoinSet::new();
        let operators: Vec<TcpListener> =
            operators.iter().map(TcpListener::try_clone).collect::<Result<_, _>>().map_err(failed)?;
        servers.spawn(api::serve_nothing(operators, answered.clone()));
        servers.spawn(monitoring::serve_waiting(page.try_clone().map_err(failed)?, answered.clone()));
        Ok(Self { answered, servers })
    }

    /// What comes now waits for those who know more.
    async fn end(mut self) {
        self.answered.cancel();
        while self.servers.join_next().await.is_some() {}
    }
}

/// What was under way goes on by itself: whoever finds that the new primary knows nothing of its lease writes nothing, and
/// the site is taken anew.
async fn tell_of_failovers(store: Store) {
    let mut failovers = store.failovers();
    while failovers.changed().await.is_ok() {
        let what = "the store has another primary; what was under way is looked at again";
        tracing::warn!("{what}");
        let event = Event::new(EventKind::Failover, Timestamp::now(), what);
        if let Err(error) = store.append_event(&event).await {
            tracing::warn!(error = shared::error::chain(&error), "the failover could not be told");
        }
    }
}

/// Whoever took out the section of a CA is told what it is that hangs on it.
async fn tell_of_unconfigured(store: Store, config: Arc<Config>) {
    match unconfigured(&store, &config, LONGEST_COUNT_OF_DAEMON).await {
        Ok(found) => found.iter().for_each(|lacking| tracing::warn!("{lacking}")),
        Err(error) => {
            tracing::debug!(
                error = shared::error::chain(&error),
                "the CAs of the sites could not be counted"
            );
        }
    }
}

/// The store and the keys to it. Programs start in any order: a store that isn't there yet is waited for. `None`: told to
/// end before it came.
async fn open(
    config: &Config,
    output: &Output,
    stop: &CancellationToken,
) -> Result<Option<(Store, Arc<Vault>)>, Failed> {
    let mut told = false;
    loop {
        let opened = tokio::select! {
            opened = try_open(config, *output) => opened,
            () = stop.cancelled() => return Ok(None),
        };
        let failed = match opened {
            Ok(opened) => return Ok(Some(opened)),
            Err(failed) => failed,
        };
        let Some(error) = failed.1 else { return Err(failed.0) };
        if !told {
            tracing::error!(error, "the store can't be reached: waiting for it");
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(STORE_PAUSE) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// An error, and its text where it may pass by itself.
async fn try_open(config: &Config, output: Output) -> Result<(Store, Arc<Vault>), (Failed, Option<String>)> {
    let passing = |error: &StoreError| error.may_pass().then(|| shared::error::chain(error));
    let of = |error: StoreError| (of_store(&error), passing(&error));
    let store = Store::open(&config.store, Role::Issuer).await.map_err(of)?;
    let health = store.check(config.store.confirm_replicas).await.map_err(of)?;
    for warning in &health.warnings {
        tracing::warn!("{warning}");
    }
    let vault = match open_vault(&store, &config.store).await {
        Ok((vault, made)) => {
            Context::tell_of_new_ring(made, output);
            vault
        }
        Err(VaultError::Store(error)) => return Err(of(error)),
        Err(error) => return Err((of_vault(&error), None)),
    };
    store.prepare_for_writing().await.map_err(of)?;
    Ok((store, vault))
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_on_signals() -> Result<CancellationToken, Failed> {
    let failed = |e: std::io::Error| Failed::because(Exit::Failed, "signals", &e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(stop)
}

/// Tells systemd that the daemon is ready, how it is, that it lives, and that it ends. Does nothing elsewhere.
async fn tell_systemd(node: Arc<Node>, stop: CancellationToken) {
    use sd_notify::NotifyState;
    let say = |states: &[NotifyState<'_>]| {
        if let Err(error) = sd_notify::notify(states) {
            tracing::debug!(%error, "systemd can't be told");
        }
    };
    say(&[NotifyState::Ready]);
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_secs(10), |limit| limit / 3);
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stop.cancelled() => break,
        }
        let troubles = node.troubles();
        let status = if troubles.is_empty() { "working".to_owned() } else { troubles.join("; ") };
        // A daemon whose sweeps have stopped is not alive, whatever this task does.
        if node.is_sweeping() {
            say(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
        } else {
            say(&[NotifyState::Status("no sweep over what is due for a while")]);
        }
    }
    say(&[NotifyState::Stopping, NotifyState::Status("finishing what was begun")]);
}
