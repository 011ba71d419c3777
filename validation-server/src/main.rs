//! The validation server: one program, two roles, a process each with its own user and rights.
//!
//! - `challenge` faces the world on port 80 and answers the CA's validators with key authorizations. It holds no key
//!   material and reads nothing but tokens.
//! - `certificates` faces the provider's own frontends over HTTPS, and gives each the certificates and keys in its scope.
//!
//! # Layout
//!
//! - [`run`]: from a role and a configuration to running listeners, and to their graceful end.
//! - [`challenge`], [`certificates`]: the two roles.
//! - [`store_check`]: what both need: a store to trust.
//!
//! Sockets and the page for monitoring are those of every program: the crate `serving`.

mod certificates;
mod challenge;
mod run;
mod store_check;

use clap::{Args, Parser, Subcommand};
use run::Failure;
use shared::{config::Config, printing::tell};
use std::{path::PathBuf, process::ExitCode};

/// Wipes what is freed, wherever it was: a private key passes through buffers of libraries, and through those that grow.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Answers the CA's challenges, and serves certificates to frontends.
#[derive(Parser)]
#[command(version, after_help = "Exit codes: 0 ended as told, 1 failed, 2 usage or configuration.")]
struct Arguments {
    /// The configuration file [default: /etc/signpost/signpost.toml]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answer the CA's http-01 challenges (plain HTTP, no key material in this process)
    Challenge(RoleArguments),
    /// Serve certificates and keys to frontends (HTTPS; bearer tokens or client certificates)
    Certificates(RoleArguments),
}

#[derive(Args)]
struct RoleArguments {
    /// Check the configuration for this role, and end
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure.to_string());
            failure.exit_code()
        }
    }
}

fn start(arguments: &Arguments) -> Result<(), Failure> {
    let config = Config::load(arguments.config.as_deref()).map_err(|e| Failure::configuration(&e))?;
    let checked_only = match &arguments.role {
        Role::Challenge(role) => {
            challenge::check(&config)?;
            role.check
        }
        Role::Certificates(role) => {
            certificates::check(&config)?;
            role.check
        }
    };
    if checked_only {
        tell("the configuration is fine");
        return Ok(());
    }
    // What the operator sets comes after, and wins.
    let filter = format!("{},{}", serving::LOG_FILTER, config.telemetry.log);
    shared::telemetry::begin_logging(&config.telemetry, Some(&filter))
        .map_err(|e| Failure::Configuration(format!("telemetry.log: {e}")))?;
    serving::open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::failed("the runtime can't be started", e))?;
    runtime.block_on(async {
        let stop = run::stop_on_signals()?;
        match &arguments.role {
            Role::Challenge(_) => run::challenge(&config, stop).await,
            Role::Certificates(_) => run::certificates(&config, stop).await,
        }
    })
}
