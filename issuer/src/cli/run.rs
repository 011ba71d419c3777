//! `issuer run`: the daemon.

use super::{
    context::{Context, of_store, of_vault},
    output::{Exit, Failed, Output},
};
use crate::{
    api::{self, Api},
    audit,
    dns::Resolver,
    dns01::Prover,
    fleet,
    issuance::draw,
    monitoring, notify,
    schedule::{Counters, Node},
    sightings::Sightings,
    sites::Registry,
    suffixes,
};
use jiff::Timestamp;
use shared::{
    config::{Config, Program},
    domain::{Event, EventKind},
    store::{Role, Store, StoreError, VaultError, open_vault, report_forever},
    vault::Vault,
};
use std::{sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long the store is waited for between two tries at the start.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// What is left to do once the workers have ended.
const FAREWELL: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Groups worked on at once [default: issuer.slots]
    #[arg(long)]
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
    let Some((store, vault)) = open(&config, output, &stop).await? else { return Ok(Exit::Done) };
    let config = Arc::new(config);
    let counters = Counters::default();
    let mut metrics = monitoring::new_registry();
    counters.register(&mut metrics);
    let node = Node::new(store.clone(), Arc::clone(&vault), Arc::clone(&config), counters)
        .map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
    let node = Arc::new(node);
    let watched = tokio::spawn({
        let store = store.clone();
        async move { store.watch().await }
    });
    let followed = tokio::spawn(tell_of_failovers(store.clone()));
    // What this node has of the keyring is known to whoever rotates a key, and what the store wants of it is followed.
    let reported = tokio::spawn({
        let (store, vault) = (store.clone(), Arc::clone(&vault));
        async move { report_forever(store, &vault, "issuer").await }
    });
    let copied =
        tokio::spawn(audit::copy_forever(store.clone(), audit::directory(&config), config.audit.keep_days));
    let frontends_watched = tokio::spawn(fleet::watch_forever(store.clone(), config.frontends.clone()));
    // The operator is told of what the last orders came to, too: the notifier ends after the workers.
    let workers_ended = CancellationToken::new();
    let notified = tokio::spawn({
        let told = notify::run(store.clone(), config.notify.clone(), workers_ended.clone());
        let stop = stop.clone();
        async move {
            let ended = told.await;
            if ended.is_err() {
                stop.cancel();
            }
            ended
        }
    });
    let sightings = Sightings::of(&store, &config, &mut metrics)
        .map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
    let sighted = tokio::spawn(async move {
        if let Some(sightings) = sightings {
            sightings.run().await;
        }
    });
    let unusable = |e: &(dyn std::error::Error + 'static)| Failed::because(Exit::Usage, "configuration", e);
    let resolver = Resolver::with_servers(&config.issuer.resolvers).map_err(|e| unusable(&e))?;
    let prover = Prover::open(&config, store.clone(), resolver).map_err(|e| unusable(&e))?;
    let swept = tokio::spawn(async move { prover.sweep_forever(draw).await });
    let registry = Registry::new(store.clone(), Arc::clone(&config));
    let troubled = Arc::clone(&node);
    let mut api =
        Api::new(store.clone(), Arc::clone(&config), registry).with_troubles(move || troubled.troubles());
    api.register(&mut metrics);
    let page = monitoring::serve(page, metrics, store.clone(), stop.clone(), workers_ended.clone());
    let monitored = tokio::spawn(page);
    let alive = tokio::spawn(tell_systemd(Arc::clone(&node), stop.clone()));
    if let Some(what) = suffixes::warning(&config, Timestamp::now()) {
        tracing::warn!(what, "the limits of domains may be counted wrong");
    }
    tracing::info!(slots = config.issuer.slots, "working on what is due");
    let (served, ()) = tokio::join!(api::serve(operators, api, stop.clone()), node.run(stop.clone()));
    if let Err(error) = served {
        tracing::error!(%error, "the operators' API has failed");
    }
    workers_ended.cancel();
    let unusable = match tokio::time::timeout(FAREWELL, notified).await {
        Ok(Ok(Err(error))) => Some(Failed::because(Exit::Usage, "configuration", &error)),
        Ok(_) => None,
        Err(_) => {
            tracing::warn!(
                "a receiver of notifications does not answer; it is told by another node, or at the next start"
            );
            None
        }
    };
    alive.abort();
    watched.abort();
    reported.abort();
    followed.abort();
    copied.abort();
    frontends_watched.abort();
    sighted.abort();
    swept.abort();
    monitored.abort();
    tracing::info!("ended");
    unusable.map_or(Ok(Exit::Done), Err)
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
