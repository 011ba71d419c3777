//! From a role and a configuration to running listeners, and to their graceful end.

use crate::{
    certificates::{self, Certificates},
    challenge::{self, Challenge},
    store_check,
};
use serving::{
    listener::{self, BindError},
    monitoring::{self, Health, new_registry},
};
use shared::{
    config::{Config, Program},
    error::chain,
    store::{Role, Store, StoreError, VaultError},
};
use std::{error::Error, fmt, future::Future, net::TcpListener, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long open requests may take to be answered once the program has been told to end.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// Why the program ends before it was told to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Somebody has to change the configuration, a file or a credential: exit code 2.
    Configuration(String),
    /// Exit code 1.
    Failed(String),
}

impl Failure {
    pub(crate) fn configuration(error: &(dyn Error + 'static)) -> Self {
        Self::Configuration(chain(error))
    }

    pub(crate) fn failed(what: &str, error: impl Error + 'static) -> Self {
        Self::Failed(format!("{what}: {}", chain(&error)))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Configuration(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(text) | Self::Failed(text) => f.write_str(text),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::Failed(chain(&error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if store_check::is_final(&error) { Self::configuration(&error) } else { Self::Failed(chain(&error)) }
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Store(error) => error.into(),
            // Its own text is the advice; the cause below it would say the same in other words.
            VaultError::Keyring(_, advice) => Self::Configuration(advice),
            other => Self::configuration(&other),
        }
    }
}

/// Role `challenge`, until `stop`.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn challenge(config: &Config, stop: CancellationToken) -> Result<(), Failure> {
    let workers = workers(config.challenge.workers);
    let mut listeners = Vec::new();
    for address in &config.challenge.listen {
        listeners.push(listener::bind_shared(*address, workers)?);
    }
    let page = listener::bind(config.telemetry.address_of(Program::Challenge))?;
    let Some(store) = open(config, Role::Challenge, &stop).await? else { return Ok(()) };
    let mut registry = new_registry("validation-server", "challenge");
    let role = Challenge::new(&config.challenge, store.clone(), &mut registry);
    let health = Health::new(registry, role.readiness(stop.clone()));
    let served = challenge::serve(listeners, &config.challenge, role.answers(), role.traffic(), stop.clone());
    let prepared = async { Ok(role.prepare(config.store.confirm_replicas).await?) };
    tracing::info!(listen = ?config.challenge.listen, workers, "answering challenges");
    beside_monitoring(store, page, health, stop, served, prepared).await
}

/// Role `certificates`, until `stop`.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn certificates(config: &Config, stop: CancellationToken) -> Result<(), Failure> {
    let workers = workers(config.certificates.workers);
    let mut listeners = Vec::new();
    for address in &config.certificates.listen {
        listeners.push(listener::bind_shared(*address, workers)?);
    }
    let page = listener::bind(config.telemetry.address_of(Program::Certificates))?;
    let Some(store) = open(config, Role::Certificates, &stop).await? else { return Ok(()) };
    let mut registry = new_registry("validation-server", "certificates");
    let role = Certificates::new(config, store.clone(), &mut registry, stop.clone())?;
    let health = Health::new(registry, role.readiness(stop.clone()));
    let served = certificates::serve(listeners, &config.certificates, role.clone(), stop.clone());
    let prepared = async { role.prepare().await };
    tracing::info!(listen = ?config.certificates.listen, workers, "serving certificates");
    let ended = beside_monitoring(store, page, health, stop, served, prepared).await;
    // What was only counted so far is written; for a store that is away nobody waits.
    let _ = tokio::time::timeout(DRAIN, role.finish()).await;
    ended
}

/// Opens the store. An embedded one that doesn't come up is waited for; `None`: told to end before it did.
async fn open(config: &Config, role: Role, stop: &CancellationToken) -> Result<Option<Store>, Failure> {
    let may_pass = |error: &StoreError| matches!(error, StoreError::Embedded(error) if error.may_pass());
    loop {
        let opened = tokio::select! {
            opened = Store::open(&config.store, role) => opened,
            () = stop.cancelled() => return Ok(None),
        };
        match opened {
            Ok(store) => return Ok(Some(store)),
            Err(error) if may_pass(&error) => tracing::error!(error = chain(&error), "it is tried again"),
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(store_check::PAUSE) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

/// Runs a role with what it needs beside it: the page for monitoring, which outlives the role's own listeners, the
/// watchdog of the store, and what prepares the role while it already listens.
async fn beside_monitoring(
    store: Store,
    page: TcpListener,
    health: Health,
    stop: CancellationToken,
    served: impl Future<Output = std::io::Result<()>>,
    prepared: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let end = CancellationToken::new();
    let watched = tokio::spawn(async move { store.watch().await });
    let monitored = tokio::spawn(monitoring::show(page, health, end.clone()));
    let prepared = async {
        match prepared.await {
            Ok(()) => std::future::pending().await,
            Err(failure) => failure,
        }
    };
    tokio::pin!(served);
    let served_to_the_end =
        |served: std::io::Result<()>| served.map_err(|e| Failure::failed("serving failed", e));
    let result = tokio::select! {
        served = &mut served => served_to_the_end(served),
        failure = prepared => {
            stop.cancel();
            served_to_the_end(served.await).and(Err(failure))
        }
    };
    watched.abort();
    end.cancel();
    match (result, monitored.await) {
        (Ok(()), Ok(Err(error))) => Err(Failure::failed("monitoring failed", error)),
        (result, _) => result,
    }
}

/// Cancelled by SIGTERM or SIGINT. From here on SIGHUP, which asks a program to look at its files again, ends nothing.
///
/// # Errors
/// The signals can't be listened to.
pub(crate) fn stop_on_signals() -> Result<CancellationToken, Failure> {
    let failed = |e| Failure::failed("signals can't be received", e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    // A signal that was listened for once keeps its handler.
    drop(signal(SignalKind::hangup()).map_err(failed)?);
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end: open requests are still answered");
        cancelled.cancel();
    });
    Ok(stop)
}

fn workers(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        some => some,
    }
}
