//! Programs that `tests/run` installs from PyPI.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The version in the name is that of the list of programs, as in `tests/run`.
const PROGRAMS: &str = "signpost-tests/frontends-1/bin";

/// Where a program is.
pub fn program(name: &str) -> Result<PathBuf> {
    let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let program = home.context("neither XDG_CACHE_HOME nor HOME is set")?.join(PROGRAMS).join(name);
    ensure!(program.is_file(), "{} isn't there: tests/run installs it", program.display());
    Ok(program)
}
