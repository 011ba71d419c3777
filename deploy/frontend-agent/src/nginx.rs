//! nginx's two files: which certificate a name has, and the names of the HTTPS server.
//!
//! nginx reads certificates through variables at each handshake, so a renewal needs no reload. Only a name that comes or
//! goes does; before that, `nginx -t` must agree.

use crate::{disk::Directory, listing::ItemId};
use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    process::{Command, Stdio},
};

/// The commands that test and reload the web server; an empty one is left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nginx<'a> {
    pub(crate) test: &'a [String],
    pub(crate) reload: &'a [String],
}

/// What [`Nginx::apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) changed: bool,
    pub(crate) reloaded: bool,
}

/// The web server does not take the new names.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NginxError {
    #[error("the nginx files can't be written")]
    Write(#[source] io::Error),
    #[error("{command} refuses the configuration, the former names are back in place: {output}")]
    Refused { command: String, output: String },
    #[error("{command} failed: {output}")]
    Reload { command: String, output: String },
}

/// Whether the files on disk are not those for `names`.
pub(crate) fn differs(directory: &Directory, names: &BTreeMap<String, ItemId>) -> bool {
    render(names).iter().any(|(name, content)| {
        fs::read(directory.nginx().join(name)).map_or(true, |bytes| bytes != content.as_bytes())
    })
}

impl Nginx<'_> {
    /// Writes the files for `names`, tests, and reloads. Nothing happens when nothing changed and no earlier reload is
    /// owed.
    ///
    /// # Errors
    /// [`NginxError::Refused`] after the former files are back; [`NginxError::Reload`] with the new ones in place, so
    /// that a reload is owed.
    pub(crate) fn apply(
        &self,
        directory: &Directory,
        names: &BTreeMap<String, ItemId>,
        reload_owed: bool,
    ) -> Result<Applied, NginxError> {
        let wanted = render(names);
        let mut former = Vec::new();
        for (name, content) in &wanted {
            let path = directory.nginx().join(name);
            match fs::read(&path) {
                Ok(bytes) if bytes == content.as_bytes() => {}
                Ok(bytes) => former.push((path, bytes, content)),
                // A former file that is not there was an empty one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    former.push((path, empty(name).into_bytes(), content));
                }
                Err(error) => return Err(NginxError::Write(error)),
            }
        }
        let changed = !former.is_empty();
        if !changed && !reload_owed {
            return Ok(Applied { changed, reloaded: false });
        }
        let write = |path: &PathBuf, content: &[u8]| {
            directory.write_whole(path, content, 0o644).map_err(NginxError::Write)
        };
        for (path, _, content) in &former {
            write(path, content.as_bytes())?;
        }
        if let Err(output) = run(self.test) {
            for (path, content, _) in &former {
                write(path, content)?;
            }
            return Err(NginxError::Refused { command: self.test.join(" "), output });
        }
        run(self.reload).map_err(|output| NginxError::Reload { command: self.reload.join(" "), output })?;
        Ok(Applied { changed, reloaded: !self.reload.is_empty() })
    }
}

fn empty(file: &str) -> String {
    let nothing = render(&BTreeMap::new());
    nothing.into_iter().find(|(name, _)| *name == file).map(|(_, content)| content).unwrap_or_default()
}

/// The files by name. Names and identifiers were checked when they were parsed: they hold nothing that nginx reads as
/// anything else.
fn render(names: &BTreeMap<String, ItemId>) -> [(&'static str, String); 2] {
    let served = || names.iter().filter(|(name, _)| name.parse::<std::net::IpAddr>().is_err());
    let map: String = served().map(|(name, id)| format!("{name} {id};\n")).collect();
    let mut server_names: String = served().map(|(name, _)| format!("server_name {name};\n")).collect();
    if server_names.is_empty() {
        server_names = "server_name _;\n".to_owned();
    }
    [("map.conf", map), ("names.conf", server_names)]
}

/// The output when the command failed or could not be started.
fn run(command: &[String]) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = [output.stderr, output.stdout].concat();
            let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
            Err(if text.is_empty() { output.status.to_string() } else { text })
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreConfig;

    fn command(line: &str) -> Vec<String> {
        if line.is_empty() { Vec::new() } else { ["sh", "-c", line].map(str::to_owned).to_vec() }
    }

    fn names(list: &[(&str, &str)]) -> BTreeMap<String, ItemId> {
        list.iter().map(|(name, id)| ((*name).to_owned(), ItemId::parse(id).unwrap())).collect()
    }

    #[test]
    fn reloads_only_when_a_name_came_or_went() {
        let root = tempfile::tempdir().unwrap();
        let config = StoreConfig { directory: root.path().join("agent"), group_id: None };
        let directory = Directory::open(&config).unwrap();
        let log = root.path().join("log");
        let log_line = |word: &str| command(&format!("echo {word} >> {}", log.display()));
        let (test, reload) = (log_line("test"), log_line("reload"));
        let nginx = Nginx { test: &test, reload: &reload };
        let logged = || fs::read_to_string(&log).unwrap_or_default();

        let first = names(&[("a.example", "01a"), ("*.b.example", "01b"), ("192.0.2.1", "01c")]);
        assert_eq!(
            nginx.apply(&directory, &first, false).unwrap(),
            Applied { changed: true, reloaded: true }
        );
        assert_eq!(
            fs::read_to_string(directory.nginx().join("map.conf")).unwrap(),
            "*.b.example 01b;\na.example 01a;\n"
        );
        assert_eq!(
            fs::read_to_string(directory.nginx().join("names.conf")).unwrap(),
            "server_name *.b.example;\nserver_name a.example;\n"
        );
        assert_eq!(logged(), "test\nreload\n");
        assert_eq!(
            nginx.apply(&directory, &first, false).unwrap(),
            Applied { changed: false, reloaded: false }
        );
        assert_eq!(logged(), "test\nreload\n");
        nginx.apply(&directory, &first, true).unwrap();
        assert_eq!(logged(), "test\nreload\ntest\nreload\n");
    }

    #[test]
    fn a_refused_configuration_is_rolled_back() {
        let root = tempfile::tempdir().unwrap();
        let config = StoreConfig { directory: root.path().join("agent"), group_id: None };
        let directory = Directory::open(&config).unwrap();
        let refuse = command("echo no such directive >&2; exit 1");
        let never = command(&format!("touch {}", root.path().join("reloaded").display()));
        let files = || {
            ["map.conf", "names.conf"].map(|name| fs::read_to_string(directory.nginx().join(name)).unwrap())
        };

        let nginx = Nginx { test: &refuse, reload: &never };
        let error = nginx.apply(&directory, &names(&[("a.example", "01a")]), false).unwrap_err();
        assert!(error.to_string().contains("no such directive"), "{error}");
        assert_eq!(files(), ["", "server_name _;\n"], "nginx can still start");

        Nginx { test: &[], reload: &[] }.apply(&directory, &names(&[("a.example", "01a")]), false).unwrap();
        let before = files();
        nginx.apply(&directory, &names(&[("b.example", "01b")]), false).unwrap_err();
        assert_eq!(files(), before);
        assert!(!root.path().join("reloaded").exists());
    }

    #[test]
    fn a_failed_reload_keeps_the_files_and_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let config = StoreConfig { directory: root.path().join("agent"), group_id: None };
        let directory = Directory::open(&config).unwrap();
        let reload = ["/nonexistent/nginx".to_owned()];
        let error =
            Nginx { test: &[], reload: &reload }.apply(&directory, &names(&[("a.example", "01a")]), false);
        assert!(matches!(error, Err(NginxError::Reload { .. })));
        assert!(fs::read_to_string(directory.nginx().join("map.conf")).unwrap().contains("a.example"));
    }
}
