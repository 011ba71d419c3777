//! A program of the operator's own. It gets JSON on its standard input; 0 means that it is done.

use super::{
    provider::{Action, ProviderError},
    webhook::document,
};
use shared::{config::Dns, domain::Txt};
use std::process::Stdio;
use tokio::{io::AsyncWriteExt, process::Command};

#[derive(Debug)]
pub(super) struct Exec {
    command: Vec<String>,
}

impl Exec {
    pub(super) fn of(config: &Dns) -> Self {
        Self { command: config.command.clone() }
    }

    /// The program is ended where it takes too long.
    pub(super) async fn act(&self, action: Action, txt: &Txt, ttl_seconds: u32) -> Result<(), ProviderError> {
        let (program, arguments) = self.command.split_first().ok_or(ProviderError::Silent)?;
        let failed = |e: std::io::Error| ProviderError::Unreachable(format!("{program}: {e}"));
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            // One that does not read it is judged by how it ends.
            let _ = input.write_all(document(action, txt, ttl_seconds).as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        Err(ProviderError::Refused(format!("{program} ended with {}: {last}", output.status)))
    }
}
