//! nginx's files: which certificate a name has, the names of the HTTPS server, which names redirect plain HTTP, and what they
//! announce (HSTS), and what is spoken.
//!
//! nginx reads certificates through variables at each handshake, so a renewal needs no reload. Only a name that comes or
//! goes does; before that, `nginx -t` must agree.

use super::{
    Applied, Names, Server, ServerError, View, is_hostname, placeholder,
    reloader::{Reloader, Wanted},
    tls,
};
use crate::wire::ItemId;
use shared::config::AgentNginx;

/// nginx, with its files in `nginx/`.
pub(crate) struct Nginx(Reloader);

impl Nginx {
    pub(crate) fn new(settings: AgentNginx) -> Self {
        let AgentNginx { test, reload, min_reload_seconds } = settings;
        Self(Reloader::new("nginx", test, reload, min_reload_seconds))
    }

    /// With less time for its commands.
    #[cfg(test)]
    pub(super) fn hurried(mut self, patience: std::time::Duration) -> Self {
        self.0.patience = patience;
        self.0.reload_patience = patience;
        self
    }
}

impl Server for Nginx {
    fn name(&self) -> &'static str {
        self.0.server
    }

    fn differs(&self, view: &View<'_>) -> bool {
        self.0.differs(view.directory, &render(view))
    }

    fn cannot_hold(&self, name: &str) -> Option<&'static str> {
        // As keys of a map (ngx_http_map_module). All of them are single labels.
        let is_word = matches!(name, "default" | "hostnames" | "include" | "volatile");
        is_word.then_some("is a word of nginx' maps")
    }

    fn test(&mut self, view: &View<'_>) -> Result<(), ServerError> {
        self.0.test(view.directory, &render(view), |_| Ok(()))
    }

    fn holds(&self, view: &View<'_>) -> Names {
        let map = self.0.read(view.directory, "map.conf");
        let entry = |line: &str| {
            let (name, id) = line.strip_suffix(';')?.split_once(' ')?;
            Some((name.to_owned(), ItemId::parse(id).ok()?))
        };
        view.held(&map.lines().filter_map(entry).collect(), is_hostname)
    }

    fn refuses_the_present(&self) -> bool {
        self.0.refuses_the_present()
    }

    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError> {
        // For a server that is to answer before there is a certificate.
        let failed = |error| ServerError::Write(self.0.server, error);
        let own = view.directory.of_adapter(self.0.server);
        if !own.exists() {
            view.directory.make_directory(&own).map_err(failed)?;
        }
        placeholder::directory(view.directory, self.0.server).map_err(failed)?;
        self.0.apply(view.directory, &render(view), view.owed, |_| Ok(()))
    }
}

/// Names and identifiers were checked when they were parsed: they hold nothing that nginx reads as anything else.
fn render(view: &View<'_>) -> [Wanted; 5] {
    const NO_NAME: &str = "server_name _;\n";
    let served = || view.names.iter().filter(|(name, _)| is_hostname(name));
    let map = served().map(|(name, id)| format!("{name} {id};\n")).collect();
    let mut server_names: String = served().map(|(name, _)| format!("server_name {name};\n")).collect();
    let redirect = view.redirected().map(|name| format!("{name} 1;\n")).collect();
    let hsts = view.hsts().map(|(name, value)| format!("{name} \"{value}\";\n")).collect();
    if server_names.is_empty() {
        NO_NAME.clone_into(&mut server_names);
    }
    [
        Wanted { file: "map.conf", content: map, empty: "" },
        Wanted { file: "names.conf", content: server_names, empty: NO_NAME },
        Wanted { file: "redirect.conf", content: redirect, empty: "" },
        Wanted { file: "hsts.conf", content: hsts, empty: "" },
        Wanted { file: "tls.conf", content: view.tls.map_or_else(String::new, tls::of_nginx), empty: "" },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::StoreConfig, disk::Directory, https::Moment, index::Index};
    use jiff::Timestamp;
    use std::{fs, time::Duration};

    /// An nginx whose commands leave their mark in a log.
    struct World {
        root: tempfile::TempDir,
        directory: Directory,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let directory = Directory::open(&StoreConfig::at(root.path().join("agent"))).unwrap();
            Self { root, directory }
        }

        fn nginx(&self, test: &str, reload: &str) -> Nginx {
            let command = |line: &str| {
                let line = line.replace("LOG", &self.root.path().join("log").display().to_string());
                if line.is_empty() { Vec::new() } else { ["sh", "-c", &line].map(str::to_owned).to_vec() }
            };
            let settings = AgentNginx { test: command(test), reload: command(reload), min_reload_seconds: 0 };
            Nginx::new(settings)
        }

        fn apply(
            &self,
            nginx: &mut Nginx,
            names: &[(&str, &str)],
            owed: bool,
        ) -> Result<Applied, ServerError> {
            let names = names.iter().map(|(name, id)| ((*name).into(), ItemId::parse(id).unwrap())).collect();
            let index = Index::new();
            let at = Moment { now: Timestamp::now(), heard: Timestamp::now() };
            nginx.apply(&View {
                directory: &self.directory,
                index: &index,
                names: &names,
                former: None,
                owed,
                at,
                tls: None,
            })
        }

        fn log(&self) -> String {
            fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
        }

        fn files(&self) -> [String; 2] {
            let read =
                |name: &str| fs::read_to_string(self.directory.of_adapter("nginx").join(name)).unwrap();
            ["map.conf", "names.conf"].map(read)
        }
    }

    const CHANGED: Applied = Applied::Changed { reloaded: true };

    #[test]
    fn reloads_only_when_a_name_came_or_went() {
        let world = World::new();
        let mut nginx = world.nginx("echo test >> LOG", "echo reload >> LOG");
        let first = [("a.example", "01a"), ("*.b.example", "01b"), ("192.0.2.1", "01c")];
        assert_eq!(world.apply(&mut nginx, &first, false).unwrap(), CHANGED);
        assert_eq!(
            world.files(),
            ["*.b.example 01b;\na.example 01a;\n", "server_name *.b.example;\nserver_name a.example;\n"]
        );
        assert_eq!(world.log(), "test\nreload\n");
        assert_eq!(world.apply(&mut nginx, &first, false).unwrap(), Applied::Nothing);
        assert_eq!(world.log(), "test\nreload\n");
        world.apply(&mut nginx, &first, true).unwrap();
        assert_eq!(world.log(), "test\nreload\ntest\nreload\n");
    }

    #[test]
    fn two_reloads_are_so_far_apart() {
        let world = World::new();
        let mut nginx = world.nginx("", "echo reload >> LOG");
        nginx.0.min_seconds = 3600;
        assert_eq!(world.apply(&mut nginx, &[("a.example", "01a")], false).unwrap(), CHANGED);
        let later = world.apply(&mut nginx, &[("b.example", "01b")], false).unwrap();
        assert!(matches!(later, Applied::Later(left) if left > Duration::from_secs(3500)), "{later:?}");
        assert_eq!((world.log().as_str(), world.files()[0].as_str()), ("reload\n", "a.example 01a;\n"));
        nginx.0.reloaded = None;
        assert_eq!(world.apply(&mut nginx, &[("b.example", "01b")], false).unwrap(), CHANGED);
    }

    #[test]
    fn a_refused_configuration_is_rolled_back() {
        let world = World::new();
        let mut refused = world.nginx("echo no such directive >&2; exit 1", "echo reload >> LOG");
        let error = world.apply(&mut refused, &[("a.example", "01a")], false).unwrap_err();
        assert!(error.to_string().contains("no such directive"), "{error}");
        assert_eq!(world.files(), ["", "server_name _;\n"], "nginx can still start");

        world.apply(&mut world.nginx("", ""), &[("a.example", "01a")], false).unwrap();
        let before = world.files();
        world.apply(&mut refused, &[("b.example", "01b")], false).unwrap_err();
        assert_eq!(world.files(), before);
        assert_eq!(world.log(), "");
    }

    #[test]
    fn a_failed_reload_keeps_the_files_and_is_an_error() {
        let world = World::new();
        let mut nginx = world.nginx("", "");
        nginx.0.reload = vec!["/nonexistent/nginx".to_owned()];
        let error = world.apply(&mut nginx, &[("a.example", "01a")], false);
        assert!(matches!(error, Err(ServerError::Reload { .. })));
        assert!(world.files()[0].contains("a.example"));
    }
}
