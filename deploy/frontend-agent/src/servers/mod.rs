//! The web servers of this machine, each behind the same seam: it is shown what is live, and makes its server serve it.

mod apache;
mod caddy;
mod command;
mod envoy;
mod files;
mod haproxy;
mod haproxy_maps;
mod haproxy_socket;
mod hook;
mod local;
mod nginx;
mod placeholder;
mod reloader;
mod sieve;
#[cfg(test)]
mod sieve_tests;
mod tls;
mod traefik;

pub(crate) use sieve::{Shown, Sifted};

use crate::{
    config::ServerConfig,
    disk::Directory,
    https::Moment,
    index::{Index, Live},
    sightings::Sightings,
    wire::ItemId,
};
use command::CommandError;
use shared::domain::TlsPolicy;
use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// A web server of this machine.
pub(crate) trait Server: Send {
    /// A word: its directory, and what it is called in messages.
    fn name(&self) -> &'static str;

    /// Whether [`Server::apply`] would change files, after which a crash must not lose a reload.
    fn differs(&self, _view: &View<'_>) -> bool {
        false
    }

    /// Why a name can't stand in this server's files; `None`: it can.
    fn cannot_hold(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// Whether the server's own test agrees with what would be written. Its files are what they were after it.
    ///
    /// # Errors
    /// [`ServerError::Refused`] with what it says; [`ServerError::Hung`] where it says nothing.
    fn test(&mut self, _view: &View<'_>) -> Result<(), ServerError> {
        Ok(())
    }

    /// Those names that its files hold now, each with the item that answers for it there. Names that are nothing in its files are
    /// held already.
    fn holds(&self, view: &View<'_>) -> Names {
        view.names.clone()
    }

    /// Which version its files hold of each item, by the name of its directory, where the server reads what they name there.
    fn holds_versions(&self, _directory: &Directory) -> Versions {
        Versions::new()
    }

    /// Whether its test refuses what its files hold now, so that nothing is lost by trying with less. Never where its files are
    /// what is served, as links are: a name that is left out for a test would be out of service.
    fn refuses_the_present(&self) -> bool {
        false
    }

    /// Items that were not taken when [`Server::apply`] did everything else, each with the reason.
    fn not_taken(&mut self) -> Vec<(ItemId, String)> {
        Vec::new()
    }

    /// Directories of versions that its files name, so that it could not start without them.
    fn names_versions(&self, _directory: &Directory) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Makes the server serve what is live. Does nothing where nothing changed and nothing is owed.
    ///
    /// # Errors
    /// [`ServerError`]; what is served now is served on.
    fn apply(&mut self, view: &View<'_>) -> Result<Applied, ServerError>;
}

/// Which item answers for a name.
pub(crate) type Names = BTreeMap<Arc<str>, ItemId>;

/// The directories of versions, by item.
pub(crate) type Versions = BTreeMap<ItemId, Box<str>>;

/// What is live.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) directory: &'a Directory,
    pub(crate) index: &'a Index,
    pub(crate) names: &'a Names,
    /// Versions that are served on, because the server does not take the live ones.
    pub(crate) former: Option<&'a Versions>,
    /// An earlier [`Server::apply`] may have been cut off in the middle.
    pub(crate) owed: bool,
    pub(crate) at: Moment,
    /// What the centre wants spoken; nothing is known of it before it was heard for the first time.
    pub(crate) tls: Option<&'a TlsPolicy>,
}

/// An item with the names that it answers for.
pub(crate) struct Served<'a> {
    pub(crate) live: &'a Live,
    pub(crate) names: Vec<&'a str>,
}

/// What [`Server::apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    Nothing,
    Changed {
        reloaded: bool,
    },
    /// Too soon after the last reload: to be asked again then.
    Later(Duration),
}

/// A web server does not take what is live.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("{0}: its files can't be written")]
    Write(&'static str, #[source] io::Error),
    #[error("{command} refuses the configuration, the former one is back in place: {output}")]
    Refused { command: String, output: String },
    /// It says nothing about what was to be tested.
    #[error("{command} hangs, the former configuration is back in place: {reason}")]
    Hung { command: String, reason: String },
    #[error("{command} failed: {output}")]
    Reload { command: String, output: String },
    /// As [`ServerError::Reload`], after a while that nobody waits for in every pass.
    #[error("{command} hangs: {reason}")]
    Stuck { command: String, reason: String },
    #[error("haproxy: nobody answers at {0}; when it starts, it reads the list")]
    Unreachable(PathBuf, #[source] io::Error),
    #[error("haproxy does not do what it is told, {command}: {answer}")]
    Told { command: String, answer: String },
    #[error(
        "haproxy: {failed} certificates that are gone are still served, the first of them because {first}"
    )]
    NotLetGo { failed: usize, first: String },
}

impl ServerError {
    /// What became of a command that tells a server of something.
    fn of_telling(command: &[String], error: CommandError) -> Self {
        let command = command.join(" ");
        match error {
            CommandError::Failed(output) => Self::Reload { command, output },
            hung @ CommandError::Hung(..) => Self::Stuck { command, reason: hung.to_string() },
        }
    }
}

/// A server that is to be asked on this machine can't listen.
#[derive(Debug, thiserror::Error)]
#[error("agent.local.listen: {0} can't be listened on")]
pub(crate) struct ListenError(SocketAddr, #[source] io::Error);

impl<'a> View<'a> {
    /// The items that answer for a name, each with its names.
    pub(crate) fn served(&self) -> BTreeMap<&'a ItemId, Served<'a>> {
        let mut served: BTreeMap<&ItemId, Served<'_>> = BTreeMap::new();
        for (name, id) in self.names {
            let Some(live) = self.index.get(id) else { continue };
            served.entry(id).or_insert_with(|| Served { live, names: Vec::new() }).names.push(name);
        }
        served
    }

    /// The hostnames that plain HTTP is redirected for.
    pub(crate) fn redirected(&self) -> impl Iterator<Item = &'a str> {
        let at = self.at;
        self.hostnames().filter(move |(_, live)| live.https.redirects(live, at)).map(|(name, _)| name)
    }

    /// The hostnames that announce HSTS, each with the value of its header.
    pub(crate) fn hsts(&self) -> impl Iterator<Item = (&'a str, String)> {
        let at = self.at;
        self.hostnames().filter_map(move |(name, live)| Some((name, live.https.header(live, at)?)))
    }

    /// Those of its names that a server's files hold, `former`, and those that are nothing in them.
    fn held(&self, former: &BTreeMap<String, ItemId>, is_shown: impl Fn(&str) -> bool) -> Names {
        let held = |(name, id): (&Arc<str>, &ItemId)| {
            let id = if is_shown(name) { former.get(&**name)? } else { id };
            self.index.contains_key(id).then(|| (Arc::clone(name), id.clone()))
        };
        self.names.iter().filter_map(held).collect()
    }

    fn hostnames(&self) -> impl Iterator<Item = (&'a str, &'a Live)> {
        let index = self.index;
        let hostnames = self.names.iter().filter(|(name, _)| is_hostname(name));
        hostnames.filter_map(|(name, id)| Some((&**name, index.get(id)?)))
    }

    /// Where the files of an item are for as long as this version is live, and for one version more.
    pub(crate) fn version(&self, id: &ItemId, live: &Live) -> PathBuf {
        self.directory.item(id).join(self.former(id).unwrap_or(&live.directory))
    }

    /// The version of an item that is served on instead of the live one.
    fn former(&self, id: &ItemId) -> Option<&'a str> {
        self.former?.get(id).map(|version| &**version)
    }
}

/// The servers that are configured.
///
/// # Errors
/// [`ListenError`].
pub(crate) fn of(config: &[ServerConfig], sightings: &Sightings) -> Result<Vec<Shown>, ListenError> {
    config.iter().map(|config| Ok(Shown::new(server(config, sightings)?))).collect()
}

fn server(config: &ServerConfig, sightings: &Sightings) -> Result<Box<dyn Server>, ListenError> {
    Ok(match config {
        ServerConfig::Nginx(settings) => Box::new(nginx::Nginx::new(settings.clone())),
        ServerConfig::Haproxy(settings) => Box::new(haproxy::Haproxy::new(settings.clone())),
        ServerConfig::Caddy(settings) => Box::new(caddy::Caddy::new(settings.clone())),
        ServerConfig::Apache(settings) => Box::new(apache::Apache::new(settings.clone())),
        ServerConfig::Local(settings) => Box::new(local::Local::start(settings, sightings)?),
        ServerConfig::Traefik => Box::new(traefik::Traefik),
        ServerConfig::Envoy => Box::new(envoy::Envoy::new()),
        ServerConfig::Files(settings) => Box::new(files::Files::new(settings.clone())),
        ServerConfig::Hook(settings) => Box::new(hook::Hook::new(settings.clone())),
    })
}

/// A name that a TLS client can ask for.
fn is_hostname(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_err()
}

/// Why no file can be named after a hostname; `None`: one can.
fn cannot_name_a_file(name: &str) -> Option<&'static str> {
    if name.starts_with("_.") {
        return Some("would have the file of the name with a star in its place");
    }
    // With an ending, and another one while it is written.
    (name.len() > 240).then_some("is too long for the name of a file")
}

/// The name of a file that is about a hostname: `_.example.com` for `*.example.com`.
fn file_stem(name: &str) -> String {
    name.replacen('*', "_", 1)
}
