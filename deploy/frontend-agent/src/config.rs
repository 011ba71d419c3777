//! The section `[agent]` of the one configuration file, checked and made ready to use.

use shared::config::{Agent, Config, ConfigError};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use url::Url;

/// Everything the agent needs to know.
#[derive(Clone, Debug)]
pub(crate) struct AgentConfig {
    pub(crate) server: Url,
    /// The CA of the certificate server; the system's roots when there is none.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) credentials: Credentials,
    pub(crate) store: StoreConfig,
    pub(crate) poll: Duration,
    pub(crate) nginx_test: Vec<String>,
    pub(crate) nginx_reload: Vec<String>,
}

/// Where certificates are kept. All that `status` needs.
#[derive(Clone, Debug)]
pub(crate) struct StoreConfig {
    pub(crate) directory: PathBuf,
    /// The group that may read keys.
    pub(crate) group_id: Option<u32>,
}

/// How the agent shows who it is. Files, read at every connection setup, never values.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    Token(PathBuf),
    Certificate { certificate_file: PathBuf, key_file: PathBuf },
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
    #[error("agent: name either token_file, or certificate_file and key_file")]
    Credentials,
    #[error("agent.poll_seconds: at least 1")]
    Poll,
    #[error("agent.group: there is no group {0:?} on this machine")]
    NoGroup(String),
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
        let credentials =
            match (agent.token_file.clone(), agent.certificate_file.clone(), agent.key_file.clone()) {
                (Some(token), None, None) => Credentials::Token(token),
                (None, Some(certificate_file), Some(key_file)) => {
                    Credentials::Certificate { certificate_file, key_file }
                }
                _ => return Err(AgentConfigError::Credentials),
            };
        if agent.poll_seconds == 0 {
            return Err(AgentConfigError::Poll);
        }
        Ok(Self {
            server,
            credentials,
            store: StoreConfig::check(&agent)?,
            ca_file: agent.ca_file,
            poll: Duration::from_secs(agent.poll_seconds),
            nginx_test: agent.nginx_test,
            nginx_reload: agent.nginx_reload,
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
        let group_id = agent.group.as_deref().map(group_id).transpose()?;
        Ok(Self { directory: agent.directory.clone(), group_id })
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

    #[test]
    fn a_server_and_a_token_are_enough() {
        let config = AgentConfig::check(agent()).unwrap();
        assert_eq!(config.store.directory, Path::new("/var/lib/signpost-agent"));
        assert_eq!(config.poll, Duration::from_secs(60));
        assert!(matches!(config.credentials, Credentials::Token(_)));
    }

    #[test]
    fn each_mistake_names_its_key() {
        let both = Agent { key_file: Some("k".into()), ..agent() };
        let half = Agent { token_file: None, certificate_file: Some("c".into()), ..agent() };
        for (agent, key) in [
            (Agent { server: None, ..agent() }, "agent.server"),
            (Agent { server: Some("http://certs.hoster.example".into()), ..agent() }, "https://"),
            (both, "token_file"),
            (half, "certificate_file and key_file"),
            (Agent { poll_seconds: 0, ..agent() }, "poll_seconds"),
            (Agent { group: Some("no such group".into()), ..agent() }, "agent.group"),
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
