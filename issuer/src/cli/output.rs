//! Printing, and exit codes. One JSON document on standard output with `--json`; a person's text otherwise. Progress,
//! notes and errors go to standard error.

use serde::Serialize;
use serde_json::{Value, json};
use shared::{
    printing::{self, is_reader_gone, tell},
    store::Damage,
    text::{to_document, with_moments},
};
use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    sync::OnceLock,
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
    details: Value,
}

impl Failed {
    pub(super) fn new(exit: Exit, kind: &'static str, message: impl Into<String>) -> Self {
        Self { exit, kind, message: message.into(), details: Value::Null }
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
    pub(super) fn with_details(self, details: Value) -> Self {
        Self { details, ..self }
    }
}

/// Why a result could not be printed; the first reason.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

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
        // A reader that has gone away (`| head`) is no error of ours.
        self.print(&self.to_text(document, text));
    }

    /// A result that can't be had again: a secret.
    ///
    /// # Errors
    /// It did not arrive; why.
    pub(super) fn result_shown_once(
        self,
        document: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), io::Error> {
        // What was closed is this device, too, by the time that a program begins.
        if std::fs::read_link("/proc/self/fd/1").is_ok_and(|to| to == Path::new("/dev/null")) {
            return Err(io::Error::other("it is closed, or /dev/null"));
        }
        printing::print(&self.to_text(document, text))
    }

    fn to_text(self, document: &impl Serialize, text: impl FnOnce() -> String) -> String {
        if self.json {
            format!("{:#}", to_document(document))
        } else {
            with_moments(text().trim_end()).into_owned()
        }
    }

    /// Whether somebody has it, or has seen enough of it.
    fn print(self, text: &str) -> bool {
        let printed = printing::print(text);
        if let Err(error) = &printed
            && !is_reader_gone(error)
        {
            let _ = UNWRITTEN.set(error.to_string());
        }
        printed.is_ok()
    }

    /// # Errors
    /// A result could not be printed.
    pub(super) fn check_written(self) -> Result<(), Failed> {
        UNWRITTEN.get().map_or(Ok(()), |why| {
            let message =
                format!("the result can't be written to standard output: {why}. What was asked for is done");
            Err(Failed::new(Exit::Failed, "output", message))
        })
    }

    /// One of many results, as it comes: JSON on one line, or as `text` makes it for people. `false` once nobody reads.
    pub(super) fn line(self, document: &impl Serialize, text: impl FnOnce() -> String) -> bool {
        let printed =
            if self.json { to_document(document).to_string() } else { with_moments(&text()).into_owned() };
        self.print(&printed)
    }

    /// Something a person should know, on standard error.
    pub(super) fn note(self, text: &str) {
        tell(text);
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
            self.document_of(failed);
        }
        failed.exit
    }

    /// The failure for a program; the exit code says that it is one where this does not arrive.
    pub(super) fn document_of(self, failed: &Failed) {
        let mut document = json!({ "error": failed.kind, "message": failed.message });
        if let (Some(all), Some(more)) = (document.as_object_mut(), failed.details.as_object()) {
            all.extend(more.clone());
        }
        let _ = printing::print(&format!("{:#}", to_document(&document)));
    }
}

/// What helps where a record can't be read.
pub(super) const DAMAGED_REMEDY: &str =
    "look at the store's memory and disks; put the record back from a backup. All others go on";

/// What can't be read of what is shown, and what to do about it.
pub(super) fn damage_to_text(damaged: &[Damage]) -> String {
    let one = |damage: &Damage| {
        format!("\n\ndamaged: {}: {}\n  what to do: {DAMAGED_REMEDY}", damage.key, damage.what)
    };
    damaged.iter().map(one).collect()
}

/// A table without borders, as wide as it must be.
pub(super) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(headings.iter().copied());
    table.add_rows(rows);
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_people_see_moments_each_in_one_form() {
        let document = json!({ "at": ["2026-11-30T13:21:07.5Z"], "name": "a.example", "count": 3 });
        let expected = json!({ "at": ["2026-11-30T13:21:07Z"], "name": "a.example", "count": 3 });
        let text = || "since 2026-11-30T13:21:07.5Z\n".to_owned();
        let printed = Output::new(true).to_text(&document, text);
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), expected);
        assert_eq!(Output::new(false).to_text(&document, text), "since 2026-11-30 13:21 UTC");
    }
}
