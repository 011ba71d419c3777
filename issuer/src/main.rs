//! The operator's command line.

use clap::Parser;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    issuer::cli::run(issuer::cli::Arguments::parse()).await.into()
}
