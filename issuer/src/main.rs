//! The operator's command line.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    issuer::cli::run(issuer::cli::Arguments::parse()).into()
}
