//! What is printed, and what happens where it can't be: a full disk, a reader that has gone, a command line that is none.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use harness::signpost::{Signpost, program_path};
use serde_json::Value;

/// Runs a line of bash in which `$issuer` and `$agent` are the programs with their configuration.
async fn shell(signpost: &Signpost, line: &str) -> Result<Output> {
    let mut command = tokio::process::Command::new("bash");
    let config = signpost.config_path().display().to_string();
    for (name, program) in [("issuer", "issuer"), ("agent", "frontend-agent")] {
        command.env(name, format!("{} --config {config}", program_path(program)?.display()));
    }
    Ok(command.arg("-c").arg(format!("set -o pipefail; {line}")).output().await?)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_nobody_could_read_opens_nothing() -> Result<()> {
    let signpost = Signpost::new()?;
    for to in [">/dev/full", "--json >/dev/full", ">&-", "--json >/dev/null"] {
        let run = shell(&signpost, &format!("$issuer token add x --role read {to}")).await?;
        ensure!(run.status.code() == Some(1), "{run:?}");
        ensure!(stderr(&run).contains("can't be written to standard output"), "{}", stderr(&run));
    }
    ensure!(signpost.issuer_json(&["token", "list"]).await?["tokens"] == serde_json::json!([]));
    signpost.issuer(&["token", "add", "x", "--role", "read"]).await?.success()?;

    let run = shell(&signpost, "$issuer frontend add web --scope '*' >/dev/full").await?;
    ensure!(run.status.code() == Some(1) && stderr(&run).contains("--replace"), "{}", stderr(&run));
    let listed = signpost.issuer_json(&["frontend", "list"]).await?;
    ensure!(listed["frontends"][0]["state"] == "revoked", "{listed:#}");
    signpost.issuer(&["frontend", "add", "web", "--scope", "*", "--replace"]).await?.success()?;

    // Two at once: one wins, one is told.
    let out = signpost.write("added", "")?;
    let add = format!("$issuer frontend add twin --scope '*' >>{}", out.display());
    let run = shell(&signpost, &format!("{add} & {add}; one=$?; wait $!; echo $one $?")).await?;
    let codes = String::from_utf8_lossy(&run.stdout).trim().to_owned();
    ensure!(codes == "0 1" || codes == "1 0", "{codes}: {}", stderr(&run));

    let run = shell(&signpost, "$issuer store status >/dev/full").await?;
    ensure!(run.status.code() == Some(1) && stderr(&run).contains("standard output"), "{}", stderr(&run));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_ends_nothing_with_a_panic() -> Result<()> {
    let signpost = Signpost::new()?;
    for line in [
        "$issuer config check --origin | head -1",
        "$issuer --help | head -1",
        "$agent --help | head -1",
        // Nothing happens that could be written.
        "timeout 60 $issuer events --follow | true",
    ] {
        let run = shell(&signpost, line).await?;
        ensure!(!stderr(&run).contains("panicked"), "{line}: {}", stderr(&run));
        ensure!(run.status.code() == Some(0), "{line}: {run:?}");
    }
    let run = shell(&signpost, "$issuer config check 2>&1 >/dev/full | true").await?;
    ensure!(run.status.code() == Some(1), "{run:?}");
    for line in ["$issuer --json status --nonsense", "$issuer --json token", "$agent --json nonsense"] {
        let run = shell(&signpost, line).await?;
        ensure!(run.status.code() == Some(2), "{line}: {run:?}");
        let document: Value =
            serde_json::from_slice(&run.stdout).with_context(|| format!("{line}: {run:?}"))?;
        ensure!(document["error"].is_string(), "{line}: {document:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_checked_with_the_keyring() -> Result<()> {
    let (signpost, other) = (Signpost::new()?, Signpost::new()?);
    let run = signpost.issuer(&["config", "check"]).await?.success()?;
    ensure!(run.stdout.contains("\nok: "), "{}", run.stdout);
    for node in [&signpost, &other] {
        node.issuer(&["token", "add", "x", "--role", "read"]).await?.success()?;
    }
    let checked = signpost.issuer_json(&["config", "check"]).await?;
    ensure!(checked["ok"] == true && checked["keyring"] == "that of the store", "{}", checked["keyring"]);
    std::fs::copy(other.key_encryption_key_file(), signpost.key_encryption_key_file())?;
    let run = signpost.issuer(&["--json", "config", "check"]).await?.with_code(2)?;
    ensure!(run.json()?["error"] == "keyring", "{}", run.stdout);
    Ok(())
}
