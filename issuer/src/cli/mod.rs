//! The command line: one file for each verb. `output` is the only place that prints.

mod account;
mod audit;
mod brake;
mod check;
mod config;
mod context;
mod delegation;
mod events;
mod fleet;
mod forecast;
mod frontend;
mod issue;
mod key;
mod limits;
mod nudge;
mod output;
mod plan;
mod revoke;
mod run;
mod settings;
mod shown;
mod sightings;
mod site;
mod site_move;
mod site_names;
mod status;
mod store;
mod tenant;
mod texts;
mod tls_policy;
mod token;
mod troubles;
mod usage;
mod watch;

use crate::issuance::Urge;
use clap::{Parser, Subcommand};
use output::{Exit, Failed, Output};
use std::path::PathBuf;

/// Orders, stores and renews the certificates of a fleet.
#[derive(Debug, Parser)]
#[command(name = "issuer", version, max_term_width = 110)]
struct Arguments {
    /// The configuration file [default: /etc/signpost/signpost.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// ACME accounts: create, import, list, show, rollover, update, deactivate
    #[command(subcommand)]
    Account(account::Command),
    /// Sites that are wanted: add, set, show, list, remove, pause, resume, rollback
    #[command(subcommand)]
    Site(site::Command),
    /// What a file of wanted sites would change
    Plan(plan::Arguments),
    /// Make the sites those of a file
    Apply(plan::Apply),
    /// The daemon: orders and renews what is wanted. Any number of nodes share the work
    Run(run::Arguments),
    /// Try again now what fails
    Retry(nudge::Retry),
    /// Renew now what is due
    Renew(nudge::Renew),
    /// Stop issuance or publication
    Pause(brake::Pause),
    /// Go on with issuance or publication
    Resume(brake::Resume),
    /// Customers, and what their new sites get
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Get certificates now, in the foreground; what the store has is used
    Issue(issue::Arguments),
    /// What the CA will make of names, before it is asked: their DNS, the way to a challenge, CAA; and what to change
    Check(check::Arguments),
    /// What is served, until when, and what is wrong
    Status(status::Arguments),
    /// What is left of the CAs' limits, what waits for them and until when
    Limits(limits::Arguments),
    /// What the next 90 days bring: renewals by hour, orders, limits, memory; and what if
    Forecast(forecast::Arguments),
    /// What happened: the newest events, or with --follow what comes
    Events(events::Arguments),
    /// Revoke what a name is served with
    Revoke(revoke::Arguments),
    /// Who was given which private keys
    Audit(audit::Arguments),
    /// Customers' names that are proved in a zone of yours: what their owners have to create, and who has
    #[command(subcommand)]
    Delegation(delegation::Command),
    /// Who may pull certificates
    #[command(subcommand)]
    Frontend(frontend::Command),
    /// Names that visitors came with and that are no sites: how many wait, which were denied and why
    Sightings(sightings::Arguments),
    /// Who may use the API of `issuer run`
    #[command(subcommand)]
    Token(token::Command),
    /// The keys that seal private keys
    #[command(subcommand)]
    Key(key::Command),
    /// The TLS versions, ciphers and groups that all frontends speak
    #[command(subcommand)]
    TlsPolicy(tls_policy::Command),
    /// The store: what it is, and stopping the embedded one
    #[command(subcommand)]
    Store(store::Command),
    /// The configuration: check it, see where each value comes from
    #[command(subcommand)]
    Config(config::Command),
}

/// Runs the command that was typed to its exit code. Ctrl-C at any moment: what was begun stays where it is, and the next run
/// goes on.
pub fn run() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage::end(&error),
    };
    // Not left to `main`: a future is compiled where it is polled, and everything would be compiled twice.
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let exit = runtime.block_on(run_to_its_end(arguments));
            // What still waits for a name or a disk on a thread of its own is not waited for.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            let why = format!("the runtime can't be started: {error}");
            Output::new(arguments.json).fail(&Failed::new(Exit::Failed, "bug", why))
        }
    }
}

async fn run_to_its_end(arguments: Arguments) -> Exit {
    let output = Output::new(arguments.json);
    let follows = matches!(&arguments.command, Command::Events(wanted) if wanted.follows());
    // The daemon hears signals itself: it finishes what it has begun.
    let drains = matches!(&arguments.command, Command::Run(_));
    let work = dispatch(arguments, &output);
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = watch::interrupted(), if !drains => {
            if follows { Ok(Exit::Done) } else { Err(Failed::interrupted()) }
        }
    };
    match outcome.and_then(|exit| output.check_written().map(|()| exit)) {
        Ok(exit) => exit,
        Err(failed) => output.fail(&failed),
    }
}

async fn dispatch(arguments: Arguments, output: &Output) -> Result<Exit, Failed> {
    let path = arguments.config.as_deref();
    let config = || context::load_config(path);
    match arguments.command {
        Command::Config(command) => config::run(&command, path, output).await,
        Command::Key(command) => key::run(command, path, output).await,
        Command::Account(command) => account::run(command, config()?, output).await,
        Command::Site(command) => site::run(command, config()?, output).await,
        Command::Plan(arguments) => plan::plan(&arguments, config()?, output).await,
        Command::Apply(arguments) => plan::apply(&arguments, config()?, output).await,
        Command::Run(arguments) => run::run(&arguments, context::load_daemon_config(path)?, output).await,
        Command::Retry(arguments) => nudge::retry(&arguments, config()?, output).await,
        Command::Renew(arguments) => nudge::renew(arguments, config()?, output).await,
        Command::Pause(arguments) => brake::pause(&arguments, config()?, output).await,
        Command::Resume(arguments) => brake::resume(&arguments, config()?, output).await,
        Command::Tenant(command) => tenant::run(command, config()?, output).await,
        Command::Issue(wanted) => issue::run(wanted, Urge::Lack, config()?, output).await,
        Command::Check(wanted) => check::run(wanted, config()?, output).await,
        Command::Status(wanted) => status::run(&wanted, config()?, output).await,
        Command::Limits(wanted) => limits::run(&wanted, config()?, output).await,
        Command::Forecast(wanted) => forecast::run(wanted, config()?, output).await,
        Command::Events(wanted) => events::run(&wanted, config()?, output).await,
        Command::Revoke(wanted) => revoke::run(&wanted, config()?, output).await,
        Command::Audit(wanted) => audit::run(&wanted, config()?, output).await,
        Command::Delegation(command) => delegation::run(command, config()?, output).await,
        Command::Frontend(command) => frontend::run(command, config()?, output).await,
        Command::Sightings(wanted) => sightings::run(&wanted, config()?, output).await,
        Command::Token(command) => token::run(command, config()?, output).await,
        Command::TlsPolicy(command) => tls_policy::run(command, config()?, output).await,
        Command::Store(command) => store::run(&command, config()?, output).await,
    }
}
