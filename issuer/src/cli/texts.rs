//! Text files that a command reads: from a path, a pipe or, as `-`, standard input.

use super::output::{Exit, Failed, Output};
use crate::lists::TextFile;
use std::{
    io::{self, IsTerminal},
    path::Path,
};

/// Read once, to its end.
pub(super) async fn read_text(path: &Path, output: Output) -> Result<TextFile, Failed> {
    if path.as_os_str() == "-" && io::stdin().is_terminal() {
        output.note("reading standard input to its end (Ctrl-D)");
    }
    TextFile::read(path).await.map_err(|e| Failed::because(Exit::Usage, "file", &e))
}

/// The words of a list of names, each once.
pub(super) async fn read_words(path: &Path, output: Output) -> Result<Vec<String>, Failed> {
    let words = read_text(path, output).await?.words();
    words.map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failed::new(Exit::Usage, "file", format!("{}:\n  {}", path.display(), lines.join("\n  ")))
            .with_details(serde_json::json!({ "mistakes": lines, "more": 0 }))
    })
}
