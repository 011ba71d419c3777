//! The section `[agent]` of the one configuration file, checked and made ready to use.

use crate::formats::Format;
use shared::config::{
    Agent, AgentApache, AgentCaddy, AgentFiles, AgentHaproxy, AgentHook, AgentLocal, AgentNginx, Config,
    ConfigError, Secret,
};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use url::Url;

/// The longest that the certificate server lets anybody wait, seconds.
const LONGEST_POLL: u64 = 55;

/// Everything the agent needs to know.
#[derive(Clone, Debug)]
pub(crate) struct AgentConfig {
    pub(crate) server: Url,
    /// The CA of the certificate server; the system's roots when there is none.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) credentials: Credentials,
    pub(crate) store: StoreConfig,
    /// How long one question for changes may wait for an answer.
    pub(crate) poll: Duration,
    /// Words in the name of an issuer whose certificates are not published.
    pub(crate) refused_issuers: Vec<String>,
    pub(crate) servers: Vec<ServerConfig>,
    /// Where the web server is asked what it serves; absent: nowhere.
    pub(crate) probe: Option<SocketAddr>,
    /// Whether names that nobody has here are told to the centre.
    pub(crate) sightings: bool,
}

/// Where certificates are kept. All that `status` needs.
#[derive(Clone, Debug)]
pub(crate) struct StoreConfig {
    pub(crate) directory: PathBuf,
    /// The group that may read keys.
    pub(crate) group_id: Option<u32>,
    pub(crate) formats: Vec<Format>,
}

/// A web server of this machine.
#[derive(Clone, Debug)]
pub(crate) enum ServerConfig {
    Nginx(AgentNginx),
    Haproxy(AgentHaproxy),
    Caddy(AgentCaddy),
    Apache(AgentApache),
    /// Caddy and Traefik that ask this machine.
    Local(LocalConfig),
    Traefik,
    Envoy,
    Files(AgentFiles),
    Hook(AgentHook),
}

/// What the agent answers to programs on the same machine, and to whom.
#[derive(Clone, Debug)]
pub(crate) struct LocalConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) secret: Secret,
    pub(crate) caddy_config: Option<PathBuf>,
}

/// How the agent shows who it is. Files, read at every connection setup, never values.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    Token(PathBuf),
    Certificate {
        certificate_file: PathBuf,
        key_file: PathBuf,
    },
    /// A client certificate of the agent's own, in exchange for a token.
    Enrolment {
        token_file: PathBuf,
    },
}

/// The configuration cannot be used: exit code 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentConfigError {
    #[error(transparent)]
    File(#[from] ConfigError),
    #[error("agent.server is missing: the certificate server, such as https://certs.hoster.example:8443")]
    NoServer,
    #[error("agent.server: {0:?} is no https:// address")]
    BadServer(String),
    #[error("agent: name either enrolment_token_file, or token_file, or certificate_file and key_file")]
    Credentials,
    #[error(
        "agent.probe: {0:?} is no address with a port, such as 127.0.0.1:443; \"\": the web server is not asked"
    )]
    Probe(String),
    #[error("agent.poll_seconds: 1 to {LONGEST_POLL}")]
    Poll,
    #[error(
        "agent.servers: {0:?} is none; there are nginx, haproxy, apache, caddy, local, traefik, envoy, files and hook"
    )]
    Server(String),
    #[error("agent.local.listen: {0:?} is no loopback address with a port, such as 127.0.0.1:9631")]
    Listen(String),
    #[error(
        "agent.local.secret_file: who asks there gets private keys, so a password of 16 characters or more is needed"
    )]
    NoSecret,
    #[error("agent.hook.command: there is none to run")]
    NoHook,
    #[error("agent.group: there is no group {0:?} on this machine")]
    NoGroup(String),
    #[error("agent.formats: {0:?} is none; there are combined, pkcs12 and kubernetes-secret")]
    Format(String),
    #[error("agent.pkcs12_password_file: the format pkcs12 needs one")]
    NoPassword,
    #[error("agent.pkcs12_password_file: {0} can't be read")]
    Password(PathBuf),
}

impl AgentConfig {
    /// # Errors
    /// [`AgentConfigError`] with the key that is wrong.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, AgentConfigError> {
        Self::check(Config::load(file)?.agent)
    }

    fn check(agent: Agent) -> Result<Self, AgentConfigError> {
        let server = agent.server.as_deref().ok_or(AgentConfigError::NoServer)?;
        let server = Url::parse(server)
            .ok()
            .filter(|url| url.scheme() == "https" && url.has_host())
            .ok_or_else(|| AgentConfigError::BadServer(server.to_owned()))?;
        let credentials = Credentials::of(&agent)?;
        if !(1..=LONGEST_POLL).contains(&agent.poll_seconds) {
            return Err(AgentConfigError::Poll);
        }
        Ok(Self {
            server,
            credentials,
            store: StoreConfig::check(&agent)?,
            servers: ServerConfig::all(&agent)?,
            ca_file: agent.ca_file,
            probe: match agent.probe.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| AgentConfigError::Probe(text.to_owned()))?),
            },
            poll: Duration::from_secs(agent.poll_seconds),
            refused_issuers: agent.refused_issuers,
            sightings: agent.sightings,
        })
    }
}

impl Credentials {
    fn of(agent: &Agent) -> Result<Self, AgentConfigError> {
        let Agent { enrolment_token_file, token_file, certificate_file, key_file, .. } = agent.clone();
        match (enrolment_token_file, token_file, certificate_file, key_file) {
            (Some(token_file), None, None, None) => Ok(Self::Enrolment { token_file }),
            (None, Some(token), None, None) => Ok(Self::Token(token)),
            (None, None, Some(certificate_file), Some(key_file)) => {
                Ok(Self::Certificate { certificate_file, key_file })
            }
            _ => Err(AgentConfigError::Credentials),
        }
    }
}

impl ServerConfig {
    fn all(agent: &Agent) -> Result<Vec<Self>, AgentConfigError> {
        agent.servers.iter().map(|name| Self::of(name, agent)).collect()
    }

    fn of(name: &str, agent: &Agent) -> Result<Self, AgentConfigError> {
        Ok(match name {
            "nginx" => Self::Nginx(agent.nginx.clone()),
            "haproxy" => Self::Haproxy(agent.haproxy.clone()),
            "caddy" => Self::Caddy(agent.caddy.clone()),
            "apache" => Self::Apache(agent.apache.clone()),
            "local" => Self::Local(LocalConfig::check(&agent.local)?),
            "traefik" => Self::Traefik,
            "envoy" => Self::Envoy,
            "files" => Self::Files(agent.files.clone()),
            "hook" if agent.hook.command.is_empty() => return Err(AgentConfigError::NoHook),
            "hook" => Self::Hook(agent.hook.clone()),
            _ => return Err(AgentConfigError::Server(name.to_owned())),
        })
    }
}

impl LocalConfig {
    fn check(local: &AgentLocal) -> Result<Self, AgentConfigError> {
        let listen = local.listen.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback());
        let secret = local.secret_file.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let secret = secret.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        Ok(Self {
            listen: listen.ok_or_else(|| AgentConfigError::Listen(local.listen.clone()))?,
            secret: secret
                .filter(|secret| secret.len() >= 16)
                .map(Secret::from)
                .ok_or(AgentConfigError::NoSecret)?,
            caddy_config: local.caddy_config.clone(),
        })
    }
}

impl StoreConfig {
    /// # Errors
    /// [`AgentConfigError`].
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, AgentConfigError> {
        Self::check(&Config::load(file)?.agent)
    }

    fn check(agent: &Agent) -> Result<Self, AgentConfigError> {
        let mut formats: Vec<Format> =
            agent.formats.iter().map(|name| format(name, agent)).collect::<Result<_, _>>()?;
        // HAProxy reads one file for each certificate.
        let has_combined = formats.iter().any(|format| matches!(format, Format::Combined));
        if agent.servers.iter().any(|name| name == "haproxy") && !has_combined {
            formats.push(Format::Combined);
        }
        let group_id = agent.group.as_deref().map(group_id).transpose()?;
        Ok(Self { directory: agent.directory.clone(), group_id, formats })
    }

    /// In a directory, for its owner alone, and nothing besides PEM files.
    #[cfg(test)]
    pub(crate) fn at(directory: PathBuf) -> Self {
        Self { directory, group_id: None, formats: Vec::new() }
    }
}

fn format(name: &str, agent: &Agent) -> Result<Format, AgentConfigError> {
    match name {
        "combined" => Ok(Format::Combined),
        "kubernetes-secret" => Ok(Format::KubernetesSecret),
        "pkcs12" => {
            let path = agent.pkcs12_password_file.as_ref().ok_or(AgentConfigError::NoPassword)?;
            let password = fs::read_to_string(path).map_err(|_| AgentConfigError::Password(path.clone()))?;
            Ok(Format::Pkcs12(Secret::from(password.trim_end_matches(['\r', '\n']).to_owned())))
        }
        other => Err(AgentConfigError::Format(other.to_owned())),
    }
}

/// A number, or a name that `getent` knows (it asks every source that the machine has, not `/etc/group` alone).
fn group_id(name: &str) -> Result<u32, AgentConfigError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let unknown = || AgentConfigError::NoGroup(name.to_owned());
    let output = Command::new("getent").args(["group", "--", name]).output().map_err(|_| unknown())?;
    let line = String::from_utf8_lossy(&output.stdout);
    line.split(':').nth(2).and_then(|number| number.parse().ok()).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Agent {
        Agent {
            server: Some("https://certs.hoster.example:8443".into()),
            token_file: Some("/etc/signpost/token".into()),
            ..Agent::default()
        }
    }

    fn local(listen: &str) -> Agent {
        let local = AgentLocal { listen: listen.into(), ..AgentLocal::default() };
        Agent { servers: vec!["local".into()], local, ..agent() }
    }

    #[test]
    fn a_server_and_a_token_are_enough() {
        let config = AgentConfig::check(agent()).unwrap();
        assert_eq!(config.store.directory, Path::new("/var/lib/signpost-agent"));
        assert_eq!(config.poll, Duration::from_secs(50));
        assert!(matches!(config.credentials, Credentials::Token(_)));
    }

    #[test]
    fn each_mistake_names_its_key() {
        let both = Agent { key_file: Some("k".into()), ..agent() };
        let two = Agent { enrolment_token_file: Some("t".into()), ..agent() };
        let half = Agent { token_file: None, certificate_file: Some("c".into()), ..agent() };
        for (agent, key) in [
            (Agent { server: None, ..agent() }, "agent.server"),
            (Agent { server: Some("http://certs.hoster.example".into()), ..agent() }, "https://"),
            (both, "token_file"),
            (two, "enrolment_token_file"),
            (half, "certificate_file and key_file"),
            (Agent { poll_seconds: 0, ..agent() }, "poll_seconds"),
            (Agent { poll_seconds: 56, ..agent() }, "poll_seconds"),
            (Agent { group: Some("no such group".into()), ..agent() }, "agent.group"),
            (Agent { formats: vec!["pem".into()], ..agent() }, "agent.formats"),
            (Agent { servers: vec!["lighttpd".into()], ..agent() }, "agent.servers"),
            (Agent { servers: vec!["hook".into()], ..agent() }, "agent.hook.command"),
            (Agent { servers: vec!["local".into()], ..agent() }, "agent.local.secret_file"),
            (local("0.0.0.0:9631"), "agent.local.listen"),
            (Agent { formats: vec!["pkcs12".into()], ..agent() }, "pkcs12_password_file"),
        ] {
            let error = AgentConfig::check(agent).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn groups_are_names_or_numbers() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert_eq!(group_id("1234").unwrap(), 1234);
    }
}
