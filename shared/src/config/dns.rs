//! `[dns.NAME]`: who writes the TXT records of dns-01.

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use url::Url;

/// One place where records can be written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Required.
    pub provider: Option<DnsProvider>,
    /// Zones that it writes to, with all below them; empty: every one that no other section names.
    pub zones: Vec<String>,
    /// How long resolvers may keep the records, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// How long a record may take to all nameservers of its zone, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_seconds: Option<f64>,
    /// Whether a nameserver of the zone that does not answer stops an order; without, those that answer and the resolvers decide.
    pub require_all_nameservers: bool,
    /// rfc2136: the primary nameserver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<SocketAddr>,
    /// rfc2136: the name of the TSIG key, its algorithm and a file with the secret in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tsig_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tsig_algorithm: Option<TsigAlgorithm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tsig_secret_file: Option<PathBuf>,
    /// webhook and acme-dns: where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// PEM roots that its certificate is checked against, besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roots_file: Option<PathBuf>,
    /// webhook: a file with the secret that requests are signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// acme-dns: a JSON file with the accounts by the name that each proves, as certbot and lego write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts_file: Option<PathBuf>,
    /// exec: the program and its arguments.
    pub command: Vec<String>,
    /// A zone of one's own below which every customer's name gets a target for its CNAME.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegation_zone: Option<String>,
}

/// The kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsProvider {
    /// Dynamic updates (RFC 2136), signed (RFC 8945).
    Rfc2136,
    /// The HTTP API of acme-dns.
    AcmeDns,
    /// Signed JSON to a service of one's own.
    Webhook,
    /// A program of one's own, with JSON on its standard input.
    Exec,
}

/// How updates are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TsigAlgorithm {
    #[default]
    HmacSha256,
    HmacSha512,
}

/// Which draft of dns-persist-01 a CA speaks. They don't understand each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPersistDraft {
    /// draft-ietf-acme-dns-persist-00 and -01.
    #[serde(rename = "01")]
    Draft01,
    #[serde(rename = "02")]
    Draft02,
}

impl Dns {
    pub fn ttl_seconds(&self) -> u32 {
        self.ttl_seconds.unwrap_or(60)
    }

    pub fn propagation(&self) -> Duration {
        Duration::try_from_secs_f64(self.propagation_seconds.unwrap_or(120.0).max(0.0)).unwrap_or_default()
    }

    /// What its kind needs and it lacks.
    pub(super) fn lacks(&self) -> Vec<&'static str> {
        let wanted: &[(&'static str, bool)] = match self.provider {
            None => &[("provider: rfc2136, acme-dns, webhook or exec", false)],
            Some(DnsProvider::Rfc2136) => &[
                ("server", self.server.is_some()),
                ("tsig_name", self.tsig_name.is_some()),
                ("tsig_secret_file", self.tsig_secret_file.is_some()),
            ],
            Some(DnsProvider::AcmeDns) => {
                &[("url", self.url.is_some()), ("accounts_file", self.accounts_file.is_some())]
            }
            Some(DnsProvider::Webhook) => {
                &[("url", self.url.is_some()), ("secret_file", self.secret_file.is_some())]
            }
            Some(DnsProvider::Exec) => &[("command", !self.command.is_empty())],
        };
        wanted.iter().filter(|(_, there)| !there).map(|(key, _)| *key).collect()
    }
}
