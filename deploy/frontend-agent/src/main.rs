//! Pulls certificates onto a frontend: fetches what changed, verifies it, publishes it atomically, and reloads the web
//! server when a name came or went. Keeps serving what it has when the centre is gone.

mod chains;
mod client;
mod config;
mod disk;
#[cfg(test)]
mod disk_tests;
mod doubt;
#[cfg(test)]
mod doubt_tests;
mod enrolment;
mod formats;
mod https;
mod index;
mod inspection;
mod install;
mod pass;
mod publish;
mod removal;
mod report;
mod run;
mod served;
mod servers;
mod showing;
mod sightings;
mod status;
mod sync;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod sync_world;
#[cfg(test)]
mod test_pki;
mod verify;
mod wire;

use crate::{
    config::{AgentConfig, AgentConfigError, StoreConfig},
    disk::Directory,
    report::Report,
    served::report_once,
    sightings::Sightings,
    status::Overview,
    sync::Agent,
};
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use shared::{
    error::chain,
    printing::{self, is_reader_gone, tell},
    text::{to_document, with_moments},
};
use std::{
    io::{ErrorKind, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Wipes what is freed, wherever it was: a private key passes through buffers of libraries, and through those that grow.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

/// Pulls certificates onto a frontend and reloads its web server.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file [default: /etc/signpost/signpost.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON document on standard output
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Verb {
    /// Sync again and again, until SIGTERM (the default)
    Run,
    /// Sync once
    Sync {
        /// Take out of service what the centre no longer knows, however many items that are
        #[arg(long)]
        confirm_removals: bool,
    },
    /// What is on disk, and how the last sync went
    Status,
}

const FAILED: u8 = 1;
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return end_of_usage(&error),
    };
    let ansi = std::io::stderr().is_terminal();
    // The protocol layer has a line for each malformed request, which anybody on this machine could write.
    let lines = Targets::new().with_default(LevelFilter::INFO).with_target("actix_http", LevelFilter::OFF);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .log_internal_errors(false);
    tracing_subscriber::registry().with(log.with_filter(lines)).init();
    match execute(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            let code = if error.is::<AgentConfigError>() { BAD_CONFIGURATION } else { FAILED };
            tell(&format!("frontend-agent: {}", chain(error.as_ref())));
            if arguments.json {
                // The exit code says it as well.
                let _ = printing::print(&serde_json::json!({ "error": chain(error.as_ref()) }).to_string());
            }
            ExitCode::from(code)
        }
    }
}

/// Whether all of it went well.
fn execute(arguments: &Arguments) -> anyhow::Result<bool> {
    let file = arguments.config.as_deref();
    match arguments.command.unwrap_or(Verb::Run) {
        Verb::Run => {
            let config = AgentConfig::load(file)?;
            tokio::runtime::Runtime::new()?.block_on(run::run(&config))?;
            Ok(true)
        }
        Verb::Sync { confirm_removals } => {
            let config = AgentConfig::load(file)?;
            let mut agent = Agent::new(config.clone(), &Sightings::default())?;
            let report = tokio::runtime::Runtime::new()?.block_on(async {
                let report = agent.pass(Duration::ZERO, confirm_removals).await?;
                if let Err(error) = report_once(&config, agent.items()).await {
                    tracing::warn!(error = chain(&error), "the centre was not told how this frontend is");
                }
                anyhow::Ok(report)
            })?;
            say(&if arguments.json { format!("{:#}", to_document(&report)) } else { to_text(&report) })?;
            if !report.is_success() && !arguments.json {
                tell(&format!("frontend-agent: {}", report.problems()));
            }
            Ok(report.is_success())
        }
        Verb::Status => {
            let directory = Directory::existing(&StoreConfig::load(file)?);
            let overview = Overview::of(&directory).map_err(|error| without_data(error, &directory))?;
            say(&if arguments.json {
                format!("{:#}", to_document(&overview))
            } else {
                with_moments(&overview.to_text(Timestamp::now())).into_owned()
            })?;
            Ok(true)
        }
    }
}

/// Before the first sync there is nothing to show.
fn without_data(error: std::io::Error, directory: &Directory) -> anyhow::Error {
    let root = directory.root().display();
    let why = match error.kind() {
        ErrorKind::NotFound => format!(
            "nothing is kept in {root} yet: run `frontend-agent sync` once, or `frontend-agent run` for good \
             (agent.directory says where)"
        ),
        ErrorKind::PermissionDenied => {
            format!("{root} can't be read: run this as the agent's user, or as root")
        }
        _ => format!("{root} can't be read"),
    };
    anyhow::Error::new(error).context(why)
}

/// Prints a result. A reader that has gone away (`| head`) has what it wanted.
fn say(text: &str) -> anyhow::Result<()> {
    match printing::print(text) {
        Err(error) if !is_reader_gone(&error) => {
            Err(anyhow::Error::new(error).context("the result can't be written to standard output"))
        }
        _ => Ok(()),
    }
}

/// Help and version are results; anything else is a mistake in the command line, told in the form that was asked for.
fn end_of_usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if !error.use_stderr() {
        return match printed {
            Err(error) if !is_reader_gone(&error) => ExitCode::from(FAILED),
            _ => ExitCode::SUCCESS,
        };
    }
    if std::env::args_os().skip(1).any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim();
        let _ = printing::print(&serde_json::json!({ "error": text }).to_string());
    }
    ExitCode::from(BAD_CONFIGURATION)
}

fn to_text(report: &Report) -> String {
    let mut text = String::new();
    for published in &report.published {
        text.push_str(&format!("published  {}\n", shared::domain::for_people(&published.names)));
    }
    for id in &report.removed {
        text.push_str(&format!("removed    {id}\n"));
    }
    text.push_str(&format!(
        "{} published, {} unchanged, {} removed, {} failed in {} ms{}\n",
        report.published.len(),
        report.unchanged,
        report.removed.len(),
        report.failed.len(),
        report.duration_ms,
        if report.reloaded { ", web server reloaded" } else { "" },
    ));
    text
}
