//! Printing, and exit codes. One JSON document on standard output with `--json`; a person's text otherwise. Progress,
//! notes and errors go to standard error.

use serde::Serialize;
use serde_json::json;
use shared::text::printable;
use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

/// How a command ended. The numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    /// Usage or configuration.
    Usage,
    /// Accepted, but waiting: a limit of the CA, a retry.
    Waiting,
    NotFound,
    /// Ctrl-C.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Waiting => 3,
            Exit::NotFound => 4,
            Exit::Interrupted => 130,
        })
    }
}

/// Why a command ended without doing what it was asked for.
#[derive(Debug)]
pub(super) struct Failed {
    exit: Exit,
    kind: &'static str,
    message: String,
    details: serde_json::Value,
}

impl Failed {
    pub(super) fn new(exit: Exit, kind: &'static str, message: impl Into<String>) -> Self {
        Self { exit, kind, message: message.into(), details: serde_json::Value::Null }
    }

    /// With the error's whole chain of causes.
    pub(super) fn because(exit: Exit, kind: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(exit, kind, shared::error::chain(error))
    }

    pub(super) fn interrupted() -> Self {
        Self::new(
            Exit::Interrupted,
            "interrupted",
            "interrupted: nothing is lost, the next run goes on where this one stopped",
        )
    }

    /// What is wrong, for whoever goes on without.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    #[must_use]
    pub(super) fn with_details(self, details: serde_json::Value) -> Self {
        Self { details, ..self }
    }
}

/// Where results and notes go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether somebody watches standard error.
    pub(super) fn has_watcher(self) -> bool {
        io::stderr().is_terminal()
    }

    /// The result: as JSON, or as `text` makes it for people.
    pub(super) fn result(self, document: &impl Serialize, text: impl FnOnce() -> String) {
        let printed = if self.json {
            serde_json::to_string_pretty(document).expect("results are plain data")
        } else {
            text().trim_end().to_owned()
        };
        // A reader that has gone away (`| head`) is no error of ours.
        let _ = writeln!(io::stdout(), "{}", printable(&printed));
    }

    /// One of many results, as it comes: JSON on one line, or as `text` makes it for people. `false` once nobody reads.
    pub(super) fn line(self, document: &impl Serialize, text: impl FnOnce() -> String) -> bool {
        let printed =
            if self.json { serde_json::to_string(document).expect("results are plain data") } else { text() };
        writeln!(io::stdout(), "{}", printable(&printed)).is_ok()
    }

    /// Something a person should know, on standard error.
    pub(super) fn note(self, text: &str) {
        let _ = writeln!(io::stderr(), "{}", printable(text));
    }

    /// Asks a person whether something is meant that goes further than what was typed; a program says `--yes` beforehand.
    ///
    /// # Errors
    /// Nobody can be asked, or the answer is no.
    pub(super) async fn confirm(self, what: &str, yes: bool) -> Result<(), Failed> {
        if yes {
            return Ok(());
        }
        if self.json || !io::stdin().is_terminal() || !self.has_watcher() {
            let message = format!("{what}. Nothing was done: say --yes if that is meant");
            return Err(Failed::new(Exit::Usage, "confirmation", message));
        }
        let _ = write!(io::stderr(), "{what}. Go on? [y/N] ");
        let (done, answer) = tokio::sync::oneshot::channel();
        // A thread that nobody waits for at the end: Ctrl-C is an answer, too.
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = io::stdin().read_line(&mut line);
            done.send(line)
        });
        let answer = answer.await.unwrap_or_default();
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(Failed::new(Exit::Usage, "confirmation", "nothing was done"))
    }

    pub(super) fn fail(self, failed: &Failed) -> Exit {
        self.note(&format!("issuer: {}", failed.message));
        if self.json {
            let mut document = json!({ "error": failed.kind, "message": failed.message });
            if let (Some(all), Some(more)) = (document.as_object_mut(), failed.details.as_object()) {
                all.extend(more.clone());
            }
            let _ = writeln!(io::stdout(), "{}", printable(&format!("{document:#}")));
        }
        failed.exit
    }
}

/// A table without borders, as wide as it must be.
pub(super) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(headings.iter().copied());
    table.add_rows(rows);
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
