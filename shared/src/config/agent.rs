//! `[agent]`: the program on a frontend.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the agent pulls from where, and for which web servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// `https://certs.hoster.example:8443`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Exchanged, once, for a client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolment_token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    pub directory: PathBuf,
    /// The group that may read keys; absent: only the owner may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How long one question for changes waits for an answer, seconds.
    pub poll_seconds: u64,
    /// Files that are made of each certificate besides PEM: `combined`, `pkcs12`, `kubernetes-secret`.
    pub formats: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pkcs12_password_file: Option<PathBuf>,
    /// Certificates in whose chain an issuer has one of these words in its name are not published.
    pub refused_issuers: Vec<String>,
    /// The web servers of this machine that the agent looks after: `nginx`, `haproxy`, `apache`, `caddy`, `local`, `traefik`,
    /// `envoy`, `files`, `hook`.
    pub servers: Vec<String>,
    /// Where the web server is asked what it serves; empty: it is not.
    pub probe: String,
    /// Whether names that visitors come with, and that nobody has here, are told to the centre.
    pub sightings: bool,
    pub nginx: AgentNginx,
    pub haproxy: AgentHaproxy,
    pub apache: AgentApache,
    pub caddy: AgentCaddy,
    pub files: AgentFiles,
    pub hook: AgentHook,
    pub local: AgentLocal,
}

/// `[agent.nginx]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentNginx {
    /// Run before a reload; empty: nothing is.
    pub test: Vec<String>,
    /// Run when names came or went, or another redirect, HSTS or TLS policy is wanted; empty: nothing is.
    pub reload: Vec<String>,
    /// Between two reloads, seconds at least, and never less than 20 times what one takes; 0: no pause at all.
    pub min_reload_seconds: u64,
}

/// `[agent.haproxy]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentHaproxy {
    /// Its runtime socket, of the level `admin`.
    pub socket: PathBuf,
    /// The options of each certificate in the list, without brackets: `alpn h2,http/1.1`.
    pub options: String,
    /// Run when the TLS policy changed, which HAProxy can't be told while it runs; empty: it takes effect with its next
    /// reload.
    pub test: Vec<String>,
    pub reload: Vec<String>,
}

/// `[agent.apache]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentApache {
    pub test: Vec<String>,
    /// Run when a certificate or a name changed.
    pub reload: Vec<String>,
    pub min_reload_seconds: u64,
}

/// `[agent.caddy]`: redirects, HSTS and the TLS policy. Its certificates are those of `[agent.local]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentCaddy {
    pub test: Vec<String>,
    /// Run when one of its files changed.
    pub reload: Vec<String>,
    pub min_reload_seconds: u64,
}

/// `[agent.files]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentFiles {
    pub test: Vec<String>,
    /// Run when a certificate or a name changed.
    pub reload: Vec<String>,
    pub min_reload_seconds: u64,
}

/// `[agent.hook]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentHook {
    /// Reads on its standard input what changed, JSON.
    pub command: Vec<String>,
}

/// `[agent.local]`: what the agent answers to programs on the same machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentLocal {
    /// Where; a loopback address.
    pub listen: String,
    /// The password that they must know, for they get private keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// The configuration of a Caddy, JSON, into which the agent puts the certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caddy_config: Option<PathBuf>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            server: None,
            ca_file: None,
            enrolment_token_file: None,
            token_file: None,
            certificate_file: None,
            key_file: None,
            directory: "/var/lib/signpost-agent".into(),
            group: None,
            poll_seconds: 50,
            formats: Vec::new(),
            pkcs12_password_file: None,
            refused_issuers: vec!["STAGING".to_owned()],
            servers: vec!["nginx".to_owned()],
            probe: "127.0.0.1:443".to_owned(),
            sightings: false,
            nginx: AgentNginx::default(),
            haproxy: AgentHaproxy::default(),
            apache: AgentApache::default(),
            caddy: AgentCaddy::default(),
            files: AgentFiles::default(),
            hook: AgentHook::default(),
            local: AgentLocal::default(),
        }
    }
}

impl Default for AgentNginx {
    fn default() -> Self {
        Self {
            test: words(&["nginx", "-t"]),
            reload: words(&["nginx", "-s", "reload"]),
            min_reload_seconds: 2,
        }
    }
}

impl Default for AgentHaproxy {
    fn default() -> Self {
        Self {
            socket: "/run/haproxy/admin.sock".into(),
            options: String::new(),
            test: Vec::new(),
            reload: Vec::new(),
        }
    }
}

impl Default for AgentApache {
    fn default() -> Self {
        Self {
            test: words(&["apache2ctl", "-t"]),
            reload: words(&["apache2ctl", "graceful"]),
            min_reload_seconds: 10,
        }
    }
}

impl Default for AgentCaddy {
    fn default() -> Self {
        Self {
            test: words(&["caddy", "validate", "--config", "/etc/caddy/Caddyfile"]),
            reload: words(&["caddy", "reload", "--config", "/etc/caddy/Caddyfile"]),
            min_reload_seconds: 10,
        }
    }
}

impl Default for AgentFiles {
    fn default() -> Self {
        Self { test: Vec::new(), reload: Vec::new(), min_reload_seconds: 10 }
    }
}

impl Default for AgentLocal {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9631".to_owned(), secret_file: None, caddy_config: None }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
